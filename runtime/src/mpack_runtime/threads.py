"""Sizes the thread pools of BLAS, OpenMP and onnxruntime from the container's CPU limit. Imports no numpy.

Call `apply` before numpy is imported: the pools read their sizes when their libraries are loaded.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from mpack_runtime.config import Settings
from mpack_runtime.limits import cpu_limit

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
#: How long a thread of OpenBLAS spins before it sleeps: 2 ** 20 cycles, a third of a millisecond. By its default of
#: 2 ** 26 each thread of each copy (numpy's, scipy's) keeps a processor busy for 25 ms as soon as it is loaded.
SPINNING = ("OPENBLAS_THREAD_TIMEOUT", "20")


def apply(settings: Settings, env: MutableMapping[str, str] | None = None) -> int:
    """Sets the pools' variables where the user did not, and returns the threads a worker may use."""
    env = os.environ if env is None else env
    count = settings.threads_per_worker or processors(settings)
    for name in VARIABLES:
        env.setdefault(name, str(count))
    env.setdefault(*SPINNING)
    return count


def processors(settings: Settings) -> int:
    """The processors that are each worker's own, at least 1; as many workers as fit are one a processor."""
    all_of_them = cpu_limit()
    return max(1, all_of_them // (settings.workers or all_of_them))


def per_worker() -> int:
    """Threads for a pool that reads no variable (onnxruntime): OMP_NUM_THREADS, set by `apply`; else the CPU limit."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdigit() and int(text) > 0 else cpu_limit()
