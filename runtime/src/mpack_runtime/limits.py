"""What the container may use of the machine: its processors and memory, by its control groups (version 1 or 2).

In a container its own group is mounted at `root`; in the host's cgroup namespace `groups` tells where it is, and the
groups above it limit it too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/sys/fs/cgroup")
GROUPS = Path("/proc/self/cgroup")


def cpu_limit(root: Path = ROOT, groups: Path = GROUPS) -> int:
    """CPUs this process may use, at least 1: its affinity or its groups' quota (rounded up), the smaller."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for quota in map(_quota, _directories(root, groups, "cpu")) if quota]
    return max(1, min(allowed, *map(math.ceil, quotas)) if quotas else allowed)


def memory_limit(root: Path = ROOT, groups: Path = GROUPS, machine: Path = Path("/proc/meminfo")) -> tuple[int, bool]:
    """Bytes that this process and those beside it in its groups may use, and whether a group says so: else they are
    the machine's."""
    total = next(
        int(line.split()[1]) << 10 for line in machine.read_text().splitlines() if line.startswith("MemTotal:")
    )
    bounds = [bound for directory in _directories(root, groups, "memory") for bound in _bounds(directory)]
    # Without a limit version 1 says a number beyond all memory.
    least = min(bounds, default=total)
    return (least, True) if least < total else (total, False)


def _directories(root: Path, groups: Path, controller: str) -> Iterator[Path]:
    """Directories that may hold a limit of this process: version 2's and 1's mount, and its groups below them."""
    yield from (root, root / controller)
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        controllers, _, group = line.partition(":")[2].partition(":")
        if not controllers or controller in controllers.split(","):
            below = PurePosixPath(group.lstrip("/"))
            for part in (below, *below.parents) if ".." not in below.parts else ():
                yield (root / controller if controllers else root) / part


def _quota(directory: Path) -> float | None:
    """CPU time a second of time that the group of a directory may use; None: no limit."""
    try:
        limit, period = (directory / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (directory / "cpu.cfs_quota_us").read_text().strip()
            period = (directory / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not limit.isdigit() or not period.isdigit() or int(limit) <= 0 or int(period) <= 0:
        return None
    return int(limit) / int(period)


def _bounds(directory: Path) -> Iterator[int]:
    """Bytes of memory beyond which the group of a directory is killed, or slowed down."""
    for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
        try:
            text = (directory / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            yield int(text)
