"""What is read, predicted and written at once."""

from __future__ import annotations

from dataclasses import dataclass

from mpack_runtime.errors import BadRequest
from mpack_runtime.frame import Inputs

#: Values a chunk, at most; as Python's objects some 25 MB.
CHUNK_VALUES = 250_000
#: Bytes of the longest row, as of the largest request of the REST service.
LONGEST_ROW = 64 << 20


@dataclass(frozen=True)
class Chunk:
    """The inputs of some rows. `after`: where the next chunk begins, in bytes of CSV and JSON Lines, in rows of
    Parquet. `done` is how much of the file is read then, in what `source.total` counts."""

    inputs: Inputs
    after: int
    done: int


def too_long(row: int) -> BadRequest:
    """The error of a row beyond LONGEST_ROW."""
    return BadRequest(f"Row {row} is longer than {LONGEST_ROW >> 20} MiB, the most that is read of one.")
