"""Where mpack keeps things, by the XDG rules. `MPACK_HOME` puts all three under one directory."""

from __future__ import annotations

import os
from pathlib import Path

from mpack.errors import EnvironmentFault


def _directory(kind: str) -> Path:
    if home := os.environ.get("MPACK_HOME"):
        return Path(home) / kind
    import platformdirs

    made = {
        "data": platformdirs.user_data_path,
        "cache": platformdirs.user_cache_path,
        "state": platformdirs.user_state_path,
    }
    try:
        return made[kind]("mpack")
    except RuntimeError as error:
        # A user id without an entry in passwd, as containers often run: there is no place to fall back to.
        raise EnvironmentFault(
            "disk-unwritable",
            "This user has no home directory, so there is no place for mpack's images and caches.",
            "Set HOME, or MPACK_HOME to a directory of its own.",
        ) from error


def data_dir() -> Path:
    """The image store's place: what must last."""
    return _directory("data")


def cache_dir() -> Path:
    """What can be made again."""
    return _directory("cache")


def state_dir() -> Path:
    """Locks of artifacts that stand where nothing can be written."""
    return _directory("state")
