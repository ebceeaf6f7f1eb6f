"""Rows of plain numbers for columns of one type, read as one matrix: the quick road, which most requests take.

`table` gives what `wire.from_rows` would make column by column, bit for bit, or None where that must decide.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import reduce
from operator import iconcat
from typing import Any

import numpy as np

from mpack_runtime.frame import Array, Frame
from mpack_runtime.signature import Signature

NoneType = type(None)
_MAYBE = {int, float, NoneType}
#: Column types of whole numbers -> their dtype and struct's letter, which refuses what is out of range.
_WHOLE = {"integer": (np.int32, "i"), "long": (np.int64, "q")}
#: Values whose types are rather not looked at one by one.
_MANY = 256
#: Whole numbers from here on may not fit int64, which decides over a column's type.
_LARGE = 2.0**63


def floats(values: Sequence[Any], kinds: set[type]) -> Array:
    """Numbers as float64, null as NaN; `kinds` are the values' types, of int, float and NoneType."""
    if NoneType in kinds:
        return np.array(values, dtype=np.float64)
    # Packed by struct they take a quarter of the time that NumPy needs to look at each of them.
    return _packed(values, np.float64, "d")


def numbers(values: Sequence[Any]) -> Array | None:
    """JSON values that are all numbers as float64; None: some are not, or not sure; nor are few looked at, of which it
    is quicker to see each one's type."""
    if len(values) < _MANY:
        return None
    try:
        array = _packed(values, np.float64, "d")
    except (struct.error, OverflowError):
        return None
    # Of JSON's values only numbers and booleans are packed, and these are 0 or 1: where none is, no type need be looked
    # at, which takes three times as long as the packing.
    doubtful = np.flatnonzero((array == 0.0) | (array == 1.0)).tolist()
    if not doubtful:
        return array
    looked_at = values if 2 * len(doubtful) > len(values) else map(values.__getitem__, doubtful)
    return None if bool in set(map(type, looked_at)) else array


def table(names: Any, rows: list[Any], signature: Signature) -> Frame | None:
    """The frame of such rows of JSON's values; None: they may be anything else, or wrong."""
    kind, wanted, width = signature.column_type, signature.input_names, len(signature.inputs)
    if kind is None or set(map(type, rows)) != {list} or set(map(len, rows)) != {width}:
        return None
    order = [] if names is None or names == [] else _order(names, signature)
    if order is None:
        return None
    values: list[Any] = reduce(iconcat, rows, [])
    if kind == "double":
        packed = numbers(values)
        if packed is not None:
            return Frame.of_matrix(wanted or None, _in_order(packed.reshape(len(rows), width), order))
    kinds = set(map(type, values))
    flat = _numbers(values, kinds, kind)
    if flat is None:
        return None
    matrix = _in_order(flat.reshape(len(rows), width), order)
    if kind != "any" or len(kinds) == 1:
        return Frame.of_matrix(wanted or None, matrix)
    if np.abs(matrix).max() >= _LARGE:
        return None
    return Frame.of_matrix(wanted or None, matrix, _each(rows, order, matrix))


def _order(names: Any, signature: Signature) -> list[int] | None:
    """Where the request has the columns, [] where they stand as they are wanted; None: not sure that they are these."""
    wanted = signature.distinct_names
    if names == wanted and type(names) is list:
        return []
    if wanted is None or type(names) is not list or set(map(type, names)) != {str} or len(names) != len(wanted):
        return None
    position = dict(zip(names, range(len(names))))
    return [position[name] for name in wanted] if position.keys() == set(wanted) else None


def _in_order(matrix: Array, order: list[int]) -> Array:
    return np.take(matrix, order, axis=1) if order else matrix


def _numbers(values: list[Any], kinds: set[type], kind: str) -> Array | None:
    """The values of columns of that type, as one column's would be; None: not sure."""
    if kind == "any":
        kind = "long" if kinds == {int} else "double" if kinds and kinds <= {int, float} else ""
    if kind in ("double", "float") and kinds <= _MAYBE:
        array = floats(values, kinds)
        return array if kind == "double" else _single(array)
    if kind in _WHOLE and kinds == {int}:
        try:
            return _packed(values, *_WHOLE[kind])
        except struct.error:  # out of range
            return None
    return None


def _each(rows: list[Any], order: list[int], matrix: Array) -> tuple[Array, ...]:
    """Columns without a declared type, where some may be of whole numbers alone; the others as they are."""
    columns = list(zip(*rows))
    placed = [columns[index] for index in order] if order else columns
    return tuple(
        _packed(values, np.int64, "q") if set(map(type, values)) == {int} else column
        for values, column in zip(placed, matrix.T)
    )


def _single(array: Array) -> Array | None:
    with np.errstate(over="ignore"):
        found = array.astype(np.float32)
    return None if np.isinf(found).any() else found


def _packed(values: Sequence[Any], dtype: Any, letter: str) -> Array:
    array = np.empty(len(values), dtype)
    struct.pack_into(f"{len(values)}{letter}", array, 0, *values)  # type: ignore[arg-type]
    return array
