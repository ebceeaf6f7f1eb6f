"""A client of the V2 protocol, over HTTP and over gRPC, through TCP or unix sockets."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mpack_runtime.errors import ModelFailure
from mpack_runtime.triton import protobuf
from mpack_runtime.triton.address import Address, HttpConnection
from mpack_runtime.triton.grpc import Connection
from mpack_runtime.v2.raw import V2Tensor, from_raw
from mpack_runtime.v2.spec import Spec

_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Metadata:
    """What a server tells of a model."""

    versions: tuple[str, ...]
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]


class HttpClient:
    """HTTP: JSON, and raw bytes for the tensors that JSON cannot carry. Every method raises ModelFailure."""

    name = "HTTP"

    def __init__(self, address: Address, timeout: float = 60.0) -> None:
        self._address, self._timeout = address, timeout

    def close(self) -> None:
        """Nothing stays open."""

    def ready(self, model: str = "") -> bool:
        """True if the server, or that model, is ready."""
        path = f"/v2/models/{model}/ready" if model else "/v2/health/ready"
        return self._ask("GET", path)[0] == 200

    def metadata(self, model: str) -> Metadata:
        """What the server tells of a model."""
        data = self._json(*self._ask("GET", f"/v2/models/{model}")[:2])
        sides = [tuple(Spec(i["name"], i["datatype"], tuple(i["shape"])) for i in data[side]) for side in _SIDES]
        return Metadata(tuple(data.get("versions", ())), *sides)

    def infer(
        self,
        model: str,
        tensors: Sequence[V2Tensor],
        *,
        version: str = "",
        outputs: Sequence[str] = (),
        raw: bool = False,
    ) -> list[V2Tensor]:
        """The model's answer; `raw`: its outputs come as bytes, as FP16 must."""
        head: dict[str, Any] = {"inputs": [_input(tensor) for tensor in tensors]}
        if outputs:
            head["outputs"] = [{"name": name, "parameters": {"binary_data": raw}} for name in outputs]
        elif raw:
            head["parameters"] = {"binary_data_output": True}
        body = json.dumps(head, allow_nan=False).encode()
        headers = {"Content-Type": "application/json"}
        tail = b"".join(tensor.raw() for tensor in tensors if not tensor.is_json)
        if tail or not all(tensor.is_json for tensor in tensors):
            headers = {"Content-Type": "application/octet-stream", _LENGTH: str(len(body))}
        path = f"/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/infer"
        return self._outputs(*self._ask("POST", path, body + tail, headers))

    def _outputs(self, status: int, body: bytes, length: int | None) -> list[V2Tensor]:
        head, rest = (body, b"") if length is None else (body[:length], body[length:])
        found = []
        for item in self._json(status, head)["outputs"]:
            size = (item.get("parameters") or {}).get("binary_data_size")
            if size is None:
                found.append(V2Tensor.from_json(item))
            else:
                found.append(from_raw(Spec(item["name"], item["datatype"], tuple(item["shape"])), rest[:size]))
                rest = rest[size:]
        return found

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes, int | None]:
        """Status, body, and how much of the body is JSON (None: all)."""
        connection = HttpConnection(self._address, self._timeout)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            length = answer.getheader(_LENGTH)
            return answer.status, answer.read(), int(length) if length else None
        except (OSError, http.client.HTTPException) as error:
            raise ModelFailure(f"The server on {self._address} does not answer over HTTP: {error}.") from error
        finally:
            connection.close()

    def _json(self, status: int, body: bytes) -> Any:
        try:
            data = json.loads(body.decode(errors="surrogateescape"))
        except ValueError as error:
            raise ModelFailure(f"The server's answer over HTTP (status {status}) is not JSON: {error}.") from error
        if status != 200:
            words = data.get("error") if isinstance(data, dict) else data
            raise ModelFailure(f"The server answers {status} over HTTP: {words}")
        return data


_SIDES = ("inputs", "outputs")


def _input(tensor: V2Tensor) -> dict[str, Any]:
    item: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
    if tensor.is_json:
        return {**item, "data": tensor.values()}
    return {**item, "parameters": {"binary_data_size": len(tensor.raw())}}


class GrpcClient:
    """gRPC with raw contents. Every method raises ModelFailure."""

    name = "gRPC"

    def __init__(self, address: Address, timeout: float = 60.0) -> None:
        try:
            self._connection = Connection(address, timeout)
        except OSError as error:
            raise ModelFailure(f"The server on {address} does not answer over gRPC: {error}.") from error

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()

    def ready(self, model: str = "") -> bool:
        """True if the server, or that model, is ready."""
        method = "ModelReady" if model else "ServerReady"
        return protobuf.is_true(self._connection.call(method, protobuf.model_request(model) if model else b""))

    def metadata(self, model: str) -> Metadata:
        """What the server tells of a model."""
        versions, inputs, outputs = protobuf.metadata(
            self._connection.call("ModelMetadata", protobuf.model_request(model))
        )
        return Metadata(tuple(versions), tuple(inputs), tuple(outputs))

    def infer(
        self, model: str, tensors: Sequence[V2Tensor], *, version: str = "", outputs: Sequence[str] = ()
    ) -> list[V2Tensor]:
        """The model's answer."""
        request = protobuf.infer_request(model, version, tensors, outputs)
        return protobuf.infer_response(self._connection.call("ModelInfer", request))
