"""An Arrow table as a model's inputs: names and missing values as `mpack_runtime.wire` says, types as follows.

Where no type is declared, Arrow's own is the model's; timestamps become datetime64[ns] in UTC, dictionaries their
values, decimals numbers. A declared type wins: whole numbers are taken by their values (in range; floats if whole), as
they are as floats if exact; float64 is refused where float32 is declared, for it holds more. Booleans, numbers and text
are never each other; text is read as JSON's (dates, base64). Lists of one length are the rows of a tensor.

Columns of the declared type are not copied, and then are read-only; tensors are the model's to change.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from mpack_runtime import wire
from mpack_runtime.arrow.values import Values, joined, objects, unnested, values_of
from mpack_runtime.errors import BadRequest
from mpack_runtime.frame import Array, Frame, Inputs, Tensors
from mpack_runtime.signature import Column, Signature, Tensor
from mpack_runtime.v2.tensors import DATATYPES, Unfit, cast, fit
from mpack_runtime.wire_columns import RANGES, Place, convert, quote, sentence
from mpack_runtime.wire_tensors import same_rows

_NUMBERS = {"integer": "int32", "long": "int64", "float": "float32", "double": "float64"}
_WORDS = {"M": "a timestamp", "b": "a boolean", "i": "a number", "u": "a number", "f": "a number", "O": "text"}


def from_table(table: pa.Table, signature: Signature, *, strict: bool = False, first_row: int = 1) -> Inputs:
    """A table, its types checked and its values valid, of one row at least. Raises BadRequest.

    `first_row` is the number of its first row, for messages about one table of several.
    """
    names = wire.column_names(table.column_names)
    if names is None:
        raise BadRequest("The Arrow table has no column.")
    nested = [pa.types.is_nested(field.type) for field in table.schema]
    if signature.input_tensors or (not signature.inputs and any(nested)):
        return _tensors(table, names, nested, signature, strict)
    wanted, places, warnings = wire.select(names, len(names), signature.input_columns, strict)
    data = []
    for position, (column, index) in enumerate(zip(wanted, places), 1):
        place = Place(f"column {quote(column.name)}" if column.name is not None else f"column {position}", first_row)
        if index is None:
            data.append(convert((None,) * table.num_rows, column, place))
        elif nested[index]:
            data.append(convert(tuple(table.column(index).to_pylist()), column, place, nested=bool(signature.inputs)))
        else:
            data.append(_column(values_of(table.column(index), place), column, place))
    named = tuple(column.name for column in wanted if column.name is not None)
    return Frame(named if len(named) == len(wanted) else None, tuple(data), table.num_rows, warnings=tuple(warnings))


def _column(found: Values, column: Column, place: Place) -> Array:
    """One column in its declared type."""
    kind = found.values.dtype.kind
    if column.type == "any":
        return _undeclared(found, column, place)
    if column.type in _NUMBERS and kind in "iuf":
        return _number(found, column, place)
    if column.type == "boolean" and kind == "b" and found.missing is None:
        return found.values
    if column.type == "datetime" and kind == "M":
        return found.filled("datetime64[ns]", np.datetime64("NaT"))
    if kind == "M":
        place.refuse(0, f"expected a value of the type {column.type}, got {_WORDS[kind]}")
    items = found.items()
    if column.type == "binary" and set(map(type, items)) <= {bytes, type(None)}:
        return objects(items)
    return convert(tuple(items), column, place)


def _undeclared(found: Values, column: Column, place: Place) -> Array:
    """The values in Arrow's own type, or in one that has missing values."""
    kind = found.values.dtype.kind
    if found.missing is None or kind == "O":
        return found.values
    if kind in "fM":
        return found.filled(found.values.dtype.str, np.nan if kind == "f" else np.datetime64("NaT"))
    return convert(tuple(found.items()), Column(column.name, required=False), place)


def _number(found: Values, column: Column, place: Place) -> Array:
    values, gaps = found.values, found.gaps()
    if column.type in RANGES and (gaps is not None or values.dtype.kind == "f"):
        return convert(tuple(found.items()), column, place)
    return to_dtype(found, _NUMBERS[column.type], place)


def to_dtype(found: Values, dtype: str, place: Place) -> Array:
    """Numbers or booleans in a type of NumPy's, without a loss; a missing value is NaN. Raises BadRequest."""
    values, target = found.values, np.dtype(dtype)
    if values.dtype.kind == target.kind == "f" and values.dtype.itemsize > target.itemsize:
        what = f"is {values.dtype}; the model takes {dtype}, which cannot hold every {values.dtype}"
        raise BadRequest(sentence(f"{place.what} {what}."))
    if (values.dtype.kind == "b") != (target.kind == "b") or values.dtype.kind not in "biuf":
        place.refuse(0, f"expected {_WORDS[target.kind]} ({dtype}), got {_WORDS[values.dtype.kind]}")
    gaps = found.gaps()
    if gaps is not None and target.kind != "f":
        if gaps.any():
            place.refuse(int(np.argmax(gaps)), f"null is not allowed, {dtype} has no missing value")
        gaps = None
    try:
        if found.missing is None:
            return cast(values, DATATYPES[dtype], place.what)
        result = cast(np.where(found.missing, values.dtype.type(0), values), DATATYPES[dtype], place.what)
    except Unfit as error:
        rows = f" (rows counted from {place.first_row})" if place.first_row not in (None, 1) else ""
        raise BadRequest(sentence(f"{error}{rows}.")) from error
    result = result.copy() if not result.flags.writeable else result
    result[found.missing] = np.nan if target.kind == "f" else 0
    return result


def _tensors(table: pa.Table, names: list[str], nested: list[bool], signature: Signature, strict: bool) -> Tensors:
    """Tensors by name, a column each; a model of one takes all columns as one matrix, or the only one."""
    tensors = signature.input_tensors
    if len(tensors) == 1 and tensors[0].name not in names and (len(names) == 1 or not any(nested)):
        (tensor,) = tensors
        parts = [_tensor(table.column(index), tensor, quote(name)) for index, name in enumerate(names)]
        whole = parts[0] if len(parts) == 1 else np.stack(parts, axis=1)
        return Tensors({tensor.name or "": _fitted(whole, tensor, "the input")})
    wanted = tensors or tuple(Tensor(name, "any", ()) for name in names)
    _, places, warnings = wire.select(names, len(names), tuple(Column(tensor.name) for tensor in wanted), strict)
    arrays = {}
    for tensor, index in zip(wanted, places):
        assert index is not None  # a tensor is required
        what = f"input {quote(tensor.name)}"
        arrays[tensor.name or ""] = _fitted(_tensor(table.column(index), tensor, quote(names[index])), tensor, what)
    return Tensors(same_rows(arrays, tensors), warnings=tuple(warnings))


def _tensor(column: pa.ChunkedArray, tensor: Tensor, name: str) -> Array:
    """One column in a tensor's type, with a dimension for each level of its lists."""
    place = Place(f"column {name}")
    parts = [unnested(chunk, place) for chunk in column.chunks if len(chunk)]
    if len({shape[1:] for _, shape in parts}) > 1:
        raise BadRequest(sentence(f"{place.what} is ragged: its lists must have one length."))
    rows, inner = sum(shape[0] for _, shape in parts), parts[0][1][1:]
    found = joined([values for values, _ in parts])
    what = Place(place.what, 1 if not inner else None)
    kind = found.values.dtype.kind
    floats = tensor.dtype.startswith("float") or (tensor.dtype == "any" and kind == "f")
    if found.missing is not None and not floats:
        what.refuse(int(np.argmax(found.missing)), "null is not allowed, for only tensors of floats may have it")
    if tensor.dtype in DATATYPES:
        flat = to_dtype(found, tensor.dtype, what)
    elif tensor.dtype != "any" and kind != "O":
        place.refuse(0, f"expected text ({tensor.dtype}), got {_WORDS[kind]}")
    else:
        flat = found.filled(found.values.dtype.str, np.nan)
    return flat.reshape(rows, *inner)


def _fitted(array: Array, tensor: Tensor, what: str) -> Array:
    if 0 in array.shape:
        raise BadRequest(f"{sentence(what)} is empty: its shape is {list(array.shape)}.")
    try:
        fitted = array if not tensor.shape and tensor.dtype == "any" else fit(array, tensor.shape, what)
    except Unfit as error:
        raise BadRequest(sentence(f"{error}.")) from error
    return fitted if fitted.flags.writeable else fitted.copy()
