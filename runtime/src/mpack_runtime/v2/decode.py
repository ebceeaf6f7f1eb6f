"""V2 tensors of any datatype as a model's inputs: what REST and gRPC share. The signature's type wins.

**Names.** Columns with names: an input each, shape [n] or [n, 1]; what is not required may be left out. Where all of
them are of one type, a single input `input-0` of the shape [n, columns] does too. Columns without names: `input-0`.
Tensors: their own names. Where nothing is declared a single input of any name is taken, by position; where the model
itself knows its columns, also an input each.

**Types.** A datatype that holds less than the signature's is taken (FP32 for FP64, INT32 for INT64 and FP64), one that
holds more is refused, whatever the values are; of 64-bit whole numbers for FP64 the values decide. Text is never a
number, nor a number text. Where no type is declared, the tensor's own is the model's.

**Missing values** are NaN in floats and null in JSON, where the column or a tensor of floats may have them; an optional
column of whole numbers takes floats, whole ones and NaN.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np

from mpack_runtime.errors import BadRequest
from mpack_runtime.frame import Array, Frame, Inputs, Tensors
from mpack_runtime.signature import Column, Signature, Tensor
from mpack_runtime.v2 import inputs
from mpack_runtime.v2.raw import V2Tensor
from mpack_runtime.v2.spec import Spec
from mpack_runtime.v2.tensors import DTYPES, Unfit, cast, column_datatype, fit, input_specs, objects, widest
from mpack_runtime.wire_columns import Place, convert, quote, sentence
from mpack_runtime.wire_tensors import same_rows

#: MLServer's codecs that say nothing which the signature does not, and the one that does.
CONTENT_TYPES = ("np", "pd", "str", "datetime", "base64")
ONE = "input-0"
Given = Mapping[str, V2Tensor]


def check_content_type(value: Any, what: str) -> str:
    """A content type of MLServer's, or "". Raises BadRequest."""
    if value is None:
        return ""
    if value not in CONTENT_TYPES:
        shown = quote(value) if isinstance(value, str) else "no string"
        raise BadRequest(f"The content_type of {what} is {shown}; it must be one of {', '.join(CONTENT_TYPES)}.")
    return str(value)


def from_base64(tensor: V2Tensor) -> V2Tensor:
    """A tensor of base64 text as the bytes that it stands for. Raises BadRequest."""
    what = f"input {quote(tensor.name)}"
    if tensor.datatype != "BYTES":
        raise BadRequest(f"{sentence(what)} is {tensor.datatype}; the content type base64 needs BYTES.")
    place, found = Place(what), []
    for index, item in enumerate(tensor.array.ravel().tolist()):
        try:
            found.append(None if item is None else base64.b64decode(item, validate=True))
        except (binascii.Error, ValueError):
            place.refuse(index, "the text is not base64")
    return V2Tensor(tensor.name, "BYTES", objects(found).reshape(tensor.shape))


def decode(given: Given, signature: Signature, *, declared: bool, table: bool = False) -> Inputs:
    """A request's tensors (text: objects of bytes, missing: None) as the model's inputs. Raises BadRequest.

    `declared` False: the signature is what the model itself tells, and its columns' names are a help, no demand.
    `table`: without a signature, the tensors are columns.
    """
    if not given:
        raise BadRequest("The request has no inputs.")
    for name, tensor in given.items():
        if 0 in tensor.shape:
            raise BadRequest(f"Input {quote(name)} is empty: its shape is {list(tensor.shape)}.")
    try:
        if signature.input_tensors:
            return _tensors(given, signature)
        columns = signature.input_columns
        if not columns:
            return _unknown(given, table)
        whole = _whole_table(given, signature, declared)
        return _table(given, columns) if whole is None else _matrix(whole, signature)
    except Unfit as error:
        raise BadRequest(sentence(f"{error}.")) from error


def _whole_table(given: Given, signature: Signature, declared: bool) -> V2Tensor | None:
    """The one tensor that holds all columns, by the rules above; None: a tensor is a column."""
    name, tensor = next(iter(given.items()))
    names = signature.input_names
    if not names or (not declared and not set(given) & set(names)):
        expected = given.get(ONE) if declared else tensor
        if len(given) > 1 or expected is None:
            listed = ", ".join(map(quote, list(given)[:20]))
            raise BadRequest(f"The model takes one input, {quote(ONE)}, with all columns; the request has {listed}.")
        return expected
    return tensor if len(given) == 1 and name == ONE and name not in names and signature.column_type else None


def _check_names(given: Given, specs: tuple[Spec, ...]) -> None:
    names = {spec.name for spec in specs}
    listed = ", ".join(map(quote, list(given)[:20]))
    missing = [spec.name for spec in specs if spec.required and spec.name not in given]
    if missing:
        raise BadRequest(f"Missing input {', '.join(map(quote, missing[:20]))}: the request has {listed}.")
    extra = [name for name in given if name not in names]
    if extra:
        raise BadRequest(f"The input {', '.join(map(quote, extra[:20]))} is not one of the model's.")


def _tensors(given: Given, signature: Signature) -> Tensors:
    tensors, specs, found = signature.input_tensors, input_specs(signature), {}
    _check_names(given, specs)
    for spec, tensor in zip(specs, tensors):
        what, there = f"input {quote(spec.name)}", given[spec.name]
        name = tensor.name if tensor.name is not None else "" if len(tensors) == 1 else spec.name
        shape = tensor.shape if tensor.shape or tensor.dtype == "any" else (1,)
        array = _of_tensor(there, tensor, spec.datatype, what)
        fitted = fit(array, shape, what) if shape else array
        found[name] = fitted.reshape(()) if not tensor.shape and tensor.dtype != "any" else fitted
    return Tensors(same_rows(found, tensors))


def _of_tensor(given: V2Tensor, tensor: Tensor, datatype: str, what: str) -> Array:
    """One tensor in its declared type."""
    if given.array.dtype == object and any(item is None for item in given.array.ravel().tolist()):
        raise BadRequest(f"{sentence(what)} has null, and only tensors of floats may.")
    if tensor.dtype == "any":
        return _plain(given, what)
    _check_type(given.datatype, datatype, what)
    return _plain(given, what) if datatype == "BYTES" else cast(given.array, datatype, what)


def _check_type(datatype: str, wanted: str, what: str) -> None:
    """Raises BadRequest where a datatype holds what the wanted one does not."""
    text = {datatype, wanted} & {"BYTES"}
    if datatype != wanted and (text or not np.can_cast(DTYPES[datatype], DTYPES[wanted], "safe")):
        why = "" if text else f", which cannot hold every {datatype}"
        raise BadRequest(f"{sentence(what)} has the datatype {datatype}; the model takes {wanted}{why}.")


def _plain(tensor: V2Tensor, what: str) -> Array:
    """The tensor's own values: text as str."""
    if tensor.datatype != "BYTES":
        return tensor.array
    return objects(_texts(tensor.array.ravel().tolist(), Place(what))).reshape(tensor.shape)


def _texts(items: list[bytes | None], place: Place) -> list[str | None]:
    texts: list[str | None] = []
    for index, item in enumerate(items):
        try:
            texts.append(None if item is None else item.decode())
        except UnicodeDecodeError as error:
            place.refuse(index, f"the text is not UTF-8 ({error.reason})")
    return texts


def _table(given: Given, columns: tuple[Column, ...]) -> Frame:
    _check_names(given, tuple(Spec(str(column.name), "", (), column.required) for column in columns))
    lists = _lists(given)
    rows = len(next(iter(lists.values())).array)
    data = []
    for column in columns:
        place, values = Place(f"column {quote(column.name)}"), lists.get(str(column.name))
        data.append(convert((None,) * rows, column, place) if values is None else _column(values, column, place))
    return Frame(tuple(str(column.name) for column in columns), tuple(data), rows)


def _lists(given: Given) -> dict[str, V2Tensor]:
    """The tensors as columns of one length. Raises BadRequest."""
    lists = {}
    for name, tensor in given.items():
        if len(tensor.shape) not in (1, 2) or tensor.shape[1:] not in ((), (1,)):
            raise BadRequest(f"Input {quote(name)} has the shape {list(tensor.shape)}; it is a column: [n] or [n, 1].")
        lists[name] = V2Tensor(name, tensor.datatype, tensor.array.reshape(-1))
    counts = {name: len(tensor.array) for name, tensor in lists.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{quote(name)} {count}" for name, count in list(counts.items())[:20])
        raise BadRequest(f"The inputs differ in their number of rows ({listed}).")
    return lists


def _column(values: V2Tensor, column: Column, place: Place) -> Array:
    """One column in its declared type. Raises BadRequest, Unfit."""
    array, wanted = values.array, column_datatype(column.type)
    if column.type == "any":
        plain = _plain(values, place.what)
        return convert(tuple(plain.tolist()), column, place) if plain.dtype == object else plain
    gaps = not column.required and wanted in ("BOOL", "INT32", "INT64") and array.dtype.kind == "f"
    if not gaps:
        _check_type(values.datatype, wanted, place.what)
    if wanted == "BYTES":
        return _text_column(values, column, place)
    if array.dtype == object or gaps:
        items = [None if item is None or item != item else item for item in array.tolist()]
        if wanted == "BOOL":
            items = [bool(item) if item in (0, 1) else item for item in items]
        return convert(tuple(items), column, place)
    return cast(array, wanted, place.what)


def _text_column(values: V2Tensor, column: Column, place: Place) -> Array:
    items = values.array.tolist()
    if column.type == "binary":
        if column.required and None in items:
            place.refuse(items.index(None), "null is not allowed, a binary is required")
        return values.array
    texts = _texts(items, place)
    if column.type == "datetime" and not column.required:
        texts = [text or None for text in texts]
    return convert(texts, column, place)


def _matrix(tensor: V2Tensor, signature: Signature) -> Frame:
    """One tensor of all columns; where they are of several types, in the widest of these."""
    columns, what = signature.input_columns, f"input {quote(tensor.name)}"
    array = tensor.array.reshape(-1, 1) if len(columns) == 1 and len(tensor.shape) == 1 else tensor.array
    if array.ndim != 2 or array.shape[1] != len(columns):
        raise BadRequest(f"{sentence(what)} has the shape {list(tensor.shape)}; the model takes [-1, {len(columns)}].")
    names = signature.input_names or None
    if signature.column_type is None:
        return _mixed(V2Tensor(tensor.name, tensor.datatype, array), signature, what)
    kind = tensor.datatype if columns[0].type == "any" else column_datatype(columns[0].type)
    if "BYTES" not in (kind, tensor.datatype) and np.can_cast(array.dtype, DTYPES[kind], "safe"):
        return Frame.of_matrix(names, np.ascontiguousarray(cast(array, kind, what)))
    data = []
    for index, column in enumerate(columns):
        place = Place(f"column {quote(column.name)}" if column.name is not None else f"column {index + 1}")
        values = V2Tensor(tensor.name, tensor.datatype, np.ascontiguousarray(array[:, index]))
        data.append(_column(values, column, place))
    return Frame(names, tuple(data), array.shape[0])


def _mixed(tensor: V2Tensor, signature: Signature, what: str) -> Frame:
    """A matrix whose columns are of several types: text is read as a CSV cell is, numbers by their values."""
    wanted = widest([column_datatype(column.type) for column in signature.input_columns])
    _check_type(tensor.datatype, wanted, what)
    if tensor.array.dtype == object and any(item is None for item in tensor.array.ravel().tolist()):
        raise BadRequest(f"{sentence(what)} has null, for which a table in one tensor of this type has no form.")
    array = tensor.array if wanted == "BYTES" else cast(tensor.array, wanted, what)
    found = inputs.matrix(array, signature)
    assert isinstance(found, Frame)
    return found


def _unknown(given: Given, table: bool) -> Inputs:
    """For a model that tells nothing of its inputs: rows, or one tensor of three dimensions and more."""
    if table:
        lists = _lists(given)
        data = tuple(_column(tensor, Column(name), Place(f"column {quote(name)}")) for name, tensor in lists.items())
        return Frame(tuple(lists), data, len(data[0]))
    if len(given) > 1:
        raise BadRequest(
            f"The request has {len(given)} inputs; the model does not tell its own, and takes one, of any name"
            ' (with the parameter "content_type": "pd", each is a column).'
        )
    tensor = next(iter(given.values()))
    if not tensor.shape:
        raise BadRequest(f"Input {quote(tensor.name)} has no dimension; it must have rows.")
    if len(tensor.shape) > 2:
        return Tensors({"": _of_tensor(tensor, Tensor(None, "any", ()), "", f"input {quote(tensor.name)}")})
    width = tensor.shape[1] if len(tensor.shape) == 2 else 1
    array = tensor.array.reshape(-1, width)
    free = Signature((Column(None),) * width)
    return _matrix(V2Tensor(tensor.name, tensor.datatype, array), free)
