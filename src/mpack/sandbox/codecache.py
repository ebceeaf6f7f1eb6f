"""Compiled files by what they were compiled from: two environments that share a package compile it once.

An entry is keyed by the base image's layers (its interpreter did it), the interpreter's version, the source's path in
the image and its SHA-256, and it begins with its own SHA-256: one cut short by a crash is no entry.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from mpack.pruning import Prunable

_CHECK = 32


class CodeCache:
    """Files below `directory`; any number of processes may read and write it at once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @classmethod
    def default(cls) -> CodeCache:
        """The user's."""
        from mpack.paths import cache_dir

        return cls(cache_dir() / "bytecode")

    def get(self, key: str) -> bytes | None:
        """The compiled file, or None. Reading an entry keeps it from being pruned."""
        path = self._path(key)
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        check, code = data[:_CHECK], data[_CHECK:]
        return code if hashlib.sha256(code).digest() == check else None

    def put(self, key: str, code: bytes) -> None:
        """Keeps a compiled file. A cache that cannot be written only costs time: it is passed over."""
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=path.parent)
        except OSError:
            return
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(hashlib.sha256(code).digest() + code)
            Path(name).replace(path)
        except OSError:
            Path(name).unlink(missing_ok=True)

    def entries(self) -> list[Prunable]:
        """Every compiled file."""
        found = []
        for path in self._directory.glob("*/*"):
            with suppress(OSError):  # gone meanwhile
                state = path.stat()
                found.append(Prunable(state.st_size, state.st_mtime, partial(path.unlink, missing_ok=True)))
        return found

    def _path(self, key: str) -> Path:
        return self._directory / key[:2] / key


def code_key(base: Sequence[str], python_version: str, path: str, sha256: str) -> str:
    """The key of one source: `base` are the diff ids of the base's layers."""
    return hashlib.sha256("\0".join([*base, python_version, path, sha256]).encode()).hexdigest()
