"""Takes columns out of what is kept of requests and answers. What cannot be told apart is taken out as well."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import orjson

MASK = "***"
#: Keys of request and answer forms whose lists are rows.
_ROWS = ("data", "instances", "inputs", "prediction", "predictions")


class Redactor:
    """Masks the columns of `names`. `inputs` and `outputs` are the signature's names, for rows that come without."""

    def __init__(self, names: frozenset[str], inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self._names = names
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)

    @property
    def active(self) -> bool:
        """Whether any column is to be taken out."""
        return bool(self._names)

    def request(self, body: str, content_type: str) -> str | None:
        """A request's body without the columns; None: it cannot be told where they are."""
        if not self._names:
            return body
        if content_type.partition(";")[0].strip().lower() == "text/csv":
            return self._csv(body)
        return self._json(body, self._inputs, unknown=True)

    def answer(self, body: str) -> str | None:
        """An answer's body without the columns; None: it cannot be told where they are."""
        return self._json(body, self._outputs, unknown=False) if self._names else body

    def value(self, value: Any) -> Any:
        """JSON without what stands under the names as keys, at any depth."""
        try:
            return _Walk(self._names, (), unknown=False).value(value) if self._names else value
        except RecursionError:
            return MASK

    def _json(self, body: str, columns: tuple[str, ...], *, unknown: bool) -> str | None:
        try:
            value = orjson.loads(body)
            if not isinstance(value, dict):
                return None
            return orjson.dumps(_Walk(self._names, columns, unknown=unknown).value(value)).decode()
        except (ValueError, TypeError, RecursionError):
            return None

    def _csv(self, body: str) -> str | None:
        try:
            rows = list(csv.reader(io.StringIO(body, newline="")))
        except csv.Error:
            return None
        # A first line that names a column is the header; else the signature says what stands where.
        known = set(self._inputs) | self._names
        header = rows[0] if rows and known & set(rows[0]) else None
        columns = header if header is not None else self._inputs
        if any(row and len(row) != len(columns) for row in rows):
            return None
        hidden = [position for position, name in enumerate(columns) if name in self._names]
        for row in rows[0 if header is None else 1 :]:
            for position in hidden if row else ():
                row[position] = MASK
        out = io.StringIO(newline="")
        csv.writer(out, lineterminator="\n").writerows(rows)
        return out.getvalue()


class _Walk:
    """Masks inside one JSON value. `unknown`: rows whose columns nobody names are masked whole."""

    def __init__(self, names: frozenset[str], columns: tuple[str, ...], *, unknown: bool) -> None:
        self._names = names
        self._columns = columns
        self._unknown = unknown

    def value(self, value: Any) -> Any:
        if isinstance(value, dict):
            return self._tensor(value) if "datatype" in value else self._object(value)
        if isinstance(value, list):
            return [self.value(inner) for inner in value]
        return value

    def _object(self, value: dict[str, Any]) -> dict[str, Any]:
        given = value.get("columns") or self._columns
        columns = tuple(str(name) for name in given) if isinstance(given, (list, tuple)) else ()
        answer = {}
        for key, inner in value.items():
            if key in self._names:
                answer[key] = MASK
            elif key in _ROWS and not isinstance(inner, dict):
                answer[key] = self._rows(inner, columns)
            else:
                answer[key] = self.value(inner)
        return answer

    def _rows(self, rows: Any, columns: tuple[str, ...]) -> Any:
        if not isinstance(rows, list):
            return self._row(rows, columns)
        return [self._row(row, columns) for row in rows]

    def _row(self, row: Any, columns: tuple[str, ...]) -> Any:
        if isinstance(row, dict):
            return self.value(row)
        cells = row if isinstance(row, list) else [row]
        if len(cells) != len(columns):
            return MASK if self._unknown or self._names.intersection(columns) else row
        masked = [MASK if name in self._names else cell for name, cell in zip(columns, cells)]
        return masked if isinstance(row, list) else masked[0]

    def _tensor(self, value: dict[str, Any]) -> dict[str, Any]:
        """A tensor of the Open Inference Protocol: one column by its name, or all of them in one."""
        name = str(value.get("name"))
        plain = name in self._columns and name not in self._names
        hide = not plain and (self._unknown or name in self._names)
        return {**value, "data": MASK} if hide and "data" in value else value
