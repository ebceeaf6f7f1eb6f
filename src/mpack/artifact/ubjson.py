"""As much of Universal Binary JSON (draft 12, as XGBoost writes it) as reading a model's description needs."""

from __future__ import annotations

import struct
from typing import Any

_NUMBERS = {b"i": ">b", b"U": ">B", b"I": ">h", b"l": ">i", b"L": ">q", b"d": ">f", b"D": ">d"}
_CONSTANTS: dict[bytes, Any] = {b"Z": None, b"T": True, b"F": False}
_MAX_DEPTH = 64


class UbjsonError(ValueError):
    """The bytes are no UBJSON."""


def read_members(data: bytes, position: int, stop: str | None = None) -> tuple[dict[str, Any], int]:
    """The members of an object whose "{" stands before `position`, up to its "}" or the key `stop`; where it ended."""
    members: dict[str, Any] = {}
    while True:
        if data[position : position + 1] == b"}":
            return members, position + 1
        key, position = _string(data, position)
        if key == stop:
            return members, position
        members[key], position = _value(data, position, 0)


def _value(data: bytes, position: int, depth: int) -> tuple[Any, int]:
    marker = data[position : position + 1]
    return _of_type(data, position + 1, marker, depth)


def _of_type(data: bytes, position: int, marker: bytes, depth: int) -> tuple[Any, int]:
    if depth > _MAX_DEPTH:
        raise UbjsonError("it is nested too deeply")
    if marker in _NUMBERS:
        return _number(data, position, marker)
    if marker in _CONSTANTS:
        return _CONSTANTS[marker], position
    if marker == b"S":
        return _string(data, position)
    if marker == b"C":
        return data[position : position + 1].decode("ascii", "replace"), position + 1
    if marker == b"[":
        return _array(data, position, depth)
    if marker == b"{":
        members: dict[str, Any] = {}
        while data[position : position + 1] != b"}":
            key, position = _string(data, position)
            members[key], position = _value(data, position, depth + 1)
        return members, position + 1
    raise UbjsonError(f"{marker!r} is no type")


def _array(data: bytes, position: int, depth: int) -> tuple[list[Any], int]:
    kind = b""
    if data[position : position + 1] == b"$":
        kind, position = data[position + 1 : position + 2], position + 2
    if data[position : position + 1] == b"#":
        count, position = _length(data, position + 1)
        if count > len(data) - position:
            raise UbjsonError("an array is longer than the file")
        items = []
        for _ in range(count):
            item, position = _of_type(data, position, kind, depth + 1) if kind else _value(data, position, depth + 1)
            items.append(item)
        return items, position
    items = []
    while data[position : position + 1] != b"]":
        item, position = _value(data, position, depth + 1)
        items.append(item)
    return items, position + 1


def _number(data: bytes, position: int, marker: bytes) -> tuple[Any, int]:
    form = _NUMBERS[marker]
    end = position + struct.calcsize(form)
    if end > len(data):
        raise UbjsonError("it ends inside a number")
    return struct.unpack(form, data[position:end])[0], end


def _length(data: bytes, position: int) -> tuple[int, int]:
    marker = data[position : position + 1]
    if marker not in (b"i", b"U", b"I", b"l", b"L"):
        raise UbjsonError(f"{marker!r} is no length")
    value, position = _number(data, position + 1, marker)
    if value < 0:
        raise UbjsonError("a length is negative")
    return int(value), position


def _string(data: bytes, position: int) -> tuple[str, int]:
    size, position = _length(data, position)
    if position + size > len(data):
        raise UbjsonError("it ends inside a string")
    return data[position : position + size].decode("utf-8", "replace"), position + size
