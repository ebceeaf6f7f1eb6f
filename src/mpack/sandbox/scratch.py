"""Directories of work under way, each locked by its process: what a killed one left is found and removed."""

# ruff: noqa: PTH101, PTH104, PTH106, PTH108 - os, not pathlib: thousands of files
from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mpack.engine import Docker
from mpack.errors import EnvironmentFault
from mpack.oci.files import disk_faults

PREFIX = "run-"
#: runc's own records of what runs in a directory, and "ENGINE ID" of the image that one was given for it.
STATE, LOADED = "state", "loaded"
#: Why a directory cannot be locked that is gone, or that another process holds.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EWOULDBLOCK)


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A directory below `parent`, removed at the end. The file system's refusals are EnvironmentFaults."""
    with disk_faults("Making a directory to run in", parent):
        parent.mkdir(parents=True, exist_ok=True)
        place, lock = _make(parent)
    try:
        yield place
    finally:
        try:
            remove(place)
        finally:
            os.close(lock)


def sweep(parent: Path) -> int:
    """Ends and removes what killed processes left below `parent`; how many directories these were.

    One that cannot be locked or removed, or whose image is still in an engine that does not answer now, stays.
    """
    count = 0
    for place in parent.glob(f"{PREFIX}*"):
        lock = None
        with suppress(EnvironmentFault):
            lock = locked(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if lock is None:
            continue
        try:
            _end_runc(place / STATE)
            if _unloaded(place / LOADED):
                remove(place)
                count += not place.exists()
        finally:
            os.close(lock)
    return count


def locked(place: Path, how: int) -> int | None:
    """A descriptor that holds a lock on a directory; None where it is gone, or (LOCK_NB) another holds it.

    Raises EnvironmentFault disk-unwritable where it cannot be told, as on a file system without locks.
    """
    descriptor = None
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, how)
        # While this waited, the directory may have been removed, and another have taken its name.
        if os.path.samestat(os.fstat(descriptor), place.stat()):
            held, descriptor = descriptor, None
            return held
    except OSError as error:
        if error.errno not in _ABSENT:
            raise EnvironmentFault(
                "disk-unwritable",
                f"The directory {place} cannot be locked: {error.strerror}.",
                "Name a directory on a local disk in MPACK_HOME, or mount this one with locks (NFS: without nolock).",
            ) from error
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return None


def remove(place: Path) -> None:
    """Removes a tree of any depth, even where it has directories without write permission; what cannot go is left."""
    # Every directory is moved up before it is read: nothing recurses, and no path grows too long.
    mark, count, pending = uuid.uuid4().hex, 0, [str(place)]
    while pending:
        directory = pending.pop()
        found: list[os.DirEntry[str]] = []
        with suppress(OSError):
            os.chmod(directory, 0o700)
            with os.scandir(directory) as items:
                found = list(items)
        for item in found:
            with suppress(OSError):
                if not item.is_dir(follow_symlinks=False):
                    os.unlink(item.path)
                    continue
                os.chmod(item.path, 0o700)
                count += 1
                moved = f"{place}/{mark}-{count}"
                os.rename(item.path, moved)
                pending.append(moved)
        with suppress(OSError):
            os.rmdir(directory)
    with suppress(OSError):
        os.rmdir(place)


def _make(parent: Path) -> tuple[Path, int]:
    while True:
        place = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        try:
            lock = locked(place, fcntl.LOCK_EX)
        except BaseException:
            place.rmdir()
            raise
        if lock is not None:
            return place, lock


def _unloaded(note: Path) -> bool:
    """Removes the image that an engine was given, if that is noted; False while the engine does not."""
    try:
        engine, _, image = note.read_text().partition(" ")
    except FileNotFoundError:
        return True
    if engine == "podman":
        podman = shutil.which(engine)
        return podman is not None and subprocess.run([podman, "image", "rm", image], capture_output=True).returncode < 2
    docker = Docker.answering()
    if docker is None:
        return False
    docker.remove_untagged(image)
    found = docker.inspect(image)
    return found is None or bool(found.get("RepoTags"))


def _end_runc(state: Path) -> None:
    """Kills the containers that runc has records of in a directory."""
    runc = shutil.which("runc")
    if runc is None or not state.is_dir():
        return
    for container in state.iterdir():
        subprocess.run([runc, "--root", str(state), "delete", "--force", container.name], capture_output=True)
