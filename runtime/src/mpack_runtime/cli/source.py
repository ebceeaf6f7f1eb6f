"""Input files as chunks of model inputs: JSON whole, CSV (`source_csv`), JSON Lines and Parquet in bounded pieces."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, BinaryIO

from mpack_runtime import wire
from mpack_runtime.cli.chunk import CHUNK_VALUES, LONGEST_ROW, Chunk, too_long
from mpack_runtime.cli.errors import Usage
from mpack_runtime.errors import BadRequest
from mpack_runtime.frame import Inputs
from mpack_runtime.service import Service

FORMATS = ("json", "csv", "jsonl", "parquet")
SUFFIXES = {
    ".json": "json",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}

#: Bytes of a chunk of Parquet, as its row groups' metadata tell them.
CHUNK_BYTES = 32 << 20
#: Values a chunk of JSON Lines, which are Python's objects, all of them.
LINE_VALUES = 100_000


def detect(name: str, stream: BinaryIO) -> str:
    """The format of a file: Parquet by its magic number, else by suffix, else by its first lines. Rewinds `stream`."""
    head = stream.read(65536)
    stream.seek(0)
    if head.startswith(b"PAR1"):
        return "parquet"
    suffix = name[name.rfind(".") :].lower() if "." in name else ""
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    first, _, rest = head.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
    if not first.startswith((b"{", b"[")):
        return "csv"
    return "jsonl" if rest.strip() and first.rstrip().endswith((b"}", b"]")) else "json"


def chunks(service: Service, stream: BinaryIO, form: str, after: int = 0, rows: int = 0) -> Iterator[Chunk]:
    """The inputs in a file, in order: from where the chunk of that `after` ended, before which `rows` rows stand.

    A chunk's bounds depend on the file alone. Raises BadRequest.
    """
    if form == "json":
        if rows:
            return
        body = stream.read()
        yield Chunk(service.decode(body, "application/json"), len(body), len(body))
    elif form == "csv":
        from mpack_runtime.cli import source_csv

        yield from source_csv.chunks(service, stream, after, rows)
    elif form == "jsonl":
        yield from _jsonl(service, stream, after, rows)
    else:
        yield from _parquet(service, stream, rows)


def total(stream: BinaryIO, form: str) -> int:
    """What `Chunk.done` is of: rows of Parquet, else bytes."""
    if form != "parquet":
        return os.fstat(stream.fileno()).st_size
    try:
        return int(pyarrow_parquet().ParquetFile(stream).metadata.num_rows)
    except ValueError as error:
        raise unreadable(error) from error


def _jsonl(service: Service, stream: BinaryIO, after: int, rows: int) -> Iterator[Chunk]:
    from mpack_runtime.wire_json import parse

    stream.seek(0)
    found: list[Any] = []
    at, number, first = 0, 0, None
    while line := stream.readline(LONGEST_ROW + 1):
        at, number = at + len(line), number + 1
        if len(line) > LONGEST_ROW:
            raise too_long(rows + len(found) + 1)
        if not line.strip() or (at <= after and first is not None):
            continue
        try:
            value = parse(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            raise BadRequest(f"Line {number} is not UTF-8: {error}.") from error
        except BadRequest as error:
            raise BadRequest(f"Line {number}: {error.message}") from error
        if first is None:
            first = value
            if not isinstance(first, (dict, list)) or not first:
                break
        if at <= after:
            continue
        found.append(value)
        if len(found) == max(1, LINE_VALUES // len(first)):
            yield Chunk(_of_lines(service, first, found, rows + 1), at, at)
            rows, found = rows + len(found), []
    if not isinstance(first, (dict, list)) or not first:
        raise BadRequest("The first line must be a JSON object (a record) or an array (a row).")
    if found:
        yield Chunk(_of_lines(service, first, found, rows + 1), at, at)


def _of_lines(service: Service, first: Any, values: list[Any], first_row: int) -> Inputs:
    """Values of lines as inputs: records if the file's first one is, else rows."""
    if isinstance(first, dict):
        return wire.from_records(values, service.signature, strict=service.config.strict, first_row=first_row)
    return service.rows(None, values, first_row=first_row)


def _parquet(service: Service, stream: BinaryIO, rows: int) -> Iterator[Chunk]:
    from mpack_runtime.wire_arrow import from_batch

    parquet = pyarrow_parquet()
    try:
        # Not pre_buffer: it keeps what it read of all row groups.
        file = parquet.ParquetFile(stream, pre_buffer=False)
        for batch in _batches(file, rows):
            inputs = from_batch(batch, service.signature, strict=service.config.strict, first_row=rows + 1)
            rows += batch.num_rows
            yield Chunk(inputs, rows, rows)
    except (ValueError, NotImplementedError, OSError) as error:  # pyarrow's own have no errno
        if getattr(error, "errno", None) is not None:
            raise
        raise unreadable(error) from error
    if rows != file.metadata.num_rows:
        raise BadRequest(f"The Parquet file claims {file.metadata.num_rows} rows and has {rows}.")
    if not rows:
        raise BadRequest("The Parquet file has no row.")


def _batches(file: Any, skip: int) -> Iterator[Any]:
    """Record batches of the rows behind the first `skip`. A chunk's bounds do not depend on `skip`, if it is one."""
    for groups, rows, size in _runs(file):
        if skip and skip >= rows:
            skip -= rows
            continue
        for batch in file.iter_batches(batch_size=size, row_groups=groups):
            if skip and skip >= batch.num_rows:
                skip -= batch.num_rows
                continue
            rest, skip = batch.slice(skip), 0
            if rest.num_rows:
                yield rest


def _runs(file: Any) -> Iterator[tuple[list[int], int, int]]:
    """Row groups that are read together, small ones with their neighbours: their numbers, rows, and rows a chunk."""
    metadata, width = file.metadata, max(1, len(file.schema_arrow.names))
    run: list[int] = []
    rows = bytes_ = 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        run, rows, bytes_ = [*run, index], rows + group.num_rows, bytes_ + max(0, group.total_byte_size)
        size = max(1, min(CHUNK_VALUES // width, CHUNK_BYTES * max(1, rows) // max(1, bytes_)))
        if rows >= size or index + 1 == metadata.num_row_groups:
            yield run, rows, size
            run, rows, bytes_ = [], 0, 0


def unreadable(error: Exception) -> BadRequest:
    """The error of a Parquet file that pyarrow cannot read."""
    return BadRequest(f"The file is not readable Parquet: {str(error).rstrip('.')}.")


def pyarrow_parquet() -> Any:
    """The module pyarrow.parquet. Raises Usage where the image has none."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise Usage(
            "This image does not read or write Parquet: it has no pyarrow. "
            "Build it with the argument formats=json,csv,jsonl,parquet."
        ) from error
    return parquet
