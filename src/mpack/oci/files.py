"""Writing files so that a reader sees the old or the new one, never half of one; a full disk in plain words."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from mpack.errors import EnvironmentFault


@contextmanager
def disk_faults(doing: str, place: Path) -> Iterator[None]:
    """Turns "no space left" into EnvironmentFault disk-full, a refused write below `place` into disk-unwritable."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EnvironmentFault(
                "disk-full",
                f"{doing} failed: no space is left for {place}.",
                "Free some with `mpack rm --older-than 7d` and `mpack cache prune`; MPACK_HOME (for temporary files "
                "TMPDIR) may name a larger disk.",
            ) from error
        refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST)
        if refused and (error.filename is None or Path(error.filename).is_relative_to(place)):
            raise EnvironmentFault(
                "disk-unwritable",
                f"{doing} failed: {error.filename or place} cannot be written ({error.strerror}).",
                "Give this user the right to write there, or choose another place (MPACK_HOME for the store).",
            ) from error
        raise


def flock(descriptor: int, how: int, what: str, hint: str) -> None:
    """Locks an open file. Raises BlockingIOError as asked for, EnvironmentFault disk-unwritable without file locks."""
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        raise
    except OSError as error:
        raise EnvironmentFault(
            "disk-unwritable",
            f"{what} cannot be locked: its file system has no file locks ({error.strerror}).",
            f"{hint}, or mount this one with locks (NFS: without nolock).",
        ) from error


@contextmanager
def alone_in(directory: Path, hint: str) -> Iterator[None]:
    """Waits until no other mpack changes files of a directory; then none does until the block ends. Raises as `flock`,
    and OSError for what is no directory."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        flock(descriptor, fcntl.LOCK_EX, f"The directory {directory}", hint)
        yield
    finally:
        os.close(descriptor)


class Unfinished:
    """A nameless file in `directory`: `become` gives it its name in one step; without that it is gone at the end."""

    def __init__(self, directory: Path) -> None:
        descriptor, name = tempfile.mkstemp(dir=directory, prefix=".mpack-")
        self.stream = os.fdopen(descriptor, "wb")
        self._path = Path(name)

    def become(self, path: Path) -> None:
        """Syncs the content and renames the file to `path`, which lasts through a power cut."""
        self.become_whole(path)
        sync_directory(path.parent)

    def become_whole(self, path: Path, *, sync: bool = True) -> None:
        """As `become`; the name lasts once its directory is synced. Not `sync`: nor the content, until the system syncs
        it, so what is read then must tell whether it is whole."""
        self.stream.flush()
        os.fchmod(self.stream.fileno(), 0o644)
        if sync:
            os.fsync(self.stream.fileno())
        self.stream.close()
        self._path.replace(path)

    def __enter__(self) -> Unfinished:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stream.close()
        finally:
            self._path.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes, *, lasting: bool = True) -> None:
    """Replaces a small file in one step. Not `lasting`: a power cut may take it away or damage it."""
    with Unfinished(path.parent) as file:
        file.stream.write(data)
        if lasting:
            file.become(path)
        else:
            file.become_whole(path, sync=False)


def sync_directory(directory: Path) -> None:
    """Makes a rename in `directory` last through a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
