"""Lets in whoever has the token: a WSGI application around another."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Iterable
from typing import Any, Callable

from mpack_runtime.config import AuthSettings
from mpack_runtime.rest import prefix
from mpack_runtime.rest.metrics import Metrics
from mpack_runtime.rest.routes import group

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]
MESSAGE = "This service wants a token: send it as Authorization: Bearer TOKEN."


class Guard:
    """Refuses with 401. Health and metrics are open unless the settings close them."""

    def __init__(self, app: Wsgi, settings: AuthSettings, metrics: Metrics) -> None:
        self._app = app
        self._token = settings.token.encode("ascii")
        closed = {"health": settings.health, "metrics": settings.metrics}
        self._open = frozenset(of for of, needs in closed.items() if not needs)
        self._metrics = metrics

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = prefix.path(environ)
        if self.lets_in(environ.get("HTTP_AUTHORIZATION", ""), path):
            return self._app(environ, start_response)
        begun = time.perf_counter()
        self._metrics.start()
        # Each road has its own word for it: V1, V2 and feedback know "error", the others "message".
        word = "error" if path.startswith(("/v1/", "/v2", "/feedback")) else "message"
        body = json.dumps({word: MESSAGE}).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response("401 Unauthorized", [*headers, ("WWW-Authenticate", 'Bearer realm="mpack"')])
        self._metrics.end(path, 401, time.perf_counter() - begun)
        return [body]

    def lets_in(self, authorization: str, path: str) -> bool:
        """Whether a request with that header may ask at `path`."""
        scheme, _, token = authorization.partition(" ")
        given = token.strip().encode("latin-1", "replace")
        known = scheme.lower() == "bearer" and hmac.compare_digest(given, self._token)
        return known or group(path) in self._open
