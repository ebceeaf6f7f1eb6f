"""A span for each HTTP request: a WSGI application around all others."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Callable

from mpack_runtime.rest import prefix
from mpack_runtime.rest.routes import TABLE, find, group_of
from mpack_runtime.tracing import Request, Tracing

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]
#: Asked every few seconds by machines: they would be most of all traces.
_UNTOLD = ("health", "metrics")
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))
#: Where the access log finds the trace's id.
TRACE_ID = "mpack.trace_id"


class Traced:
    """Requests for health and metrics have no span."""

    def __init__(self, app: Wsgi, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        number = find(prefix.path(environ))
        if group_of(number) in _UNTOLD:
            return self._app(environ, start_response)
        head: list[str] = []

        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            head[:] = [status]
            return start_response(status, headers, *error)

        method = environ["REQUEST_METHOD"] if environ.get("REQUEST_METHOD") in _METHODS else "_OTHER"
        name, attributes = method, _attributes(environ, method)
        if number < len(TABLE):
            route = TABLE[number][0]
            name, attributes["http.route"] = f"{method} {route}", route
        carrier = {
            key[5:].replace("_", "-").lower(): value for key, value in environ.items() if key.startswith("HTTP_")
        }
        with self._tracing.request(name, carrier, attributes) as request:
            environ[TRACE_ID] = request.trace_id
            if request.recorded:
                environ["wsgi.input"] = _Timed(environ["wsgi.input"], request)
            answer = self._app(environ, start)
            status = int(head[0].split()[0]) if head else 500
            request.span.set_attribute("http.response.status_code", status)
            if status >= 500:
                self._tracing.fail(request, str(status))
            return answer


def _attributes(environ: dict[str, Any], method: str) -> dict[str, Any]:
    """By OpenTelemetry's conventions for HTTP servers. The query is not among them: it may hold data."""
    host, _, port = str(environ.get("HTTP_HOST", "")).rpartition(":")
    found = {
        "http.request.method": method,
        "url.path": environ.get("PATH_INFO", ""),
        "url.scheme": environ.get("HTTP_X_FORWARDED_PROTO") or environ.get("wsgi.url_scheme"),
        "network.protocol.version": str(environ.get("SERVER_PROTOCOL", "")).partition("/")[2],
        "server.address": host if port.isdigit() else environ.get("HTTP_HOST"),
        "server.port": int(port) if port.isdigit() else None,
        "client.address": environ.get("REMOTE_ADDR"),
        "user_agent.original": environ.get("HTTP_USER_AGENT"),
    }
    return {key: value for key, value in found.items() if value not in (None, "")}


class _Timed:
    """A request's body that knows when it was last read."""

    def __init__(self, stream: Any, request: Request) -> None:
        self._stream = stream
        self._request = request

    def read(self, *size: int) -> bytes:
        part: bytes = self._stream.read(*size)
        self._request.read = time.time_ns()
        return part

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
