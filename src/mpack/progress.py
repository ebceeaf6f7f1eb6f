"""What a long command says while it works: phases with their time, notes and warnings. All of it goes to stderr, with
***** in place of secrets that were used."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TextIO

from mpack.redaction import redact

#: Seconds between two states of a transfer: on a terminal, and as lines.
_DRAW = 0.1
_LINE = 10.0


class Transfer:
    """How much of `total` bytes is there, told to `show` every so many seconds. Threads may count at once."""

    def __init__(self, doing: str, total: int | None, show: Callable[[str], None], every: float) -> None:
        self._doing = doing
        self._total = total
        self._show = show
        self._every = every
        self._done = 0
        self._lock = Lock()
        self._next = time.monotonic() + every

    def add(self, count: int) -> None:
        """`count` bytes more; fewer, where something is fetched anew."""
        with self._lock:
            self._done += count
            if (now := time.monotonic()) >= self._next:
                self._next = now + self._every
                self._show(self._state())

    def _state(self) -> str:
        if self._total is None:
            return f"{self._doing}: {_amount(self._done)}"
        full = 20 * self._done // self._total if self._total else 20
        bar = "#" * full + "." * (20 - full)
        return f"[{bar}] {self._doing}: {_amount(self._done)} of {_amount(self._total)}"


def _amount(size: int) -> str:
    """ "1.5 GB"."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB"):
        if value >= 1000:
            value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if unit != "B" else f"{size} B"


class Progress:
    """Plain lines, or on a terminal a bar over the phases. `timings` maps phase to seconds."""

    def __init__(self, phases: int, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._phases = max(phases, 1)
        self._stream = stream if stream is not None else sys.stderr
        self._terminal = self._stream.isatty()
        self._quiet = quiet
        self._done = 0
        self.timings: dict[str, float] = {}
        self.warnings: list[str] = []

    @contextmanager
    def phase(self, name: str, doing: str) -> Iterator[None]:
        """Runs one phase. Its time is added to `timings[name]`, rounded to milliseconds."""
        started, doing = time.perf_counter(), redact(doing)
        if self._terminal and not self._quiet:
            width = 20
            full = min(width, width * self._done // self._phases)
            self._stream.write(f"\r\x1b[K[{'#' * full}{'.' * (width - full)}] {doing} …")
            self._stream.flush()
        try:
            yield
        except BaseException:
            self._clear()
            raise
        seconds = time.perf_counter() - started
        self.timings[name] = round(self.timings.get(name, 0.0) + seconds, 3)
        self._done += 1
        self._clear()
        self._line(f"{doing}: {seconds:.1f} s")

    @contextmanager
    def transfer(self, doing: str, total: int | None) -> Iterator[Transfer]:
        """Bytes on their way: a bar on a terminal, else a line each `_LINE` seconds; `total` may be unknown."""
        made = Transfer(doing, total, self._draw if self._terminal else self.say, _DRAW if self._terminal else _LINE)
        try:
            yield made
        finally:
            self._clear()

    def _draw(self, text: str) -> None:
        if not self._quiet:
            self._stream.write(f"\r\x1b[K{redact(text)}")
            self._stream.flush()

    def say(self, text: str) -> None:
        """A note."""
        self._clear()
        self._line(text)

    def warn(self, text: str) -> None:
        """A warning: printed, and kept in `warnings`."""
        text = redact(text)
        self.warnings.append(text)
        self._clear()
        self._stream.write(f"warning: {text}\n")
        self._stream.flush()

    def _line(self, text: str) -> None:
        if not self._quiet:
            self._stream.write(redact(text) + "\n")
            self._stream.flush()

    def _clear(self) -> None:
        if self._terminal and not self._quiet:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
