"""The WSGI around Flask: every request is counted, timed and named here, and predictions are answered without Flask.

Flask's own part of a request (contexts, routing, a Response) takes as long as reading, asking and writing a small one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Callable, Protocol

from werkzeug.http import HTTP_STATUS_CODES

from mpack_runtime.config import Settings
from mpack_runtime.errors import BadRequest
from mpack_runtime.headers import request_id
from mpack_runtime.rest import prefix
from mpack_runtime.rest.body import read_body
from mpack_runtime.rest.deadline import READING, WORKING, WRITING, Deadlines
from mpack_runtime.rest.metrics import Metrics
from mpack_runtime.rest.roads import Call, Reply

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]
_PLAIN_KEYS = ("CONTENT_TYPE", "CONTENT_LENGTH")
_LINES = {status: f"{status} {words.upper()}" for status, words in HTTP_STATUS_CODES.items()}


class Answers(Protocol):
    """What the front stands before."""

    settings: Settings
    metrics: Metrics
    deadlines: Deadlines
    ready: bool

    def reply(self, call: Call) -> Reply | None:
        """The answer to a request, whole; None: Flask has it."""


class Front:
    """Also for proxies that name a prefix in X-Forwarded-Prefix but leave it in the path."""

    def __init__(self, app: Wsgi, rest: Answers) -> None:
        self._app, self._rest = app, rest

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        started, rest = time.perf_counter(), self._rest
        rest.metrics.start()
        method = environ["REQUEST_METHOD"]
        path = environ["PATH_INFO"] = prefix.path(environ)
        if method != "POST":
            rest.deadlines.enter(WORKING)
        query = environ.get("QUERY_STRING", "")
        call = Call(method, _decoded(path), _Headers(environ), lambda: self._body(environ), rest.ready, query)
        reply = rest.reply(call)
        if reply is None:
            return self._app(environ, self._named(environ, start_response, path, started))
        body = reply.body
        headers = [("Content-Type", reply.content_type), ("Content-Length", str(len(body))), *reply.headers.items()]
        headers.append(("Request-Id", request_id_of(environ)))
        rest.deadlines.enter(WRITING)
        rest.metrics.end(reply.route, reply.status, time.perf_counter() - started, reply.rows)
        start_response(_LINES[reply.status], headers)
        return [body] if method != "HEAD" else []

    def _named(self, environ: dict[str, Any], start_response: Any, path: str, started: float) -> Any:
        """start_response for Flask's answer."""

        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            self._rest.deadlines.enter(WRITING)
            self._rest.metrics.end(path, int(status.split()[0]), time.perf_counter() - started)
            return start_response(status, [*headers, ("Request-Id", request_id_of(environ))], *error)

        return start

    def _body(self, environ: dict[str, Any]) -> bytes:
        settings, deadlines = self._rest.settings, self._rest.deadlines
        try:
            return read_body(environ, settings.max_body)
        except BadRequest as error:
            if not deadlines.enter(READING):
                late = f"The request body did not arrive within {settings.timeout} seconds."
                raise BadRequest(late, 408) from error
            raise
        finally:
            deadlines.enter(WORKING)


class _Headers:
    """A request's headers by name; "" for one that is not there."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self._environ = environ

    def __call__(self, name: str) -> str:
        key = name.upper().replace("-", "_")
        return str(self._environ.get(key if key in _PLAIN_KEYS else f"HTTP_{key}", ""))


def _decoded(path: str) -> str:
    """The path as text: WSGI has its bytes as Latin-1."""
    return path if path.isascii() else path.encode("latin-1").decode("utf-8", "replace")


def request_id_of(environ: dict[str, Any]) -> str:
    """The id that the answer to a request has."""
    return request_id(str(environ.get("HTTP_REQUEST_ID") or environ.get("HTTP_X_REQUEST_ID") or ""))
