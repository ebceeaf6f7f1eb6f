"""JSON Schemas (draft 2020-12) of the kinds, for editors, out of the fields and rules that reading goes by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mpack.manifests import connection
from mpack.manifests.fields import Field
from mpack.manifests.reading import KINDS, OTHERS
from mpack.manifests.values import LEFT_OVER

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_BASE64 = "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"
_SECRET = rf"^(?:{_BASE64}|\$\{{[A-Za-z_][A-Za-z0-9_]*\}}|file:.+|keyring:[^/]+/.+)$"


def schemas(packagers: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """File name -> schema: each kind's, and manifest.json for files of any kinds. `packagers`: name -> the JSON Schema
    of its arguments."""
    kinds = {kind: _kind(kind, packagers) for kind in KINDS}
    found = {_file(kind): {"$schema": _DRAFT, "title": kind, **schema} for kind, schema in kinds.items()}
    document = {
        "type": "object",
        "properties": {"kind": {"enum": [*kinds, *OTHERS]}},
        "required": ["kind"],
        "allOf": [_if("kind", kind, {"$ref": f"#/$defs/{kind}"}) for kind in kinds],
    }
    found["manifest.json"] = {
        "$schema": _DRAFT,
        "title": "Manifests of mpack",
        "if": {"type": "array"},
        "then": {"items": {"$ref": "#/$defs/document"}},
        "else": {"$ref": "#/$defs/document"},
        "$defs": {"document": document, **kinds},
    }
    return found


def _file(kind: str) -> str:
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in kind)[1:] + ".json"


def _kind(kind: str, packagers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    schema = _object(KINDS[kind][0])
    spec = schema["properties"]["spec"]
    if kind == "Connection":
        spec["allOf"] = [_if("type", name, _connection(name, rule)) for name, rule in connection.RULES.items()]
    if kind == "ModelPackaging":
        arguments = {name: _arguments(item) for name, item in packagers.items()}
        spec["allOf"] = [
            _if("integrationName", name, {"properties": {"arguments": item}}) for name, item in arguments.items()
        ]
    return schema


def _if(key: str, value: str, then: dict[str, Any]) -> dict[str, Any]:
    return {"if": {"properties": {key: {"const": value}}, "required": [key]}, "then": then}


def _connection(kind: str, rule: connection.TypeRule) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if rule.required:
        found["required"] = list(rule.required)
        found["properties"] = {key: {"minLength": 1} for key in rule.required}
    if rule.refused:
        found.setdefault("properties", {}).update({key: {"maxLength": 0} for key in rule.refused})
    if rule.together:
        # Editors' servers do not know dependentRequired.
        first, second = rule.together
        pairs = ((first, second), (second, first))
        found["allOf"] = [{"if": {"required": [one]}, "then": {"required": [other]}} for one, other in pairs]
    patterns = {"docker": rf"^(?:https://)?{connection.REGISTRY}$", "ecr": rf"^(?:https?://)?{connection.ECR}$"}
    if kind in patterns:
        found.setdefault("properties", {})["uri"] = {"pattern": patterns[kind]}
    return found


def _arguments(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A packager's arguments, and those that only old integrations declare."""
    properties = {
        name: {key: value for key, value in item.items() if key != "title"}
        for name, item in schema["properties"].items()
    }
    known = {"properties": {**properties, **{name: {} for name in LEFT_OVER}}, "additionalProperties": False}
    return {**known, **({"$defs": schema["$defs"]} if "$defs" in schema else {})}


def _object(fields: tuple[Field, ...]) -> dict[str, Any]:
    required = [field.name for field in fields if field.required]
    return {
        "type": "object",
        "properties": {field.name: {**_field(field), "description": field.about} for field in fields},
        "patternProperties": {"^(_|x-)": {}},
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }


def _field(field: Field) -> dict[str, Any]:
    if field.kind == "object":
        return _object(field.fields)
    if field.kind == "objects":
        return {"type": "array", "items": _object(field.fields)}
    if field.kind == "texts":
        return {"type": "array", "items": _text(field), **({"minItems": 1} if field.required else {})}
    simple: dict[str, dict[str, Any]] = {
        "flag": {"type": "boolean"},
        "any": {},
        "labels": {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}},
        "arguments": {"type": "object"},
        "secret": {"type": "string", "pattern": _SECRET},
        "quantity": {
            "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": f"^(?:{field.pattern})?$"}]
        },
    }
    return simple.get(field.kind) or ({} if field.kind == "any" else _text(field))


def _text(field: Field) -> dict[str, Any]:
    if field.choices:
        return {"enum": list(field.choices)}
    if field.pattern:
        return {"type": "string", "pattern": f"^(?:{field.pattern}){'' if field.required else '?'}$"}
    return {"type": "string", **({"minLength": 1} if field.required and field.kind == "text" else {})}
