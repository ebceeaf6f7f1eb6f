"""File content by SHA-256: what lets specs and plans be pure data while builders still find the bytes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

Source = Path | bytes


class Contents(Mapping[str, Source]):
    """An immutable map from lower-case hex SHA-256 to where the bytes are: a file of this machine, or memory."""

    def __init__(self, sources: Mapping[str, Source] | None = None) -> None:
        self._sources = dict(sources or {})

    def __getitem__(self, sha256: str) -> Source:
        return self._sources[sha256]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def __or__(self, other: Contents) -> Contents:
        return Contents({**self._sources, **other._sources})

    def open(self, sha256: str) -> BinaryIO:
        """A binary stream of the content. The reader checks the hash: a file may have changed since it was hashed."""
        source = self._sources[sha256]
        return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def sha256_bytes(data: bytes) -> str:
    """Lower-case hex SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Lower-case hex SHA-256 of a file, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
