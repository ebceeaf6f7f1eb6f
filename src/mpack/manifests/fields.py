"""Fields: what a kind's documents may have, as data. Reading, the JSON Schemas and the reference are made of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpack.manifests.faults import SHOWN, Fault, nearest, shown
from mpack.manifests.model import Where
from mpack.manifests.nodes import Node, plain, sort_of
from mpack.records import dataclass

#: An id, as ODAHU's server takes it.
ID = r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?"
ID_SAYS = "1 to 63 of a-z, 0-9 and -, beginning with a letter and not ending with -"


@dataclass(frozen=True)
class Field:
    """One field. `kind`: text, secret, flag, quantity (text or number), any, object, objects (a list of them), texts
    (a list), labels (text -> text), arguments (text -> any). `used` False: kept, and it means nothing here."""

    name: str
    kind: str
    about: str
    required: bool = False
    choices: tuple[str, ...] = ()
    #: A regular expression for the whole text, and in words what it wants.
    pattern: str = ""
    says: str = ""
    fields: tuple[Field, ...] = ()
    used: bool = True


class Report:
    """Collects a document's faults, and the lines of its fields."""

    def __init__(self, file: Path, document: int, node: Node, faults: list[Fault]) -> None:
        self.file, self.document, self.faults = file, document, faults
        self.line = node.line
        self.lines: dict[str, int | None] = {}
        #: The fields that have faults.
        self.wrong: set[str] = set()

    def add(self, field: str, message: str, line: int | None = None) -> None:
        """A fault of a field; its line is that of the field, or of the nearest around it that is there."""
        self.wrong.add(field)
        self.faults.append(Fault(self.file, message, field, self.document, line or self.where.line_of(field)))

    @property
    def where(self) -> Where:
        return Where(self.file, self.document, self.line, self.lines)


def read_object(node: Node, fields: tuple[Field, ...], path: str, report: Report) -> dict[str, Any]:
    """The fields that are there and right, as plain data; null is as absent. Faults are reported."""
    if not isinstance(node.value, dict):
        report.add(path, f"it must be a mapping, and is {sort_of(node)}", node.line)
        return {}
    known = {field.name: field for field in fields}
    found: dict[str, Any] = {}
    for key, item in node.value.items():
        place = f"{path}.{key}" if path else key
        report.lines[place] = item.line
        if key in known:
            if item.value is not None:
                found[key] = _read(item, known[key], place, report)
        elif not key.startswith(("_", "x-")):
            # To look for the nearest of each of ten thousand takes minutes.
            near = nearest(key, known) if len(report.faults) < SHOWN else ""
            report.add(place, f"no field of this name is known{near}")
    for field in fields:
        value = found.get(field.name)
        if field.required and (field.name not in found or value == ""):
            report.add(f"{path}.{field.name}" if path else field.name, "it is required")
    return {key: value for key, value in found.items() if value is not None}


def _read(node: Node, field: Field, path: str, report: Report) -> Any:
    """The field's value, None where it is wrong."""
    if field.kind == "any":
        _lines(node, path, report, levels=1)
        return plain(node)
    if field.kind == "object":
        return read_object(node, field.fields, path, report)
    if field.kind in ("objects", "texts"):
        return _read_list(node, field, path, report)
    if field.kind in ("labels", "arguments"):
        return _read_mapping(node, field, path, report)
    if field.kind == "flag":
        if isinstance(node.value, bool):
            return node.value
        report.add(path, f"it must be true or false, and is {shown(plain(node))}")
        return None
    return _read_text(node, field, path, report)


def _read_list(node: Node, field: Field, path: str, report: Report) -> list[Any] | None:
    if not isinstance(node.value, list):
        report.add(path, f"it must be a list, and is {sort_of(node)}")
        return None
    items: list[Any] = []
    for index, item in enumerate(node.value):
        place = f"{path}[{index}]"
        report.lines[place] = item.line
        if field.kind == "objects":
            items.append(read_object(item, field.fields, place, report))
        else:
            text = _read_text(item, field, place, report)
            items += [text] if text is not None else []
    return items


def _read_mapping(node: Node, field: Field, path: str, report: Report) -> dict[str, Any] | None:
    if not isinstance(node.value, dict):
        report.add(path, f"it must be a mapping, and is {sort_of(node)}")
        return None
    _lines(node, path, report, levels=1)
    if field.kind == "labels":
        for key, item in node.value.items():
            if isinstance(item.value, (dict, list)):
                report.add(f"{path}.{key}", "it must be a text")
    return {key: plain(item) for key, item in node.value.items()}


def _lines(node: Node, path: str, report: Report, levels: int) -> None:
    if isinstance(node.value, dict) and levels:
        for key, item in node.value.items():
            report.lines[f"{path}.{key}"] = item.line


def _read_text(node: Node, field: Field, path: str, report: Report) -> str | None:
    value = node.value
    if not isinstance(value, str):
        text = _number_text(node, field)
        if text is None:
            report.add(path, _not_text(node, field))
            return None
        value = text
    if "\0" in value:
        report.add(path, "it holds the character U+0000")
        return None
    if field.choices and value and value not in field.choices:
        near = nearest(value, field.choices, others=False)
        report.add(path, f"{shown(value)} is none of {', '.join(field.choices)}{near}")
        return None
    if field.pattern and value and not re.fullmatch(field.pattern, value):
        report.add(path, f"{shown(value)} is not {field.says}")
        return None
    return value


def _number_text(node: Node, field: Field) -> str | None:
    """A number in place of a text, where it is one and the same as it is written."""
    if isinstance(node.value, bool) or not isinstance(node.value, (int, float)):
        return None
    if field.kind == "quantity":
        return node.written or str(node.value)
    text = str(node.value)
    return text if field.kind != "secret" and node.written in ("", text) else None


def _not_text(node: Node, field: Field) -> str:
    if isinstance(node.value, (dict, list)) or field.kind == "secret":
        return "it must be a text" + (" in quotes" if node.written else "")
    if node.written:
        read = {True: "true", False: "false"}.get(node.value, str(node.value))
        return f"it must be a text, and YAML reads {node.written} as {read}: write it in quotes"
    return f"it must be a text, and is {shown(node.value)}"


def spec_of(kind: str, spec: tuple[Field, ...]) -> tuple[Field, ...]:
    """The fields of a whole document of a kind."""
    return (
        Field("kind", "text", f"{kind}.", required=True, choices=(kind,)),
        Field("id", "text", f"Its name: {ID_SAYS}.", required=True, pattern=ID, says=f"an id: {ID_SAYS}"),
        Field("spec", "object", "What is wanted.", required=True, fields=spec),
        Field("status", "any", "What a server tells; it is not read.", used=False),
        Field("apiVersion", "any", "Not read.", used=False),
        Field("createdAt", "any", "What a server tells; it is not read.", used=False),
        Field("updatedAt", "any", "What a server tells; it is not read.", used=False),
        Field("deletionMark", "any", "What a server tells; it is not read.", used=False),
    )


def unused(found: Mapping[str, Any], fields: tuple[Field, ...], path: str = "") -> list[str]:
    """The paths of fields that are there and mean nothing here."""
    names: list[str] = []
    for field in fields:
        value = found.get(field.name)
        place = f"{path}.{field.name}" if path else field.name
        if value in (None, "", {}, []):
            continue
        if not field.used:
            names.append(place)
        elif field.kind == "object":
            names += unused(value, field.fields, place)
    return names
