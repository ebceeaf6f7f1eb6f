"""CSV files as chunks: blocks of lines that are read whole (`csv_columns`), else records by Python's csv module."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from mpack_runtime.cli.chunk import CHUNK_VALUES, LONGEST_ROW, Chunk, too_long
from mpack_runtime.errors import BadRequest
from mpack_runtime.frame import Inputs
from mpack_runtime.service import Service
from mpack_runtime.wire_csv import has_header

#: Bytes that are read at once; with CHUNK_VALUES, what a chunk is.
BLOCK = 4 << 20


def chunks(
    service: Service, stream: BinaryIO, after: int = 0, rows: int = 0, *, exact: bool = False
) -> Iterator[Chunk]:
    """The chunks behind byte `after`, before which `rows` rows stand; `exact`: by the csv module alone.

    Raises BadRequest.
    """
    from mpack_runtime.cli.csv_columns import BlockReader, plain, reader

    first, names, begin = _first(service, stream)
    read: BlockReader | None = None
    if not exact:
        try:
            read = reader(names, len(first), service.signature, service.config.strict)
        except BadRequest:
            pass  # the exact way says it better
    at = max(after, begin)
    while True:
        block, whole = _block(stream, at, len(first))
        if not block:
            break
        one_line_each = whole and plain(block)
        inputs = read(block, rows + 1) if read is not None and one_line_each else None
        if inputs is not None:
            at += len(block)
        else:
            limit = None if one_line_each else max(1, CHUNK_VALUES // len(first))
            inputs, at = _exactly(service, stream, names, at, at + len(block), limit, rows)
        if inputs is not None:
            rows += inputs.rows
            yield Chunk(inputs, at, at)
    if not rows:
        raise BadRequest("The CSV has a header and no row.")


def _first(service: Service, stream: BinaryIO) -> tuple[list[str], list[str] | None, int]:
    """The first record, the column names (None: it is a row), and the byte where the rows begin."""
    stream.seek(0)
    begin = 3 if stream.read(3) == b"\xef\xbb\xbf" else 0
    records = Records(stream, begin, 1)
    first = next(records, None)
    if first is None:
        raise BadRequest("The CSV has no line.")
    if has_header(first, service.signature.input_names):
        return first, first, records.at
    return first, None, begin


def _block(stream: BinaryIO, at: int, width: int) -> tuple[bytes, bool]:
    """Lines of at most BLOCK bytes and CHUNK_VALUES values; and False if they are but the begin of a longer one."""
    stream.seek(at)
    block = stream.read(BLOCK)
    end = block.rfind(b"\n") + 1 if len(block) == BLOCK else len(block)
    while (values := block.count(b"\n", 0, end) * width) > CHUNK_VALUES:
        shorter = block.rfind(b"\n", 0, max(1, end * CHUNK_VALUES // values)) + 1
        if not shorter:
            break
        end = shorter
    return (block[:end], True) if end else (block, not block)


def _exactly(
    service: Service, stream: BinaryIO, names: Sequence[str] | None, at: int, end: int, limit: int | None, rows: int
) -> tuple[Inputs | None, int]:
    """The records from byte `at` to the first that ends at `end` or behind, or `limit`; and where the last one ends."""
    records = Records(stream, at, rows + 1)
    found: list[list[str]] = []
    for record in records:
        found.append(record)
        if records.at >= end or len(found) == limit:
            break
    inputs = service.rows(names, found, text=True, first_row=rows + 1) if found else None
    return inputs, records.at


class Records(Iterator[list[str]]):
    """CSV records from byte `at` on, blank lines left out; `at` is then where the last one ended. Raises BadRequest."""

    def __init__(self, stream: BinaryIO, at: int, first_row: int) -> None:
        stream.seek(at)
        self.at = self._begin = at
        self._stream, self._row = stream, first_row
        self._reader = csv.reader(self._lines(), strict=True)

    def __next__(self) -> list[str]:
        try:
            for record in self._reader:
                self._begin = self.at
                if record:
                    self._row += 1
                    return record
        except csv.Error as error:
            raise BadRequest(f"Can not parse input as CSV: row {self._row}: {error}.") from error
        except UnicodeDecodeError as error:
            raise BadRequest(f"The file is not UTF-8: row {self._row}: {error}.") from error
        raise StopIteration

    def _lines(self) -> Iterator[str]:
        while line := self._stream.readline(LONGEST_ROW + 1):
            if len(line) > LONGEST_ROW:
                raise too_long(self._row)
            text = line.decode()
            # As a text stream with newline="" has them: a CR alone ends a line too.
            for piece in io.StringIO(text, newline="") if "\r" in text else (text,):
                self.at += len(piece) if piece.isascii() else len(piece.encode())
                if self.at - self._begin > LONGEST_ROW:
                    raise too_long(self._row)
                yield piece
