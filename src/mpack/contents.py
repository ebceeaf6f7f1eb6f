"""File content by SHA-256: what lets specs and plans be pure data while builders still find the bytes."""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from queue import Queue
from threading import Event, Thread
from types import TracebackType
from typing import BinaryIO

_crc32: Callable[[bytes | memoryview, int], int]
try:  # libdeflate's is the same sum in a fifth of the time
    _crc32 = import_module("deflate").crc32
except ImportError:
    _crc32 = import_module("zlib").crc32

Source = Path | bytes
#: Bytes from which on a file is hashed beside other work.
LARGE = 8 << 20


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


class Hashing:
    """Large files hashed one after another by a thread, while whoever asked does something else."""

    def __init__(self) -> None:
        self._stopped = False
        self._thread: Thread | None = None

    def start(self, files: Sequence[Pending]) -> None:
        """Begins; may be called once."""
        self._thread = Thread(target=self._work, args=(files,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Hashing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops: what is not hashed then never will be."""
        self._stopped = True
        if self._thread is not None:
            self._thread.join()

    def _work(self, files: Sequence[Pending]) -> None:
        for file in files:
            file.hash(self._count)

    def _count(self, size: int) -> None:
        if self._stopped:
            raise InterruptedError("The hashing was stopped.")


class Pending:
    """A file that is being hashed: `hashed` says how, and is told of every block as by `hash_file`."""

    def __init__(self, hashed: Callable[[Callable[[int], None]], str]) -> None:
        self._hashed = hashed
        self._done = Event()
        self._sha256: str | BaseException = ""

    def hash(self, counted: Callable[[int], None]) -> None:
        """Hashes the file; what that raises, `sha256` raises."""
        try:
            self._sha256 = self._hashed(counted)
        except BaseException as error:
            self._sha256 = error
        self._done.set()

    def sha256(self) -> str:
        """Lower-case hex SHA-256, when it is known."""
        self._done.wait()
        if isinstance(self._sha256, BaseException):
            raise self._sha256
        return self._sha256


#: What is being hashed, by digests that stand for it where the right ones are not known yet.
Standing = Mapping[str, Pending]


class Check:
    """Tells whether a file that is read a second time still has the SHA-256 that it had.

    Hashing takes longer than all else that is done with a large file. So of one that this process has hashed
    (`hash_file`) a CRC-32 and an unchanged size, inode, mtime and ctime are asked for; of any other the hash itself.
    One that is still being hashed passes by the former, or not at all.
    """

    def __init__(self, sha256: str | Pending, stream: BinaryIO) -> None:
        self._sha256 = sha256
        self._descriptor = None if isinstance(stream, io.BytesIO) else stream.fileno()
        self._state = None if self._descriptor is None else _state(self._descriptor)
        self._by_crc = isinstance(sha256, Pending) or self._known()[0] == sha256
        self._crc = 0
        self._hash = Sha256()

    def _known(self) -> tuple[str, int]:
        return ("", 0) if self._state is None else _hashed.get(self._state, ("", 0))

    def update(self, data: bytes) -> None:
        if self._by_crc:
            self._crc = _crc32(data, self._crc)
        else:
            self._hash.update(data)

    def close(self) -> None:
        """Ends the hashing."""
        self._hash.close()

    def passed(self) -> bool:
        """True if what came is what was hashed. Waits for, and raises, what is still being hashed."""
        if not self._by_crc:
            return self._hash.hexdigest() == self._sha256
        assert self._descriptor is not None
        sha256 = self._sha256.sha256() if isinstance(self._sha256, Pending) else self._sha256
        return self._known() == (sha256, self._crc) and _state(self._descriptor) == self._state


_State = tuple[int, int, int, int, int]
#: What a file was like when this process hashed it -> its SHA-256 and CRC-32.
_hashed: dict[_State, tuple[str, int]] = {}
#: Bytes hashed at a time: between two blocks a thread may wait for the interpreter.
_BLOCK = 4 << 20
#: Nanoseconds since its last change after which a file is taken to be at rest.
_SETTLED = 1_000_000_000


def _state(descriptor: int) -> _State:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def hash_file(stream: BinaryIO, counted: Callable[[int], None] = lambda size: None) -> tuple[int, str]:
    """Size in bytes and SHA-256 of an open file; `counted` is told how much was read.

    A file at rest is read once by a process, however often it is asked for.
    """
    stream.seek(0)
    before = _state(stream.fileno())
    if (hashed := _hashed.get(before)) is not None:
        counted(before[2])
        return before[2], hashed[0]
    digest, crc, size = hashlib.sha256(), 0, 0
    buffer = memoryview(bytearray(min(_BLOCK, before[2] + 1)))
    while count := stream.readinto(buffer):  # type: ignore[attr-defined]
        counted(count)
        block = buffer[:count]
        digest.update(block)
        crc = _crc32(block, crc)
        size += count
    sha256 = digest.hexdigest()
    # A clock's tick could hide a change of a file that was written just now.
    settled = time.time_ns() - max(before[3:]) > _SETTLED
    if settled and _state(stream.fileno()) == before:
        _hashed[before] = sha256, crc
    return size, sha256


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
