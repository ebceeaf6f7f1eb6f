"""Content by digest in the `blobs/` folder of an OCI layout: written whole or not at all, verified when read."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from mpack.contents import Sha256
from mpack.errors import EnvironmentFault
from mpack.oci.files import Unfinished, disk_faults

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
#: Manifests and configurations are JSON of some kilobytes; more than this is no image's.
JSON_LIMIT = 8 << 20
_CHUNK = 1 << 20
#: Bytes of a blob that are sent to the disk at a time.
_PIECE = 32 << 20


class BlobSource(Protocol):
    """Where an image's bytes come from."""

    def open(self, digest: str) -> BinaryIO:
        """The blob as a stream that is verified when read to its end."""

    def read(self, digest: str, limit: int = JSON_LIMIT) -> bytes:
        """A whole small blob, verified."""


def is_digest(text: str) -> bool:
    """True for "sha256:" and 64 lower-case hex digits, the only form that mpack stores."""
    return _DIGEST.fullmatch(text) is not None


def sha256_digest(data: bytes) -> str:
    """ "sha256:…" of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Blobs:
    """The blobs below `root`; unfinished files stand in `root/tmp`.

    A blob's content is synced before it has its name; whoever lists blobs syncs the names, all at once.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / "blobs" / "sha256"
        self.unfinished = root / "tmp"

    def path(self, digest: str) -> Path:
        """Where a blob stands, or would. Raises EnvironmentFault store-corrupt on what is no SHA-256 digest."""
        if not is_digest(digest):
            raise EnvironmentFault("store-corrupt", f"{digest!r} is not a SHA-256 digest.")
        return self.directory / digest.removeprefix("sha256:")

    def has(self, digest: str, size: int | None = None) -> bool:
        """True if the blob is here (and of `size` bytes)."""
        try:
            found = self.path(digest).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return False
        return size is None or found == size

    def open(self, digest: str) -> BinaryIO:
        """The blob as a stream. Its end raises EnvironmentFault store-corrupt if it is not what its name says."""
        path = self.path(digest)
        try:
            raw = path.open("rb", buffering=0)
        except FileNotFoundError:
            raise missing(digest, path) from None
        return io.BufferedReader(_Verified(raw, digest, path), _CHUNK)

    def read(self, digest: str, limit: int = JSON_LIMIT) -> bytes:
        with self.open(digest) as stream:
            data = stream.read(limit + 1)
        if len(data) > limit:
            raise EnvironmentFault("store-corrupt", f"The blob {digest} has more than {limit} bytes.")
        return data

    def add(self, data: bytes) -> str:
        """Stores `data`; returns its digest."""
        digest = sha256_digest(data)
        if not self.has(digest, len(data)):
            with self.writing() as blob:
                blob.write(data)
        return digest

    def add_stream(self, stream: BinaryIO) -> tuple[str, int]:
        """Stores a stream; returns (digest, size)."""
        with self.writing() as blob:
            while data := stream.read(_CHUNK):
                blob.write(data)
        return blob.digest, blob.size

    @contextmanager
    def writing(self, expected: str | None = None) -> Iterator[BlobWriter]:
        """A blob under way; it is in its place, whole and synced, when the block ends without an error.

        With `expected` another digest raises EnvironmentFault store-corrupt and nothing is kept.
        """
        self._prepare()
        with disk_faults("Writing to the image store", self.root), Unfinished(self.unfinished) as file:
            blob = BlobWriter(file.stream)
            try:
                yield blob
            finally:
                blob.close()
            if expected is not None and blob.digest != expected:
                raise EnvironmentFault(
                    "store-corrupt", f"The content is {blob.digest} and not {expected} as it was announced."
                )
            file.become_whole(self.path(blob.digest))

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A directory on the store's file system, removed when the block ends."""
        self._prepare()
        with disk_faults("Writing to the image store", self.root):
            place = Path(tempfile.mkdtemp(dir=self.unfinished))
            try:
                yield place
            finally:
                shutil.rmtree(place, ignore_errors=True)

    def _prepare(self) -> None:
        with disk_faults("Making the image store", self.root):
            self.directory.mkdir(parents=True, exist_ok=True)
            self.unfinished.mkdir(exist_ok=True)


class BlobWriter:
    """Hashes what it writes; `digest` and `size` tell of everything written so far."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hash = Sha256()
        self._stopped = False
        self._sent = 0
        self.size = 0

    @property
    def digest(self) -> str:
        return "sha256:" + self._hash.hexdigest()

    def write(self, data: bytes | memoryview) -> int:
        if self._stopped:
            raise InterruptedError("The writing was stopped.")
        self._hash.update(data)
        self.size += len(data)
        written = self._stream.write(data)
        if self.size - self._sent >= _PIECE:
            # The disk begins with what is written already, so that the sync in the end has little to wait for: no page
            # of it is clean yet, which are all that this call gives up.
            os.posix_fadvise(self._stream.fileno(), self._sent, self.size - self._sent, os.POSIX_FADV_DONTNEED)
            self._sent = self.size
        return written

    def stop(self) -> None:
        """Lets the next `write` of whichever thread raise InterruptedError."""
        self._stopped = True

    def close(self) -> None:
        """Ends the hashing; the stream stays open."""
        self._hash.close()


class _Verified(io.RawIOBase):
    """Passes a file on and compares its hash at its end."""

    def __init__(self, raw: io.FileIO, digest: str, path: Path) -> None:
        self._raw = raw
        self._hash = hashlib.sha256()
        self._digest = digest
        self._path = path

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        count = self._raw.readinto(buffer) or 0
        if count:
            self._hash.update(memoryview(buffer)[:count])
        elif "sha256:" + self._hash.hexdigest() != self._digest:
            raise damaged(self._digest, self._path)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def damaged(digest: str, path: Path) -> EnvironmentFault:
    """The error for a blob whose content is not what its name says."""
    return EnvironmentFault(
        "store-corrupt",
        f"The blob {digest} in the image store is damaged.",
        f"Delete {path}, then build (or pull) the image that needs it again.",
    )


def missing(digest: str, path: Path) -> EnvironmentFault:
    """The error for a blob that an image names and the store lacks."""
    return EnvironmentFault(
        "store-corrupt",
        f"The image store lacks the blob {digest} (expected at {path}).",
        "Build (or pull) the image that needs it again; `mpack rm` removes the broken one.",
    )
