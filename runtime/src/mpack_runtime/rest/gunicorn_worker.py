"""gunicorn's threaded worker for a container that can write nowhere: deadlines, JSON errors, a heartbeat in memory."""

from __future__ import annotations

import errno
import os
import time
from typing import Any

from gunicorn import util
from gunicorn.workers import base, gthread

from mpack_runtime.rest.access_log import JsonAccessLog
from mpack_runtime.rest.deadline import json_response
from mpack_runtime.rest.lingering import Lingering
from mpack_runtime.rest.main_loop import MainLoop

#: Seconds until a connection is taken again, after one that there was no file for.
_PAUSE = 0.05
#: New connections that are accepted together; more would be unfair to other workers.
_ACCEPTED = 8


class MemoryHeartbeat:
    """gunicorn's WorkerTmp (a file whose time stamp says that the worker lives) on a file in memory."""

    def __init__(self, cfg: Any) -> None:
        self._fd = os.memfd_create("mpack-heartbeat")

    def notify(self) -> None:
        """The worker lives."""
        now = time.monotonic()
        os.utime(self._fd, (now, now))

    def last_update(self) -> float:
        """time.monotonic() of the last notify."""
        return os.fstat(self._fd).st_mtime

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _write_json_error(sock: Any, status: int, reason: str, message: str) -> None:
    """In place of gunicorn's HTML for requests that it cannot parse."""
    util.write_nonblock(sock, json_response(status, reason, message or reason))


def adapt() -> None:
    """Puts these parts in place of gunicorn's; it offers no setting for them."""
    if hasattr(os, "memfd_create"):
        base.WorkerTmp = MemoryHeartbeat
    util.write_error = _write_json_error
    util.close_graceful = Lingering().close
    # Kept-alive connections that wait for nothing may delay a stop by no more than this (seconds).
    gthread.STOP_KEEPALIVE_LINGER = 0.5


class Worker(MainLoop):
    """A threaded worker whose requests have deadlines, and whose predictions wait behind nothing but predictions."""

    def get_thread_pool(self) -> Any:
        return self.app.lanes(self._refused)

    def accept(self, *where: Any) -> None:
        # One at a time, new connections would wait for as many turns of a busy loop.
        for _ in range(_ACCEPTED):
            before = self.nr_conns
            try:
                super().accept(*where)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                time.sleep(_PAUSE)  # there is no file left for it: it goes on waiting
            if not before < self.nr_conns < self.worker_connections:
                break

    def _keepalive_after(self, conn: Any, keepalive: bool) -> bool:
        if keepalive and self.app.arrival.refused:
            # Nobody waits for the rest of a refused body.
            return bool(conn.parser.finish_body(deadline=time.monotonic() + 0.01))
        return bool(super()._keepalive_after(conn, keepalive))

    def _refused(self, conn: Any, path: str, status: int, size: int, request_id: str) -> None:
        """A request that no thread has seen is in the access log too."""
        remote = conn.client[0] if isinstance(conn.client, tuple) else None
        JsonAccessLog.write(
            method="POST",
            path=path,
            status=status,
            bytes=size,
            ms=0.0,
            remote=remote,
            agent=None,
            request_id=request_id,
        )

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.app.stopping()
        super().handle_exit(sig, frame)

    def handle(self, conn: Any) -> Any:
        deadlines = self.app.deadlines
        deadlines.begin(conn.sock)
        try:
            return super().handle(conn)
        finally:
            deadlines.end()
