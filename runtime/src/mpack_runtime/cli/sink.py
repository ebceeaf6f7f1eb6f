"""Predictions into output files: JSON as the REST service answers, CSV, JSON Lines and Parquet as tables."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
import orjson

from mpack_runtime.cli.arrays import arrow_columns, csv_lines, json_lines, table_like
from mpack_runtime.cli.source import pyarrow_parquet
from mpack_runtime.errors import ModelFailure
from mpack_runtime.frame import Array, Prediction
from mpack_runtime.render import encode, plain

Rows = list[list[Any]]
State = Mapping[str, Any]


class Sink:
    """Takes the predictions of one file's chunks, in order, then `close`.

    `state` is what another sink needs to go on behind the bytes that are written by then, as JSON; None: it cannot.
    """

    def __init__(self, stream: BinaryIO, state: State | None = None) -> None:
        self.stream = stream

    def write(self, prediction: Prediction) -> None:
        raise TypeError(f"{type(self).__name__} cannot write")

    def state(self) -> State | None:
        return None

    def close(self) -> None:
        """Writes what is left; the stream stays open."""


def sink(form: str, stream: BinaryIO, state: State | None = None) -> Sink:
    """The sink of a format (json, csv, jsonl, parquet; "rows": Parquet's rows, to be joined by `join_rows`)."""
    kinds: dict[str, type[Sink]] = {
        "json": JsonSink,
        "csv": CsvSink,
        "jsonl": JsonLinesSink,
        "parquet": ParquetSink,
        "rows": RowsSink,
    }
    return kinds[form](stream, state)


class JsonSink(Sink):
    """{"prediction": …, "columns": […]}; lists are streamed, answers by name are joined in memory."""

    def __init__(self, stream: BinaryIO, state: State | None = None) -> None:
        super().__init__(stream)
        self._held: Prediction | None = None
        self._columns: tuple[str, ...] | None = tuple(state["columns"]) if state else None
        #: True once the list has an item: a model may answer some rows with none.
        self._some: bool = state["some"] if state else False

    def write(self, prediction: Prediction) -> None:
        if isinstance(prediction.value, (list, np.ndarray)) and self._held is None:
            self._stream(prediction)
        elif self._held is None and self._columns is None:
            self._held = prediction
        elif self._held is not None and isinstance(prediction.value, dict) and isinstance(self._held.value, dict):
            self._held = Prediction(_joined(self._held.value, prediction.value), self._held.columns)
        else:
            raise ModelFailure("The model's answers to the parts of this file cannot be joined; use a smaller file.")

    def state(self) -> State | None:
        return None if self._columns is None else {"columns": list(self._columns), "some": self._some}

    def close(self) -> None:
        if self._held is not None:
            self.stream.write(encode(self._held))
        elif self._columns is not None:
            self.stream.write(b'],"columns":' + orjson.dumps(list(self._columns)) + b"}")

    def _stream(self, prediction: Prediction) -> None:
        """The rows of one chunk, between the brackets of the whole."""
        rows = encode(Prediction(prediction.value))
        start, end = rows.find(b"[") + 1, rows.rfind(b'],"columns"')
        if self._columns is None:
            self.stream.write(b'{"prediction":[')
        elif self._some and start < end:
            self.stream.write(b",")
        self.stream.write(rows[start:end])
        self._columns, self._some = prediction.columns, self._some or start < end


class TableSink(Sink):
    """A sink of rows under names that are the same for every chunk."""

    def __init__(self, stream: BinaryIO, state: State | None = None) -> None:
        super().__init__(stream)
        self.names: tuple[str, ...] = tuple(state["names"]) if state else ()

    def write(self, prediction: Prediction) -> None:
        rows: Rows = []
        array: Array | None = prediction.value if table_like(prediction.value) else None
        if array is not None:
            names = _names(prediction.columns, 1 if array.ndim == 1 else array.shape[1])
        else:
            names, rows = table(prediction)
        if self.names and names != self.names:
            raise ModelFailure(f"The model's answer changes its columns from {list(self.names)} to {list(names)}.")
        if not self.names:
            self.names = names
            self.start()
        if array is None or not self.array(array):
            self.rows(rows if array is None else table(prediction)[1])

    def state(self) -> State | None:
        return {"names": list(self.names)} if self.names else None

    def start(self) -> None:
        """Called once, before the first chunk's rows."""

    def array(self, array: Array) -> bool:
        """Writes an array of numbers, one or two-dimensional; False: it is to be written as rows."""
        raise TypeError(f"{type(self).__name__} cannot write arrays")

    def rows(self, rows: Rows) -> None:
        raise TypeError(f"{type(self).__name__} cannot write rows")


class CsvSink(TableSink):
    """A header line, then a line a row; missing values are empty, lists and objects JSON."""

    def start(self) -> None:
        self.rows([list(self.names)])

    def array(self, array: Array) -> bool:
        self.stream.write(csv_lines(array))
        return True

    def rows(self, rows: Rows) -> None:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
        try:
            self.stream.write(text.getvalue().encode())
        except UnicodeEncodeError as error:
            raise _half(error) from error


class JsonLinesSink(TableSink):
    """An object a line."""

    def array(self, array: Array) -> bool:
        self.stream.write(json_lines(array, self.names))
        return True

    def rows(self, rows: Rows) -> None:
        self.stream.writelines(json_line(dict(zip(self.names, row))) for row in rows)


class RowsSink(TableSink):
    """Arrow's stream of record batches, one a chunk; the first chunk decides the types. It can be gone on with."""

    def __init__(self, stream: BinaryIO, state: State | None = None) -> None:
        super().__init__(stream, state)
        self._schema: Any = None
        if state:
            import pyarrow

            self._schema = pyarrow.ipc.read_schema(pyarrow.py_buffer(base64.b64decode(state["schema"])))

    def state(self) -> State | None:
        if self._schema is None:
            return None
        return {"names": list(self.names), "schema": base64.b64encode(self._schema.serialize()).decode()}

    def array(self, array: Array) -> bool:
        import pyarrow

        if array.dtype == np.uint64:
            return False  # their type depends on how large they are
        columns = arrow_columns(array)
        if self._schema is None:
            self._begin(pyarrow.schema([(name, column.type) for name, column in zip(self.names, columns)]))
        if [column.type for column in columns] != self._schema.types:
            return False
        self.batch(pyarrow.record_batch(columns, schema=self._schema))
        return True

    def rows(self, rows: Rows) -> None:
        import pyarrow

        columns = list(zip(*rows))
        try:
            if self._schema is None:
                # A column of nothing but missing values says no type; numbers are the likeliest to follow.
                types = [pyarrow.infer_type(column) for column in columns]
                known = [pyarrow.float64() if pyarrow.types.is_null(kind) else kind for kind in types]
                self._begin(pyarrow.schema(list(zip(self.names, known))))
            arrays = [pyarrow.array(column, type=field.type) for column, field in zip(columns, self._schema)]
        except UnicodeEncodeError as error:
            raise _half(error) from error
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError) as error:
            raise ModelFailure(f"The model's answer does not fit one Parquet type a column: {error}.") from error
        self.batch(pyarrow.record_batch(arrays, schema=self._schema))

    def _begin(self, schema: Any) -> None:
        self._schema = schema
        self.opened(schema)

    def opened(self, schema: Any) -> None:
        """Called once, before the first batch."""
        self.stream.write(schema.serialize())

    def batch(self, batch: Any) -> None:
        """Writes the rows of one chunk."""
        self.stream.write(batch.serialize())


class ParquetSink(RowsSink):
    """A row group a chunk. What there is of the file cannot be gone on with: its index comes last."""

    def state(self) -> State | None:
        return None

    def opened(self, schema: Any) -> None:
        self._writer = pyarrow_parquet().ParquetWriter(self.stream, schema)

    def batch(self, batch: Any) -> None:
        self._writer.write_batch(batch)

    def close(self) -> None:
        if self._schema is not None:
            self._writer.close()


def join_rows(rows: BinaryIO, stream: BinaryIO) -> None:
    """Writes what a RowsSink wrote as the Parquet file that a ParquetSink would have written."""
    import pyarrow

    with pyarrow.ipc.open_stream(rows) as batches, pyarrow_parquet().ParquetWriter(stream, batches.schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


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


def _half(error: UnicodeEncodeError) -> ModelFailure:
    return ModelFailure(f"The model's answer has text with half a character, which UTF-8 cannot hold: {error.reason}.")


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
