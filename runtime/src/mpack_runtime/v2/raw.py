"""Tensors on the wire of the V2 protocol: JSON values, or raw bytes (row-major, little-endian, text with lengths)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpack_runtime.errors import BadRequest, ModelFailure
from mpack_runtime.frame import Array
from mpack_runtime.v2.spec import Spec
from mpack_runtime.v2.tensors import DTYPES, Unfit, cast, datatype_of, objects, plain_array
from mpack_runtime.wire_columns import quote, sentence


@dataclass(frozen=True)
class V2Tensor:
    """A named tensor with its V2 type; BYTES are objects (bytes)."""

    name: str
    datatype: str
    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @classmethod
    def of(cls, name: str, array: Array) -> V2Tensor:
        """An array of a V2 type."""
        return cls(name, datatype_of(array), array)

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> V2Tensor:
        """One of "inputs" or "outputs" of a V2 request or answer. Raises BadRequest."""
        try:
            name, datatype = str(item["name"]), str(item["datatype"])
            return cls(name, datatype, _from_values(item["data"], datatype, tuple(map(int, item["shape"])), name))
        except Unfit as error:
            raise BadRequest(f"{error}.") from error
        except (KeyError, TypeError, ValueError) as error:
            raise BadRequest(f"A V2 tensor must have name, datatype, shape and data that agree: {error!r}.") from error

    def values(self) -> Any:
        """Nested lists of JSON values; bytes that are no UTF-8 keep their values as lone surrogates."""
        if self.datatype != "BYTES":
            return self.array.tolist()
        texts = [item.decode(errors="surrogateescape") for item in self.array.ravel().tolist()]
        return objects(texts).reshape(self.shape).tolist()

    @property
    def is_json(self) -> bool:
        """True if JSON can carry it: neither FP16 nor NaN nor infinities nor text that is no UTF-8."""
        if self.datatype == "BYTES":
            return all(_is_utf8(item) for item in self.array.ravel().tolist())
        return self.datatype != "FP16" and bool(np.isfinite(self.array).all())

    def raw(self) -> bytes:
        """The tensor's bytes."""
        return pack(self.array.ravel().tolist()) if self.datatype == "BYTES" else self.array.tobytes()


def from_raw(spec: Spec, data: bytes) -> V2Tensor:
    """A tensor of the wire; `spec.shape` is exact. Raises ModelFailure where bytes and shape disagree."""
    try:
        if spec.datatype == "BYTES":
            return V2Tensor(spec.name, spec.datatype, objects(unpack(data)).reshape(spec.shape))
        return V2Tensor(spec.name, spec.datatype, np.frombuffer(data, DTYPES[spec.datatype]).reshape(spec.shape))
    except (KeyError, ValueError, struct.error) as error:
        raise ModelFailure(
            f"The answer's {spec.name} ({spec.datatype} {list(spec.shape)}) has {len(data)} bytes: {error}."
        ) from error


def from_bytes(data: bytes | memoryview, datatype: str, shape: tuple[int, ...], what: str) -> Array:
    """A request's raw bytes as an array of its own: aligned, and the model's to change. Raises BadRequest."""
    try:
        if datatype == "BYTES":
            return objects(unpack(bytes(data))).reshape(shape)
        array = np.frombuffer(data, np.uint8 if datatype == "BOOL" else DTYPES[datatype].newbyteorder("<"))
        if datatype == "BOOL" and (array > 1).any():
            raise BadRequest(f"{sentence(what)} is BOOL; its bytes must be 0 or 1.")
        return array.astype(DTYPES[datatype]).reshape(shape)
    except (ValueError, struct.error) as error:
        reason = f"{sentence(what)} ({datatype} {list(shape)}) has {len(data)} bytes, which do not fit: {error}."
        raise BadRequest(reason) from error


def to_bytes(tensor: V2Tensor) -> bytes | memoryview:
    """An answer's tensor as raw bytes, its own memory where that has them. Raises BadRequest for missing text."""
    if tensor.datatype != "BYTES":
        little = np.ascontiguousarray(tensor.array.astype(tensor.array.dtype.newbyteorder("<"), copy=False))
        return little.reshape(-1).view(np.uint8).data
    items = tensor.array.reshape(-1).tolist()
    if None in items:
        raise BadRequest(f"Output {quote(tensor.name)} has a missing value, which raw text cannot carry; ask for JSON.")
    return pack(items)


def pack(items: Iterable[Any]) -> bytes:
    """V2's raw form of text: each item's length (32 bits, little-endian) and its bytes."""
    parts = []
    for item in items:
        data = item if isinstance(item, bytes) else str(item).encode()
        parts += [struct.pack("<I", len(data)), data]
    return b"".join(parts)


def unpack(data: bytes) -> list[bytes]:
    """Raw text: each item after its length."""
    items, start = [], 0
    while start < len(data):
        (length,) = struct.unpack_from("<I", data, start)
        start += 4 + length
        if start > len(data):
            raise ValueError("an item is cut off")
        items.append(data[start - length : start])
    return items


def _from_values(data: Any, datatype: str, shape: Sequence[int], name: str) -> Array:
    if datatype not in DTYPES:
        raise Unfit(f"tensor {name} is {datatype}, which this client does not know")
    if datatype == "BYTES":
        flat = np.array(data, dtype=object).ravel().tolist()
        return objects([str(item).encode(errors="surrogateescape") for item in flat]).reshape(shape)
    array = np.zeros(0, DTYPES[datatype]) if data == [] else plain_array(data)
    return cast(array, datatype, f"tensor {name}", exact=False).reshape(shape)


def _is_utf8(item: bytes) -> bool:
    try:
        item.decode()
    except UnicodeDecodeError:
        return False
    return True
