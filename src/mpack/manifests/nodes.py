"""The text of a manifest file as documents of nodes that know their lines: JSON, else YAML 1.1 as PyYAML has it.

YAML is built from its events, without recursion: what would take more than it is written (aliases, merges, nesting) is
refused while it is read, and no tag makes anything but plain data.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

#: Levels of lists and mappings inside one another, aliases written out.
MAX_DEPTH = 64
#: Values of a file, aliases written out.
MAX_VALUES = 100_000
#: Of a whole number: more take long to read, and mean nothing.
MAX_DIGITS = 1000

#: Tells of a fault: (message, line, number of the document from 1).
Tell = Callable[[str, "int | None", int], None]
_Told = tuple[str, "int | None", int]


class Node(NamedTuple):
    """`value`: a text, number, flag, None, a list of nodes, or a dict of text -> Node. `written`: a plain YAML scalar
    as it stands in the file, "" for anything else."""

    value: Any
    line: int | None
    written: str = ""


class Document(NamedTuple):
    """One document of a file; `number` counts from 1, null ones too."""

    number: int
    node: Node


def plain(node: Node) -> Any:
    """The node as plain data."""
    if isinstance(node.value, dict):
        return {key: plain(item) for key, item in node.value.items()}
    if isinstance(node.value, list):
        return [plain(item) for item in node.value]
    return node.value


def sort_of(node: Node) -> str:
    """What kind of value it is, in words: messages do not quote what may be a secret."""
    kinds = {dict: "a mapping", list: "a list", str: "a text", bool: "a flag", type(None): "nothing"}
    return kinds.get(type(node.value), "a number")


def read_documents(text: str, tell: Tell) -> list[Document]:
    """The documents of a file, each element of a top-level list as one of its own; null ones are left out."""
    found: list[Document] = []
    for number, node in enumerate(_roots(text, tell), 1):
        items = node.value if isinstance(node.value, list) else [node]
        found += [Document(number, item) for item in items if item.value is not None]
    if len(found) > 1 and len({item.number for item in found}) == 1:
        return [Document(number, item.node) for number, item in enumerate(found, 1)]
    return found


def _roots(text: str, tell: Tell) -> list[Node]:
    from mpack.manifests.yamlnodes import YamlText

    told: list[_Told] = []
    yaml = YamlText(text, lambda *fault: told.append(fault))
    nodes = yaml.documents()
    if text.lstrip()[:1] in ("{", "["):
        nodes, told = _as_json(text, nodes, told, yaml.broken)
    for message, line, number in told:
        tell(message, line, number)
    return nodes


def _as_json(text: str, nodes: list[Node], told: list[_Told], broken: bool) -> tuple[list[Node], list[_Told]]:
    """What may be JSON. It is read as JSON if it is, with the lines of YAML, of which it mostly is a part."""
    doubled: list[str] = []
    try:
        value = _json(text, doubled)
    except RecursionError:
        return [], [(f"it is nested deeper than {MAX_DEPTH} levels", None, 1)]
    except json.JSONDecodeError as error:
        if broken:
            message, line, number = told[-1]
            told[-1] = (f"it is neither JSON (line {error.lineno}: {error.msg}) nor YAML: {message}", line, number)
        return nodes, told
    except ValueError as error:
        return nodes, told if told and not broken else [(str(error), None, 1)]
    if len(nodes) == 1 and not broken and plain(nodes[0]) == value:
        return nodes, told
    return [_from_json(value)], [(f"the key {key} is there twice", None, 1) for key in doubled]


def _json(text: str, doubled: list[str]) -> Any:
    """Raises json.JSONDecodeError, other ValueErrors for what JSON has no numbers for, RecursionError."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            doubled.extend(key for key, count in Counter(key for key, _ in items).items() if count > 1)
        return found

    def whole(written: str) -> int:
        if len(written) > MAX_DIGITS:
            raise ValueError(f"a number has more than {MAX_DIGITS} digits")
        return int(written)

    def number(written: str) -> float:
        value = float(written)
        if not math.isfinite(value):
            raise ValueError(f"{written[:40]} is no number that JSON has")
        return value

    value = json.loads(text, object_pairs_hook=pairs, parse_constant=number, parse_float=number, parse_int=whole)
    _bounded(value)
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds a half of a surrogate pair, which is no character") from None
    return value


def _bounded(value: Any) -> None:
    """Raises RecursionError for what is nested too deeply, ValueError for too many values."""
    level, count = [value], 0
    for _ in range(MAX_DEPTH + 1):
        if not level:
            return
        count += len(level)
        if count > MAX_VALUES:
            raise ValueError(f"it has more than {MAX_VALUES} values")
        level = [
            child
            for item in level
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    if level:
        raise RecursionError


def _from_json(value: Any) -> Node:
    if isinstance(value, dict):
        return Node({key: _from_json(item) for key, item in value.items()}, None)
    if isinstance(value, list):
        return Node([_from_json(item) for item in value], None)
    return Node(value, None)
