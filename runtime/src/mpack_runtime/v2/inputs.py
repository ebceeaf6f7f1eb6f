"""Named V2 tensors as a model's inputs, and a model's inputs as V2 tensors. Knows nothing of Triton.

Tables: text is UTF-8; text in a column of another type is read as a CSV cell is. Missing values are NaN in floats, the
empty text in dates, in columns of any type and in text columns that are not required (as in CSV), and a whole input
that is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mpack_runtime.errors import BadRequest
from mpack_runtime.frame import Array, Frame, Inputs, Tensors
from mpack_runtime.signature import Column, Signature, Tensor
from mpack_runtime.v2.spec import Spec
from mpack_runtime.v2.tensors import (
    DATATYPES,
    Unfit,
    cast,
    column_datatype,
    fit,
    input_specs,
    objects,
    plain_array,
)
from mpack_runtime.wire_columns import Place, convert, quote, read_text, sentence


def decode(
    arrays: Mapping[str, Array], declared: Signature, told: Signature | None = None, *, strict: bool = False
) -> Inputs:
    """V2 inputs (text: object arrays of bytes) as the model's. Raises BadRequest.

    `declared` tells the tensors' names; `told`, by the loaded model, says more where `declared` has no inputs.
    """
    specs = input_specs(declared)
    _check_names(arrays, specs, strict)
    try:
        if declared.input_tensors:
            return _tensors(arrays, specs, declared.input_tensors)
        if declared.input_names:
            return _table(arrays, specs, declared.input_columns)
        known = declared if declared.inputs else told or declared
        return matrix(arrays[specs[0].name], known)
    except Unfit as error:
        raise BadRequest(sentence(f"{error}.")) from error


def _check_names(arrays: Mapping[str, Array], specs: Sequence[Spec], strict: bool) -> None:
    missing = [spec.name for spec in specs if spec.required and spec.name not in arrays]
    if missing:
        there = ", ".join(map(quote, arrays)) or "none"
        raise BadRequest(f"Missing input {', '.join(map(quote, missing))}: the request has {there}.")
    names = {spec.name for spec in specs}
    extra = [name for name in arrays if name not in names]
    if extra and strict:
        raise BadRequest(
            f"The input {', '.join(map(quote, extra))} is not known to the model, which is strict about its inputs."
        )


def _tensors(arrays: Mapping[str, Array], specs: Sequence[Spec], tensors: Sequence[Tensor]) -> Tensors:
    found = {}
    for spec, tensor in zip(specs, tensors):
        what = f"input {quote(spec.name)}"
        name = tensor.name if tensor.name is not None else "" if len(tensors) == 1 else spec.name
        shape = tensor.shape or spec.shape if tensor.dtype == "any" else tensor.shape
        found[name] = _of_dtype(fit(arrays[spec.name], shape, what), spec.datatype, what)
    return Tensors(found)


def _of_dtype(array: Array, datatype: str, what: str) -> Array:
    """One tensor in its type; text as str."""
    if datatype != "BYTES":
        if array.dtype == object:
            raise BadRequest(f"{sentence(what)} is text; the model takes {datatype}.")
        return cast(array, datatype, what)
    if array.dtype != object:
        raise BadRequest(f"{sentence(what)} is not text; the model takes BYTES.")
    return objects(_texts(array.ravel(), Place(what))).reshape(array.shape)


def _table(arrays: Mapping[str, Array], specs: Sequence[Spec], columns: Sequence[Column]) -> Frame:
    given = {spec.name: _one_column(arrays[spec.name], spec.name) for spec in specs if spec.name in arrays}
    if not given:
        raise BadRequest("The request has no inputs.")
    counts = {name: len(values) for name, values in given.items()}
    rows = next(iter(counts.values()))
    if set(counts.values()) != {rows}:
        listed = ", ".join(f"{quote(name)} {count}" for name, count in counts.items())
        raise BadRequest(f"The inputs differ in their number of rows ({listed}).")
    data = []
    for column in columns:
        place = Place(f"column {quote(column.name)}")
        values = given.get(str(column.name))
        data.append(convert((None,) * rows, column, place) if values is None else _column(values, column, place))
    return Frame(tuple(str(column.name) for column in columns), tuple(data), rows)


def _one_column(array: Array, name: str) -> Array:
    if array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1):
        return array.reshape(-1)
    raise BadRequest(f"Input {quote(name)} has the shape {list(array.shape)}; the model takes [-1, 1] (-1 is free).")


def matrix(array: Array, known: Signature) -> Inputs:
    """The one input of a model whose columns have no names, or whose inputs are not known."""
    if len(known.input_tensors) == 1:
        tensor = known.input_tensors[0]
        shaped = fit(array, tensor.shape, 'input "input-0"') if tensor.shape else array
        return Tensors({tensor.name or "": _of_dtype(shaped, DATATYPES.get(tensor.dtype, "BYTES"), "the input")})
    if array.ndim == 1:
        array = array.reshape(1, -1) if len(known.inputs) > 1 else array.reshape(-1, 1)
    if array.ndim != 2:
        raise BadRequest(f"The input has the shape {list(array.shape)}; the model takes rows, [-1, -1] (-1 is free).")
    columns = known.input_columns or (Column(None),) * array.shape[1]
    if len(columns) != array.shape[1]:
        raise BadRequest(f"The request has {array.shape[1]} columns; the model takes {len(columns)}.")
    data = []
    for index, column in enumerate(columns):
        place = Place(f"column {quote(column.name)}" if column.name is not None else f"column {index + 1}")
        data.append(_column(np.ascontiguousarray(array[:, index]), column, place))
    return Frame(known.input_names or None, tuple(data), array.shape[0])


def _column(values: Array, column: Column, place: Place) -> Array:
    """One column of a V2 type as the column's own."""
    if values.dtype == object:
        return _text_column(values, column, place)
    if column.type == "any":
        return values if values.dtype.kind in "bf" else cast(values, "INT64", place.what)
    wanted = column_datatype(column.type)
    if wanted == "BYTES":
        place.refuse(0, f"expected text ({column.type}), got a number")
    try:
        return cast(values, wanted, place.what, exact=False)
    except Unfit:  # a missing value in a column of whole numbers, or a value that the column refuses with its row
        items = [None if item != item else item for item in values.tolist()]
        if wanted == "BOOL":
            items = [bool(item) if item in (0, 1) else item for item in items]
        return convert(tuple(items), column, place)


def _text_column(values: Array, column: Column, place: Place) -> Array:
    if column.type == "binary":
        return values if column.required else objects([item or None for item in values.tolist()])
    texts = _texts(values, place)
    if column.type == "string" and column.required:
        return objects(texts)
    return convert(read_text(texts, column.type, place), column, place)


def _texts(values: Array, place: Place) -> list[str]:
    try:
        return [item.decode() if isinstance(item, bytes) else str(item) for item in values.tolist()]
    except UnicodeDecodeError:
        for index, item in enumerate(values.tolist()):
            try:
                item.decode()
            except UnicodeDecodeError as error:
                place.refuse(index, f"the text is not UTF-8 ({error.reason})")
        raise


def encode(inputs: Inputs, declared: Signature) -> dict[str, Array]:
    """A model's inputs as the V2 inputs of a request. Raises BadRequest for what V2 has no form for."""
    specs = input_specs(declared)
    try:
        if isinstance(inputs, Tensors):
            return {spec.name: _typed(array, spec) for spec, array in zip(specs, inputs.arrays.values())}
        if not declared.input_names:
            one = Spec(specs[0].name, specs[0].datatype, (-1, 1))
            return {one.name: np.concatenate([_typed(values, one) for values in inputs.data], axis=1)}
        found = {}
        for spec, column, values in zip(specs, declared.input_columns, inputs.data):
            if spec.required or not _missing(values).all():
                if spec.required and column.type in ("string", "binary") and _missing(values).any():
                    raise Unfit(
                        f"input {quote(spec.name)} is required and has a missing value, for which V2 has no form"
                    )
                found[spec.name] = _typed(values, spec)
        return found
    except Unfit as error:
        raise BadRequest(sentence(f"{error}.")) from error


def _typed(values: Array, spec: Spec) -> Array:
    what = f"input {quote(spec.name)}"
    if spec.datatype == "BYTES":
        plain = values.astype(str) if values.dtype.kind == "M" else values
        absent = _missing(values).ravel()
        items = [b"" if gone else _text(item) for gone, item in zip(absent, plain.ravel().tolist())]
        array = objects(items).reshape(values.shape)
    else:
        array = cast(plain_array(values.tolist()) if values.dtype == object else values, spec.datatype, what)
    return fit(array, spec.shape, what)


def _text(item: Any) -> bytes:
    if isinstance(item, bytes):
        return item
    return (item if isinstance(item, str) else json.dumps(item)).encode()


def _missing(values: Array) -> Array:
    """Where a value is None, NaN or NaT."""
    if values.dtype.kind == "M":
        return np.isnat(values)
    if values.dtype == object:
        flat = [item is None or item != item for item in values.ravel().tolist()]
        return np.array(flat, dtype=bool).reshape(values.shape)
    return np.asarray(values != values)
