"""Writing files so that a reader sees the old or the new one, never half of one; a full disk in plain words."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mpack.errors import EnvironmentFault


@contextmanager
def disk_faults(doing: str, place: Path) -> Iterator[None]:
    """Turns "no space left", "read-only" and "permission denied" into EnvironmentFault disk-full with `place` named."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EnvironmentFault(
                "disk-full",
                f"{doing} failed: no space is left for {place}.",
                "Free some with `mpack rm --older-than 7d` and `mpack cache prune`, or set MPACK_HOME to a larger disk.",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and error.filename is not None:
            raise EnvironmentFault(
                "disk-unwritable",
                f"{doing} failed: {error.filename} cannot be written ({os.strerror(error.errno)}).",
                "Give this user the right to write there, or choose another place (MPACK_HOME for the store).",
            ) from error
        raise


@contextmanager
def replacing(path: Path, *, temporary: Path | None = None, mode: int = 0o644) -> Iterator[BinaryIO]:
    """A stream whose content becomes `path` in one step when the block ends well; otherwise nothing is left.

    `temporary` is a directory of the same file system for the unfinished file (default: beside `path`).
    """
    descriptor, name = tempfile.mkstemp(dir=temporary or path.parent, prefix=".mpack-")
    unfinished = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        unfinished.replace(path)
        sync_directory(path.parent)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def sync_directory(directory: Path) -> None:
    """Makes a rename in `directory` last through a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
