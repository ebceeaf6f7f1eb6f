"""Artifacts for the tests of formats: a Tree of files with given contents."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from mpack import contents
from mpack.artifact.model import ArtifactFile, Tree
from mpack.contents import sha256_bytes


def tree_of_files(directory: Path, files: Mapping[str, bytes | str], title: str = "model") -> Tree:
    """Writes the files below `directory` and gives them as an opened artifact."""
    entries = {}
    for path, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        entries[path] = ArtifactFile(path, len(data), sha256_bytes(data), target)
    return Tree(entries, title)


def tree_of_folder(folder: Path) -> Tree:
    """A folder (or one file) as it is, as an opened artifact."""
    paths = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    root = folder.parent if folder.is_file() else folder
    entries = {}
    for path in paths:
        name = path.relative_to(root).as_posix()
        entries[name] = ArtifactFile(name, path.stat().st_size, sha256_bytes(path.read_bytes()), path)
    return Tree(entries, folder.stem)


def wait_for_rest(path: Path) -> None:
    """Returns when the file's last change is long enough ago; a ctime cannot be set back."""
    while time.time_ns() - path.stat().st_ctime_ns <= contents._SETTLED:
        time.sleep(0.05)
