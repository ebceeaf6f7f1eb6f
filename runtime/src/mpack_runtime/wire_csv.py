"""CSV bodies: RFC 4180 (commas, double quotes), UTF-8, blank lines skipped, an empty cell is a missing value.

**Header.** The content type may say it: `text/csv; header=present` or `header=absent`. Else the first line is a header
if the signature has names and the line holds at least one of them; where the signature has no names, if no cell of the
line is empty, a number, true or false.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from mpack_runtime.errors import BadRequest
from mpack_runtime.wire_columns import BOOLEANS, NUMBER, quote

csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a cell may be as long as a body


def read_csv(text: str, names: Sequence[str], header: str | None = None) -> tuple[list[str] | None, list[list[str]]]:
    """Column names (None: no header) and rows of cells. `names` are the signature's. Raises BadRequest."""
    rows = list(read_rows(io.StringIO(text, newline="")))
    if not rows:
        raise BadRequest("Please provide data with this POST request: the CSV has no line.")
    if not has_header(rows[0], names, header):
        return None, rows
    if len(rows) == 1:
        raise BadRequest("Matrix is not provided: the CSV has a header and no row.")
    return rows[0], rows[1:]


def read_rows(stream: TextIO) -> Iterator[list[str]]:
    """Lines of cells; the stream must be opened with newline="". Raises BadRequest."""
    reader = csv.reader(stream, strict=True)
    try:
        for row in reader:
            if row:
                yield row
    except csv.Error as error:
        raise BadRequest(f"Can not parse input as CSV: line {reader.line_num}: {error}.") from error


def has_header(first: Sequence[str], names: Sequence[str], header: str | None = None) -> bool:
    """True if the first line names the columns, by the rule above."""
    if header not in (None, "present", "absent"):
        raise BadRequest(f"The content type's header is {quote(header)}; it must be present or absent.", status=415)
    if header is not None:
        return header == "present"
    if names:
        return not set(first).isdisjoint(names)
    return not any(not cell.strip() or NUMBER.fullmatch(cell.strip()) or cell.lower() in BOOLEANS for cell in first)
