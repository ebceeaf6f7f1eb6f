"""YAML's events as nodes with lines."""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

from mpack.manifests.nodes import MAX_DEPTH, MAX_DIGITS, MAX_VALUES, Node, Tell

_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = {f"{_TAG}{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")}
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVERS: dict[str, list[tuple[str, re.Pattern[str]]]] = yaml.SafeLoader.yaml_implicit_resolvers
_WORDS = {"bool": "true or false", "null": "nothing", "int": "a number", "float": "a number"}


class _Refused(Exception):
    """The rest of the file is not read."""

    def __init__(self, message: str, line: int | None) -> None:
        super().__init__(message)
        self.line = line


class _Open:
    """A list or mapping that is not at its end; `key` is the one whose value comes next."""

    __slots__ = ("anchor", "deep", "key", "line", "merges", "node", "size", "value")

    def __init__(self, value: Any, line: int, anchor: str | None) -> None:
        self.value, self.line, self.anchor = value, line, anchor
        self.node = Node(value, line)
        self.key: str | None = None
        self.merges: list[Node] = []
        self.size, self.deep = 1, 0


#: In place of a key that cannot be one: its value is read and left.
_NO_KEY = "\0"


class YamlText:
    """A text as YAML. `broken`: it was not read to its end."""

    def __init__(self, text: str, tell: Tell) -> None:
        self._text, self._tell = text, tell
        self._number, self._values = 0, 0
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[Node, int, int] | None] = {}
        self.broken = False

    def documents(self) -> list[Node]:
        """Every document up to the first fault of syntax; what is wrong is told."""
        self._found: list[Node] = []
        try:
            for event in yaml.parse(self._text, Loader=_LOADER):
                self._take(event)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            problem = error.problem or error.context
            if mark is not None and self._text.splitlines()[mark.line : mark.line + 1] and "any token" in str(problem):
                character = self._text.splitlines()[mark.line][mark.column : mark.column + 1]
                problem = "a tab stands where YAML wants spaces" if character == "\t" else problem
            self._break(f"it is not YAML: {problem}", mark.line + 1 if mark else None)
        except yaml.reader.ReaderError as error:
            line = self._text.encode("utf-8", "replace")[: error.position].count(b"\n") + 1
            self._break(f"it holds the character U+{ord(self._char(error)):04X}, which YAML does not have", line)
        except _Refused as error:
            self._break(str(error), error.line)
        return self._found

    def _char(self, error: yaml.reader.ReaderError) -> str:
        character = error.character
        return character if isinstance(character, str) and len(character) == 1 else chr(int(character))

    def _break(self, message: str, line: int | None) -> None:
        self.broken = True
        self._tell(message, line, max(self._number, 1))

    def _fault(self, message: str, line: int) -> None:
        self._tell(message, line, max(self._number, 1))

    def _take(self, event: Any) -> None:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event, line)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open([] if isinstance(event, yaml.SequenceStartEvent) else {}, event, line)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close()
        elif isinstance(event, yaml.AliasEvent):
            self._alias(str(event.anchor), line)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._number += 1
            self._anchors.clear()

    def _open(self, value: Any, event: Any, line: int) -> None:
        self._tagged(event.tag, line)
        if len(self._stack) >= MAX_DEPTH:
            raise _Refused(f"it is nested deeper than {MAX_DEPTH} levels", line)
        if event.anchor:
            self._anchors[event.anchor] = None
        self._stack.append(_Open(value, line, event.anchor))

    def _close(self) -> None:
        closed = self._stack.pop()
        for merged in closed.merges:
            self._merge(closed, merged)
        deep = closed.deep + 1
        if closed.anchor:
            self._anchors[closed.anchor] = (closed.node, closed.size, deep)
        self._add(closed.node, closed.size, deep)

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> None:
        self._tagged(event.tag, line)
        node = Node(event.value, line)
        if event.tag is None and event.implicit[0]:
            node = Node(self._resolved(event.value, line), line, event.value)
        elif event.tag in _PLAIN_TAGS:
            node = Node(self._resolved(event.value, line, event.tag.removeprefix(_TAG)), line)
        if event.anchor:
            self._anchors[event.anchor] = (node, 1, 0)
        self._add(node, 1, 0)

    def _alias(self, anchor: str, line: int) -> None:
        if anchor not in self._anchors:
            raise _Refused(f"the alias *{anchor} names no anchor", line)
        known = self._anchors[anchor]
        if known is None:
            raise _Refused(f"the alias *{anchor} stands inside of what it names", line)
        node, size, deep = known
        if len(self._stack) + deep > MAX_DEPTH:
            raise _Refused(f"it is nested deeper than {MAX_DEPTH} levels", line)
        self._add(Node(node.value, line, node.written), size, deep)

    def _add(self, node: Node, size: int, deep: int) -> None:
        """Puts what is complete into what is open. `size`: values; `deep`: levels."""
        # What is inside of a list or mapping was counted when it was read; an alias's is not.
        self._values += 1 if not deep else 0
        if not self._stack:
            self._found.append(node)
            return
        top = self._stack[-1]
        top.size, top.deep = top.size + size, max(top.deep, deep)
        if top.size > MAX_VALUES or self._values > MAX_VALUES:
            raise _Refused(f"it has more than {MAX_VALUES} values, aliases written out", node.line)
        if isinstance(top.value, list):
            top.value.append(node)
        elif top.key is None:
            top.key = self._key(node, top)
        else:
            self._pair(top, top.key, node)
            top.key = None

    def _key(self, node: Node, top: _Open) -> str:
        if isinstance(node.value, str):
            return node.value if node.value != _NO_KEY else ""
        said = f"the key {node.written} is text only in quotes" if node.written else "a key must be text"
        self._fault(said, node.line or top.line)
        return _NO_KEY

    def _pair(self, top: _Open, key: str, node: Node) -> None:
        if key == _NO_KEY:
            return
        if key == "<<":
            items = node.value if isinstance(node.value, list) else [node]
            if all(isinstance(item.value, dict) for item in items):
                top.merges += items
            else:
                self._fault("<< merges mappings, and this is none", node.line or top.line)
            return
        if key in top.value:
            self._fault(f"the key {key} is there twice", node.line or top.line)
        top.value[key] = node

    def _merge(self, into: _Open, merged: Node) -> None:
        for key, node in merged.value.items():
            into.value.setdefault(key, node)

    def _tagged(self, tag: str | None, line: int) -> None:
        if tag is not None and tag != "!" and tag not in _PLAIN_TAGS:
            self._fault(f"the tag {tag.replace(_TAG, '!!')} is none that a manifest may have", line)

    def _resolved(self, written: str, line: int, kind: str | None = None) -> Any:
        """A plain scalar as YAML 1.1 reads it; timestamps stay text."""
        if kind is None:
            kind = "str"
            for tag, pattern in _RESOLVERS.get(written[:1], ()):
                if pattern.match(written):
                    kind = tag.removeprefix(_TAG)
                    break
        if kind not in _WORDS:
            return written
        constructor = yaml.constructor.SafeConstructor()
        make = {
            "bool": constructor.construct_yaml_bool,
            "int": constructor.construct_yaml_int,
            "float": constructor.construct_yaml_float,
            "null": constructor.construct_yaml_null,
        }[kind]
        if len(written) > MAX_DIGITS:
            self._fault(f"a number has more than {MAX_DIGITS} digits", line)
            return None
        try:
            value = make(yaml.ScalarNode(f"{_TAG}{kind}", written))
        except (ValueError, KeyError, OverflowError):
            self._fault(f"{written[:40]} is not {_WORDS[kind]}", line)
            return None
        if isinstance(value, float) and not math.isfinite(value):
            self._fault(f"{written[:40]} is no number that JSON has", line)
            return None
        return value
