"""Request metrics in Prometheus' text format, merged over worker processes.

The numbers live in one anonymous memory map that the master makes before it forks, so nothing needs a writable file
system. Each worker writes a slot of its own (no lock between processes: an aligned eight-byte store is atomic); whoever
is asked adds the slots up. A slot is handed on when its worker ends, so counters never go back.
"""

from __future__ import annotations

import mmap
import threading

from mpack_runtime.rest import roads

ROUTES = (
    *("/api/model/invoke", "/api/model/info", "/healthcheck", "/livez", "/readyz", "/metrics", "/openapi.json", "/"),
    *roads.ROUTES,
)
#: Routes that ask the model: their seconds and rows are counted.
PREDICTIONS = frozenset(
    {"/api/model/invoke", "/invocations"} | {route for route in ROUTES if route.endswith(("/infer", ":predict"))}
)
STATUSES = (200, 400, 404, 405, 408, 413, 415, 500, 503)
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
OTHER = "other"

_ROUTE_INDEX = {route: index for index, route in enumerate((*ROUTES, OTHER))}
_STATUS_INDEX = {status: index for index, status in enumerate(STATUSES)}
_COUNTS = len(_ROUTE_INDEX) * (len(STATUSES) + 1)
_HISTOGRAM = _COUNTS
_SECONDS = _HISTOGRAM + len(BUCKETS) + 1
_ROWS = _SECONDS + 1
_IN_FLIGHT = _ROWS + 1
_WIDTH = _IN_FLIGHT + 1


class Metrics:
    """Counters of every route, a latency histogram of predictions, rows predicted, requests in flight."""

    def __init__(self, slots: int = 1) -> None:
        self._memory = mmap.mmap(-1, slots * _WIDTH * 8)
        self._cells = memoryview(self._memory).cast("d")
        self._free = list(range(slots))
        self.take(self.reserve())

    def reserve(self) -> int:
        """In the master: a free slot's number for a worker about to be forked. Slot 0 is shared when none is free."""
        return self._free.pop(0) if self._free else 0

    def release(self, slot: int) -> None:
        """In the master: the slot's worker has ended."""
        if slot not in self._free:
            self._free.insert(0, slot)

    def take(self, slot: int) -> None:
        """In the worker: writes to `slot` from now on."""
        self._base = slot * _WIDTH
        self._lock = threading.Lock()
        self._cells[self._base + _IN_FLIGHT] = 0.0

    def start(self) -> None:
        """A request begins."""
        with self._lock:
            self._cells[self._base + _IN_FLIGHT] += 1

    def end(self, route: str, status: int, seconds: float, rows: int = 0) -> None:
        """A request ends. `route` is one of ROUTES, else counted as "other"; likewise `status`."""
        index = _ROUTE_INDEX.get(route, _ROUTE_INDEX[OTHER])
        cell = index * (len(STATUSES) + 1) + _STATUS_INDEX.get(status, len(STATUSES))
        with self._lock:
            cells, base = self._cells, self._base
            cells[base + cell] += 1
            cells[base + _IN_FLIGHT] -= 1
            if route in PREDICTIONS:
                bucket = sum(1 for bound in BUCKETS if seconds > bound)
                cells[base + _HISTOGRAM + bucket] += 1
                cells[base + _SECONDS] += seconds
                cells[base + _ROWS] += rows

    def render(self, name: str, version: str) -> str:
        """Prometheus' text format 0.0.4, with a final newline."""
        cells = [sum(self._cells[column::_WIDTH]) for column in range(_WIDTH)]
        lines = [
            "# HELP mpack_model_info The model that this service serves.",
            "# TYPE mpack_model_info gauge",
            f'mpack_model_info{{name="{_escape(name)}",version="{_escape(version)}"}} 1',
            "# HELP mpack_requests_total Requests answered.",
            "# TYPE mpack_requests_total counter",
        ]
        statuses = (*map(str, STATUSES), OTHER)
        for route, index in _ROUTE_INDEX.items():
            for position, status in enumerate(statuses):
                count = cells[index * len(statuses) + position]
                if count:
                    lines.append(f'mpack_requests_total{{route="{route}",status="{status}"}} {count:.0f}')
        lines += [
            "# HELP mpack_requests_in_flight Requests being answered now.",
            "# TYPE mpack_requests_in_flight gauge",
            f"mpack_requests_in_flight {cells[_IN_FLIGHT]:.0f}",
            "# HELP mpack_rows_total Rows predicted.",
            "# TYPE mpack_rows_total counter",
            f"mpack_rows_total {cells[_ROWS]:.0f}",
            "# HELP mpack_invoke_seconds Time to answer a prediction request.",
            "# TYPE mpack_invoke_seconds histogram",
        ]
        total = 0.0
        for position, bound in enumerate((*map(str, BUCKETS), "+Inf")):
            total += cells[_HISTOGRAM + position]
            lines.append(f'mpack_invoke_seconds_bucket{{le="{bound}"}} {total:.0f}')
        lines += [f"mpack_invoke_seconds_sum {cells[_SECONDS]:.6f}", f"mpack_invoke_seconds_count {total:.0f}"]
        return "\n".join(lines) + "\n"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
