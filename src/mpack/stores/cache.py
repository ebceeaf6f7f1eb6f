"""Fetched objects by their content, what each address last had, and downloads that broke off.

artifacts/blobs/SHA256      whole objects, read where they are
artifacts/seen/KEY          address and version -> the blob, as JSON
artifacts/partial/KEY       what is there of an object; KEY.lock is locked by who is fetching it.
                                KEY.RANDOM is of an object without a version: it is fetched from the beginning each time
artifacts/lock              locked, shared, by who reads blobs
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from mpack.contents import sha256_file
from mpack.pruning import Prunable
from mpack.records import dataclass

#: Seconds after which a download that broke off is no longer gone on with.
_STALE = 7 * 86400


@dataclass(frozen=True)
class Blob:
    """A whole object: where it is, and its SHA-256 (hex)."""

    path: Path
    sha256: str


class ArtifactCache:
    """The cache below `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def default(cls) -> ArtifactCache:
        """The user's."""
        from mpack.paths import cache_dir

        return cls(cache_dir() / "artifacts")

    @contextmanager
    def held(self) -> Iterator[None]:
        """While it is held, by however many processes, nothing is pruned."""
        with self._locked("lock", fcntl.LOCK_SH):
            yield

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """True if nobody reads or fetches; nobody then does until the block ends."""
        try:
            with self._locked("lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
                yield True
        except BlockingIOError:
            yield False

    @contextmanager
    def fetching(self, key: str) -> Iterator[Path]:
        """Where what is fetched of an object is kept; others who want the same one wait until the block ends."""
        with self._locked(f"partial/{key}.lock", fcntl.LOCK_EX):
            yield self.directory / "partial" / key

    def alone_in(self, key: str) -> Path:
        """An empty file for what is not gone on with; process ids would be the same in two containers."""
        folder = self.directory / "partial"
        self._make(folder)
        descriptor, name = tempfile.mkstemp(dir=folder, prefix=f"{key}.")
        os.close(descriptor)
        return Path(name)

    def _make(self, folder: Path) -> None:
        """The folder; no other user looks into the cache, whose objects took credentials to fetch."""
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        self.directory.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def _locked(self, name: str, how: int) -> Iterator[None]:
        path = self.directory / name
        self._make(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)

    def find(self, key: str) -> Blob | None:
        """The object that was fetched under this key, if it is whole. Asking for it keeps it from being pruned."""
        seen = self._seen(key)
        try:
            record = json.loads(seen.read_bytes())
            sha256, state = record["sha256"], record["state"]
            path = self.directory / "blobs" / sha256
            if _state(path) != state:
                if sha256_file(path) != sha256:
                    path.unlink()
                    return None
                self._write(key, sha256)
            else:
                os.utime(seen)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Blob(path, sha256)

    def keep(self, path: Path, sha256: str, key: str | None) -> Blob:
        """Makes a file below this directory a blob; it is found again by `key`, if there is one. Raises OSError."""
        blob = self.directory / "blobs" / sha256
        blob.parent.mkdir(parents=True, exist_ok=True)
        if blob.is_file() and blob.stat().st_size == path.stat().st_size:
            # Somebody may be reading it: it stays, if it is what it should be.
            if sha256_file(blob) == sha256:
                path.unlink()
            else:
                path.replace(blob)
        else:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            path.replace(blob)
        if key is not None:
            self._write(key, sha256)
        return Blob(blob, sha256)

    def _write(self, key: str, sha256: str) -> None:
        seen = self._seen(key)
        seen.parent.mkdir(parents=True, exist_ok=True)
        data = json.dumps({"sha256": sha256, "state": _state(self.directory / "blobs" / sha256)})
        descriptor, name = tempfile.mkstemp(dir=seen.parent, prefix=".")
        with os.fdopen(descriptor, "w") as stream:
            stream.write(data)
        Path(name).replace(seen)

    def _seen(self, key: str) -> Path:
        return self.directory / "seen" / key

    def forget_stale(self) -> None:
        """Removes downloads that broke off a week ago and before, and those that cannot be gone on with."""
        with self.alone() as alone:
            for path in (self.directory / "partial").glob("*") if alone else ():
                with suppress(OSError):
                    if path.suffix or time.time() - path.stat().st_mtime > _STALE:
                        path.unlink()

    def entries(self) -> list[Prunable]:
        """One an object, whole or not. The caller is alone when it removes them."""
        used: dict[str, tuple[float, list[Path]]] = {}
        for path in (self.directory / "seen").glob("*"):
            with suppress(OSError, ValueError, KeyError, TypeError):
                sha256, when = json.loads(path.read_bytes())["sha256"], path.stat().st_mtime
                before, paths = used.get(sha256, (0.0, []))
                used[sha256] = max(before, when), [*paths, path]
        found = []
        for folder in ("blobs", "partial"):
            for path in (self.directory / folder).glob("*"):
                if path.suffix == ".lock":
                    continue
                with suppress(OSError):
                    state = path.stat()
                    when, more = (
                        used.get(path.name, (state.st_mtime, [])) if folder == "blobs" else (state.st_mtime, [])
                    )
                    found.append(Prunable(state.st_size, when, partial(_remove, [*more, path])))
        return found


def key_of(*parts: str) -> str:
    """The name of an object in the cache: a hash, for what it is made of may be secret."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def _state(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_ino, found.st_size, found.st_mtime_ns]


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
