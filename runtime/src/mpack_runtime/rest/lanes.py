"""Threads of a worker in lanes, so that nothing waits behind predictions but predictions, and health behind no client.

gunicorn hands each connection that has a request to one pool of threads, whose queue has no end. Here the first line of
the request, which is looked at and left where it is, tells whether it asks the model. Of those so many are under way or
wait, unread; each more is refused. Everything else has threads of its own, and others still where all of it is there,
as of a probe.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from gunicorn.workers import gthread

from mpack_runtime.rest.metrics import Metrics
from mpack_runtime.rest.refusals import Refusals
from mpack_runtime.rest.routes import ROADS, TABLE

#: Threads for what does not ask the model (health, metrics, documents, feedback, refusals); as many for what is whole.
OTHERS = 8
_LINE = 2048
_ENDS = tuple({path.rpartition("}")[2].encode() for path, group in TABLE if group in ROADS})
_BODY = re.compile(rb"\n(content-length|transfer-encoding|expect|upgrade)\b", re.IGNORECASE)
#: gunicorn's word for a connection that has sent nothing yet and may wait without a thread; older ones have none.
_DEFER = getattr(gthread, "_DEFER", None)


class Arrival(threading.local):
    """How the request of this thread came: seconds that it `waited` for the thread, and whether it came to be
    refused."""

    waited = 0.0
    refused = False


class Lanes(Executor):
    """What gunicorn calls with its `handle` and a connection, in the worker's loop."""

    def __init__(
        self, threads: int, capacity: int, arrival: Arrival, metrics: Metrics, refusals: Refusals | None
    ) -> None:
        """`threads` for predictions, and `capacity`: that many of them under way or waiting. `refusals`
        None: the application alone refuses."""
        self._threads, self._capacity = threads, capacity
        self._arrival, self._metrics, self._refusals = arrival, metrics, refusals
        self._predictions = ThreadPoolExecutor(min(threads, capacity), "predictions")
        self._others = ThreadPoolExecutor(OTHERS, "others")
        self._whole = ThreadPoolExecutor(OTHERS, "whole")
        self._lock = threading.Lock()
        self._under_way = 0
        #: Predictions that the loop has answered since it last looked at all connections.
        self.answered = 0

    def submit(self, handle: Callable[[Any], Any], conn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:  # type: ignore[override]
        begins = _look(conn)
        if begins is None and _DEFER is not None:
            return at_once(_DEFER)
        if begins is not None and not asks_model(begins):
            return (self._whole if is_whole(begins) else self._others).submit(handle, conn)
        with self._lock:
            refused = self._under_way + self.answered >= self._capacity
            self._under_way += not refused
        if refused:
            if _DEFER is not None and self._refusals is not None and self._refusals.refuse(conn):
                return at_once(True)
            return self._others.submit(self._refuse, handle, conn)
        self._metrics.waiting(1)
        done = self._predictions.submit(self._predict, handle, conn, time.monotonic())
        done.add_done_callback(self._done)
        return done

    def aside(self, call: Callable[..., bool], *arguments: Any) -> Future[bool]:
        """Calls in a thread of those that ask no model."""
        return self._others.submit(call, *arguments)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for lane in (self._predictions, self._others, self._whole):
            lane.shutdown(wait)

    def _predict(self, handle: Callable[[Any], Any], conn: Any, since: float) -> Any:
        self._metrics.waiting(-1)
        self._arrival.waited = time.monotonic() - since
        return handle(conn)

    def _refuse(self, handle: Callable[[Any], Any], conn: Any) -> Any:
        self._arrival.refused = True
        try:
            return handle(conn)
        finally:
            self._arrival.refused = False

    def _done(self, future: Future[Any]) -> None:
        with self._lock:
            self._under_way -= 1


def at_once(result: Any) -> Future[Any]:
    """A result that is there already."""
    done: Future[Any] = Future()
    done.set_result(result)
    return done


def is_whole(begins: bytes) -> bool:
    """True if no more bytes belong to a request that begins so."""
    head, end, _ = begins.partition(b"\r\n\r\n")
    return bool(end) and head[:4] in (b"GET ", b"HEAD") and not _BODY.search(head)


def asks_model(begins: bytes) -> bool:
    """True if a request that begins so asks the model, or does not tell yet what it asks; b"" asks nothing."""
    line, end, _ = begins.lstrip(b"\r\n").partition(b"\r\n")  # gunicorn skips empty lines too
    if not end:
        return bool(begins)
    words = line.split(b" ")
    path = words[1].partition(b"?")[0].rstrip(b"/") if len(words) == 3 else b""
    # An address in other words than these is read by gunicorn alone; it may be a prediction's.
    return words[0] == b"POST" and (path.endswith(_ENDS) or b"%" in path or b"#" in path)


def _look(conn: Any) -> bytes | None:
    """What the connection's request begins with; b"": it ended; None: nothing came yet."""
    parser = conn.parser
    left: bytes = parser.unreader.buf.getvalue() if parser is not None else b""
    if left:
        return left[:_LINE]
    try:
        found: bytes = conn.sock.recv(_LINE, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except (OSError, ValueError):
        return b""
    return found
