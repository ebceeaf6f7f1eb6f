"""How many workers fit (MPACK_WORKERS=auto): one a processor, as far as memory goes.

The first worker is measured as soon as its model has answered the sample: what it then has for itself, each further one
will take. So a model that the master loaded before it forked, and whose memory all workers share, counts once.
"""

from __future__ import annotations

import mmap
import os
import signal
import sys
from pathlib import Path

from gunicorn.arbiter import Arbiter

from mpack_runtime import limits

#: Bytes a worker for what it does later: requests, and pages that it shares only until it writes to them.
_REQUESTS = 32 << 20
#: The share of the limit that is given out; the kernel's own part, file systems in memory and health checks want some.
_USABLE = 0.9


class Crew:
    """Made in the master before it forks. `most` is the largest number of workers that can come of it."""

    def __init__(self) -> None:
        self.most = limits.cpu_limit()
        #: Workers that there should be now.
        self.number = 1
        self._measured = memoryview(mmap.mmap(-1, 16)).cast("Q")

    def measure(self) -> None:
        """In a worker that is ready: tells the master what it takes; the first one's figures decide."""
        if self._measured[1]:
            return
        clean, dirty = own_memory()
        self._measured[0] = clean
        self._measured[1] = max(dirty, 1)
        # The master looks at once, not with its next second: for this signal it only looks after its children.
        os.kill(os.getppid(), signal.SIGCHLD)

    def count(self, threads: int | None) -> int:
        """In the master: the number of workers, 0 as long as none has been measured; says on stderr why so many.

        `threads` is MPACK_THREADS_PER_WORKER, None where it is not set.
        """
        clean, dirty = self._measured
        if not dirty:
            return 0
        limit, limited = limits.memory_limit()
        shared = _resident() + clean
        number = self.number = fit(self.most, limit, shared, dirty)
        # In one piece: workers write to stderr too.
        sys.stderr.write(sentence(number, self.most, limit, limited, shared, dirty, threads) + "\n")
        sys.stderr.flush()
        return number


def fit(processors: int, limit: int, shared: int, own: int) -> int:
    """Workers, at least one. `limit` is bytes of memory, `shared` what all take once and `own` each for itself."""
    return max(1, min(processors, int(limit * _USABLE - shared) // (own + _REQUESTS)))


def sentence(
    number: int, processors: int, limit: int, limited: bool, shared: int, own: int, threads: int | None
) -> str:
    """What was chosen, and why; sizes are bytes."""
    each = "one for each processor" if number == processors else f"for memory has no room for {processors}"
    room = f"the {'limit' if limited else 'machine'} has {_mib(limit)}, they share {_mib(shared)}"
    text = f"MPACK_WORKERS=auto: {number} {'worker' if number == 1 else 'workers'}, {each}"
    text += f" ({room}, each takes {_mib(own)} and gets {_mib(_REQUESTS)} for requests)."
    if number < processors and threads is None and processors // number > 1:
        text += f" MPACK_THREADS_PER_WORKER={processors // number} lets a model that uses threads have all processors."
    return text


def own_memory(rollup: Path = Path("/proc/self/smaps_rollup")) -> tuple[int, int]:
    """Bytes in memory that this process shares with no other now: as they are in files, and written to.

    Where the kernel does not tell, all that was written to counts, also what is still shared with the master.
    """
    sizes = {}
    try:
        for line in rollup.read_text().splitlines()[1:]:
            name, _, rest = line.partition(":")
            sizes[name] = int(rest.split()[0]) << 10
        # Swapped pages would be in memory if they fitted.
        return sizes["Private_Clean"], sizes["Private_Dirty"] + sizes.get("SwapPss", 0)
    except (OSError, KeyError, ValueError, IndexError):
        _, resident, of_files, *_ = map(int, Path("/proc/self/statm").read_text().split())
        return 0, (resident - of_files) * mmap.PAGESIZE


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"


class Growing(Arbiter):  # type: ignore[misc]
    """gunicorn's master, which begins with one worker and starts the others once that one has been measured."""

    def __init__(self, app: object, crew: Crew, threads: int | None) -> None:
        self._crew: Crew | None = crew
        self._threads = threads
        super().__init__(app)

    def manage_workers(self) -> None:
        """Called in every round of the master's loop."""
        if self._crew is not None and (number := self._crew.count(self._threads)):
            self._crew, self.num_workers = None, number
        super().manage_workers()
