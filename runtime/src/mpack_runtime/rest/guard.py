"""Lets in whoever has a token: a WSGI application around another."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any, Callable

from mpack_runtime.config import AuthSettings
from mpack_runtime.rest import prefix
from mpack_runtime.rest.access import Access, Refusal
from mpack_runtime.rest.metrics import Metrics
from mpack_runtime.rest.routes import group

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Guard:
    """Refuses with 401, or 503 while tokens cannot be checked. Health and metrics are open unless the settings close
    them."""

    def __init__(self, app: Wsgi, settings: AuthSettings, metrics: Metrics) -> None:
        """Raises SettingsError where the file of MPACK_AUTH_JWKS holds no keys."""
        self._app = app
        self._access = Access(settings)
        closed = {"health": settings.health, "metrics": settings.metrics}
        self._open = frozenset(of for of, needs in closed.items() if not needs)
        self._metrics = metrics

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = prefix.path(environ)
        begun = time.perf_counter()
        refusal = self.refusal(environ.get("HTTP_AUTHORIZATION", ""), path)
        if refusal is None:
            return self._app(environ, start_response)
        self._metrics.start()
        # Each road has its own word for it: V1, V2 and feedback know "error", the others "message".
        word = "error" if path.startswith(("/v1/", "/v2", "/feedback")) else "message"
        body = json.dumps({word: refusal.message}).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), _header(refusal)]
        start_response("401 Unauthorized" if refusal.status == 401 else "503 Service Unavailable", headers)
        self._metrics.end(path, refusal.status, time.perf_counter() - begun)
        return [body]

    def refusal(self, authorization: str, path: str) -> Refusal | None:
        """None for a request with that header that may ask at `path`."""
        return None if group(path) in self._open else self._access.refusal(authorization)


def _header(refusal: Refusal) -> tuple[str, str]:
    if refusal.status != 401:
        return "Retry-After", "5"
    fault = f', error="invalid_token", error_description="{refusal.message}"' if refusal.invalid else ""
    return "WWW-Authenticate", f'Bearer realm="mpack"{fault}'
