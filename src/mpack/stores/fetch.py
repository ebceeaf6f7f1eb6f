"""A remote artifact's files into the cache: gone on with where a download broke off, checked, several at a time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread

from mpack.errors import disk_fault
from mpack.progress import Transfer
from mpack.stores import faults
from mpack.stores.cache import ArtifactCache, Blob, key_of
from mpack.stores.model import Bounds, Remote, RemoteFile
from mpack.stores.part import Damaged, Part

#: Objects of a directory that are fetched at once.
PARALLEL = 8


class Stopped(Exception):
    """Another file of the artifact failed, or the user broke off."""


class Fetch:
    """One artifact's fetch. What is told to `transfer` are bytes."""

    def __init__(self, remote: Remote, bounds: Bounds, cache: ArtifactCache, transfer: Transfer) -> None:
        self._remote = remote
        self._bounds = bounds
        self._cache = cache
        self._transfer = transfer
        self._stop = Event()
        self._total = 0
        self._counting = Lock()

    def all(self, files: Sequence[RemoteFile]) -> list[Blob]:
        """The files' contents, in order. The caller holds the cache.

        Raises what the store raises, EnvironmentFault download-failed, disk-full or disk-unwritable, and InputError
        artifact-too-large; what came of a file by then is kept for the next time.
        """
        if len(files) == 1:
            return [self._one(files[0])]
        waiting: SimpleQueue[int] = SimpleQueue()
        done: SimpleQueue[tuple[int, Blob | BaseException]] = SimpleQueue()
        for number in range(len(files)):
            waiting.put(number)
        for _ in range(min(PARALLEL, len(files))):
            Thread(target=self._work, args=(files, waiting, done), daemon=True).start()
        found: dict[int, Blob] = {}
        try:
            while len(found) < len(files):
                number, result = done.get()
                if isinstance(result, BaseException):
                    raise result
                found[number] = result
        finally:
            self._stop.set()
        return [found[number] for number in range(len(files))]

    def _work(
        self,
        files: Sequence[RemoteFile],
        waiting: SimpleQueue[int],
        done: SimpleQueue[tuple[int, Blob | BaseException]],
    ) -> None:
        while not self._stop.is_set():
            try:
                number = waiting.get_nowait()
            except Empty:
                return
            try:
                done.put((number, self._one(files[number])))
            except BaseException as error:
                done.put((number, error))
                return

    def _one(self, file: RemoteFile) -> Blob:
        """One file, of the cache if it has this version."""
        key = key_of(self._remote.identity, file.key, file.version, str(file.size))
        try:
            if not file.version:
                path = self._cache.alone_in(key)
                try:
                    return self._cache.keep(path, self._whole(file, path), None)
                finally:
                    path.unlink(missing_ok=True)
            if (found := self._cache.find(key)) is None:
                with self._cache.fetching(key) as path:
                    # Whoever had the lock before may have fetched it.
                    if (found := self._cache.find(key)) is None:
                        return self._cache.keep(path, self._whole(file, path), key)
            self._transfer.add(file.size or 0)
        except OSError as error:
            raise _disk(error, self._name(file)) from error
        return found

    def _whole(self, file: RemoteFile, path: Path) -> str:
        """Fetches what `path` lacks of the file; its SHA-256 (hex)."""
        with path.open("r+b" if path.exists() else "w+b") as output:
            part = Part(file, self._name(file), output, self._came)
            try:
                return part.complete(self._remote.store)
            except (OSError, Damaged) as error:
                # A full disk is no place to keep halves.
                path.unlink(missing_ok=True)
                if isinstance(error, OSError):
                    raise
                hint = "It was damaged on the way, or in the store. Try again."
                raise faults.failed(self._name(file), str(error), hint) from None
            finally:
                part.close()

    def _name(self, file: RemoteFile) -> str:
        return f"{self._remote.uri.rstrip('/')}/{file.path}" if self._remote.directory else self._remote.uri

    def _came(self, name: str, count: int, now: int) -> None:
        """Counts `count` bytes more of the file `name`, which is `now` bytes long."""
        if self._stop.is_set():
            raise Stopped
        with self._counting:
            self._total += count
            much = max(now, self._total) > self._bounds.total
        if much:
            raise faults.too_large(name, self._bounds)
        self._transfer.add(count)


def _disk(error: OSError, name: str) -> Exception:
    with suppress(AttributeError):
        if error.filename is None:
            error.filename = "the cache"
    return disk_fault(error, f"Keeping {name}", "Choose another place with MPACK_HOME.")
