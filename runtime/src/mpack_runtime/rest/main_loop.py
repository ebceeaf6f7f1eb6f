"""gunicorn's main loop, which answers small predictions of a quick model itself: `quick` says which and how.

It is a thread like those that answer the others, and the process's main thread waits: to a model the two would differ
(numpy's and decimal's settings, asyncio, thread-local configurations), and no signal has to wait for an answer.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any, Callable

from gunicorn.workers import gthread

from mpack_runtime.rest.deputy import Deputy
from mpack_runtime.rest.lanes import at_once
from mpack_runtime.rest.quick import Quick


class MainLoop(gthread.ThreadWorker):  # type: ignore[misc]
    """A threaded worker. Connections that are answered here stay with the poller."""

    _quick: Quick | None = None
    _deputy: Deputy
    #: The connection that is answered now, and how often the deputy has stood in.
    _now: Any = None
    _stood_in = 0

    def run(self) -> None:
        if hasattr(gthread, "_DEFER"):  # else a release of gunicorn with another loop
            self._deputy = Deputy(self._step_aside, self._stand_in, self._wake)
            self._quick = self.app.quick(self, self._deputy)
        if self._quick is None:
            super().run()
        else:
            _apart(super().run)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        try:
            events = self.poller.select(timeout)
            stood_in = self._stood_in
            for key, _ in events:
                key.data(key.fileobj)
                if stood_in != self._stood_in:
                    break  # the deputy has looked since; what is still so will be found again
        except InterruptedError:
            pass
        finally:
            if self._quick is not None:
                self._quick.turn()

    def enqueue_req(self, conn: Any) -> None:
        # Asked in this order: other releases of gunicorn have no such list.
        room = self._quick is not None and len(self.keepalived_conns) < self.max_keepalived
        answered = self._answer(conn) if room else None
        if answered is None:
            super().enqueue_req(conn)
        else:
            self._go_on(conn, answered)

    def on_client_socket_readable(self, conn: Any, client: Any) -> None:
        stood_in = self._stood_in
        answered = self._answer(conn)
        if stood_in == self._stood_in:  # else the connection was taken from the poller
            if answered is True:
                conn.set_timeout()
                self.keepalived_conns.remove(conn)
                self.keepalived_conns.append(conn)  # they are in the order of their timeouts
                return
            self.poller.unregister(client)
            self.keepalived_conns.remove(conn)
        if answered is None:
            super().enqueue_req(conn)
        else:
            self._go_on(conn, answered)

    def _answer(self, conn: Any) -> bytes | bool | None:
        if self._quick is None or self._now is not None or not self.alive:
            return None
        self._now = conn
        try:
            return self._quick.answer(conn)
        finally:
            self._now = None

    def _go_on(self, conn: Any, answered: bytes | bool) -> None:
        """With a connection that the poller does not know."""
        if isinstance(answered, bool):
            self.finish_request(conn, at_once(answered))
            return
        assert self._quick is not None
        sent = self.tpool.aside(self._quick.send, conn, answered)
        sent.add_done_callback(lambda done: self.method_queue.defer(self.finish_request, conn, done))

    def _step_aside(self) -> None:
        """In the deputy: the connection that is being answered is not looked at meanwhile."""
        self._stood_in += 1
        if self._now in self.keepalived_conns:
            self.keepalived_conns.remove(self._now)
            self.poller.unregister(self._now.sock)

    def _stand_in(self, seconds: float) -> None:
        """In the deputy: a turn of the loop."""
        self.notify()
        self.set_accept_enabled(self.alive and self.nr_conns < self.worker_connections)
        self.wait_for_and_dispatch_events(seconds)
        self.murder_keepalived()
        self.murder_pending()

    def _wake(self) -> None:
        self.method_queue.defer(lambda: None)


def _apart(loop: Callable[[], None]) -> None:
    """Calls it in a thread, waits for its end and raises what it raises; signals are handled meanwhile."""
    ended: Future[None] = Future()

    def run() -> None:
        try:
            loop()
            ended.set_result(None)
        except BaseException as error:
            ended.set_exception(error)

    threading.Thread(target=run, name="loop", daemon=True).start()
    ended.result()
