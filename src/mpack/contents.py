"""File content by SHA-256: what lets specs and plans be pure data while builders still find the bytes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from queue import Queue
from threading import Thread
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


class Sha256:
    """SHA-256 of what is passed on in order; from the second large block on in a thread of its own.

    The interpreter is free while a block is hashed, so that whoever passes blocks on can read and write meanwhile. At
    most four blocks wait; they must not be changed afterwards. `close` ends the thread, `hexdigest` waits for it.
    """

    _LARGE = 1 << 18

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._queue: Queue[bytes | memoryview | None] = Queue(4)
        self._thread: Thread | None = None
        self._large = 0

    def update(self, data: bytes | memoryview) -> None:
        self._large += len(data) >= self._LARGE
        if self._large < 2:
            self._hash.update(data)
            return
        if self._thread is None:
            self._thread = Thread(target=self._work, daemon=True)
            self._thread.start()
        self._queue.put(data)

    def close(self) -> None:
        """Waits until everything is hashed; more may be passed on afterwards."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def hexdigest(self) -> str:
        self.close()
        return self._hash.hexdigest()

    def _work(self) -> None:
        while (data := self._queue.get()) is not None:
            self._hash.update(data)


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
