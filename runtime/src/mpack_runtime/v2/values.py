"""The JSON values of one V2 tensor as an array of its datatype, exactly.

Flat in row-major order, or nested in the tensor's own shape. BOOL takes true and false, whole numbers take numbers
without a fraction that are in range (above 2^53 only if written without point or exponent), floats any number in range,
BYTES strings, whose UTF-8 bytes they are. null is a missing value: NaN in floats, None in an array of objects else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mpack_runtime.errors import BadRequest
from mpack_runtime.frame import Array
from mpack_runtime.v2.tensors import DTYPES, objects
from mpack_runtime.wire_columns import EXACT, describe, quote, sentence
from mpack_runtime.wire_matrix import NoneType, floats, numbers
from mpack_runtime.wire_tensors import flatten

_FORMS: dict[str, tuple[set[type], str]] = {
    "b": ({bool}, "true or false"),
    "f": ({int, float}, "a number"),
    "O": ({str}, "a string"),
}
_WHOLE: tuple[set[type], str] = ({int, float}, "a whole number")


def check_datatype(datatype: str, what: str) -> None:
    """Raises BadRequest for a datatype that is none of V2's."""
    if datatype not in DTYPES:
        raise BadRequest(f"{sentence(what)} has the datatype {quote(datatype)}; it must be one of {', '.join(DTYPES)}.")


def check_shape(shape: Any, what: str) -> tuple[int, ...]:
    """A request's shape: one to 32 dimensions, none of which is 0. Raises BadRequest."""
    if type(shape) is not list or not all(type(dim) is int and 0 <= dim < 2**63 for dim in shape):
        raise BadRequest(f"{sentence(what)} has the shape {_short(shape)}; it must be a list of whole numbers.")
    if len(shape) > 32:
        raise BadRequest(f"{sentence(what)} has {len(shape)} dimensions; 32 is the most.")
    if 0 in shape:
        raise BadRequest(f"{sentence(what)} is empty: its shape is {shape}.")
    return tuple(shape)


def check_count(count: int, shape: tuple[int, ...], what: str) -> None:
    """Raises BadRequest where there are more or fewer values than the shape says."""
    said = math.prod(shape)
    if count != said:
        raise BadRequest(f"{sentence(what)} has {count} values, where its shape {_short(shape)} says {said}.")


def from_json(data: Any, datatype: str, shape: tuple[int, ...], what: str) -> Array:
    """The values in that shape. `what` names the tensor. Raises BadRequest."""
    if type(data) is not list:
        raise BadRequest(f"The data of {what} is {describe(data)}; it must be a list.")
    flat, nested = (data, None) if not data or type(data[0]) is not list else flatten(data, what)
    if nested is not None and nested != shape:
        raise BadRequest(
            f"The data of {what} has the shape {list(nested)}, where its shape is said to be {_short(shape)}."
        )
    check_count(len(flat), shape, what)
    dtype = DTYPES[datatype]
    packed = numbers(flat) if dtype.kind == "f" else None
    if packed is not None:
        return _floats(flat, packed, dtype, shape, what, datatype)
    kinds = set(map(type, flat))
    allowed, wanted = _FORMS.get(dtype.kind, _WHOLE)
    if not kinds - {NoneType} <= allowed:
        index = next(index for index, item in enumerate(flat) if item is not None and type(item) not in allowed)
        _refuse(index, shape, what, f"expected {wanted} ({datatype}), got {describe(flat[index])}")
    if dtype.kind == "O":
        return objects([None if item is None else item.encode() for item in flat]).reshape(shape)
    if dtype.kind == "f":
        return _floats(flat, floats(flat, kinds), dtype, shape, what, datatype)
    if dtype.kind != "b":
        flat = _whole(flat, float in kinds, dtype, shape, what, datatype)
    return (objects(flat) if NoneType in kinds else np.array(flat, dtype)).reshape(shape)


def _floats(flat: list[Any], array: Array, dtype: Any, shape: tuple[int, ...], what: str, datatype: str) -> Array:
    """`array`: the values as float64."""
    found = array
    if array.dtype != dtype:
        with np.errstate(over="ignore"):
            found = array.astype(dtype)
    beyond = np.isinf(found)
    if beyond.any():
        index = int(np.argmax(beyond))
        _refuse(index, shape, what, f"{describe(flat[index])} is out of range for {datatype}")
    return found.reshape(shape)


def _whole(flat: list[Any], mixed: bool, dtype: Any, shape: tuple[int, ...], what: str, datatype: str) -> list[Any]:
    """The whole numbers, checked; `mixed`: some are written as floats."""
    for index, item in enumerate(flat if mixed else ()):
        if type(item) is float and (not item.is_integer() or abs(item) > EXACT):
            _refuse(index, shape, what, f"expected a whole number ({datatype}), got {describe(item)}")
    whole = [int(item) if type(item) is float else item for item in flat] if mixed else flat
    present = [item for item in whole if item is not None]
    limits = np.iinfo(dtype)
    if present and not limits.min <= min(present) <= max(present) <= limits.max:
        index = next(i for i, item in enumerate(whole) if item is not None and not limits.min <= item <= limits.max)
        _refuse(index, shape, what, f"{describe(whole[index])} is out of range for {datatype}")
    return whole


def _refuse(index: int, shape: Sequence[int], what: str, reason: str) -> None:
    place = [int(item) for item in np.unravel_index(index, shape)] if shape else []
    raise BadRequest(f"{sentence(what)}, index {place}: {reason}.")


def _short(shape: Any) -> str:
    text = str(list(shape)) if isinstance(shape, (list, tuple)) else describe(shape)
    return text if len(text) <= 80 else f"{text[:76]}…"
