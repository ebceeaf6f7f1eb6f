"""Arrow record batches as the model's inputs, column by column, by the rules of `mpack_runtime.wire`.

A column whose Arrow type proves what its values are is taken whole. Any other goes through the JSON values that stand
for it (`json_value`), so each is what `wire.from_rows` would make of it, errors included.
"""

from __future__ import annotations

import base64
import datetime
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np

from mpack_runtime import wire
from mpack_runtime.errors import BadRequest
from mpack_runtime.frame import Array, Frame, Inputs, Tensors
from mpack_runtime.signature import Column, Signature, Tensor
from mpack_runtime.wire_columns import EXACT, RANGES, Place, convert, quote, sentence

#: Moments that are surely between the years that a datetime may have, whatever their zone.
_FIRST, _LAST = np.datetime64("1678-01-03", "ns"), np.datetime64("2261-12-29", "ns")


class Doubt(Exception):
    """The values do not prove what the exact way would make of them; ask it."""


def from_batch(batch: Any, signature: Signature, *, strict: bool = False, first_row: int = 1) -> Inputs:
    """A pyarrow.RecordBatch of at least one row as the model's inputs; `first_row` is its first row's number.

    Raises BadRequest.
    """
    try:
        return _whole(batch, signature, strict, first_row)
    except (Doubt, BadRequest):
        columns = [_items(column, f"column {quote(name)}") for name, column in zip(batch.schema.names, batch.columns)]
        rows = [list(row) for row in zip(*columns)]
        return wire.from_rows(batch.schema.names, rows, signature, strict=strict, first_row=first_row)


def json_value(value: Any) -> Any:
    """A Parquet or Arrow value as the JSON value that stands for it."""
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if type(value).__name__ == "UUID":
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, float) and value != value:
        return None
    return value


def _items(values: Any, what: str) -> list[Any]:
    """The JSON values of a pyarrow.Array. Raises BadRequest for moments that Python cannot tell."""
    try:
        return list(map(json_value, values.to_pylist()))
    except (OverflowError, ValueError) as error:
        reason = str(error).rstrip(".")
        raise BadRequest(sentence(f"{what} has a {values.type} that cannot be read: {reason}.")) from error


def _whole(batch: Any, signature: Signature, strict: bool, first_row: int) -> Inputs:
    names = batch.schema.names
    if signature.input_tensors:
        columns = [_numbers(column) for column in batch.columns]
        return Tensors(matrix(columns, signature.input_tensors))
    if not signature.inputs and any(_nested(column.type) for column in batch.columns):
        raise Doubt  # rows of lists are a tensor
    wanted, indices, warnings = wire.select(wire.column_names(names), len(names), signature.input_columns, strict)
    data = []
    for position, (column, index) in enumerate(zip(wanted, indices), 1):
        place = Place(f"column {quote(column.name)}" if column.name is not None else f"column {position}", first_row)
        if index is None:
            data.append(convert((None,) * batch.num_rows, column, place, nested=bool(signature.inputs)))
        else:
            data.append(array_of(batch.column(index), column, place, nested=bool(signature.inputs)))
    named = tuple(column.name for column in wanted if column.name is not None)
    return Frame(named if len(named) == len(wanted) else None, tuple(data), batch.num_rows, warnings=tuple(warnings))


def array_of(values: Any, column: Column, place: Place, *, nested: bool) -> Array:
    """A pyarrow.Array as a 1-D array of the column's type. Raises BadRequest."""
    try:
        convertor = _BY_TYPE.get(column.type)
        if convertor is not None:
            return convertor(values, column)
    except Doubt:
        pass
    return convert(_items(values, place.what), column, place, nested=nested)


def matrix(columns: list[Array], tensors: tuple[Tensor, ...]) -> dict[str, Array]:
    """Number columns (NaN is missing) as the one tensor of two dimensions that a model takes. Raises Doubt."""
    tensor = tensors[0]
    if (
        len(tensors) != 1
        or len(tensor.shape) != 2
        or tensor.shape[0] != -1
        or tensor.shape[1] not in (-1, len(columns))
    ):
        raise Doubt
    if tensor.dtype not in ("float16", "float32", "float64"):
        raise Doubt
    if not all(column.dtype.kind in "if" for column in columns):
        raise Doubt
    joined = np.empty((len(columns[0]), len(columns)), dtype=tensor.dtype)
    with np.errstate(over="ignore"):
        for index, column in enumerate(columns):
            joined[:, index] = column.astype(np.float64, copy=False)
    if np.isinf(joined).any():
        raise Doubt
    return {tensor.name or "": joined}


def _nested(kind: Any) -> bool:
    return bool(kind.num_fields)


def _numbers(values: Any) -> Array:
    """Whole numbers of at most 64 bits and floats as an array, missing ones as NaN. Raises Doubt."""
    import pyarrow.types as types

    kind = values.type
    if types.is_integer(kind) and not values.null_count:
        array: Array = values.to_numpy(zero_copy_only=False)
        if kind != "uint64" or not len(array) or array.max() <= RANGES["long"][1]:
            return array.astype(np.int64, copy=False)
    elif types.is_integer(kind):
        array = values.drop_null().to_numpy(zero_copy_only=False)
        if not len(array) or (int(array.min()) >= -EXACT and int(array.max()) <= EXACT):
            return values.cast("int64").cast("float64").to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
    elif types.is_floating(kind):
        return values.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)  # type: ignore[no-any-return]
    raise Doubt


def _writable(array: Array) -> Array:
    """The same array, or a copy where it is the batch's own memory: models write into what they get."""
    return array if array.flags.writeable else array.copy()


def _double(values: Any, column: Column) -> Array:
    return _writable(_numbers(values).astype(np.float64, copy=False))


def _float(values: Any, column: Column) -> Array:
    with np.errstate(over="ignore"):
        single = _numbers(values).astype(np.float64, copy=False).astype(np.float32)
    if np.isinf(single).any():
        raise Doubt
    return single


def _integer(values: Any, column: Column) -> Array:
    array = _numbers(values)
    if array.dtype.kind == "f" and not (values.null_count and str(values.type).startswith(("int", "uint"))):
        raise Doubt  # floats may be whole
    if values.null_count and column.required:
        raise Doubt
    low, high = RANGES[column.type]
    present = array[~np.isnan(array)] if values.null_count else array
    if len(present) and not (low <= int(present.min()) and int(present.max()) <= high):
        raise Doubt
    if values.null_count:
        return _writable(array)
    return _writable(array.astype(np.int32 if column.type == "integer" else np.int64, copy=False))


def _boolean(values: Any, column: Column) -> Array:
    if str(values.type) != "bool" or values.null_count:
        raise Doubt
    return _writable(values.to_numpy(zero_copy_only=False))


def _string(values: Any, column: Column) -> Array:
    if str(values.type) not in ("string", "large_string"):
        raise Doubt
    return values.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _datetime(values: Any, column: Column) -> Array:
    import pyarrow
    import pyarrow.types as types

    if not (types.is_timestamp(values.type) or types.is_date32(values.type)):
        raise Doubt
    try:
        array: Array = values.cast(pyarrow.timestamp("ns", getattr(values.type, "tz", None))).to_numpy(
            zero_copy_only=False
        )
    except pyarrow.ArrowInvalid as error:
        raise Doubt from error
    if ((array < _FIRST) | (array > _LAST)).any():
        raise Doubt
    return _writable(array)


def _any(values: Any, column: Column) -> Array:
    """As the values are: of a column that is all missing, NaN."""
    if values.null_count == len(values) and not _nested(values.type):
        return np.full(len(values), np.nan)
    kind = str(values.type)
    if kind == "bool":
        return _boolean(values, column)
    return _string(values, column) if kind.endswith("string") else _writable(_numbers(values))


_BY_TYPE: dict[str, Callable[[Any, Column], Array]] = {
    "double": _double,
    "float": _float,
    "integer": _integer,
    "long": _integer,
    "boolean": _boolean,
    "string": _string,
    "datetime": _datetime,
    "any": _any,
}
