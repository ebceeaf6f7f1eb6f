"""Directories of work under way, each locked by its process: what a killed one left is found and removed."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mpack.engine import Docker
from mpack.oci.files import disk_faults

PREFIX = "run-"
#: runc's own records of what runs in a directory, and "ENGINE ID" of the image that one was given for it.
STATE, LOADED = "state", "loaded"


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A directory below `parent`, removed at the end. The file system's refusals are EnvironmentFaults."""
    with disk_faults("Making a directory to run in", parent):
        parent.mkdir(parents=True, exist_ok=True)
        place, lock = _make(parent)
    try:
        yield place
    finally:
        remove(place)
        os.close(lock)


def sweep(parent: Path) -> int:
    """Ends and removes what killed processes left below `parent`; how many directories these were.

    One whose image is still in an engine that does not answer now stays.
    """
    count = 0
    for place in parent.glob(f"{PREFIX}*"):
        lock = locked(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if lock is None:
            continue
        try:
            _end_runc(place / STATE)
            if _unloaded(place / LOADED):
                remove(place)
                count += 1
        finally:
            os.close(lock)
    return count


def locked(place: Path, how: int) -> int | None:
    """A descriptor that holds a lock on a directory; None where it is gone, or (LOCK_NB) another holds it."""
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, how)
        # While this waited, the directory may have been removed, and another have taken its name.
        if os.path.samestat(os.fstat(descriptor), place.stat()):
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def remove(place: Path) -> None:
    """Removes a tree even where it has directories without write permission; what cannot go is left."""

    def retry(function: Any, path: str, _error: Any) -> None:
        with suppress(OSError):
            Path(path).parent.chmod(0o700)
            if Path(path).is_dir() and not Path(path).is_symlink():
                Path(path).chmod(0o700)
                shutil.rmtree(path, ignore_errors=True)
            else:
                function(path)

    shutil.rmtree(place, onerror=retry)


def _make(parent: Path) -> tuple[Path, int]:
    while True:
        place = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        lock = locked(place, fcntl.LOCK_EX)
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
