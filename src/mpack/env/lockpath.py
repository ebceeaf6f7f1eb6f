"""Where the lock file of an artifact is."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from mpack.address import is_remote, public

LOCK_SUFFIX = ".mpack.lock"


def is_pylock(path: Path) -> bool:
    """True for a file that is a pylock.toml by its name, which PEP 751 prescribes."""
    return re.fullmatch(r"pylock(\.[^.]+)?\.toml", path.name) is not None


def is_conda_lock(path: Path) -> bool:
    """True for a file that is a conda-lock.yml by its name, as conda-lock wants it."""
    return re.fullmatch(r"([^/]+\.)?conda-lock\.ya?ml", path.name) is not None


def lock_path(location: str) -> Path:
    """Where an artifact's lock is: beside it, or under the state directory for URLs and read-only places."""
    from mpack.paths import state_dir

    if not is_remote(location) and "://" not in location:
        beside = Path(location.rstrip("/"))
        beside = beside.resolve() if beside.name in ("", ".", "..") else beside
        path = beside.with_name(beside.name + LOCK_SUFFIX)
        if path.exists() or os.access(path.parent, os.W_OK):
            return path
        location = str(beside.resolve())
    location = public(location)
    return state_dir() / "locks" / f"{hashlib.sha256(location.encode()).hexdigest()[:32]}{LOCK_SUFFIX}"
