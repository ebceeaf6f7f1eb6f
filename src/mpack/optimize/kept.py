"""Conversions by what they were made from, kept between builds: one file each, with its own hash."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from functools import partial
from pathlib import Path

from mpack.oci.files import write_whole
from mpack.pruning import Prunable


class Conversions:
    """The files of `directory`. What cannot be written costs the next build its shortcut, and nothing else."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def default(cls) -> Conversions:
        """The user's."""
        from mpack.paths import cache_dir

        return cls(cache_dir() / "converted")

    def get(self, key: str) -> bytes | None:
        """What the sandbox printed, or None. Reading it keeps it from being pruned."""
        try:
            check, _, data = self._path(key).read_bytes().partition(b"\n")
            os.utime(self._path(key))
        except OSError:
            return None
        return data if check == _check(data) else None

    def put(self, key: str, data: bytes) -> None:
        """Keeps what the sandbox printed."""
        with suppress(OSError):
            self.directory.mkdir(parents=True, exist_ok=True)
            write_whole(self._path(key), _check(data) + b"\n" + data, lasting=False)

    def entries(self) -> list[Prunable]:
        """One a conversion."""
        found = []
        for path in self.directory.glob("*"):
            with suppress(OSError):
                seen = path.stat()
                found.append(Prunable(seen.st_size, seen.st_mtime, partial(path.unlink, missing_ok=True)))
        return found

    def _path(self, key: str) -> Path:
        return self.directory / hashlib.sha256(key.encode()).hexdigest()


def _check(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()
