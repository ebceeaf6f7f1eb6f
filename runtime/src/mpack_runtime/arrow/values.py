"""Arrow's columns as NumPy's arrays, as they lie in the stream where a type allows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mpack_runtime.errors import BadRequest
from mpack_runtime.frame import Array
from mpack_runtime.signature import Column
from mpack_runtime.wire_columns import Place, convert, sentence

#: Moments that nanoseconds hold, and JSON's dates.
_FIRST, _LAST = "1678-01-01", "2262-01-01"


class Values:
    """A column's values; `missing` tells where there are none (None: nowhere), and there the values mean nothing."""

    def __init__(self, values: Array, missing: Array | None) -> None:
        self.values, self.missing = values, missing

    def items(self) -> list[Any]:
        """Python's values, None where one is missing: NaN and NaT too."""
        items: list[Any] = self.values.tolist()
        gone = self.gaps()
        return items if gone is None else [None if no else item for item, no in zip(items, gone.tolist())]

    def gaps(self) -> Array | None:
        """The same as `missing`, with NaN among floats."""
        if self.values.dtype.kind != "f":
            return self.missing
        nan = np.isnan(self.values)
        return nan if self.missing is None else nan | self.missing

    def filled(self, dtype: str, gap: Any) -> Array:
        """The values in a type that has `gap` for a missing one; not copied where nothing changes."""
        if self.missing is None:
            return self.values.astype(dtype, copy=False)
        values: Array = self.values.astype(dtype)
        values[self.missing] = gap
        return values


def unnested(array: pa.Array, place: Place) -> tuple[Values, tuple[int, ...]]:
    """The values in lists of one length, and their shape. Raises BadRequest."""
    shape = [len(array)]
    while pa.types.is_nested(array.type):
        if array.null_count:
            raise BadRequest(sentence(f"{place.what}: null is not allowed in place of a list."))
        if pa.types.is_fixed_size_list(array.type):
            width = array.type.list_size
        else:
            lengths = np.diff(array.offsets.to_numpy())
            width = int(lengths[0]) if len(lengths) else 0
            if (lengths != width).any():
                row = f"row {int(np.argmax(lengths != width)) + 1}, " if len(shape) == 1 else ""
                raise BadRequest(sentence(f"{row}{place.what} is ragged: its lists must have one length ({width})."))
        shape.append(width)
        array = array.flatten()
    return _values(array, place), tuple(shape)


def values_of(column: pa.ChunkedArray, place: Place) -> Values:
    """A column without lists as NumPy's values."""
    return joined([_values(chunk, place) for chunk in column.chunks if len(chunk)])


def joined(parts: Sequence[Values]) -> Values:
    if len(parts) == 1:
        return parts[0]
    missing = None
    if any(part.missing is not None for part in parts):
        gaps = [np.zeros(len(part.values), bool) if part.missing is None else part.missing for part in parts]
        missing = np.concatenate(gaps)
    return Values(np.concatenate([part.values for part in parts]), missing)


def _values(array: pa.Array, place: Place) -> Values:
    kind, missing = array.type, _missing(array)
    if pa.types.is_dictionary(kind):
        return _of_dictionary(array, missing, place)
    if pa.types.is_null(kind):
        return Values(np.full(len(array), np.nan), np.ones(len(array), bool))
    if pa.types.is_boolean(kind):
        return Values(_bits(array.buffers()[1], array), missing)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return Values(_numbers(array, np.dtype(kind.to_pandas_dtype())), missing)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return Values(_moments(array, missing, place), missing)
    if pa.types.is_decimal(kind):
        return _decimals(array)
    return Values(array.to_numpy(zero_copy_only=False), missing)


def _of_dictionary(array: pa.Array, missing: Array | None, place: Place) -> Values:
    """Each value is made once, however often it stands in the column."""
    known, indices = _values(array.dictionary, place), _values(array.indices, place).values
    if not len(known.values):
        return Values(objects([None] * len(array)), np.ones(len(array), bool))
    indices = indices if missing is None else np.where(missing, 0, indices)
    if known.missing is not None:
        gone = known.missing[indices]
        missing = gone if missing is None else missing | gone
    values = known.values[indices]
    if missing is not None and values.dtype == object:
        values[missing] = None
    return Values(values, missing)


def _decimals(array: pa.Array) -> Values:
    """Whole numbers if the type has no digits behind the point, else the nearest floats, as of JSON's digits."""
    make = int if array.type.scale == 0 else float
    items = [None if item is None else make(item) for item in array.to_pylist()]
    made = convert(tuple(items), Column(None, required=False), Place("", None))
    return Values(made, _missing(array))


def _moments(array: pa.Array, missing: Array | None, place: Place) -> Array:
    """Dates and timestamps, which are UTC if they have a zone and taken as UTC if not."""
    if pa.types.is_date32(array.type):
        moments = _numbers(array, np.dtype(np.int32)).astype("datetime64[D]")
    else:
        unit = array.type.unit if pa.types.is_timestamp(array.type) else "ms"
        moments = _numbers(array, np.dtype(np.int64)).view(f"datetime64[{unit}]")
    if moments.dtype == np.dtype("datetime64[ns]"):
        return moments
    first, last = (np.array(moment, "datetime64[D]").astype(moments.dtype) for moment in (_FIRST, _LAST))
    out = (moments < first) | (moments >= last)
    if missing is not None:
        out &= ~missing
    if out.any():
        place.refuse(int(np.argmax(out)), f"{moments[int(np.argmax(out))]} is not between the years 1678 and 2261")
    return moments.astype("datetime64[ns]")


def _numbers(array: pa.Array, dtype: Any) -> Array:
    """The values as they lie in the stream, aligned."""
    buffer = array.buffers()[1]
    if buffer is None or not len(array):
        return np.zeros(len(array), dtype)
    found = np.frombuffer(buffer, dtype, len(array), array.offset * dtype.itemsize)
    return found if found.flags.aligned else found.copy()


def _missing(array: pa.Array) -> Array | None:
    buffer = array.buffers()[0]
    return ~_bits(buffer, array) if array.null_count and buffer is not None else None


def _bits(buffer: pa.Buffer | None, array: pa.Array) -> Array:
    """One boolean a value."""
    if buffer is None or not len(array):
        return np.zeros(len(array), bool)
    start, end = array.offset, array.offset + len(array)
    packed = np.frombuffer(buffer, np.uint8)[start // 8 : (end + 7) // 8]
    return np.unpackbits(packed, bitorder="little")[start % 8 : start % 8 + len(array)].astype(bool)


def objects(items: Sequence[Any]) -> Array:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array
