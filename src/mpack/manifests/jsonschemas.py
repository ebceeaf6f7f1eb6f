"""JSON Schema, draft 7: whether a schema is one, and what a value has against it. No reference is ever followed."""

from __future__ import annotations

import re
from typing import Any

from mpack.manifests.faults import shown

_TYPES = ("string", "integer", "number", "boolean", "array", "object", "null")


def schema_fault(schema: dict[str, Any]) -> tuple[str, str] | None:
    """(the keyword, why) where this is not JSON Schema, else None."""
    from jsonschema_rs import Draft7Validator, ValidationError

    try:
        Draft7Validator(schema)
    except ValidationError as error:
        path = [str(part) for part in error.instance_path]
        if path == ["type"]:
            return "type", f"{shown(schema['type'])} is none of {', '.join(_TYPES)}"
        return path[0] if path else "", _sentence(error.message)
    except ValueError as error:
        return "", _sentence(str(error))
    return None


def reasons(schema: dict[str, Any], value: Any) -> list[tuple[list[str | int], str]]:
    """What is wrong with a value: (where in it, a clause that goes after the value)."""
    from jsonschema_rs import Draft7Validator

    found = []
    for error in Draft7Validator(schema).iter_errors(value):
        at = list(error.instance_path)
        keyword = str(error.schema_path[-1]) if error.schema_path else ""
        found.append((at, _clause(keyword, schema, error.message)))
    return found


def _clause(keyword: str, schema: dict[str, Any], message: str) -> str:
    wanted = schema.get(keyword)
    if keyword == "type":
        kinds = wanted if isinstance(wanted, list) else [wanted]
        return f"is not of type {' or '.join(str(kind) for kind in kinds)}"
    if keyword == "enum":
        return f"is none of {', '.join(shown(item) for item in wanted or ())}"
    clauses = {
        "minimum": "is less than {}",
        "maximum": "is more than {}",
        "exclusiveMinimum": "is not more than {}",
        "exclusiveMaximum": "is not less than {}",
        "minLength": "has less than {} characters",
        "maxLength": "has more than {} characters",
        "pattern": "does not match {}",
        "const": "is not {}",
        "multipleOf": "is no multiple of {}",
        "format": "is no {}",
    }
    if keyword in clauses and wanted is not None:
        return clauses[keyword].format(wanted if isinstance(wanted, str) else shown(wanted))
    return f"does not fit its schema: {_sentence(message)}"


def _sentence(message: str) -> str:
    text = " ".join(re.split(r"\n", message)[0].split())
    return text if len(text) <= 160 else f"{text[:157]}…"
