"""Nested JSON lists as arrays of a declared dtype and shape. The rule is in `mpack_runtime.wire`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from mpack_runtime.errors import BadRequest
from mpack_runtime.frame import Array
from mpack_runtime.signature import Tensor
from mpack_runtime.wire_columns import describe, quote, sentence
from mpack_runtime.wire_matrix import NoneType, floats

_NESTED = frozenset((list, tuple, dict))
MAX_RANK = 32  # NumPy's own limit before version 2


def column_type(dtype: str) -> str:
    """The column type whose JSON values a dtype takes."""
    if dtype == "any":
        return "any"
    if dtype in ("str", "object", "string") or dtype.startswith(("<U", "U")):
        return "string"
    if dtype == "bool":
        return "boolean"
    return "long" if dtype.startswith(("int", "uint")) else "double"


def from_single(value: Any, tensors: Sequence[Tensor]) -> dict[str, Array]:
    """The one tensor that a model takes (no tensor declared: of any kind). Raises BadRequest."""
    if len(tensors) > 1:
        names = ", ".join(quote(tensor.name) for tensor in tensors)
        raise BadRequest(f'The model takes {len(tensors)} inputs ({names}); send them as "inputs": {{name: value, …}}.')
    tensor = tensors[0] if tensors else Tensor(None, "any", ())
    return {tensor.name or "": to_array(value, tensor, "the input")}


def from_named(content: Mapping[str, Any], tensors: Sequence[Tensor]) -> tuple[dict[str, Array], list[str]]:
    """Tensors by name, in the signature's order, and the names that the model does not know. Raises BadRequest."""
    if not tensors:
        arrays = {
            name: to_array(item, Tensor(name, "any", ()), f"input {quote(name)}") for name, item in content.items()
        }
        return same_rows(arrays, ()), []
    if len(tensors) == 1 and len(content) == 1 and tensors[0].name not in content:
        if tensors[0].name is not None:
            raise BadRequest(f"Missing input {quote(tensors[0].name)}: the request has {quote(next(iter(content)))}.")
        return from_single(next(iter(content.values())), tensors), []
    missing = [tensor.name for tensor in tensors if tensor.name not in content]
    if missing:
        there = ", ".join(quote(name) for name in content)
        raise BadRequest(f"Missing input {', '.join(quote(name) for name in missing)}: the request has {there}.")
    arrays = {str(t.name): to_array(content[str(t.name)], t, f"input {quote(t.name)}") for t in tensors}
    known = {tensor.name for tensor in tensors}
    return same_rows(arrays, tensors), [name for name in content if name not in known]


def same_rows(arrays: dict[str, Array], tensors: Sequence[Tensor]) -> dict[str, Array]:
    """Refuses inputs whose free first dimensions differ: they are one batch."""
    batched = {tensor.name for tensor in tensors if tensor.shape and tensor.shape[0] == -1}
    rows = {name: array.shape[0] for name, array in arrays.items() if name in batched}
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{quote(name)} {count}" for name, count in rows.items())
        raise BadRequest(f"The inputs differ in their number of rows ({counts}).")
    return arrays


def to_array(value: Any, tensor: Tensor, what: str) -> Array:
    """Nested lists as an array of the tensor's dtype and shape. Raises BadRequest."""
    flat, shape = flatten(value, what)
    if 0 in shape:
        raise BadRequest(f"{sentence(what)} is empty: its shape is {list(shape)}.")
    shape = _fit(shape, tensor, what)
    return _typed(flat, shape, tensor.dtype, what).reshape(shape)


def flatten(value: Any, what: str) -> tuple[list[Any], tuple[int, ...]]:
    """The scalars of nested lists in row-major order, and their shape. Refuses ragged lists and objects."""
    level: list[Any] = [value]
    shape: list[int] = []
    while level and type(level[0]) in (list, tuple):
        lengths = {len(item) if type(item) in (list, tuple) else -1 for item in level}
        if len(lengths) > 1:
            first = len(level[0])
            index = next(i for i, item in enumerate(level) if type(item) not in (list, tuple) or len(item) != first)
            row = _row(index, shape)
            raise BadRequest(f"{row} of {what} is ragged: lists of one level must have one length ({first} expected).")
        shape.append(len(level[0]))
        if len(shape) > MAX_RANK:
            raise BadRequest(f"{sentence(what)} is nested deeper than {MAX_RANK} levels.")
        level = list(chain.from_iterable(level))
    for index, item in enumerate(level if not _NESTED.isdisjoint(map(type, level)) else ()):
        if type(item) in _NESTED:
            reason = (
                "ragged: a list stands beside a value" if type(item) is not dict else "not a tensor: it holds an object"
            )
            raise BadRequest(f"{_row(index, shape)} of {what} is {reason}.")
    return level, tuple(shape)


def _row(index: int, shape: Sequence[int]) -> str:
    """ "Row 3" of a flat index into an array of that shape."""
    size = 1
    for dim in shape[1:]:
        size *= dim
    return f"Row {index // max(size, 1) + 1}"


def _fit(shape: tuple[int, ...], tensor: Tensor, what: str) -> tuple[int, ...]:
    """The shape, checked; a last dimension of 1 may be left out."""
    wanted = tensor.shape
    if not wanted and tensor.dtype == "any":
        return shape
    if len(shape) + 1 == len(wanted) and wanted[-1] in (1, -1) and len(shape) > 0:
        shape = (*shape, 1)
    if len(shape) != len(wanted) or any(dim not in (-1, given) for dim, given in zip(wanted, shape)):
        raise BadRequest(f"{sentence(what)} has the shape {list(shape)}; the model takes {list(wanted)} (-1 is free).")
    return shape


def _typed(flat: list[Any], shape: tuple[int, ...], dtype: str, what: str) -> Array:
    """The scalars as a flat array of the dtype."""
    kinds = set(map(type, flat))
    kind = column_type(dtype)
    if kind == "any":
        kind, dtype = _guess(kinds)
    allowed = _ALLOWED[kind]
    if not kinds <= allowed:
        index = next(index for index, item in enumerate(flat) if type(item) not in allowed)
        _refuse(flat, index, shape, what, f"expected {_WANTED[kind]} ({dtype}), got {describe(flat[index])}")
    if kind in ("string", "any"):
        array = np.empty(len(flat), dtype=object)
        array[:] = flat
        return array
    if kind == "long":
        return _whole(flat, kinds, shape, dtype, what)
    if kind == "boolean":
        return np.array(flat, dtype=bool)
    return _floats(flat, kinds, shape, dtype, what)


_ALLOWED: dict[str, set[type]] = {
    "string": {str},
    "boolean": {bool},
    "long": {int, float},
    "double": {int, float, NoneType},
    "any": {bool, int, float, str, NoneType},
}
_WANTED = {
    "string": "a string",
    "boolean": "true or false",
    "long": "a whole number",
    "double": "a number",
    "any": "a value",
}


def _guess(kinds: set[type]) -> tuple[str, str]:
    """Kind and dtype of undeclared values."""
    if kinds == {bool}:
        return "boolean", "bool"
    if kinds == {int}:
        return "long", "int64"
    return ("double", "float64") if kinds <= {int, float, NoneType} else ("any", "object")


def _refuse(flat: list[Any], index: int, shape: tuple[int, ...], what: str, reason: str) -> None:
    place = [int(item) for item in np.unravel_index(index, shape)] if shape else []
    raise BadRequest(f"{_row(index, shape)} of {what} (index {place}): {reason}.")


def _whole(flat: list[Any], kinds: set[type], shape: tuple[int, ...], dtype: str, what: str) -> Array:
    limits = np.iinfo(dtype)
    if kinds == {int} and limits.min <= min(flat) and max(flat) <= limits.max:
        return np.array(flat, dtype=dtype)
    for index, item in enumerate(flat):
        if type(item) is float and (not item.is_integer() or abs(item) > 2**53):
            _refuse(flat, index, shape, what, f"expected a whole number ({dtype}), got {describe(item)}")
        if not limits.min <= item <= limits.max:
            _refuse(flat, index, shape, what, f"{describe(item)} is out of range for {dtype}")
    return np.array([int(item) for item in flat], dtype=dtype)


def _floats(flat: list[Any], kinds: set[type], shape: tuple[int, ...], dtype: str, what: str) -> Array:
    array = floats(flat, kinds)
    target = np.dtype(dtype) if dtype in ("float16", "float32", "float64") else np.dtype(np.float32)
    with np.errstate(over="ignore"):
        cast = array.astype(target)
    over = np.isinf(cast)
    if over.any():
        index = int(np.argmax(over))
        _refuse(flat, index, shape, what, f"{describe(flat[index])} is out of range for {dtype}")
    return cast
