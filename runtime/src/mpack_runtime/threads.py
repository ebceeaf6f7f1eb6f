"""Sizes the thread pools of BLAS, OpenMP and onnxruntime from the container's CPU limit. Imports no numpy.

Call `apply` before numpy is imported: the pools read their sizes when their libraries are loaded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path, PurePosixPath

from mpack_runtime.config import Settings

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
#: How long a thread of OpenBLAS spins before it sleeps: 2 ** 20 cycles, a third of a millisecond. By its default of
#: 2 ** 26 each thread of each copy (numpy's, scipy's) keeps a processor busy for 25 ms as soon as it is loaded.
SPINNING = ("OPENBLAS_THREAD_TIMEOUT", "20")


def cpu_limit(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> int:
    """CPUs this process may use, at least 1: its affinity or its cgroups' quota (v1 or v2, rounded up), the smaller.

    In a container its own cgroup is mounted at `root`; in the host's cgroup namespace `groups` tells where it is, and
    the groups above it limit it too.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for quota in map(_quota, _directories(root, groups)) if quota]
    return max(1, min(allowed, *map(math.ceil, quotas)) if quotas else allowed)


def _directories(root: Path, groups: Path) -> Iterator[Path]:
    """Directories that may hold a quota of this process: version 2's and 1's mount, and its groups below them."""
    yield from (root, root / "cpu")
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        controllers, _, group = line.partition(":")[2].partition(":")
        if not controllers or "cpu" in controllers.split(","):
            below = PurePosixPath(group.lstrip("/"))
            for part in (below, *below.parents) if ".." not in below.parts else ():
                yield (root / "cpu" if controllers else root) / part


def _quota(directory: Path) -> float | None:
    """CPU time a second of time that the cgroup of a directory may use; None: no limit."""
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


def apply(settings: Settings, env: MutableMapping[str, str] | None = None) -> int:
    """Sets the pools' variables where the user did not, and returns the threads a worker may use."""
    env = os.environ if env is None else env
    count = settings.threads_per_worker or max(1, cpu_limit() // settings.workers)
    for name in VARIABLES:
        env.setdefault(name, str(count))
    env.setdefault(*SPINNING)
    return count


def per_worker() -> int:
    """Threads for a pool that reads no variable (onnxruntime): OMP_NUM_THREADS, set by `apply`; else the CPU limit."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdigit() and int(text) > 0 else cpu_limit()
