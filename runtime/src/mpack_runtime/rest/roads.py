"""Further protocols on the same port: the Open Inference Protocol (V2), KServe V1, MLflow's scoring server.

What a protocol answers is in modules of its own, which the first request loads: `v2`, `v1`, `mlflow`. No web framework
is needed here, so that whatever carries the requests can ask `Roads`.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from mpack_runtime.config import ModelConfig
from mpack_runtime.errors import BadRequest, RuntimeFault
from mpack_runtime.service import Service

JSON = "application/json"
BUG = "The service failed on this request; its log has the reason."
#: Addresses: the method they take, and the protocol's function that answers, by module and name.
ROUTES: dict[str, tuple[str, str, str]] = {
    "/v2": ("GET", "v2", "server"),
    "/v2/health/live": ("GET", "v2", "live"),
    "/v2/health/ready": ("GET", "v2", "ready"),
    "/v2/models/{name}": ("GET", "v2", "metadata"),
    "/v2/models/{name}/ready": ("GET", "v2", "model_ready"),
    "/v2/models/{name}/infer": ("POST", "v2", "infer"),
    "/v2/models/{name}/versions/{version}": ("GET", "v2", "metadata"),
    "/v2/models/{name}/versions/{version}/ready": ("GET", "v2", "model_ready"),
    "/v2/models/{name}/versions/{version}/infer": ("POST", "v2", "infer"),
    "/v2/repository/index": ("POST", "v2", "index"),
    "/v1/models": ("GET", "v1", "models"),
    "/v1/models/{name}": ("GET", "v1", "model"),
    "/v1/models/{name}:predict": ("POST", "v1", "predict"),
    "/invocations": ("POST", "mlflow", "invocations"),
    "/ping": ("GET", "mlflow", "ping"),
    "/health": ("GET", "mlflow", "ping"),
    "/version": ("GET", "mlflow", "version"),
}


class Reply:
    """An answer. `route` is one of ROUTES or "", `rows` those the model was asked for, `warnings` what was ignored."""

    # Not a dataclass, which takes a millisecond of each start to define.
    def __init__(
        self,
        body: bytes,
        status: int = 200,
        content_type: str = JSON,
        headers: Mapping[str, str] = MappingProxyType({}),
        rows: int = 0,
        warnings: tuple[str, ...] = (),
    ) -> None:
        self.body, self.status, self.content_type = body, status, content_type
        self.headers, self.rows, self.warnings = dict(headers), rows, warnings
        self.route = ""


class Call:
    """One request. `body` reads it (raises BadRequest), `header` gives a header's value or "". `ready`: the model.

    `query` is what follows the address's question mark.
    """

    def __init__(
        self,
        method: str,
        path: str,
        header: Callable[[str], str],
        body: Callable[[], bytes],
        ready: bool = True,
        query: str = "",
    ) -> None:
        self.method, self.path, self.header, self.body, self.ready = method, path, header, body, ready
        self.query = query

    @property
    def content_type(self) -> str:
        """The header, or ""."""
        return self.header("Content-Type")


class Roads:
    """The protocols of one model."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._parts: dict[str, Any] = {}

    def answer(self, call: Call) -> Reply | None:
        """The answer to a request, whatever it is; None if the address is none of these protocols'."""
        path = call.path.rstrip("/") or "/"
        route, name, version = _find(path)
        protocol = ROUTES[route][1] if route else path[1:3]
        if protocol not in ("v1", "v2", "mlflow") or (not route and not path.startswith(("/v1/", "/v2/"))):
            return None
        try:
            reply = self._answer(call, path, route, name, version)
        except RuntimeFault as error:
            reply = refusal(protocol, error)
        except Exception as error:
            traceback.print_exception(type(error), error, error.__traceback__, file=sys.stderr)
            reply = _error(protocol, BUG, 500)
        reply.route = route
        return reply

    def _answer(self, call: Call, path: str, route: str, name: str | None, version: str | None) -> Reply:
        if not route:
            raise BadRequest(f"There is nothing at {path}.", 404)
        method, protocol, view = ROUTES[route]
        check_model(self.service.config, name, version)
        if call.method != method and (call.method, method) != ("HEAD", "GET"):
            refusal = _error(protocol, f"{path} does not take {call.method}.", 405)
            refusal.headers["Allow"] = f"{method}, HEAD" if method == "GET" else method
            return refusal
        reply: Reply = getattr(self._part(protocol), view)(call)
        return reply

    def _part(self, protocol: str) -> Any:
        if protocol not in self._parts:
            module = importlib.import_module(f"mpack_runtime.rest.{protocol}")
            self._parts[protocol] = module.Protocol(self.service)
        return self._parts[protocol]


def check_model(config: ModelConfig, name: str | None, version: str | None) -> None:
    """Raises BadRequest (404) for another model or version than the service's; None: whichever there is."""
    if name not in (None, config.name):
        raise BadRequest(f"There is no model {name}; this service has {config.name}.", 404)
    if version not in (None, config.version):
        raise BadRequest(f"The model {name} has no version {version}; this is {config.version}.", 404)


def preload() -> None:
    """Imports every protocol's modules, so that the self-check can tell their sources."""
    for protocol in {protocol for _, protocol, _ in ROUTES.values()}:
        importlib.import_module(f"mpack_runtime.rest.{protocol}")


def _find(path: str) -> tuple[str, str | None, str | None]:
    """The route, the model's name and its version; "" for no route."""
    if path in ROUTES and "{" not in path:
        return path, None, None
    base = "/v2/models/" if path.startswith("/v2/models/") else "/v1/models/"
    if not path.startswith(base):
        return "", None, None
    rest, action, version = path[len(base) :], "", None
    for suffix in ("/infer", "/ready") if base == "/v2/models/" else (":predict",):
        if rest.endswith(suffix):
            rest, action = rest[: -len(suffix)], suffix
    route = base + "{name}"
    if base == "/v2/models/" and "/versions/" in rest:
        rest, _, version = rest.rpartition("/versions/")
        route += "/versions/{version}"
    return (route + action, rest, version) if rest else ("", None, None)


def refusal(protocol: str, error: RuntimeFault) -> Reply:
    """An error in the form of the protocol, a group of `routes`."""
    if protocol == "odahu":
        reply = to_json({"message": error.message}, error.status)
    else:
        reply = _error(protocol, error.message, error.status)
    if error.retry_after:
        reply.headers["Retry-After"] = str(error.retry_after)
    return reply


def _error(protocol: str, message: str, status: int) -> Reply:
    """An error in the protocol's own form."""
    if protocol != "mlflow":
        return to_json({"error": message}, status)
    code = {404: "ENDPOINT_NOT_FOUND"}.get(status, "BAD_REQUEST" if status < 500 else "INTERNAL_ERROR")
    return to_json({"error_code": code, "message": message}, status)


def to_json(value: Mapping[str, Any] | list[Any], status: int = 200) -> Reply:
    """An answer of JSON."""
    import orjson

    return Reply(orjson.dumps(value), status)
