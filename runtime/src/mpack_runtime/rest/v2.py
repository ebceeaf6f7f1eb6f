"""The Open Inference Protocol (V2) over HTTP."""

from __future__ import annotations

from typing import Any

from mpack_runtime import __version__
from mpack_runtime.errors import BadRequest
from mpack_runtime.rest.query import method_in
from mpack_runtime.rest.roads import Call, Reply, to_json
from mpack_runtime.rest.v2_body import LENGTH, read, write
from mpack_runtime.service import Service
from mpack_runtime.v2.core import Core
from mpack_runtime.wire_columns import describe
from mpack_runtime.wire_json import parse

EXTENSIONS = ["binary_tensor_data", "parameters", "model_repository(index)"]


class Protocol:
    """Its addresses."""

    def __init__(self, service: Service) -> None:
        self._core = Core(service)
        self._service = service

    def server(self, call: Call) -> Reply:
        """The server's metadata."""
        return to_json({"name": "mpack", "version": __version__, "extensions": EXTENSIONS})

    def live(self, call: Call) -> Reply:
        """The process answers."""
        return to_json({"live": True})

    def ready(self, call: Call) -> Reply:
        """200 once the model has answered its sample, else 503."""
        return to_json({"ready": call.ready}, 200 if call.ready else 503)

    def model_ready(self, call: Call) -> Reply:
        """The same for the model."""
        return to_json({"name": self._core.name, "ready": call.ready}, 200 if call.ready else 503)

    def metadata(self, call: Call) -> Reply:
        """The model's inputs and outputs, and its methods where it has several."""
        told, methods = self._core.metadata(), self._service.methods()
        if methods:
            told["parameters"] = {"method": methods[0], "methods": list(methods)}
        return to_json(told)

    def index(self, call: Call) -> Reply:
        """The repository's one model; with {"ready": true} only if it is ready."""
        body = call.body()
        asked: Any = {}
        if body.strip():
            try:
                asked = parse(body.decode())
            except UnicodeDecodeError as error:
                raise BadRequest(f"The request's JSON is not UTF-8: {error}.") from error
        if type(asked) is not dict or type(asked.get("ready", False)) is not bool:
            shown = describe(asked if type(asked) is not dict else asked["ready"])
            raise BadRequest(f'The request has {shown}; it must be an object, perhaps with "ready": true or false.')
        state = {"state": "READY" if call.ready else "UNAVAILABLE", "reason": ""}
        models = [{"name": self._core.name, "version": self._core.version, **state}]
        return to_json([] if asked.get("ready") and not call.ready else models)

    def infer(self, call: Call) -> Reply:
        """A prediction."""
        asked = read(call.body(), call.header(LENGTH))
        inputs = self._core.decode(asked.request, method_in(call.query) if call.query else "")
        tensors = self._core.predict(inputs, asked.request.outputs)
        body, length = write(self._core.name, self._core.version, asked, tensors)
        if length is None:
            return Reply(body, rows=inputs.rows)
        return Reply(body, content_type="application/octet-stream", headers={LENGTH: str(length)}, rows=inputs.rows)
