"""Predictions into output files: JSON as the REST service answers, CSV, JSON Lines and Parquet as tables."""

from __future__ import annotations

import csv
import io
import json
from typing import Any, BinaryIO

import orjson

from mpack_runtime.cli.source import pyarrow_parquet
from mpack_runtime.errors import ModelFailure
from mpack_runtime.frame import Prediction
from mpack_runtime.render import encode, plain

Rows = list[list[Any]]


class Sink:
    """Takes the predictions of one file's chunks, in order, then `close`."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream

    def write(self, prediction: Prediction) -> None:
        raise TypeError(f"{type(self).__name__} cannot write")

    def close(self) -> None:
        """Writes what is left; the stream stays open."""


def sink(form: str, stream: BinaryIO) -> Sink:
    """The sink of a format (json, csv, jsonl, parquet)."""
    kinds: dict[str, type[Sink]] = {"json": JsonSink, "csv": CsvSink, "jsonl": JsonLinesSink, "parquet": ParquetSink}
    return kinds[form](stream)


class JsonSink(Sink):
    """{"prediction": …, "columns": […]}; lists are streamed, answers by name are joined in memory."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        self._held: Prediction | None = None
        self._streaming = False

    def write(self, prediction: Prediction) -> None:
        if self._held is None:
            self._held = prediction
        elif isinstance(prediction.value, dict):
            self._held = Prediction(_joined(self._held.value, prediction.value), self._held.columns)
        else:
            self._stream(self._held)
            self._held = prediction

    def close(self) -> None:
        if self._held is None:
            return
        if not self._streaming:
            self.stream.write(encode(self._held))
            return
        self._stream(self._held)
        self.stream.write(b'],"columns":' + orjson.dumps(list(self._held.columns)) + b"}")

    def _stream(self, prediction: Prediction) -> None:
        """The rows of one chunk, between the brackets of the whole."""
        rows = encode(Prediction(prediction.value))
        start, end = rows.find(b"[") + 1, rows.rfind(b'],"columns"')
        self.stream.write(b"," if self._streaming else b'{"prediction":[')
        self.stream.write(rows[start:end])
        self._streaming = True


class TableSink(Sink):
    """A sink of rows under names that are the same for every chunk."""

    names: tuple[str, ...] = ()

    def write(self, prediction: Prediction) -> None:
        names, rows = table(prediction)
        if not self.names:
            self.names = names
            self.start(names, rows)
        elif names != self.names:
            raise ModelFailure(f"The model's answer changes its columns from {list(self.names)} to {list(names)}.")
        self.rows(rows)

    def start(self, names: tuple[str, ...], rows: Rows) -> None:
        """Called once, with the first chunk."""

    def rows(self, rows: Rows) -> None:
        raise TypeError(f"{type(self).__name__} cannot write rows")


class CsvSink(TableSink):
    """A header line, then a line a row; missing values are empty, lists and objects JSON."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        self._text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
        self._writer = csv.writer(self._text, lineterminator="\n")

    def start(self, names: tuple[str, ...], rows: Rows) -> None:
        self._writer.writerow(names)

    def rows(self, rows: Rows) -> None:
        self._writer.writerows([_cell(value) for value in row] for row in rows)

    def close(self) -> None:
        self._text.detach()


class JsonLinesSink(TableSink):
    """An object a line."""

    def rows(self, rows: Rows) -> None:
        self.stream.writelines(json_line(dict(zip(self.names, row))) for row in rows)


class ParquetSink(TableSink):
    """A row group a chunk; the first chunk decides the types."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        self._parquet = pyarrow_parquet()
        self._writer: Any = None

    def start(self, names: tuple[str, ...], rows: Rows) -> None:
        import pyarrow

        inferred = pyarrow.table([list(column) for column in zip(*rows)], names=list(names)).schema
        # A column of nothing but missing values says no type; numbers are the likeliest to follow.
        known = [
            field.with_type(pyarrow.float64()) if pyarrow.types.is_null(field.type) else field for field in inferred
        ]
        self._schema = pyarrow.schema(known)
        self._writer = self._parquet.ParquetWriter(self.stream, self._schema)

    def rows(self, rows: Rows) -> None:
        import pyarrow

        columns = list(zip(*rows))
        try:
            arrays = [pyarrow.array(column, type=field.type) for column, field in zip(columns, self._schema)]
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError) as error:
            raise ModelFailure(f"The model's answer does not fit one Parquet type a column: {error}.") from error
        self._writer.write_table(pyarrow.table(arrays, schema=self._schema))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def table(prediction: Prediction) -> tuple[tuple[str, ...], Rows]:
    """An answer as names and rows. Unnamed columns are "prediction", or "prediction_0" and so on."""
    value, columns = plain(prediction.value, False), prediction.columns
    if isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list)]
        if len(lists) == len(value) and len({len(item) for item in lists}) == 1:
            return tuple(value), [list(row) for row in zip(*lists)]
        return tuple(value), [list(value.values())]
    if not isinstance(value, list):
        return _names(columns, 1), [[value]]
    if value and all(isinstance(row, dict) for row in value):
        names = tuple(dict.fromkeys(name for row in value for name in row))
        return names, [[row.get(name) for name in names] for row in value]
    if value and all(isinstance(row, list) for row in value) and len({len(row) for row in value}) == 1:
        return _names(columns, len(value[0])), value
    return _names(columns, 1), [[item] for item in value]


def _names(columns: tuple[str, ...], width: int) -> tuple[str, ...]:
    if len(columns) == width and len(set(columns)) == width:
        return columns
    return ("prediction",) if width == 1 else tuple(f"prediction_{index}" for index in range(width))


def _joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    joined = {key: plain(value, False) for key, value in first.items()}
    for key, value in second.items():
        if not isinstance(joined.get(key), list):
            raise ModelFailure(
                f"The model's answer {key!r} is no list and cannot be joined over chunks; use a smaller file."
            )
        joined[key] += plain(value, False)
    return joined


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value


def json_line(value: Any) -> bytes:
    """One line of JSON; numbers beyond 64 bits too."""
    try:
        return orjson.dumps(value) + b"\n"
    except TypeError:
        return json.dumps(value).encode() + b"\n"
