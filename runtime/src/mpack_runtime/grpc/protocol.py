"""What each method of the protocol answers, from bytes to bytes. Knows nothing of what carries them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mpack_runtime import __version__
from mpack_runtime.grpc import codec
from mpack_runtime.grpc.messages import METHODS, message
from mpack_runtime.rest.roads import check_model
from mpack_runtime.service import Service
from mpack_runtime.v2.core import Core

EXTENSIONS = ("parameters",)


class Answer:
    """An answer's bytes, how many rows the model was asked for, and what of the request was ignored."""

    def __init__(self, body: bytes, rows: int = 0, warnings: tuple[str, ...] = ()) -> None:
        self.body, self.rows, self.warnings = body, rows, warnings


class Protocol:
    """One model. `ready` tells whether the service takes requests."""

    def __init__(self, service: Service, ready: Callable[[], bool]) -> None:
        self._config = service.config
        self._core = Core(service)
        self._ready = ready
        self._requests = {name: message(f"inference.{name}Request") for name in METHODS}
        self._responses = {name: message(f"inference.{name}Response") for name in METHODS}

    def answer(self, method: str, body: bytes) -> Answer:
        """The answer of a method of METHODS. Raises RuntimeFault."""
        asked = codec.parse(self._requests[method], body)
        if method == "ModelInfer":
            return self._infer(asked)
        return Answer(self._responses[method](**self._told(method, asked)).SerializeToString())

    def _told(self, method: str, asked: Any) -> dict[str, Any]:
        """The fields of an answer that needs no prediction."""
        if method == "ServerLive":
            return {"live": True}
        if method == "ServerMetadata":
            return {"name": "mpack", "version": __version__, "extensions": EXTENSIONS}
        if method != "ServerReady":
            self._check(asked.name, asked.version)
        return self._core.metadata() if method == "ModelMetadata" else {"ready": self._ready()}

    def _infer(self, asked: Any) -> Answer:
        self._check(asked.model_name, asked.model_version)
        request = codec.read(asked)
        inputs = self._core.decode(request)
        tensors = self._core.predict(inputs, request.outputs)
        answer = codec.write(self._core.name, self._core.version, asked, tensors)
        return Answer(answer.SerializeToString(), inputs.rows, inputs.warnings)

    def _check(self, name: str, version: str) -> None:
        check_model(self._config, name, version or None)
