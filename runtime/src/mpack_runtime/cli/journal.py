"""What a run with --resume has done: a line of JSON says of what, then one each time how much of it is on the disk.

A line is written when what it tells of has reached the disk, and is on the disk itself before the run goes on. What
stands behind the last whole line was being written when a run ended, and counts for nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mpack_runtime import __version__
from mpack_runtime.cli.errors import Usage
from mpack_runtime.config import ModelConfig

_HEAD = 1 << 20
#: Of the time between two marks at most this share is the marks' own.
_SHARE = 0.02


@dataclass(frozen=True)
class Mark:
    """How far a run came: `rows` of the input, which end at `after` (`Chunk.after`), are `size` bytes of the result.

    `state` is the sink's.
    """

    after: int
    rows: int
    size: int
    state: Mapping[str, Any]


class Journal:
    """The journal of one result, in a file that is open for reading and writing."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._next = 0.0

    def begin(self, about: Mapping[str, str], path: Path) -> Mark | None:
        """The last mark of a run that was about the same; None: there is nothing to go on from.

        Raises Usage if the journal, whose name is `path`, is about something else.
        """
        told, mark, end = self._read()
        if told is not None and mark is not None:
            other = [name for name, value in about.items() if told.get(name) != value]
            if other:
                raise Usage(
                    f"What is done of {path.name[1:].removesuffix('.journal')} was made with another "
                    f"{' and another '.join(other)}. Remove {path} to begin anew."
                )
            self._stream.truncate(end)
            self._stream.seek(end)
            return mark
        self.restart(about)
        return None

    def restart(self, about: Mapping[str, str]) -> None:
        """Forgets all marks."""
        self._stream.seek(0)
        self._stream.truncate()
        self._append(about)

    @property
    def due(self) -> bool:
        """True if it is time for a mark."""
        return time.monotonic() >= self._next

    def note(self, mark: Mark, result: BinaryIO) -> None:
        """Writes a mark, after all that `result` was given is on the disk. Raises OSError."""
        began = time.monotonic()
        result.flush()
        os.fdatasync(result.fileno())
        self._append(asdict(mark))
        ended = time.monotonic()
        self._next = ended + (ended - began) / _SHARE

    def _append(self, line: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps(line).encode() + b"\n")
        self._stream.flush()
        os.fdatasync(self._stream.fileno())

    def _read(self) -> tuple[dict[str, str] | None, Mark | None, int]:
        """What it is about, the last mark, and where that ends."""
        self._stream.seek(0)
        told: dict[str, str] | None = None
        mark, end = None, 0
        for line in self._stream:
            try:
                value: Any = json.loads(line) if line.endswith(b"\n") else None
                if told is None:
                    told = dict(value)
                else:
                    mark = Mark(**value)
            except (TypeError, ValueError):
                break
            end += len(line)
        return told, mark, end


def about(config: ModelConfig, source: BinaryIO, source_format: str, target_format: str) -> dict[str, str]:
    """What decides a result's bytes, each under the word for it. Reads the model's files and the input's beginning."""
    status = os.fstat(source.fileno())
    head = hashlib.sha256(source.read(_HEAD)).hexdigest()
    source.seek(0)
    return {
        "input": f"{source_format}, {status.st_size} bytes, changed at {status.st_mtime_ns} ns, beginning with {head}",
        "model": model_digest(config),
        "method": config.method,
        "format": target_format,
        "version of mpack": __version__,
        "set of packages": _packages(),
    }


def _packages() -> str:
    """Python's version and a SHA-256 over all that is installed: another library may answer other digits."""
    from importlib.metadata import distributions

    found = sorted(f"{item.metadata['Name']}=={item.version}" for item in distributions())
    return f"{sys.version.split()[0]}, {hashlib.sha256(repr(found).encode()).hexdigest()}"


def model_digest(config: ModelConfig) -> str:
    """SHA-256 over the model's description and files; byte code that running it leaves is no part of it."""
    told = (config.name, config.version, config.loader, config.signature, config.strict)
    digest = hashlib.sha256(repr(told).encode())
    for path in sorted(config.root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            one = hashlib.sha256()
            with path.open("rb") as stream:
                while block := stream.read(1 << 20):
                    one.update(block)
            digest.update(f"{path.relative_to(config.root)}\0{one.hexdigest()}\n".encode())
    return digest.hexdigest()
