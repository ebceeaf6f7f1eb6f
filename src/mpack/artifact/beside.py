"""Finding mpack.toml beside an artifact; most have none, and then nothing of `overrides` need be loaded."""

from __future__ import annotations

from pathlib import Path

from mpack.address import is_remote

FILE_NAME = "mpack.toml"


def find_beside(location: str) -> Path | None:
    """The mpack.toml beside an artifact, by the rule in `mpack.artifact.overrides`."""
    if is_remote(location) or not location:
        return None
    path = Path(location).absolute()
    if path.name in ("", ".."):
        path = path.resolve()
    named = path.parent / f"{path.name}.{FILE_NAME}"
    common = path.parent / FILE_NAME
    try:
        if named.is_file():
            return named
        return common if path.is_file() and path != common and common.is_file() else None
    except OSError:
        # A name too long, a directory closed to us: opening the artifact itself says so better.
        return None
