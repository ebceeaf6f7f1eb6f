"""What is installed: versions, requirements and entry points, as `importlib.metadata` tells them.

Importing that, with the email package, and parsing whole METADATA files takes longer than all that a build asks here.
So the directories `NAME-VERSION.dist-info` on `sys.path` are read as they stand, the first of a name counts, and
`importlib.metadata` itself is asked where something else may know of distributions: an archive on the path, a finder of
somebody else's, metadata of another form.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from mpack.records import dataclass

_DIST = ".dist-info"


@dataclass(frozen=True)
class EntryPoint:
    """`name = value` in a distribution's entry points; `place` is its metadata directory, None if it is no directory,
    and then `owner` is its name and version."""

    name: str
    value: str
    place: str | None
    owner: str = "an unknown distribution"

    @property
    def module(self) -> str:
        return self.value.partition("[")[0].partition(":")[0].strip()

    @property
    def distribution(self) -> str:
        """The distribution's name and version."""
        if self.place is None:
            return self.owner
        head = _head(Path(self.place))
        return f"{head['name'][0]} {head['version'][0]}" if {"name", "version"} <= set(head) else self.owner

    def load(self) -> Any:
        """The object. Raises whatever importing its module does, AttributeError if it is not there."""
        found: Any = import_module(self.module)
        for part in self.value.partition("[")[0].partition(":")[2].strip().split("."):
            found = getattr(found, part) if part else found
        return found


@lru_cache(maxsize=4)
def entry_points(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points of a group, one of mpack's, among the distributions on `path`, which is `sys.path`."""
    folders = _folders(path)
    if folders is not None:
        return tuple(point for section, point in _points(folders) if section == group)
    from importlib import metadata

    return tuple(
        EntryPoint(item.name, item.value, None, f"{item.dist.name} {item.dist.version}" if item.dist else "")
        for item in metadata.entry_points(group=group)
    )


def version(name: str) -> str:
    """A distribution's version. Raises PackageNotFoundError, a ModuleNotFoundError."""
    found = _headers(name).get("version")
    if found:
        return found[0]
    from importlib import metadata

    return metadata.version(name)


def requires(name: str) -> list[str]:
    """A distribution's requirements, as it writes them. Raises as `version`."""
    found = _headers(name)
    if "version" in found:
        return found.get("requires-dist", [])
    from importlib import metadata

    return metadata.requires(name) or []


def _headers(name: str) -> dict[str, list[str]]:
    for folder in _folders(tuple(sys.path)) or ():
        if folder.endswith(_DIST) and _key(folder) == name.lower().replace("-", "_"):
            return _head(Path(folder))
    return {}


@lru_cache(maxsize=4)
def _folders(path: tuple[str, ...]) -> tuple[str, ...] | None:
    """The metadata directories on `path`, the first of each name; None where not all of them would be seen."""
    if any(hasattr(finder, "find_distributions") and finder is not PathFinder for finder in sys.meta_path):
        return None
    found: dict[str, str] = {}
    for place in path:
        try:
            with os.scandir(place or ".") as items:
                names = [item.name for item in items]
        except NotADirectoryError:
            return None
        except OSError:
            continue
        for name in names:
            if name.endswith((_DIST, ".egg-info")):
                folder = os.path.join(place, name)  # noqa: PTH118
                found.setdefault(_key(folder), folder)
            elif name.endswith(".egg"):
                return None
    return tuple(found.values())


def _key(folder: str) -> str:
    """The name that a metadata directory's name begins with, as installers write it."""
    stem = os.path.basename(folder).rpartition(".")[0]  # noqa: PTH119
    return stem.partition("-")[0].lower().replace(".", "_")


@lru_cache(maxsize=2)
def _points(folders: tuple[str, ...]) -> tuple[tuple[str, EntryPoint], ...]:
    """Every group and entry point of mpack's there."""
    found: list[tuple[str, EntryPoint]] = []
    for folder in folders:
        try:
            with open(f"{folder}/entry_points.txt", encoding="utf-8") as stream:  # noqa: PTH123
                text = stream.read()
        except (OSError, UnicodeDecodeError):
            continue
        section = ""
        for line in map(str.strip, text.splitlines() if "[mpack." in text else ()):
            if line.startswith("[") and line.endswith("]"):
                section = line[1:-1]
            elif line and not line.startswith("#"):
                name, _, value = line.partition("=")
                found.append((section, EntryPoint(name.strip(), value.strip(), folder)))
    return tuple(found)


def _head(folder: Path) -> dict[str, list[str]]:
    """The headers of a METADATA file by their lower-case names; none where it cannot be read."""
    found: dict[str, list[str]] = {}
    try:
        with (folder / "METADATA").open(encoding="utf-8") as stream:
            for line in map(str.rstrip, stream):
                if not line:
                    return found
                key, _, value = line.partition(":")
                found.setdefault(key.lower(), []).append(value.strip())
    except (OSError, UnicodeDecodeError):
        return {}
    return found
