"""Input files as batches of model inputs: JSON whole, CSV, JSON Lines and Parquet in chunks of bounded size."""

from __future__ import annotations

import base64
import datetime
import io
from collections.abc import Iterator
from decimal import Decimal
from itertools import chain, islice
from typing import Any, BinaryIO

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

#: Values a chunk; at about 100 bytes a value in Python, some 10 MB.
CHUNK_VALUES = 100_000


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


def batches(service: Service, stream: BinaryIO, form: str) -> Iterator[Inputs]:
    """The inputs in a file, in order. Raises BadRequest."""
    if form == "json":
        yield service.decode(stream.read(), "application/json")
    elif form == "csv":
        yield from _csv(service, stream)
    elif form == "jsonl":
        yield from _jsonl(service, stream)
    else:
        yield from _parquet(service, stream)


def _size(width: int) -> int:
    return max(1, CHUNK_VALUES // max(1, width))


def _csv(service: Service, stream: BinaryIO) -> Iterator[Inputs]:
    from mpack_runtime.wire_csv import has_header, read_rows

    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    try:
        rows = read_rows(text)
        first = next(rows, None)
        if first is None:
            raise BadRequest("The CSV has no line.")
        header = has_header(first, service.signature.input_names)
        names = first if header else None
        everything = rows if header else chain([first], rows)
        number = 1
        while chunk := list(islice(everything, _size(len(first)))):
            yield service.rows(names, chunk, text=True, first_row=number)
            number += len(chunk)
        if number == 1:
            raise BadRequest("The CSV has a header and no row.")
    except UnicodeDecodeError as error:
        raise BadRequest(f"The file is not UTF-8: {error}.") from error
    finally:
        text.detach()  # the stream stays its owner's


def _jsonl(service: Service, stream: BinaryIO) -> Iterator[Inputs]:
    from mpack_runtime import wire
    from mpack_runtime.wire_json import parse

    def values() -> Iterator[Any]:
        for number, line in enumerate(stream, 1):
            if line.strip():
                try:
                    yield parse(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                except UnicodeDecodeError as error:
                    raise BadRequest(f"Line {number} is not UTF-8: {error}.") from error
                except BadRequest as error:
                    raise BadRequest(f"Line {number}: {error.message}") from error

    rows = values()
    first = next(rows, None)
    if not isinstance(first, (dict, list)) or not first:
        raise BadRequest("The first line must be a JSON object (a record) or an array (a row).")
    everything, number = chain([first], rows), 1
    while chunk := list(islice(everything, _size(len(first)))):
        if isinstance(first, dict):
            config = service.config
            yield wire.from_records(chunk, service.signature, strict=config.strict, first_row=number)
        else:
            yield service.rows(None, chunk, first_row=number)
        number += len(chunk)


def _parquet(service: Service, stream: BinaryIO) -> Iterator[Inputs]:
    parquet = pyarrow_parquet()
    try:
        table = parquet.ParquetFile(stream)
        names = table.schema_arrow.names
        number = 1
        for batch in table.iter_batches(batch_size=_size(len(names))):
            columns = [list(map(_plain, column.to_pylist())) for column in batch.columns]
            rows = [list(row) for row in zip(*columns)]
            if rows:
                yield service.rows(names, rows, first_row=number)
            number += len(rows)
    except ValueError as error:  # pyarrow's own errors are ValueErrors
        raise BadRequest(f"The file is not readable Parquet: {error}.") from error
    if number == 1:
        raise BadRequest("The Parquet file has no row.")


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


def _plain(value: Any) -> Any:
    """A Parquet value as the JSON value that stands for it."""
    if isinstance(value, (datetime.datetime, datetime.date)):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, float) and value != value:
        return None
    return value
