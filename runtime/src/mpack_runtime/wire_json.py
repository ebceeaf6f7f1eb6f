"""JSON text as values: RFC 8259 alone, and no key twice in one object, for one of both values would be lost."""

from __future__ import annotations

import json
from typing import Any

import orjson

from mpack_runtime.errors import BadRequest
from mpack_runtime.wire_columns import quote


def parse(text: str) -> Any:
    """The value that `text` holds. Raises BadRequest."""
    try:
        value = orjson.loads(text)
    except (orjson.JSONDecodeError, RecursionError) as error:
        raise BadRequest(f"Can not parse input as JSON: {error}.") from error
    # Every key has its colon, so this proves most requests free of doubles without reading them again.
    if type(value) is dict and _colons(text, len(value)):
        return value
    colons = text.count(":")
    if colons != _keys(value) and colons != _keys(value) + _parameters(value):
        _refuse_doubles(text)
    return value


def _colons(text: str, number: int) -> bool:
    """Whether there are so many; finding a few takes a tenth of counting them all."""
    place = -1
    for _ in range(number):
        place = text.find(":", place + 1)
        if place < 0:
            return False
    return text.find(":", place + 1) < 0


def _keys(value: Any) -> int:
    """Keys of the object and of those right below it, as the forms of requests have them."""
    if type(value) is not dict:
        return 0
    count = len(value)
    for item in value.values():
        if type(item) is dict:
            count += len(item)
        elif type(item) is list:
            count += sum(len(record) for record in item if type(record) is dict)
    return count


def _parameters(value: Any) -> int:
    """Keys of the parameters that the tensors of a V2 request have."""
    sides = [value.get(side) for side in ("inputs", "outputs")] if type(value) is dict else []
    items = [item for side in sides if type(side) is list for item in side if type(item) is dict]
    found = [item.get("parameters") for item in items]
    return sum(len(parameters) for parameters in found if type(parameters) is dict)


def _refuse_doubles(text: str) -> None:
    def check(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise BadRequest(f"The key {quote(name)} stands twice in one JSON object; each must stand once.")
            seen.add(name)

    try:
        json.loads(text, object_pairs_hook=check, parse_int=len, parse_float=len)
    except RecursionError:
        pass  # nested deeper than any value that a model takes, and refused for that
