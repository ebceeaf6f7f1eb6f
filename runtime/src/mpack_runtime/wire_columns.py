"""One column of JSON values or CSV cells as an array of its declared type. The rule is in `mpack_runtime.wire`."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn

import numpy as np

from mpack_runtime.errors import BadRequest
from mpack_runtime.frame import Array
from mpack_runtime.signature import Column
from mpack_runtime.wire_matrix import NoneType, floats

EXACT = 2**53  # up to here every whole number is a float
RANGES = {"integer": (-(2**31), 2**31 - 1), "long": (-(2**63), 2**63 - 1)}
MAX_NESTING = 64  # of lists and objects in one cell


def quote(text: str | None) -> str:
    """A name or value for a message or a header: ASCII, in double quotes, at most 80 characters."""
    if text and len(text) <= 78 and text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    quoted = json.dumps(text)
    return quoted if len(quoted) <= 80 else quoted[:76] + '…"'.encode("ascii", "replace").decode()


def sentence(text: str) -> str:
    """The text with a capital first letter, the rest as it is."""
    return text[0].upper() + text[1:]


def describe(value: Any) -> str:
    """What a JSON value is, for a message."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"the number {value!r}"
    if isinstance(value, str):
        return f"the string {quote(value)}"
    if isinstance(value, (list, tuple)):
        return "an empty list" if not value else "a list"
    return "an object" if isinstance(value, dict) else f"a {type(value).__name__}"


@dataclass(frozen=True)
class Place:
    """Where a value stands: `what` ("column "age"") and the number of its first row; None: rows are not told."""

    what: str
    first_row: int | None = 1

    def refuse(self, index: int, reason: str) -> NoReturn:
        """Raises BadRequest naming column, row and reason."""
        row = f"row {self.first_row + index}, " if self.first_row is not None else ""
        raise BadRequest(sentence(f"{row}{self.what}: {reason}."))


def convert(values: Sequence[Any], column: Column, place: Place, *, nested: bool = False) -> Array:
    """JSON values as a 1-D array. `nested`: lists and objects may stand in a column of type any. Raises BadRequest."""
    kinds = set(map(type, values))
    missing = NoneType in kinds
    if missing and column.required and column.type in ("boolean", "integer", "long"):
        place.refuse(values.index(None), f"null is not allowed, a {column.type} is required")
    kinds.discard(NoneType)
    if column.type == "boolean":
        _only(values, kinds, {bool}, "true or false", place)
        return _objects(values) if missing else np.array(values, dtype=bool)
    if column.type in RANGES:
        return _integers(values, kinds, column.type, missing, place)
    if column.type in ("float", "double"):
        _only(values, kinds, {int, float}, f"a number ({column.type})", place)
        return _floats(values, kinds | {NoneType} if missing else kinds, column.type, place)
    if column.type == "any":
        return _any(values, kinds, missing, place, nested)
    _only(values, kinds, {str}, _STRING_FORMS[column.type], place)
    if column.type == "string":
        return _objects(values)
    return _BYTES_OR_DATES[column.type](values, place)


def _only(values: Sequence[Any], kinds: set[type], allowed: set[type], wanted: str, place: Place) -> None:
    """Refuses the first value whose type is not allowed; None is always."""
    if kinds <= allowed:
        return
    index = next(index for index, value in enumerate(values) if value is not None and type(value) not in allowed)
    place.refuse(index, f"expected {wanted}, got {describe(values[index])}")


def _objects(values: Iterable[Any]) -> Array:
    """A 1-D array of the values themselves, lists included."""
    items = list(values)
    array = np.empty(len(items), dtype=object)
    for index, item in enumerate(items):
        array[index] = item
    return array


def _integers(values: Sequence[Any], kinds: set[type], kind: str, missing: bool, place: Place) -> Array:
    _only(values, kinds, {int, float}, f"a whole number ({kind})", place)
    if float in kinds:
        values = [_whole(value, index, kind, place) for index, value in enumerate(values)]
    low, high = RANGES[kind]
    present = [value for value in values if value is not None] if missing else values
    if present and not (low <= min(present) and max(present) <= high):
        index = next(i for i, value in enumerate(values) if value is not None and not low <= value <= high)
        place.refuse(index, f"{describe(values[index])} is out of range for {kind}")
    if missing:
        return _with_gaps(values, present)
    return np.array(values, dtype=np.int32 if kind == "integer" else np.int64)


def _whole(value: Any, index: int, kind: str, place: Place) -> Any:
    if type(value) is not float:
        return value
    if not value.is_integer() or abs(value) > EXACT:
        place.refuse(index, f"expected a whole number ({kind}), got {describe(value)}")
    return int(value)


def _with_gaps(values: Sequence[Any], present: Sequence[int]) -> Array:
    """Whole numbers with missing ones: float64 with NaN where that is exact, else objects with None."""
    if present and max(map(abs, present)) > EXACT:
        return _objects(values)
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _floats(values: Sequence[Any], kinds: set[type], kind: str, place: Place) -> Array:
    array = floats(values, kinds)
    if kind == "double":
        return array
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    over = np.isinf(single)
    if over.any():
        index = int(np.argmax(over))
        place.refuse(index, f"{describe(values[index])} is out of range for float")
    return single


def _any(values: Sequence[Any], kinds: set[type], missing: bool, place: Place, nested: bool) -> Array:
    """An undeclared column: booleans, whole numbers, numbers or strings if all of it is, else objects."""
    if not nested and not kinds <= {bool, int, float, str}:
        index = next(index for index, value in enumerate(values) if type(value) not in _SCALARS)
        place.refuse(index, f"expected a number, a string, a boolean or null, got {describe(values[index])}")
    if not kinds <= {bool, int, float, str}:
        for index, value in enumerate(values):
            if _depth_exceeds(value, MAX_NESTING):
                place.refuse(index, f"lists and objects are nested deeper than {MAX_NESTING} levels")
    if kinds == {bool} and not missing:
        return np.array(values, dtype=bool)
    if kinds == {int}:
        present = [value for value in values if value is not None] if missing else values
        if missing:
            return _with_gaps(values, present)
        low, high = RANGES["long"]
        return np.array(values, dtype=np.int64) if low <= min(values) and max(values) <= high else _objects(values)
    if kinds <= {int, float}:
        return np.array(values, dtype=np.float64)
    return _objects(values)


_SCALARS = (bool, int, float, str, NoneType)


def _depth_exceeds(value: Any, limit: int) -> bool:
    """True if lists and objects stand in each other on more than `limit` levels."""
    level = [value]
    for _ in range(limit + 1):
        inner = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (list, dict))]
        if not inner:
            return False
        level = list(chain.from_iterable(inner))
    return True


def _binary(values: Sequence[Any], place: Place) -> Array:
    decoded = []
    for index, value in enumerate(values):
        try:
            decoded.append(None if value is None else base64.b64decode(value, validate=True))
        except (binascii.Error, ValueError):
            place.refuse(index, f"expected a base64 string, got {describe(value)}")
    return _objects(decoded)


_ISO = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9})\d*)?)?\s?(Z|z|[+-]\d\d(?::?\d\d)?)?)?",
    re.ASCII,
)


def _dates(values: Sequence[Any], place: Place) -> Array:
    array = np.empty(len(values), dtype="datetime64[ns]")
    for index, value in enumerate(values):
        try:
            array[index] = np.datetime64("NaT") if value is None else parse_date(value)
        except ValueError:
            place.refuse(index, f"expected {_STRING_FORMS['datetime']}, got {describe(value)}")
    return array


def parse_date(text: str) -> np.datetime64:
    """An ISO 8601 date or date and time, 1678 to 2261, as nanoseconds in UTC. Raises ValueError."""
    found = _ISO.fullmatch(text.strip())
    if not found or not 1678 <= int(found[1]) <= 2261:
        raise ValueError(text)
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    moment = np.datetime64(f"{year}-{month}-{day}T{hour or '00'}:{minute or '00'}:{second or '00'}", "ns")
    moment += np.timedelta64(int((fraction or "0").ljust(9, "0")), "ns")
    if zone and zone not in "Zz":
        hours, minutes = int(zone[1:3]), int(zone[3:].lstrip(":") or 0)
        if hours > 23 or minutes > 59:
            raise ValueError(text)
        moment -= np.timedelta64((hours * 60 + minutes) * (-1 if zone[0] == "-" else 1), "m")
    return moment


_STRING_FORMS = {
    "string": "a string",
    "binary": "a base64 string (binary)",
    "datetime": "an ISO 8601 string such as 2024-05-01T12:30:00Z (datetime)",
}
_BYTES_OR_DATES: dict[str, Callable[[Sequence[Any], Place], Array]] = {"binary": _binary, "datetime": _dates}

NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
BOOLEANS = {"true": True, "false": False}


def read_text(values: Sequence[str | None], kind: str, place: Place) -> tuple[Any, ...]:
    """CSV cells as JSON values of a column type; an empty cell is None. Raises BadRequest."""
    cells = [cell if cell else None for cell in values]
    if kind in ("string", "binary", "datetime"):
        return tuple(cells)
    if kind == "boolean":
        return tuple(_boolean(cell, index, place) for index, cell in enumerate(cells))
    if kind == "any":
        return _guess(cells)
    return tuple(_number(cell, index, kind, place) for index, cell in enumerate(cells))


def _boolean(cell: str | None, index: int, place: Place) -> bool | None:
    if cell is None or not cell.strip():
        return None
    found = BOOLEANS.get(cell.strip().lower())
    if found is None:
        place.refuse(index, f"expected true or false, got {describe(cell)}")
    return found


def _number(cell: str | None, index: int, kind: str, place: Place) -> int | float | None:
    """A cell as a number: digits alone are an int of any size, everything else a finite float."""
    text = cell.strip() if cell else ""
    if not text:
        return None
    if not NUMBER.fullmatch(text) or len(text) > 400:
        place.refuse(index, f"expected a number ({kind}), got {describe(cell)}")
    number: int | float = int(text) if _INTEGER.fullmatch(text) and kind in RANGES else float(text)
    if number in (np.inf, -np.inf):
        place.refuse(index, f"{describe(cell)} is out of range for {kind}")
    return number


def _guess(cells: Sequence[str | None]) -> tuple[Any, ...]:
    """Cells of an undeclared column: all booleans, all whole numbers, all numbers, or strings."""
    present = [cell.strip() for cell in cells if cell is not None]
    if all(cell.lower() in BOOLEANS for cell in present):
        return tuple(None if cell is None else BOOLEANS[cell.strip().lower()] for cell in cells)
    if all(len(cell) <= 300 and NUMBER.fullmatch(cell) for cell in present):
        whole = all(_INTEGER.fullmatch(cell) and len(cell) <= 19 for cell in present)
        return tuple(None if cell is None else (int(cell) if whole else float(cell)) for cell in cells)
    return tuple(cells)
