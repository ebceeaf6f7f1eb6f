"""Blocks of plain CSV lines as columns, without a Python object a cell where the values prove that this is right.

"Plain" is what `plain` says: no quote, no NUL, no BOM before it, lines that end in LF or CRLF, UTF-8. A reader answers
None where anything is in doubt; then the exact way reads the block, and so makes the same inputs or the error that
names the row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from mpack_runtime import wire
from mpack_runtime.errors import BadRequest
from mpack_runtime.frame import Array, Frame, Inputs, Tensors
from mpack_runtime.signature import Column, Signature
from mpack_runtime.wire_arrow import Doubt, matrix
from mpack_runtime.wire_columns import EXACT, RANGES, Place, convert, quote, read_text
from mpack_runtime.wire_matrix import NoneType
from mpack_runtime.wire_tensors import column_type

#: Longest number that every rule takes (a guessed column's), in characters.
_LONGEST = 300
#: From here a whole number may have more than the 19 digits of a guessed one.
_LARGE = 10**18


class BlockReader(Protocol):
    """Makes inputs of a block of plain lines, whose first row has that number; None: in doubt."""

    def __call__(self, block: bytes, first_row: int) -> Inputs | None: ...


def plain(block: bytes) -> bool:
    """True if a record is a line, for every reader of CSV."""
    if block.startswith(b"\xef\xbb\xbf"):
        return False  # which pyarrow leaves out
    if b'"' in block or b"\0" in block or (b"\r" in block and block.count(b"\r") != block.count(b"\r\n")):
        return False
    if not block.isascii():
        try:
            block.decode()
        except UnicodeDecodeError:
            return False
    return True


def reader(names: Sequence[str] | None, width: int, signature: Signature, strict: bool) -> BlockReader:
    """The fastest reader that there is: pyarrow's where the image has it, else orjson's."""
    try:
        import pyarrow.csv  # noqa: F401
    except ImportError:
        return JsonReader(_Wanted(names, width, signature, strict))
    return ArrowReader(_Wanted(names, width, signature, strict))


class _Wanted:
    """The model's columns and where each stands in a row of `width` cells. Raises BadRequest."""

    def __init__(self, names: Sequence[str] | None, width: int, signature: Signature, strict: bool) -> None:
        self.width, self.signature = width, signature
        self.warnings: tuple[str, ...] = ()
        if tensors := signature.input_tensors:
            # One tensor takes the whole table; several take a column each, which is left to the exact way.
            kind = column_type(tensors[0].dtype) if len(tensors) == 1 else "string"
            self.columns: tuple[Column, ...] = (Column(None, kind, False),) * width
            self.indices: list[int | None] = list(range(width))
            return
        told = wire.column_names(list(names)) if names is not None else None
        if told is None and signature.inputs and len(signature.inputs) != width:
            raise BadRequest("the width is another")
        self.columns, self.indices, warnings = wire.select(told, width, signature.input_columns, strict)
        self.warnings = tuple(warnings)

    def inputs(self, data: Sequence[Array], rows: int) -> Inputs:
        """The arrays of all columns as the model's inputs. Raises Doubt."""
        if self.signature.input_tensors:
            return Tensors(matrix(list(data), self.signature.input_tensors))
        named = tuple(column.name for column in self.columns if column.name is not None)
        return Frame(named if len(named) == len(self.columns) else None, tuple(data), rows, warnings=self.warnings)

    def exactly(self, cells: Sequence[str | None] | None, position: int, rows: int, first_row: int) -> Array:
        """A column as the exact way makes it; None for cells: the file has no such column. Raises BadRequest."""
        column = self.columns[position]
        place = Place(f"column {quote(column.name)}" if column.name else f"column {position + 1}", first_row)
        values: Sequence[Any] = (None,) * rows if cells is None else read_text(cells, column.type, place)
        return convert(values, column, place, nested=bool(self.signature.inputs))


class ArrowReader:
    """pyarrow parses, on as many threads as there are processors; columns of unknown type are read as text first."""

    def __init__(self, wanted: _Wanted) -> None:
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv

        self._pyarrow, self._csv, self._wanted = pyarrow, pyarrow.csv, wanted
        self._hexadecimal = False
        #: position -> what a column without a type was in the last block; "text" once that was not to be relied on.
        self._seen: dict[int, str] = {}

    def __call__(self, block: bytes, first_row: int) -> Inputs | None:
        if not _cells_end_within(block, _LONGEST):
            return None
        self._hexadecimal = b"x" in block or b"X" in block
        try:
            try:
                return self._read(block, first_row)
            except (Doubt, self._pyarrow.ArrowInvalid):
                if "double" not in self._seen.values():
                    raise
                self._seen = dict.fromkeys(self._seen, "text")
                return self._read(block, first_row)
        except (Doubt, BadRequest, self._pyarrow.ArrowInvalid):
            return None

    def _kind(self, position: int) -> str:
        declared = self._wanted.columns[position].type
        if declared in RANGES:
            return "string" if self._hexadecimal else "int64"  # 0x1F is a whole number to pyarrow
        return "double" if declared in ("double", "float") or self._seen.get(position) == "double" else "string"

    def _read(self, block: bytes, first_row: int) -> Inputs:
        wanted, csv = self._wanted, self._csv
        used = {str(index): self._kind(position) for position, index in enumerate(wanted.indices) if index is not None}
        table = csv.read_csv(
            self._pyarrow.BufferReader(block),
            csv.ReadOptions(column_names=[str(index) for index in range(wanted.width)], block_size=1 << 20),
            csv.ParseOptions(quote_char=False),
            csv.ConvertOptions(
                column_types={name: self._pyarrow.type_for_alias(kind) for name, kind in used.items()},
                include_columns=list(used),
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
        data = []
        for position, index in enumerate(wanted.indices):
            values = None if index is None else table.column(str(index))
            data.append(self._column(values, position, table.num_rows, first_row))
        return wanted.inputs(data, table.num_rows)

    def _column(self, values: Any, position: int, rows: int, first_row: int) -> Array:
        column = self._wanted.columns[position]
        if values is None:
            return self._wanted.exactly(None, position, rows, first_row)
        kind = self._kind(position)
        if kind == "double":
            array = _finite(values)
            if column.type == "any" and not _fractions(array):
                raise Doubt  # these may be whole numbers
            return _single(array) if column.type == "float" else array
        if kind == "int64":
            return _whole(values, column)
        if column.type == "string":
            return values.to_numpy()  # type: ignore[no-any-return]
        if column.type == "any" and (guessed := self._guess(values, position)) is not None:
            return guessed
        return self._wanted.exactly(values.to_pylist(), position, rows, first_row)

    def _guess(self, values: Any, position: int) -> Array | None:
        """Text of a column without a type as numbers, if it surely is numbers."""
        if values.null_count == len(values):
            return np.full(len(values), np.nan)
        compute = self._pyarrow.compute
        try:
            if not self._hexadecimal and compute.max(compute.binary_length(values)).as_py() <= 19:
                return _whole(values.cast("int64"), Column(None, "long", False))
        except (Doubt, self._pyarrow.ArrowInvalid):
            pass
        try:
            array = _finite(values.cast("double"))
        except (Doubt, self._pyarrow.ArrowInvalid):
            return None
        if not _fractions(array):
            return None
        self._seen.setdefault(position, "double")
        return array


def _finite(values: Any) -> Array:
    """Numbers as float64, missing ones as NaN. Raises Doubt if one was written as NaN or is infinite."""
    array: Array = values.to_numpy()
    if len(array) - int(np.isfinite(array).sum()) != values.null_count:
        raise Doubt
    return array if array.flags.writeable else array.copy()


def _fractions(array: Array) -> bool:
    """True if a number is none that could have been written as a whole one."""
    return bool((np.isfinite(array) & (array != np.trunc(array))).any())


def _single(array: Array) -> Array:
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    if np.isinf(single).any():
        raise Doubt
    return single


def _whole(values: Any, column: Column) -> Array:
    """Whole numbers as the column's integers, or, where some are missing, as floats. Raises Doubt."""
    if values.null_count and (column.required or values.null_count == len(values)):
        raise Doubt
    present: Array = values.drop_null().to_numpy()
    low, high = RANGES[column.type]
    if values.null_count:
        low, high = max(low, -EXACT), min(high, EXACT)
    if not (low <= int(present.min()) and int(present.max()) <= high):
        raise Doubt
    kind = np.float64 if values.null_count else np.int32 if column.type == "integer" else np.int64
    array: Array = values.to_numpy().astype(kind, copy=False)
    return array if array.flags.writeable else array.copy()


#: What is something else in JSON than in CSV: -0 is a whole number without a sign, null is no text.
_OTHERWISE = (b"[", b"]", b"{", b"}", b"n")
_NEGATIVE_ZERO = re.compile(rb"-0(?!\.)")
#: A line of one cell, which is no blank line.
_SPACES = re.compile(rb"^[ \t]+\r?$", re.MULTILINE)


class JsonReader:
    """orjson parses the lines as rows of JSON: numbers, true and false are written there as in CSV, or not at all."""

    _TYPES = ("double", "float", "long", "integer", "boolean", "any")

    def __init__(self, wanted: _Wanted) -> None:
        self._wanted = wanted
        self._fit = all(column.type in self._TYPES for column in wanted.columns)

    def __call__(self, block: bytes, first_row: int) -> Inputs | None:
        if not self._fit or any(text in block for text in _OTHERWISE) or not _cells_end_within(block, _LONGEST):
            return None
        if any(block[at.start() - 1 : at.start()] not in (b"e", b"E") for at in _NEGATIVE_ZERO.finditer(block)):
            return None
        try:
            return self._read(block, first_row)
        except (Doubt, BadRequest, ValueError):
            return None

    def _read(self, block: bytes, first_row: int) -> Inputs:
        import orjson

        wanted = self._wanted
        rows = orjson.loads(_rows_of_json(block))
        if not all(rows):
            if _SPACES.search(block):
                raise Doubt
            rows = list(filter(None, rows))
        if set(map(len, rows)) != {wanted.width}:
            raise Doubt
        columns = list(zip(*rows))
        data = []
        for position, (column, index) in enumerate(zip(wanted.columns, wanted.indices)):
            if index is None:
                data.append(wanted.exactly(None, position, len(rows), first_row))
                continue
            _check_kinds(columns[index], column.type)
            nested = bool(wanted.signature.inputs)
            data.append(convert(columns[index], column, Place("", first_row), nested=nested))
            if data[-1].dtype.kind == "f" and np.isinf(data[-1]).any():
                raise Doubt
        return wanted.inputs(data, len(rows))


def _rows_of_json(block: bytes) -> bytes:
    """Lines as a JSON list of lists; an empty cell is null, a blank line an empty list."""
    lines = block.replace(b"\r\n", b"\n") if b"\r" in block else block
    lines = lines[:-1] if lines.endswith(b"\n") else lines
    if b",," in lines or b"\n," in lines or b",\n" in lines or lines.startswith(b",") or lines.endswith(b","):
        lines = lines.replace(b",,", b",null,").replace(b",,", b",null,")
        lines = lines.replace(b"\n,", b"\nnull,").replace(b",\n", b",null\n")
        lines = (b"null" if lines.startswith(b",") else b"") + lines + (b"null" if lines.endswith(b",") else b"")
    return b"[[" + lines.replace(b"\n", b"],[") + b"]]"


def _check_kinds(values: Sequence[Any], kind: str) -> None:
    """Raises Doubt unless these JSON values are what the same cells of CSV stand for in a column of that type."""
    kinds = set(map(type, values)) - {NoneType}
    if kind == "boolean" or kinds == {bool}:
        if kinds - {bool} or kind not in ("boolean", "any"):
            raise Doubt
    elif kinds - {int, float}:
        raise Doubt
    if kind == "any" and kinds == {int}:
        present = [value for value in values if value is not None]
        if min(present) <= -_LARGE or max(present) >= _LARGE:
            raise Doubt


def _cells_end_within(block: bytes, length: int) -> bool:
    """True if no cell is longer than `length` bytes: no line is, or else none between all commas and line ends."""
    data = np.frombuffer(block, dtype=np.uint8)
    if _longest(data == ord("\n")) <= length:
        return True
    return _longest((data == ord("\n")) | (data == ord(","))) <= length


def _longest(ends: Array) -> int:
    """The most elements between two that are true."""
    at = np.flatnonzero(ends)
    return int(np.diff(at, prepend=-1, append=len(ends)).max()) - 1
