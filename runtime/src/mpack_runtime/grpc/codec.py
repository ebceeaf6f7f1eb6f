"""Messages of gRPC as V2 requests, and answers as messages.

An input's values are in the one list of `contents` that its datatype has, or all inputs' in `raw_input_contents`, never
in both. An answer has the form of its request; FP16, for which there is no list, makes all of an answer raw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from mpack_runtime.errors import BadRequest
from mpack_runtime.frame import Array
from mpack_runtime.grpc.messages import message
from mpack_runtime.v2.core import Request, check_output
from mpack_runtime.v2.raw import V2Tensor, from_bytes, to_bytes
from mpack_runtime.v2.tensors import DTYPES, Unfit, cast, objects
from mpack_runtime.v2.values import check_count, check_datatype, check_shape
from mpack_runtime.wire_columns import quote, sentence

#: The list of a datatype's values in InferTensorContents, and what it holds.
_LISTS: dict[str, tuple[str, Any]] = {
    "BOOL": ("bool_contents", np.bool_),
    **dict.fromkeys(("INT8", "INT16", "INT32"), ("int_contents", np.int32)),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), ("uint_contents", np.uint32)),
    "INT64": ("int64_contents", np.int64),
    "UINT64": ("uint64_contents", np.uint64),
    "FP32": ("fp32_contents", np.float32),
    "FP64": ("fp64_contents", np.float64),
    "BYTES": ("bytes_contents", object),
}
_INFER_RESPONSE = message("inference.ModelInferResponse")


def parse(kind: Any, body: bytes) -> Any:
    """A message of a class. Raises BadRequest."""
    try:
        return kind.FromString(body)
    except (DecodeError, ValueError) as error:
        name = kind.DESCRIPTOR.full_name
        raise BadRequest(f"The request's {len(body)} bytes are no {name}: {error}.") from error


def read(asked: Any) -> Request:
    """A ModelInferRequest as a V2 request. Raises BadRequest."""
    found = tensors(asked.inputs, asked.raw_input_contents, "input")
    kinds = {item.name: item.parameters["content_type"] for item in asked.inputs if "content_type" in item.parameters}
    for item in asked.outputs:
        check_output(_values(item.parameters), f"output {quote(item.name)}")
    wanted = tuple(item.name for item in asked.outputs)
    content_types = {name: _value(kind) for name, kind in kinds.items()}
    return Request(found, wanted, _values(asked.parameters), content_types)


def tensors(items: Sequence[Any], raw: Sequence[bytes], side: str) -> tuple[V2Tensor, ...]:
    """A message's inputs or outputs (`side`: "input", "output") with their values. Raises BadRequest."""
    whole = list(raw)
    if whole and len(whole) != len(items):
        raise BadRequest(f"There are {len(items)} {side}s and {len(whole)} raw_{side}_contents; each has one.")
    return tuple(_tensor(item, whole[index] if whole else None, side) for index, item in enumerate(items))


def write(name: str, version: str, asked: Any, tensors: Sequence[V2Tensor]) -> Any:
    """The ModelInferResponse. Raises BadRequest for what it cannot carry."""
    answer = _INFER_RESPONSE(model_name=name, model_version=version, id=asked.id)
    raw = bool(asked.raw_input_contents) or any(tensor.datatype not in _LISTS for tensor in tensors)
    for tensor in tensors:
        item = answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if raw:
            answer.raw_output_contents.append(bytes(to_bytes(tensor)))
            continue
        values = tensor.array.reshape(-1).tolist()
        if tensor.datatype == "BYTES" and None in values:
            raise BadRequest(f"Output {quote(tensor.name)} has a missing value, which only JSON can carry; ask for it.")
        getattr(item.contents, _LISTS[tensor.datatype][0]).extend(values)
    return answer


def _tensor(item: Any, raw: bytes | None, side: str) -> V2Tensor:
    what = f"{side} {quote(item.name)}"
    check_datatype(item.datatype, what)
    shape = check_shape(list(item.shape), what)
    filled = [field.name for field, _ in item.contents.ListFields()] if item.HasField("contents") else []
    if raw is None:
        return V2Tensor(item.name, item.datatype, _typed(item, filled, shape, what))
    if filled:
        raise BadRequest(f"{sentence(what)} has {filled[0]} beside raw_{side}_contents; its values must stand once.")
    return V2Tensor(item.name, item.datatype, from_bytes(raw, item.datatype, shape, what))


def _typed(item: Any, filled: list[str], shape: tuple[int, ...], what: str) -> Array:
    """The values of `contents`; `filled` are its lists that are not empty."""
    if item.datatype not in _LISTS:
        raise BadRequest(f"{sentence(what)} is {item.datatype}; its values can only be raw.")
    field, held = _LISTS[item.datatype]
    for name in filled:
        if name != field:
            raise BadRequest(f"{sentence(what)} is {item.datatype}; its values must be in {field}, not in {name}.")
    values = getattr(item.contents, field)
    check_count(len(values), shape, what)
    if item.datatype == "BYTES":
        return objects(values).reshape(shape)
    try:
        found = cast(np.fromiter(values, held, len(values)).reshape(shape), item.datatype, what)
    except Unfit as error:
        raise BadRequest(sentence(f"{error}.")) from error
    assert found.dtype == DTYPES[item.datatype]
    return found


def _values(parameters: Any) -> dict[str, Any]:
    return {name: _value(parameters[name]) for name in parameters}


def _value(parameter: Any) -> Any:
    """A parameter's value; None if it has none."""
    which = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, which) if which else None
