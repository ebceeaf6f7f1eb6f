"""Requests as JSON Schema (2020-12) for the OpenAPI document: rows, records and tensors by the model's signature.

The service takes more than is described: columns in another order, numbers for whole numbers ("1.0"), further keys.
JSON Schema cannot say that a CSV's cells, or a V2 tensor's data, are as many as its columns or its shape want.
"""

from __future__ import annotations

from typing import Any

from mpack_runtime.rest.schema import common_type, required, type_words
from mpack_runtime.signature import Column, Signature, Tensor

Schema = dict[str, Any]

_FLOAT32 = 3.4028234663852886e38
_TYPES: dict[str, Schema] = {
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
    "long": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    "float": {"type": "number", "minimum": -_FLOAT32, "maximum": _FLOAT32},
    "double": {"type": "number"},
    "string": {"type": "string"},
    "binary": {"type": "string", "contentEncoding": "base64"},
    "datetime": {"type": "string", "description": "ISO 8601"},
}
#: Types without a missing value of their own; null is theirs only where the column may be missing.
_WHOLE = ("boolean", "integer", "long")


def cell(column: Column) -> Schema:
    """One value of a column."""
    if column.type not in _TYPES:
        return {}
    found = dict(_TYPES[column.type])
    if column.type not in _WHOLE or not column.required:
        found["type"] = [found["type"], "null"]
    return found


def rows(signature: Signature) -> Schema:
    """A list of rows; of tensors, of slices."""
    columns = signature.input_columns
    item: Schema = {}
    if columns:
        item = {"type": "array", "prefixItems": [cell(column) for column in columns], **_exactly(len(columns))}
    elif len(signature.input_tensors) == 1:
        return tensor(signature.input_tensors[0])
    return {"type": "array", "minItems": 1, "items": item}


def records(signature: Signature) -> Schema:
    """A list of objects, one a row."""
    columns = [column for column in signature.input_columns if column.name is not None]
    item: Schema = {"type": "object", "minProperties": 1}
    if columns:
        item["properties"] = {column.name: cell(column) for column in columns}
        item["required"] = [column.name for column in columns if column.required]
    return {"type": "array", "minItems": 1, "items": item}


def by_name(signature: Signature) -> Schema:
    """An object of columns or tensors by name."""
    fields = [field for field in signature.inputs if field.name is not None]
    properties = {
        field.name: tensor(field)
        if isinstance(field, Tensor)
        else {"type": "array", "items": cell(field), "minItems": 1}
        for field in fields
    }
    wanted = [field.name for field in fields if required(field)]
    return {"type": "object", "minProperties": 1, "properties": properties, "required": wanted}


def tensor(wanted: Tensor) -> Schema:
    """Nested lists of a tensor's shape; a free dimension has at least one entry."""
    found = {} if wanted.dtype == "object" else common_type((wanted,))
    if wanted.dtype.startswith("float"):
        found = {"type": ["number", "null"]}
    for size in reversed(wanted.shape):
        found = {"type": "array", "items": found, **(_exactly(size) if size >= 0 else {"minItems": 1})}
    return {**found, "description": type_words(wanted)}


def names(signature: Signature) -> Schema:
    """The columns' names, if the model has any; they need not be given."""
    known = signature.input_names
    return {"enum": [list(known), None]} if known else {"type": ["array", "null"], "items": {"type": "string"}}


def mlflow(signature: Signature) -> Schema:
    """MLflow's forms; each of them is a body of its own."""
    split = {
        "type": "object",
        "properties": {"columns": names(signature), "data": rows(signature)},
        "required": ["data"],
    }
    return _one_of({"dataframe_split": split, "dataframe_records": records(signature), **_tensors(signature)})


def kserve(signature: Signature) -> Schema:
    """KServe V1's forms."""
    return _one_of(_tensors(signature))


def _tensors(signature: Signature) -> Schema:
    instances = [rows(signature)]
    if signature.input_columns and signature.input_names:
        instances.append(records(signature))
    return {"instances": {"anyOf": instances}, "inputs": {"anyOf": [*instances, by_name(signature)]}}


def _one_of(forms: Schema) -> Schema:
    return {"type": "object", "properties": forms, "oneOf": [{"required": [form]} for form in forms]}


def _exactly(size: int) -> Schema:
    return {"minItems": size, "maxItems": size}
