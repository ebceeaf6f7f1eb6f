"""Bounds of this process and of all that it starts, as any user may set them: processors, and memory a process.

Sandboxes obey what their process is bounded to (`mpack.sandbox.memory_limit`). An engine's own builder does not.
"""

from __future__ import annotations

import errno
import math
import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager

from mpack.errors import EnvironmentFault, MpackError, VerificationError

_NO_MEMORY = re.compile(r"memory allocation of \d+ bytes failed|cannot allocate memory|out of memory", re.IGNORECASE)


@contextmanager
def bounded(processors: float | None, memory: int | None) -> Iterator[None]:
    """Processors (a fraction counts as a whole one) and bytes of data for each process; None: as it is.

    Call it before threads are started. Raises EnvironmentFault memory-exceeded where the memory was not enough for
    this process or a program that it ran.
    """
    allowed, old = os.sched_getaffinity(0), resource.getrlimit(resource.RLIMIT_DATA)
    try:
        if processors is not None:
            os.sched_setaffinity(0, _some(sorted(allowed), max(1, math.ceil(processors))))
        if memory is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (_least(memory, *old), old[1]))
        yield
    except (MemoryError, OSError, RuntimeError, MpackError) as error:
        if memory is None or not _lacks_memory(error):
            raise
        raise EnvironmentFault(
            "memory-exceeded",
            f"It takes more than the {memory / 1e6:.0f} MB of memory that a process of it may have.",
            "Raise spec.resources.limits.memory of the manifest.",
        ) from error
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, old)
        os.sched_setaffinity(0, allowed)


def _some(processors: list[int], count: int) -> list[int]:
    """So many of them; processes that run at once take others."""
    first = os.getpid() % len(processors)
    return [*processors[first:], *processors[:first]][:count]


def _least(*limits: int) -> int:
    return min(limit for limit in limits if limit != resource.RLIM_INFINITY)


def _lacks_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, MpackError):
        # A program that could not go on; a model's lack of it is told by the verification.
        return not isinstance(error, VerificationError) and _NO_MEMORY.search(error.message) is not None
    if isinstance(error, MemoryError) or "start new thread" in str(error):
        return True
    # Tidying up after it may have raised over it.
    return error.__context__ is not None and _lacks_memory(error.__context__)
