"""Connections that are over but for their end: gunicorn's loop would wait two seconds for each client to close.

An answer may get lost where a connection is closed while bytes of its request are still coming, so they are taken until
the client closes, here in a thread of its own.
"""

from __future__ import annotations

import queue
import selectors
import socket
import threading
import time

#: Seconds and bytes that a client may take.
SECONDS, BYTES = 2.0, 1 << 20
#: Connections at most; more are closed at once, for gunicorn does not count them among those that it may have.
MOST = 64
_TICK = 0.1


class Lingering:
    """Closes sockets; its thread starts with the first."""

    def __init__(self) -> None:
        self._new: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._places = threading.Semaphore(MOST)

    def close(self, sock: socket.socket) -> None:
        """Says that nothing more will be sent, and closes the socket when the client has; does not wait."""
        try:
            sock.setblocking(False)
            sock.shutdown(socket.SHUT_WR)
            kept = self._places.acquire(blocking=False)
        except OSError:
            kept = False
        if not kept:
            sock.close()
            return
        self._new.put(sock)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="lingering", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        with selectors.PollSelector() as selector:  # which takes no file
            while True:
                try:
                    self._add(selector, self._new.get(block=not selector.get_map()))
                    while True:
                        self._add(selector, self._new.get_nowait())
                except queue.Empty:
                    pass
                for key, _ in selector.select(_TICK):
                    if _is_over(key.data, key.fileobj):
                        self._drop(selector, key)
                now = time.monotonic()
                for key in [key for key in selector.get_map().values() if now > key.data[0]]:
                    self._drop(selector, key)

    def _add(self, selector: selectors.BaseSelector, sock: socket.socket) -> None:
        try:
            selector.register(sock, selectors.EVENT_READ, [time.monotonic() + SECONDS, BYTES])
        except (OSError, ValueError, KeyError):
            sock.close()
            self._places.release()

    def _drop(self, selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        selector.unregister(key.fileobj)
        if isinstance(key.fileobj, socket.socket):
            key.fileobj.close()
        self._places.release()


def _is_over(limits: list[float], sock: object) -> bool:
    assert isinstance(sock, socket.socket)
    try:
        size = len(sock.recv(1 << 16))
    except BlockingIOError:
        return False
    except OSError:
        return True
    limits[1] -= size
    return not size or limits[1] < 0
