"""The metrics in Prometheus' text format. Every series is labelled with the model and its version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mpack_runtime.rest import processes
from mpack_runtime.rest.metrics import BUCKETS, ROWS, STATUSES
from mpack_runtime.rest.routes import GROUPS, OTHER, labels

if TYPE_CHECKING:
    from mpack_runtime.rest.metrics import Metrics


def text(metrics: Metrics, name: str, version: str) -> str:
    """Prometheus' text format 0.0.4, with a final newline."""
    now, page = metrics.snapshot(), _Page(name, version)
    page.family("mpack_model_info", "gauge", "The model that this service serves.")
    page.line("mpack_model_info", 1)
    page.family("mpack_requests_total", "counter", "Requests answered.")
    statuses = (*map(str, STATUSES), OTHER)
    for number, (route, group) in enumerate(labels()):
        for status, count in zip(statuses, now.requests(number)):
            if count:
                page.line("mpack_requests_total", count, group=group, route=route, status=status)
    page.family("mpack_requests_in_flight", "gauge", "Requests being answered now.")
    page.line("mpack_requests_in_flight", now.in_flight)
    page.family("mpack_request_seconds", "histogram", "Time to answer a request, from the end of its headers on.")
    for group in GROUPS:
        if sum(now.times(group)[1:]):
            page.histogram("mpack_request_seconds", now.times(group), group=group)
    page.family("mpack_predict_seconds", "histogram", "Time of the model alone, a prediction.")
    page.histogram("mpack_predict_seconds", now.predict)
    page.family("mpack_batch_rows", "histogram", "Rows of a call of the model.")
    page.histogram("mpack_batch_rows", now.batch, ROWS)
    page.family("mpack_queue_length", "gauge", "Predictions that wait for the model.")
    page.line("mpack_queue_length", now.waiting)
    page.family("mpack_refused_total", "counter", "Predictions that the model was not asked for, by reason.")
    for reason, count in now.refused.items():
        page.line("mpack_refused_total", count, reason=reason)
    page.family("mpack_rows_total", "counter", "Rows predicted.")
    page.line("mpack_rows_total", now.rows)
    page.family("mpack_errors_total", "counter", "Requests that got no good answer, by what was at fault.")
    for kind, count in now.errors.items():
        page.line("mpack_errors_total", count, kind=kind)
    page.family("mpack_log_records_total", "counter", "Records of requests and feedback, by what became of them.")
    for outcome, count in now.log.items():
        page.line("mpack_log_records_total", count, outcome=outcome)
    _processes(page, metrics.pids())
    return page.text()


def _processes(page: _Page, pids: Sequence[tuple[str, int]]) -> None:
    found = [(process, figures) for process, pid in pids if (figures := processes.read(pid))]
    for name, kind, words, field in (
        ("process_cpu_seconds_total", "counter", "Processor time used, in seconds.", "cpu"),
        ("process_resident_memory_bytes", "gauge", "Memory in use; what processes share counts in each.", "resident"),
        ("process_start_time_seconds", "gauge", "When the process began, in seconds since the epoch.", "started"),
        ("process_open_fds", "gauge", "Open file descriptors.", "files"),
    ):
        page.family(name, kind, words)
        for process, figures in found:
            value = getattr(figures, field)
            if value is not None:
                page.line(name, value, process=process)


class _Page:
    def __init__(self, name: str, version: str) -> None:
        self._common = f'model="{_escape(name)}",version="{_escape(version)}"'
        self._lines: list[str] = []

    def family(self, name: str, kind: str, words: str) -> None:
        self._lines += [f"# HELP {name} {words}", f"# TYPE {name} {kind}"]

    def line(self, name: str, value: float, **more: str) -> None:
        """One series. Values of `more` need no escape."""
        extra = "".join(f',{label}="{text}"' for label, text in more.items())
        number = f"{value:.0f}" if float(value).is_integer() else f"{value:.6f}"
        self._lines.append(f"{name}{{{self._common}{extra}}} {number}")

    def histogram(self, name: str, cells: Sequence[float], bounds: Sequence[float] = BUCKETS, **more: str) -> None:
        total = 0.0
        for bound, count in zip((*map(str, bounds), "+Inf"), cells[1:]):
            total += count
            self.line(f"{name}_bucket", total, **more, le=bound)
        self.line(f"{name}_sum", cells[0], **more)
        self.line(f"{name}_count", total, **more)

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
