"""The files of the journal: `<stream>/<name>/<version>/year=YYYY/month=MM/day=DD/YYYYMMDDHH_<n>.json`, in UTC.

Each has JSON lines and one writer; a new one begins with each hour, and when one is full. Nobody writes to a file that
another made, so any number of workers, and of replicas on one volume, get along.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mpack_runtime.errors import SettingsError

#: Streams times versions that feedback comes for; beyond that the file that was begun first is closed.
_OPEN = 16


@dataclass
class _Open:
    hour: str
    descriptor: int
    size: int


class Files:
    """Files below `root` of about `rotate` bytes each. Raises SettingsError where nothing can be written there."""

    def __init__(self, root: Path, name: str, rotate: int) -> None:
        self._root = root
        self._name = segment(name)
        self._rotate = rotate
        self._open: dict[tuple[str, str], _Open] = {}
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"MPACK_LOG_DIR is {str(root)!r}, which cannot be made: {error.strerror}.") from error
        if not os.access(root, os.W_OK | os.X_OK):
            raise SettingsError(f"MPACK_LOG_DIR is {str(root)!r}, where user {os.geteuid()} may not write.")

    def write(self, stream: str, version: str, when: float, line: bytes) -> None:
        """Appends one line, whole or not at all. `when` is seconds since the epoch. Raises OSError."""
        key, hour = (stream, segment(version)), time.strftime("%Y%m%d%H", time.gmtime(when))
        file = self._open.get(key)
        if file is None or file.hour != hour or file.size >= self._rotate:
            file = self._begin(key, hour)
        data = memoryview(line + b"\n")
        try:
            done = 0
            while done < len(data):
                done += os.write(file.descriptor, data[done:])
        except OSError:
            # Half a line would be glued to the next: the file ends where it was, and the next line begins another.
            self._open.pop(key)
            try:
                os.ftruncate(file.descriptor, file.size)
            finally:
                os.close(file.descriptor)
            raise
        file.size += len(data)

    def close(self) -> None:
        """Closes all of them."""
        for file in self._open.values():
            os.close(file.descriptor)
        self._open.clear()

    def _begin(self, key: tuple[str, str], hour: str) -> _Open:
        if key in self._open or len(self._open) >= _OPEN:
            os.close(self._open.pop(key if key in self._open else next(iter(self._open))).descriptor)
        stream, version = key
        folder = self._root / stream / self._name / version
        folder = folder / f"year={hour[:4]}" / f"month={hour[4:6]}" / f"day={hour[6:8]}"
        folder.mkdir(parents=True, exist_ok=True)
        taken = [re.fullmatch(rf"{hour}_([0-9]+)\.json", path.name) for path in folder.iterdir()]
        number = max((int(match[1]) for match in taken if match), default=-1) + 1
        while True:
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
                descriptor = os.open(folder / f"{hour}_{number}.json", flags, 0o640)
                break
            except FileExistsError:
                number += 1
        self._open[key] = _Open(hour, descriptor, 0)
        return self._open[key]


@lru_cache(maxsize=64)
def segment(text: str) -> str:
    """Text as the name of a directory: other characters than letters, digits and ._+- become -, 128 of them at most."""
    name = re.sub(r"[^A-Za-z0-9._+-]", "-", text)[:128]
    return name if name.strip(".") else "-"
