"""JSON files that can be made again: a damaged one is a missing one, and one that cannot be written costs only time."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from mpack.oci.files import write_whole


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file, or None. Reading it keeps it from being pruned."""
    try:
        found = json.loads(path.read_bytes())
        os.utime(path)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Keeps an object."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(value).encode())
    except OSError:
        pass


def prune(directory: Path, older_than: float) -> None:
    """Forgets what was of no use for `older_than` seconds."""
    limit = time.time() - older_than
    for path in directory.glob("*"):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime <= limit:
                path.unlink()
