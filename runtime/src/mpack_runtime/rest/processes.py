"""What the kernel says about the server's processes, read from /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Process:
    """`cpu` is seconds used so far, `started` seconds since the epoch, `resident` bytes (pages that processes share
    count in each), `files` open file descriptors, None where they may not be read."""

    cpu: float
    started: float
    resident: int
    files: int | None


def read(pid: int) -> Process | None:
    """The process as it is now; None if it is gone or /proc cannot be read."""
    folder = Path("/proc") / str(pid)
    try:
        # The name, in parentheses, may hold blanks: fields are counted from behind it.
        fields = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        cpu = (int(fields[11]) + int(fields[12])) / _TICKS
        return Process(cpu, _booted() + int(fields[19]) / _TICKS, int(fields[21]) * _PAGE, _files(folder))
    except (OSError, IndexError, ValueError):
        return None


def _booted() -> float:
    """When the machine was started, in seconds since the epoch."""
    for line in Path("/proc/stat").read_text("utf-8").splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    raise ValueError("/proc/stat has no btime")


def _files(folder: Path) -> int | None:
    try:
        return sum(1 for _ in (folder / "fd").iterdir())
    except OSError:
        return None
