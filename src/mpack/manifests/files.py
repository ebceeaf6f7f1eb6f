"""The files that manifests are read from: what is named, what a directory holds, and their text."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from mpack.records import dataclass

#: Bytes: no manifest is larger.
MAX_BYTES = 4 << 20
#: In a directory, a file with one of these suffixes must be readable; any other may be a manifest.
SUFFIXES = (".yaml", ".yml", ".json")
_KINDS = {
    stat.S_ISDIR: "a directory",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


class Unreadable(Exception):
    """A file is not read; the text is why, a clause."""


@dataclass(frozen=True)
class Source:
    """A file to read. `listed`: it is there because its directory was named; `likely`: its suffix is a manifest's."""

    path: Path
    listed: bool = False
    likely: bool = True


def sources(files: Iterable[Path], directories: Iterable[Path]) -> Iterator[Source | tuple[Path, str]]:
    """Every file once, in the order given, those of a directory by name; or (path, why not)."""
    seen: set[tuple[int, int]] = set()
    for path, listed in [*((Path(item), False) for item in files), *((Path(item), True) for item in directories)]:
        try:
            mode = path.stat().st_mode
        except (OSError, ValueError) as error:
            yield path, _reason(error)
            continue
        if not stat.S_ISDIR(mode):
            if listed:
                yield path, "it is not a directory; name a file with -f"
            elif _new(path, seen):
                yield Source(path)
            continue
        try:
            found = _listed(path)
        except OSError as error:
            yield path, _reason(error)
            continue
        for source in found:
            if not source.path.is_dir() and _new(source.path, seen):
                yield source


def _listed(directory: Path) -> list[Source]:
    """What a directory holds, not what its directories do; hidden files and editors' backups are left out."""
    names = sorted(item.name for item in directory.iterdir() if not item.name.startswith(".") and item.name[-1:] != "~")
    return [Source(directory / name, True, name.lower().endswith(SUFFIXES)) for name in names]


def _new(path: Path, seen: set[tuple[int, int]]) -> bool:
    try:
        state = path.stat()
    except OSError:
        return True
    key = (state.st_dev, state.st_ino)
    if key in seen:
        return False
    seen.add(key)
    return True


def read_text(path: Path) -> str:
    """The text of a regular file, without a byte order mark. Raises Unreadable."""
    try:
        # A pipe without a writer would otherwise be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as stream:  # noqa: PTH123
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise Unreadable(f"it is {next((word for test, word in _KINDS.items() if test(mode)), 'no file')}")
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise Unreadable(_reason(error)) from None
    if len(data) > MAX_BYTES:
        raise Unreadable(f"it is larger than {MAX_BYTES >> 20} MiB, which no manifest is")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Unreadable("it is UTF-16: save it as UTF-8")
    if b"\0" in data:
        raise Unreadable(f"it holds a null byte (line {data[: data.index(0)].count(10) + 1})")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise Unreadable(f"it is not UTF-8 (line {line})") from None


def _reason(error: Exception) -> str:
    return f"it cannot be read: {getattr(error, 'strerror', None) or error}"
