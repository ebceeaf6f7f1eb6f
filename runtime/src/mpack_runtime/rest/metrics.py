"""What is counted of requests and predictions, merged over worker processes.

The numbers live in one anonymous memory map that the master makes before it forks, so nothing needs a writable file
system. Each worker writes a slot of its own (no lock between processes: an aligned eight-byte store is atomic); whoever
is asked adds the slots up. A slot is handed on when its worker ends, so counters never go back.
"""

from __future__ import annotations

import mmap
import os
import threading
from bisect import bisect_left

from mpack_runtime.rest.routes import GROUPS, ROADS, TABLE, find, group_of

ROUTES = tuple(path for path, _ in TABLE)
STATUSES = (200, 400, 401, 404, 405, 408, 413, 415, 429, 500, 502, 503, 504)
#: Upper bounds of the histograms in seconds.
BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
#: request: the client's fault · auth: no valid token · overload: the model was not asked · model: it raised · service:
#: any other 5xx · timeout: the model did not answer in time · lost: in flight in a worker that died.
ERRORS = ("request", "auth", "overload", "model", "service", "timeout", "lost")
#: Upper bounds of the histogram of rows in a call of the model.
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096, 16384)
#: Why the model was not asked: too many waited · it was not the request's turn in time.
REASONS = ("full", "late")
#: written: in a file · dropped: the queue was full · failed: the file could not be written.
OUTCOMES = ("written", "dropped", "failed")

_ROUTE = len(STATUSES) + 1
#: Seconds' sum and a count a bucket.
_HISTOGRAM = len(BUCKETS) + 2
_TIMES = (len(ROUTES) + 1) * _ROUTE
_PREDICT = _TIMES + len(GROUPS) * _HISTOGRAM
_ERRORS = _PREDICT + _HISTOGRAM
_LOG = _ERRORS + len(ERRORS)
_ROWS = _LOG + len(OUTCOMES)
_BATCH = _ROWS + 1
_REFUSED = _BATCH + len(ROWS) + 2
_WAITING = _REFUSED + len(REASONS)
_IN_FLIGHT = _WAITING + 1
_PID = _IN_FLIGHT + 1
_WIDTH = _PID + 1
_STATUS_INDEX = {status: index for index, status in enumerate(STATUSES)}
_GROUP_INDEX = {group: index for index, group in enumerate(GROUPS)}
#: Their refusals are answers: a service that is not ready yet makes no error of a probe.
_FAULTLESS = ("health",)


class Metrics:
    """Slot 0 is the master's, who answers nothing; its errors are what dead workers leave."""

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self._memory = mmap.mmap(-1, slots * _WIDTH * 8)
        self._cells = memoryview(self._memory).cast("d")
        self._free = list(range(1, slots))
        self._local = threading.local()
        self.take(0)

    def reserve(self) -> int:
        """In the master: a free slot's number for a worker about to be forked. Slot 0 is shared when none is free."""
        return self._free.pop(0) if self._free else 0

    def release(self, slot: int) -> None:
        """In the master: the slot's worker has ended."""
        if not slot or slot in self._free:
            return
        self._free.insert(0, slot)
        base = slot * _WIDTH
        self._cells[_ERRORS + ERRORS.index("lost")] += self._cells[base + _IN_FLIGHT]
        self._cells[base + _IN_FLIGHT] = self._cells[base + _WAITING] = self._cells[base + _PID] = 0.0

    def take(self, slot: int) -> None:
        """In the worker: writes to `slot` from now on."""
        self._base = slot * _WIDTH
        self._lock = threading.Lock()
        self._cells[self._base + _IN_FLIGHT] = self._cells[self._base + _WAITING] = 0.0
        self._cells[self._base + _PID] = os.getpid()

    def start(self) -> None:
        """A request begins."""
        with self._lock:
            self._cells[self._base + _IN_FLIGHT] += 1
        self._local.failed = False

    def end(self, path: str, status: int, seconds: float, rows: int = 0) -> None:
        """A request ends, in the thread that it began in. Paths and statuses that are not listed count as "other"."""
        route = find(path)
        group = group_of(route)
        cell = route * _ROUTE + _STATUS_INDEX.get(status, len(STATUSES))
        kind = self._kind(status) if status >= 400 and group not in _FAULTLESS else ""
        with self._lock:
            cells, base = self._cells, self._base
            cells[base + cell] += 1
            cells[base + _IN_FLIGHT] -= 1
            self._time(_TIMES + _GROUP_INDEX[group] * _HISTOGRAM, seconds)
            if rows and group in ROADS:
                cells[base + _ROWS] += rows
            if kind:
                cells[base + _ERRORS + ERRORS.index(kind)] += 1

    def predicted(self, seconds: float, rows: int) -> None:
        """The model was asked for so many rows, whatever the road; it answered, or raised."""
        with self._lock:
            self._time(_PREDICT, seconds)
            batch = self._base + _BATCH
            self._cells[batch] += rows
            self._cells[batch + 1 + bisect_left(ROWS, rows)] += 1

    def failed(self) -> None:
        """The model raised for the request of this thread."""
        self._local.failed = True

    def waiting(self, change: int) -> None:
        """So many more requests wait for the model, or fewer."""
        with self._lock:
            self._cells[self._base + _WAITING] += change

    def refused(self, reason: str) -> None:
        """The model was not asked, for one of REASONS."""
        with self._lock:
            self._cells[self._base + _REFUSED + REASONS.index(reason)] += 1

    def late(self) -> None:
        """A request's model did not answer in time: it is answered 504, and the worker is about to end."""
        with self._lock:
            cells, base = self._cells, self._base
            cells[base + len(ROUTES) * _ROUTE + _STATUS_INDEX[504]] += 1
            cells[base + _ERRORS + ERRORS.index("timeout")] += 1
            cells[base + _IN_FLIGHT] -= 1

    def logged(self, outcome: str, records: int = 1) -> None:
        """Records of the logs came to `outcome`, one of OUTCOMES."""
        with self._lock:
            self._cells[self._base + _LOG + OUTCOMES.index(outcome)] += records

    def render(self, name: str, version: str) -> str:
        """Prometheus' text format 0.0.4, with a final newline."""
        from mpack_runtime.rest.exposition import text

        return text(self, name, version)

    def snapshot(self) -> Snapshot:
        """The sums over all workers, now."""
        return Snapshot([sum(self._cells[column::_WIDTH]) for column in range(_WIDTH)])

    def pids(self) -> list[tuple[str, int]]:
        """The processes that are there: "master" or the slot's number, and the process' id."""
        pids = [int(self._cells[slot * _WIDTH + _PID]) for slot in range(self.slots)]
        return [(str(slot) if slot else "master", pid) for slot, pid in enumerate(pids) if pid]

    def _kind(self, status: int) -> str:
        if status in (401, 403):
            return "auth"
        if status in (429, 503):
            return "overload"
        if status < 500:
            return "request"
        return "model" if getattr(self._local, "failed", False) else "service"

    def _time(self, start: int, seconds: float) -> None:
        base = self._base + start
        self._cells[base] += seconds
        self._cells[base + 1 + bisect_left(BUCKETS, seconds)] += 1


class Snapshot:
    """The numbers of one moment. A histogram is the sum of seconds or rows, then the counts of its buckets."""

    def __init__(self, cells: list[float]) -> None:
        self._cells = cells
        self.rows = cells[_ROWS]
        self.in_flight = cells[_IN_FLIGHT]
        self.predict = self._histogram(_PREDICT)
        self.batch = cells[_BATCH:_REFUSED]
        self.refused = dict(zip(REASONS, cells[_REFUSED:]))
        self.waiting = cells[_WAITING]
        self.errors = dict(zip(ERRORS, cells[_ERRORS:]))
        self.log = dict(zip(OUTCOMES, cells[_LOG:]))

    def requests(self, route: int) -> list[float]:
        """The counts of a row of `routes.labels()` by status, the last for all that STATUSES does not list."""
        return self._cells[route * _ROUTE : (route + 1) * _ROUTE]

    def times(self, group: str) -> list[float]:
        """The histogram of a group of paths."""
        return self._histogram(_TIMES + _GROUP_INDEX[group] * _HISTOGRAM)

    def _histogram(self, start: int) -> list[float]:
        return self._cells[start : start + _HISTOGRAM]
