"""Where buildah keeps what it builds with: of mpack's own, used by one build at a time.

<cache>/buildah/<uid>/storage   the bases, and each step of earlier builds
<cache>/buildah/<uid>/work      the build under way
<cache>/buildah/<uid>/lock      held (flock) while one is; its time is that of the last build
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mpack.engine.buildah import remove
from mpack.oci.files import disk_faults, flock
from mpack.paths import cache_dir
from mpack.pruning import Prunable


def storage_dir() -> Path:
    """Where buildah's storage is: without root it holds files of other ids, so each user has one."""
    return cache_dir() / "buildah" / str(os.getuid())


def entries() -> list[Prunable]:
    """The storage as one entry of the caches; removing it while a build uses it does nothing."""
    place = storage_dir()
    if not (place / "storage").is_dir():
        return []
    return [Prunable(_bytes(place), (place / "lock").stat().st_mtime, lambda: _prune(place))]


@contextmanager
def alone(place: Path, report: Callable[[str], None]) -> Iterator[tuple[Path, int]]:
    """An empty directory for a build, once no other is under way, and the lock; what a killed one left goes first."""
    with disk_faults("Making a place for buildah", place):
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            what, hint = f"The directory {place}", "Name a directory on a local disk in MPACK_HOME"
            try:
                flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, what, hint)
            except BlockingIOError:
                report("another build uses buildah: waiting for it")
                flock(lock, fcntl.LOCK_EX, what, hint)
            os.utime(lock)
            work = place / "work"
            remove(work)
            work.mkdir(mode=0o700)
            try:
                yield work, lock
            finally:
                remove(work)
        finally:
            os.close(lock)


def _bytes(place: Path) -> int:
    total = 0
    for top, _, names in os.walk(place):
        for name in names:
            with suppress(OSError):
                total += os.lstat(f"{top}/{name}").st_size
    return total


def _prune(place: Path) -> None:
    with suppress(OSError):
        lock = os.open(place / "lock", os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for name in ("work", "storage"):
                remove(place / name)
        finally:
            os.close(lock)
