"""This start's shared memory, and what starts before it left behind. Standard library only.

The Python backend keeps a file in /dev/shm for each of its processes, and a killed server leaves it there. Every start
gives its files a prefix of its own and holds a lock on a file of that prefix, which the server's processes inherit. A
prefix whose lock is free belongs to nobody who lives; that holds for containers that share one /dev/shm, too.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from pathlib import Path

from mpack_runtime.errors import LoadFailure

ROOT = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory is
_NAME, _LOCK = "mpack-triton-", "lock"


class Regions:
    """A prefix in /dev/shm. Raises LoadFailure where that cannot be written."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.prefix = f"{_NAME}{uuid.uuid4().hex[:12]}-"
        _remove_stale(root)
        try:
            self.lock = _locked(root / f"{self.prefix}{_LOCK}")
        except OSError as error:
            raise LoadFailure(
                f"Triton needs shared memory, and {root} cannot be written: {error.strerror}. Start the container with"
                " --shm-size=256m, or with a memory volume there."
            ) from error

    def remove(self) -> None:
        """Removes this start's files; call it when its processes are gone."""
        _remove(self.root, self.prefix)
        os.close(self.lock)


def _locked(path: Path) -> int:
    """A locked file that is there: a start that looks for stale ones may take it away between the two steps."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return lock
        os.close(lock)


def _remove_stale(root: Path) -> None:
    """Removes the files of starts whose processes are all gone."""
    for path in root.glob(f"{_NAME}*-{_LOCK}"):
        try:
            lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # another user's, or gone by now
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(root, path.name[: -len(_LOCK)])
        except OSError:  # it lives
            pass
        finally:
            os.close(lock)


def _remove(root: Path, prefix: str) -> None:
    for path in root.glob(f"{prefix}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
