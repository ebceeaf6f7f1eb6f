"""Where in a text-format file each field stands.

protobuf forgets lines when it parses, and faults found afterwards must name one. This reads text that protobuf has
already accepted, so it checks nothing: it only follows names, braces, brackets and values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

Path = tuple[str | int, ...]

_TOKEN = re.compile(
    r"""(?P<skip> \s+ | \#[^\n]*)
      | (?P<string> "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*')
      | (?P<word> [\w.+-]+)
      | (?P<mark> .)""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    line: int


@dataclass
class Node:
    """One occurrence of a field: its line (1-based), its text if it is a scalar, its own fields if a message."""

    line: int
    text: str = ""
    fields: dict[str, list[Node]] = field(default_factory=dict)

    def keys(self, name: str) -> dict[str, int]:
        """Key -> place among the entries of a map field; a key that is given twice has its last place."""
        return {key: index for index, key in enumerate(self.key_list(name))}

    def key_list(self, name: str) -> list[str]:
        """The keys of a map field's entries, as the text has them."""
        return [node.fields["key"][0].text if "key" in node.fields else "" for node in self.fields.get(name, ())]


class Positions:
    """Lines of fields by path: `("input", 1, "dims", 0)` is the first dimension of the second input."""

    def __init__(self, text: str) -> None:
        self.root = Node(1)
        tokens = list(_tokens(text))
        at = 0
        while at < len(tokens):
            at = _read_field(tokens, at, self.root)

    def line(self, path: Path) -> int:
        """The line of the field, else of the deepest field around it that is in the text (1 for the whole)."""
        node = self.root
        steps = list(path)
        while steps:
            name = str(steps.pop(0))
            index = steps.pop(0) if steps and isinstance(steps[0], int) else 0
            found = node.fields.get(name, [])
            if not isinstance(index, int) or index >= len(found):
                break
            node = found[index]
        return node.line

    def all(self, *names: str) -> Iterator[Node]:
        """Every occurrence of a field path without indices, in the order of the text."""
        nodes = [self.root]
        for name in names:
            nodes = [child for node in nodes for child in node.fields.get(name, [])]
        return iter(nodes)


def field_name(path: Path) -> str:
    """("input", 1, "dims", 0) -> "input[1].dims[0]"."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _tokens(text: str) -> Iterator[_Token]:
    line = 1
    for match in _TOKEN.finditer(text):
        kind, value = str(match.lastgroup), match.group()
        if kind != "skip":
            yield _Token(kind, value, line)
        line += value.count("\n")


def _read_field(tokens: list[_Token], at: int, into: Node) -> int:
    name, line = tokens[at].text, tokens[at].line
    at += 1
    if name in ",;}>]":
        return at
    if at < len(tokens) and tokens[at].text == ":":
        at += 1
    if at < len(tokens) and tokens[at].text == "[":
        at += 1
        while at < len(tokens) and tokens[at].text != "]":
            if tokens[at].text == ",":
                at += 1
                continue
            at = _read_value(tokens, at, name, tokens[at].line, into)
        return at + 1
    return _read_value(tokens, at, name, line, into)


def _read_value(tokens: list[_Token], at: int, name: str, line: int, into: Node) -> int:
    node = Node(line)
    into.fields.setdefault(name, []).append(node)
    if at < len(tokens) and tokens[at].text in ("{", "<"):
        at += 1
        while at < len(tokens) and tokens[at].text not in ("}", ">"):
            at = _read_field(tokens, at, node)
        return at + 1
    if at < len(tokens) and tokens[at].text == "-":
        at += 1
    if at < len(tokens) and tokens[at].kind == "string":
        while at < len(tokens) and tokens[at].kind == "string":
            node.text += tokens[at].text[1:-1]
            at += 1
        return at
    node.text = tokens[at].text if at < len(tokens) else ""
    return at + 1
