"""Arrays of numbers as CSV, JSON Lines and Arrow columns, many at once: the bytes that a value at a time would give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from mpack_runtime.frame import Array
from mpack_runtime.render import plain

#: Between these orjson writes a number as Python does: without exponent, as few digits as tell it from others.
_PLAIN = {8: (1e-4, 1e15), 4: (1e-4, 1e6)}


def table_like(value: Any) -> bool:
    """True for an array of numbers or booleans whose rows are values or lists of values."""
    return isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.ndim in (1, 2) and bool(value.size)


def csv_lines(array: Array) -> bytes:
    """A line a row, cells as Python's csv module writes them; NaN and infinities are empty, quoted if alone."""
    odd = _odd(array)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if not odd.size:
        text = orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY)
        return (text[1:-1].replace(b",", b"\n") if array.ndim == 1 else text[2:-2].replace(b"],[", b"\n")) + b"\n"
    cells = _cells(array, odd, b'""' if array.ndim == 1 else b"", lambda value: repr(value).encode())
    if array.ndim == 1:
        return b"\n".join(cells) + b"\n"
    return b"\n".join(map(b",".join, zip(*(cells[at :: array.shape[1]] for at in range(array.shape[1]))))) + b"\n"


def json_lines(array: Array, names: Sequence[str]) -> bytes:
    """An object a row, as orjson writes them; NaN and infinities are null."""
    cells = _cells(array, _odd(array), b"null", orjson.dumps)
    keys = [orjson.dumps(name) for name in names]
    width = len(keys)
    if width == 1:
        head = b"{" + keys[0] + b":"
        return head + (b"}\n" + head).join(cells) + b"}\n"
    form = b"{" + b",".join(key.replace(b"%", b"%%") + b":%b" for key in keys) + b"}\n"
    return b"".join(map(form.__mod__, zip(*(cells[at::width] for at in range(width)))))


def _odd(array: Array) -> Array:
    """Positions in the flat array of numbers that orjson may write otherwise than Python."""
    if array.dtype.kind != "f":
        return np.empty(0, dtype=np.intp)
    low, high = _PLAIN[array.dtype.itemsize]
    with np.errstate(invalid="ignore"):
        size = np.abs(array.reshape(-1))
        return np.flatnonzero(~((size >= low) & (size < high) | (size == 0)))


def _cells(array: Array, odd: Array, missing: bytes, write: Any) -> list[bytes]:
    """All numbers as text; those at the positions `odd` by `write`, as Python floats."""
    flat = np.ascontiguousarray(array).reshape(-1)
    cells = orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
    for index, value in zip(odd.tolist(), plain(flat[odd], False)):
        cells[index] = missing if value is None else write(value)
    return cells


def arrow_columns(array: Array) -> list[Any]:
    """pyarrow arrays of the columns, of no uint64; NaN and infinities are null, float32 the double of its digits."""
    import pyarrow

    columns = [array] if array.ndim == 1 else list(array.T)
    return [_arrow(column, pyarrow) for column in map(np.ascontiguousarray, columns)]


def _arrow(column: Array, pyarrow: Any) -> Any:
    if column.dtype.kind == "f":
        missing = ~np.isfinite(column)
        if column.dtype.itemsize < 8:
            column = np.where(missing, 0, column).astype(column.dtype)
            column = np.array(orjson.loads(orjson.dumps(column, option=orjson.OPT_SERIALIZE_NUMPY)), dtype=np.float64)
        return pyarrow.array(column, mask=missing if missing.any() else None)
    return pyarrow.array(column if column.dtype.kind == "b" else column.astype(np.int64))
