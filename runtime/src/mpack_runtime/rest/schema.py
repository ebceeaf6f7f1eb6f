"""JSON Schema pieces that the Swagger and the OpenAPI document, the page and `info` of the command line share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mpack_runtime.signature import Column, Field, Signature, Tensor

Schema = dict[str, Any]

_COLUMN_TYPES = {
    "boolean": "boolean",
    "integer": "integer",
    "long": "integer",
    "float": "number",
    "double": "number",
    "string": "string",
    "binary": "string",
    "datetime": "string",
}


def json_type(field: Field) -> str | None:
    """The JSON type of one value of a field, or None where any will do."""
    if isinstance(field, Column):
        return _COLUMN_TYPES.get(field.type)
    for prefixes, name in ((("int", "uint"), "integer"), (("float",), "number"), (("bool",), "boolean")):
        if field.dtype.startswith(prefixes):
            return name
    return "string" if field.dtype.startswith(("str", "object", "<U")) else None


def common_type(fields: Sequence[Field]) -> Schema:
    """{"type": …} that holds for the values of every field; {} where their types differ or are unknown."""
    types = {json_type(field) for field in fields}
    if types == {"integer", "number"}:
        return {"type": "number"}
    only = types.pop() if len(types) == 1 else None
    return {"type": only} if only else {}


def type_words(field: Field) -> str:
    """A field's type in words: "long", "float32[-1, 4]" with free dimensions as "any"."""
    if isinstance(field, Column):
        return "any" if field.type == "any" else field.type
    dims = ", ".join("any" if dim < 0 else str(dim) for dim in field.shape)
    return f"{field.dtype}[{dims}]" if field.shape else field.dtype


def field_words(fields: Sequence[Field]) -> str:
    """All fields in one line, for descriptions: "age: long, city: string (may be missing)"."""
    return ", ".join(
        f"{field.name or f'#{number}'}: {type_words(field)}{'' if required(field) else ' (may be missing)'}"
        for number, field in enumerate(fields, 1)
    )


def method_parameter(methods: Sequence[str]) -> list[Schema]:
    """The parameter of an address that names a method, the model's own first; nothing where there is no choice."""
    if not methods:
        return []
    words = "What the model is asked; its signature tells the answer of the default."
    return [{"name": "method", "description": words, "enum": list(methods), "default": methods[0]}]


def query_parameters(methods: Sequence[str]) -> list[Schema]:
    """The same as OpenAPI 3 writes it."""
    return [
        {
            "name": method["name"],
            "in": "query",
            "description": method["description"],
            "schema": {"type": "string", "enum": method["enum"], "default": method["default"]},
        }
        for method in method_parameter(methods)
    ]


def required(field: Field) -> bool:
    """Whether a value must be given; tensors must."""
    return field.required if isinstance(field, Column) else True


def array_of(item: Schema, depth: int) -> Schema:
    """`item` inside `depth` arrays."""
    for _ in range(depth):
        item = {"type": "array", "items": item}
    return item


def tensor_schema(tensor: Tensor) -> Schema:
    """A tensor as nested arrays, with a note of what JSON Schema does not say."""
    return {**array_of(common_type((tensor,)), len(tensor.shape)), "description": type_words(tensor)}


def input_properties(signature: Signature, example: Mapping[str, Any] | None) -> Schema:
    """INPUT of the reference: `columns` and `data`, in its order of keys; the types are the signature's."""
    example = example or {}
    names = list(example.get("columns") or signature.input_names)
    inputs = signature.inputs
    if "inputs" in example and "data" not in example and signature.input_tensors:
        return {"inputs": _tensors_property(signature.input_tensors, example["inputs"])}
    depth = max([len(tensor.shape) - 1 for tensor in signature.input_tensors] or [1])
    data: Schema = {
        "items": array_of(common_type(inputs), max(depth, 0)),
        "type": "array",
        "example": example.get("data", [[]]),
        **_mixed(inputs),
    }
    return {"columns": {"example": names, "items": {"type": "string"}, "type": "array"}, "data": data}


def _tensors_property(tensors: Sequence[Tensor], example: Any) -> Schema:
    if len(tensors) == 1 and not isinstance(example, Mapping):
        return {**tensor_schema(tensors[0]), "example": example}
    return {
        "type": "object",
        "properties": {tensor.name or "": tensor_schema(tensor) for tensor in tensors},
        "example": example,
    }


def output_properties(signature: Signature, answer: Mapping[str, Any] | None) -> Schema:
    """OUTPUT of the reference: `prediction` and `columns`; `answer` is a known answer to the example."""
    outputs = signature.outputs
    answer = answer or {}
    names = list(answer.get("columns") or signature.output_names)
    prediction: Schema = {
        "example": answer.get("prediction", [[_zero(field) for field in outputs]]),
        "items": _prediction_items(outputs),
        "type": "array",
        **_mixed(outputs),
    }
    return {"prediction": prediction, "columns": {"example": names, "items": {"type": "string"}, "type": "array"}}


def _mixed(fields: Sequence[Field]) -> Schema:
    """A description of every field where one `items` cannot hold their types: JSON Schema for a row has one type."""
    return {"description": field_words(fields)} if len(fields) > 1 and not common_type(fields) else {}


def _prediction_items(outputs: Sequence[Field]) -> Schema:
    """One row of the answer: a value where there is one output column, nested arrays where a tensor has more axes."""
    if len(outputs) == 1 and isinstance(outputs[0], Tensor):
        return array_of(common_type(outputs), max(len(outputs[0].shape) - 1, 0))
    if len(outputs) > 1 and isinstance(outputs[0], Column):
        return array_of(common_type(outputs), 1)
    return common_type(outputs) if len(outputs) == 1 else {}


def _zero(field: Field) -> Any:
    return {"integer": 0, "number": 0, "boolean": False, "string": ""}.get(json_type(field) or "")
