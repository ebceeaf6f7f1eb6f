"""Sizes the thread pools of BLAS, OpenMP and onnxruntime from the container's CPU limit. Imports no numpy.

Call `apply` before numpy is imported: the pools read their sizes when their libraries are loaded.
"""

from __future__ import annotations

import math
import os
from collections.abc import MutableMapping
from pathlib import Path

from mpack_runtime.config import Settings

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def cpu_limit(root: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs this process may use, at least 1: its affinity or its cgroup's quota (v1 or v2, rounded up), the smaller."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(root)
    return max(1, min(allowed, math.ceil(quota)) if quota else allowed)


def _quota(root: Path) -> float | None:
    """CPU time a second of time that the cgroup at `root` may use; None: no limit."""
    try:
        limit, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
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
    return count


def per_worker() -> int:
    """Threads for a pool that reads no variable (onnxruntime): OMP_NUM_THREADS, set by `apply`; else the CPU limit."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdigit() and int(text) > 0 else cpu_limit()
