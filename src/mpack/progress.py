"""What a long command says while it works: phases with their time, notes and warnings. All of it goes to stderr, with
***** in place of secrets that were used."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from mpack.redaction import redact


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
        started = time.perf_counter()
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
