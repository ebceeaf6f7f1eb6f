"""YAML as programs write it, read without PyYAML: MLmodel, conda.yaml, a manifest.

PyYAML takes 15 ms to import and 5 ms for a model's files. Only what is certain is read here: block mappings and lists
of ASCII scalars on one line, and single-quoted ones that are folded. For anything else there is `Unplain`, and PyYAML.
A test holds both against each other.
"""

from __future__ import annotations

import re
from typing import Any

_KEY = re.compile(r"([A-Za-z_][A-Za-z0-9_./-]{0,99}):(?: +(.*))?")
#: A scalar that is a string whatever resolves it, but for `_WORDS`: no sign of YAML's, nor a number or a date.
_STRING = re.compile(
    r"[A-Za-z_/][A-Za-z0-9_./+=<>~!,@()\[\] -]*"
    r"|[0-9]+\.[0-9]+\.[0-9][0-9A-Za-z.]*"
    r"|0[0-9]*[89][0-9]*"
    r"|[0-9][ac-f][0-9a-f]+"
)
_INTEGER = re.compile(r"0|[1-9][0-9]{0,17}")
_QUOTED = re.compile(r"'([^']*)'|\"([^\"\\]*)\"")
_WORDS: dict[str, Any] = {"null": None, "true": True, "false": False}
_NOT_CERTAIN = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})
_MAX_DEPTH = 20
_MAX_LENGTH = 1 << 20

#: (indent, text) of each line, last line first.
_Lines = list[tuple[int, str]]


class Unplain(Exception):
    """The text is not plain; it may be YAML all the same."""


def read_plain(text: str) -> Any:
    """The document. Raises Unplain."""
    lines: _Lines = []
    if len(text) > _MAX_LENGTH:
        raise Unplain
    for line in text.removesuffix("\n").split("\n") if text.isascii() else [""]:
        if not line.isprintable() or not line.strip():
            raise Unplain
        lines.append((len(line) - len(line.lstrip(" ")), line.strip(" ")))
    if not lines:
        raise Unplain
    lines.reverse()
    value = _block(lines, 0, 0)
    if lines:
        raise Unplain
    return value


def _block(lines: _Lines, indent: int, depth: int) -> Any:
    """The mapping or list whose entries stand at `indent`, taken from `lines`."""
    if depth > _MAX_DEPTH or lines[-1][0] != indent:
        raise Unplain
    return _list(lines, indent, depth) if lines[-1][1].startswith("- ") else _mapping(lines, indent, depth)


def _mapping(lines: _Lines, indent: int, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while lines and lines[-1][0] == indent and (match := _KEY.fullmatch(lines[-1][1])):
        key, rest = match[1], match[2]
        if key in found or key.lower() in _NOT_CERTAIN:
            raise Unplain
        lines.pop()
        if rest:
            found[key] = _scalar(lines, rest, indent)
        elif lines and (lines[-1][0] > indent or (lines[-1][0] == indent and lines[-1][1].startswith("- "))):
            found[key] = _block(lines, lines[-1][0], depth + 1)
        else:
            found[key] = None
    if not found:
        raise Unplain
    return found


def _list(lines: _Lines, indent: int, depth: int) -> list[Any]:
    found: list[Any] = []
    while lines and lines[-1][0] == indent and lines[-1][1].startswith("- "):
        rest = lines.pop()[1][1:]
        text = rest.lstrip(" ")
        if _KEY.fullmatch(text):
            inner = indent + 1 + len(rest) - len(text)
            lines.append((inner, text))
            found.append(_block(lines, inner, depth + 1))
        else:
            found.append(_scalar(lines, text, indent))
    return found


def _scalar(lines: _Lines, text: str, indent: int) -> Any:
    """A value that begins with `text`, in an entry at `indent`."""
    if text.startswith("'") and text.count("'") == 1:
        while lines and lines[-1][0] > indent and text.count("'") == 1:
            text += f" {lines.pop()[1]}"
    if quoted := _QUOTED.fullmatch(text):
        return quoted[1] if quoted[1] is not None else quoted[2]
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if text.lower() in _NOT_CERTAIN or not _STRING.fullmatch(text):
        raise Unplain
    return text
