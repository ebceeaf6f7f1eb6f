"""Figures of one run: medians, ratios, a table, and the machine they were measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

OURS = "mpack"
#: The unit of which more is better; of the others less is.
RATE = "/s"
#: A figure is at least this, so that a ratio to one that rounds to nothing stays a number.
_TINY = 1e-9


@dataclass
class Figures:
    """row -> subject -> the values measured. `units` has each row's: s, ms, MB or RATE.

    `ours` is the subject that the others are compared with.
    """

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    ours: str = OURS

    def into(self, row: str, unit: str, subject: str) -> list[float]:
        """The list to append a value to."""
        self.units[row] = unit
        return self.values.setdefault(row, {}).setdefault(subject, [])

    def table(self, subjects: Sequence[str]) -> Iterator[str]:
        """Lines of a Markdown table: medians, and how many times better than each peer ours is."""
        peers = [subject for subject in subjects if subject != self.ours]
        head = ["", *subjects, *(f"against {peer}" for peer in peers)]
        rows = [head, ["---"] + ["---:"] * (len(head) - 1)]
        for row, measured in self.values.items():
            medians = {subject: statistics.median(found) for subject, found in measured.items() if found}
            cells = [_cell(medians.get(subject), self.units[row]) for subject in subjects]
            ratios = [_ratio(medians.get(peer), medians.get(self.ours), self.units[row]) for peer in peers]
            rows.append([row, *cells, *("–" if ratio is None else f"{ratio:.2f}" for ratio in ratios)])
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        for line in rows:
            cells = [
                cell.ljust(width) if at == 0 else cell.rjust(width) for at, (cell, width) in _columns(line, widths)
            ]
            yield f"| {' | '.join(cells)} |"

    def as_json(self) -> list[dict[str, Any]]:
        """One object a row: its unit, and every subject's values and median, and how many times better ours is."""
        rows = []
        for row, measured in self.values.items():
            medians = {subject: statistics.median(found) for subject, found in measured.items() if found}
            entry: dict[str, Any] = {"figure": row, "unit": self.units[row], "subjects": {}}
            for subject, middle in medians.items():
                ratio = _ratio(middle, medians.get(self.ours), self.units[row])
                rounded = None if ratio is None else round(ratio, 3)
                entry["subjects"][subject] = {"median": middle, "values": measured[subject], "ours_better": rounded}
            rows.append(entry)
        return rows


def machine(client: str, server: str) -> dict[str, str]:
    """What the figures depend on: date, processor, memory, load, versions."""
    return {
        "date": date.today().isoformat(),
        "processor": f"{os.cpu_count()} x {_processor()}",
        "memory": _memory(),
        "load at start": f"{os.getloadavg()[0]:.1f} of {os.cpu_count()}",
        "system": f"{platform.system()} {platform.release()}, {_distribution()}",
        "python": platform.python_version(),
        "docker": f"client {client}, engine {server}",
        "mpack": importlib.metadata.version("mpack"),
        "uv": importlib.metadata.version("uv"),
    }


def _columns(line: Sequence[str], widths: Sequence[int]) -> Iterator[tuple[int, tuple[str, int]]]:
    return enumerate(zip(line, widths, strict=True))


def _cell(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    return f"{value:.2f} {unit}" if value < 10 else f"{value:.{1 if unit in ('s', 'ms') else 0}f} {unit}"


def _ratio(peer: float | None, ours: float | None, unit: str) -> float | None:
    if peer is None or ours is None:
        return None
    return ours / max(peer, _TINY) if unit == RATE else peer / max(ours, _TINY)


def _processor() -> str:
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory() -> str:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal"):
            return f"{int(line.split()[1]) / 1e6:.1f} GB"
    return "unknown"


def _distribution() -> str:
    for line in _lines("/etc/os-release"):
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip().strip('"')
    return "unknown"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text("utf-8").splitlines()
    except OSError:
        return []
