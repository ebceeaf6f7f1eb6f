"""The few messages of inference.GRPCInferenceService that a client needs, in protobuf's wire format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Union

from mpack_runtime.errors import ModelFailure
from mpack_runtime.v2.raw import V2Tensor, from_raw
from mpack_runtime.v2.spec import Spec

Value = Union[int, bytes]
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def varint(number: int) -> bytes:
    """A whole number; negative ones as 64 bits."""
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def text(number: int, value: str | bytes) -> bytes:
    """A field of text, bytes or a message."""
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | _BYTES) + varint(len(data)) + data


def fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Numbers and values of a message's fields. Raises ModelFailure."""
    place = 0
    while place < len(data):
        key, place = _read_varint(data, place)
        kind = key & 7
        if kind == _VARINT:
            number, place = _read_varint(data, place)
            yield key >> 3, number
            continue
        if kind == _BYTES:
            length, place = _read_varint(data, place)
        else:
            length = {_FIXED64: 8, _FIXED32: 4}.get(kind, len(data))
        if place + length > len(data):
            raise ModelFailure("The server's answer over gRPC is cut off.")
        yield key >> 3, data[place : place + length]
        place += length


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while place < len(data) and shift < 70:
        byte = data[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return number, place
    raise ModelFailure("The server's answer over gRPC is not protobuf.")


def _all(data: bytes, number: int) -> list[bytes]:
    return [value for key, value in fields(data) if key == number and isinstance(value, bytes)]


def _string(data: bytes, number: int) -> str:
    return "".join(value.decode(errors="replace") for value in _all(data, number)[-1:])


def is_true(data: bytes) -> bool:
    """ServerReadyResponse and ModelReadyResponse."""
    return any(value for key, value in fields(data) if key == 1)


def model_request(name: str, version: str = "") -> bytes:
    """ModelReadyRequest and ModelMetadataRequest."""
    return text(1, name) + (text(2, version) if version else b"")


def metadata(data: bytes) -> tuple[list[str], list[Spec], list[Spec]]:
    """ModelMetadataResponse: versions, inputs, outputs."""
    versions = [value.decode() for value in _all(data, 2)]
    return versions, [_spec(item) for item in _all(data, 4)], [_spec(item) for item in _all(data, 5)]


def _spec(data: bytes) -> Spec:
    """name = 1, datatype = 2, shape = 3 (packed or not) of TensorMetadata, InferInputTensor and InferOutputTensor."""
    shape: list[int] = []
    for key, value in fields(data):
        if key == 3:
            shape += [value] if isinstance(value, int) else _packed(value)
    signed = [dim - (1 << 64) if dim >> 63 else dim for dim in shape]
    return Spec(_string(data, 1), _string(data, 2), tuple(signed))


def _packed(data: bytes) -> list[int]:
    numbers, place = [], 0
    while place < len(data):
        number, place = _read_varint(data, place)
        numbers.append(number)
    return numbers


def infer_request(model: str, version: str, tensors: Sequence[V2Tensor], outputs: Iterable[str] = ()) -> bytes:
    """ModelInferRequest with raw contents."""
    parts = [model_request(model, version)]
    for tensor in tensors:
        shape = b"".join(map(varint, tensor.shape))
        parts.append(text(5, text(1, tensor.name) + text(2, tensor.datatype) + text(3, shape)))
    parts += [text(6, text(1, name)) for name in outputs]
    parts += [text(7, tensor.raw()) for tensor in tensors]
    return b"".join(parts)


def infer_response(data: bytes) -> list[V2Tensor]:
    """ModelInferResponse with raw contents, as Triton answers."""
    specs, raw = [_spec(item) for item in _all(data, 5)], _all(data, 6)
    if len(specs) != len(raw):
        raise ModelFailure(f"The answer over gRPC has {len(specs)} outputs and the bytes of {len(raw)}.")
    return [from_raw(spec, item) for spec, item in zip(specs, raw)]
