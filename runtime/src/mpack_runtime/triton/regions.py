"""This start's files in memory and in temporary places, and what starts before it left. Standard library only.

The Python backend keeps a file in /dev/shm for each of its processes, and a killed server leaves it there. Every start
gives its files a prefix of its own and holds a lock on a file of that prefix, which the server's processes inherit. A
prefix whose lock is free belongs to nobody who lives; that holds for containers that share one /dev/shm, too.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import uuid
from pathlib import Path

from mpack_runtime.errors import LoadFailure

ROOT = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory is
_NAME, _ID, _LOCK = "mpack-triton-", "[0-9a-f]" * 12, "lock"
_LONGEST = 60  # bytes of a place for unix sockets, whose whole paths have at most 107


class Regions:
    """A prefix in /dev/shm, and a directory `scratch` with that prefix wherever one can be written: $TMPDIR, /tmp, or
    memory. Raises LoadFailure where /dev/shm cannot be written."""

    def __init__(self, root: Path = ROOT) -> None:
        places = [os.environ.get("TMPDIR"), "/tmp"]  # noqa: S108
        self._places = (*(Path(place) for place in places if place), root)
        self.prefix = f"{_NAME}{uuid.uuid4().hex[:12]}-"
        self._remove_stale(root)
        try:
            self.lock = _locked(root / f"{self.prefix}{_LOCK}")
            self.scratch = self._writable()
        except OSError as error:
            raise LoadFailure(
                f"Triton needs shared memory, and {root} cannot be written: {error.strerror}. Start the container with"
                " --shm-size=256m, or with a memory volume there."
            ) from error

    def remove(self) -> None:
        """Removes this start's files; call it when its processes are gone."""
        self._remove(self.prefix)
        os.close(self.lock)

    def _writable(self) -> Path:
        for place in self._places[:-1]:
            if len(os.fsencode(place)) > _LONGEST:
                continue
            try:
                return Path(tempfile.mkdtemp(prefix=self.prefix, dir=place))
            except OSError:
                continue
        return Path(tempfile.mkdtemp(prefix=self.prefix, dir=self._places[-1]))

    def _remove_stale(self, root: Path) -> None:
        """Removes the files of starts whose processes are all gone."""
        for path in root.glob(f"{_NAME}{_ID}-{_LOCK}"):
            try:
                lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except OSError:  # another user's, or gone by now
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._remove(path.name[: -len(_LOCK)])
            except OSError:  # it lives
                pass
            finally:
                os.close(lock)

    def _remove(self, prefix: str) -> None:
        for place in self._places:
            for path in place.glob(f"{prefix}*"):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def _locked(path: Path) -> int:
    """A locked file that is there: a start that looks for stale ones may take it away between the two steps."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return lock
        os.close(lock)
