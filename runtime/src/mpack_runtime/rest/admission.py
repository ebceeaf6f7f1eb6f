"""Refuses predictions that nobody has time for, before their bodies are read."""

from __future__ import annotations

import time
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Callable

from mpack_runtime.gate import FULL, LATE, Gate, Watch, refusal
from mpack_runtime.rest import prefix, roads
from mpack_runtime.rest.deadline import WAITING, WORKING, WRITING, Deadlines
from mpack_runtime.rest.front import request_id_of
from mpack_runtime.rest.lanes import Arrival
from mpack_runtime.rest.metrics import Metrics
from mpack_runtime.rest.routes import ROADS, group

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Admission:
    """A WSGI application around another: of requests that came to be refused, or waited too long, it sees none."""

    def __init__(self, app: Wsgi, gate: Gate, arrival: Arrival, metrics: Metrics, deadlines: Deadlines) -> None:
        self._app, self._gate, self._arrival = app, gate, arrival
        self._metrics, self._deadlines = metrics, deadlines

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        refused = self._arrival.refused
        if not refused and self._arrival.waited <= self._gate.patience:
            return self._app(environ, start_response)
        path = prefix.path(environ)
        of = group(path)
        if of not in ROADS:
            return self._app(environ, start_response)
        return self._refuse(environ, path, of, FULL if refused else LATE, start_response)

    def _refuse(self, environ: dict[str, Any], path: str, of: str, reason: str, start_response: Any) -> Iterable[bytes]:
        begun = time.perf_counter()
        self._metrics.start()
        self._gate.watch.refused(reason)
        reply = roads.refusal(of, refusal(reason, self._gate.patience))
        self._deadlines.enter(WRITING)
        reply.headers["Request-Id"] = request_id_of(environ)
        reply.headers["Content-Length"] = str(len(reply.body))
        headers = [*reply.headers.items(), ("Content-Type", reply.content_type)]
        start_response(f"{reply.status} {HTTPStatus(reply.status).phrase}", headers)
        self._metrics.end(path, reply.status, time.perf_counter() - begun)
        return [reply.body]


class RequestWatch(Watch):
    """Tells the metrics and the deadlines how a request's turn comes."""

    def __init__(self, metrics: Metrics, deadlines: Deadlines, arrival: Arrival) -> None:
        self._metrics, self._deadlines, self._arrival = metrics, deadlines, arrival

    def waits(self) -> float:
        self._metrics.waiting(1)
        self._deadlines.enter(WAITING)
        # Not what the client took to send its request.
        return self._arrival.waited

    def works(self) -> None:
        self._metrics.waiting(-1)
        self._deadlines.enter(WORKING)

    def begins(self) -> None:
        self._deadlines.enter(WORKING)

    def refused(self, reason: str) -> None:
        self._metrics.refused(reason)
