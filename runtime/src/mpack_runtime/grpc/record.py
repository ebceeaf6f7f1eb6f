"""Predictions over gRPC as the journal keeps those over HTTP: request and answer in V2's JSON, put together later."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from mpack_runtime.errors import RuntimeFault
from mpack_runtime.grpc import codec
from mpack_runtime.grpc.messages import message
from mpack_runtime.render import plain
from mpack_runtime.rest.records import BODY_LIMIT, Exchange

_REQUEST, _RESPONSE = message("inference.ModelInferRequest"), message("inference.ModelInferResponse")


def exchange(
    path: str, metadata: Mapping[str, str], request: bytes, status: int, request_id: str, answer: bytes | str
) -> Callable[[], Exchange]:
    """What makes the record of a call, now or in another thread; a refusal's answer is its words.

    A body above BODY_LIMIT bytes is not kept: unpacking it would take its time from who predicts.
    """
    environ = {f"HTTP_{name.replace('-', '_').upper()}": value for name, value in metadata.items()}
    environ.update(REQUEST_METHOD="gRPC", RAW_URI=path, CONTENT_TYPE="application/json")
    when, headers = time.time(), (("request-id", request_id),)
    asked = request if len(request) <= BODY_LIMIT else None
    told = answer if len(answer) <= BODY_LIMIT else None

    def make() -> Exchange:
        body = _text(_request, asked)
        said = orjson.dumps({"error": told}) if isinstance(told, str) else _text(_response, told)
        return Exchange(environ, body, asked is not None, status, headers, said, told is not None, when)

    return make


def _text(write: Callable[[bytes], dict[str, Any]], body: bytes | None) -> bytes:
    """The JSON of a message; what is no request stays as it came."""
    if body is None:
        return b""
    try:
        return orjson.dumps(write(body))[:BODY_LIMIT]
    except (RuntimeFault, TypeError, ValueError):
        return body


def _request(body: bytes) -> dict[str, Any]:
    asked = codec.parse(_REQUEST, body)
    request = codec.read(asked)
    whole = {"id": asked.id, "inputs": [_shown(tensor) for tensor in request.inputs]}
    return {**whole, "outputs": [{"name": name} for name in request.outputs]} if request.outputs else whole


def _response(body: bytes) -> dict[str, Any]:
    told = codec.parse(_RESPONSE, body)
    tensors = codec.tensors(told.outputs, told.raw_output_contents, "output")
    return {
        "model_name": told.model_name,
        "model_version": told.model_version,
        "id": told.id,
        "outputs": [_shown(tensor) for tensor in tensors],
    }


def _shown(tensor: Any) -> dict[str, Any]:
    """A tensor as V2's JSON has it; bytes that are no text are shown as such."""
    flat = tensor.array.reshape(-1)
    values = (
        [item.decode("utf-8", "backslashreplace") for item in flat.tolist()] if tensor.datatype == "BYTES" else None
    )
    data = plain(flat, False) if values is None else values
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape), "data": data}
