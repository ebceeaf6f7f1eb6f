"""A progress bar on stderr, on a terminal only."""

from __future__ import annotations

import sys
import time


class Progress:
    """`done` of `total` (bytes or rows) of what `title` names; drawn at most ten times a second."""

    def __init__(self, title: str, total: int = 1) -> None:
        self._title = title
        self.total = total
        self._shown = sys.stderr.isatty()
        self._next = 0.0

    def update(self, done: int, rows: int) -> None:
        """Draws the bar."""
        now = time.monotonic()
        if not self._shown or now < self._next:
            return
        self._next = now + 0.1
        share = min(done / max(self.total, 1), 1.0)
        bar = ("#" * int(share * 30)).ljust(30, "-")
        print(f"\r{self._title} [{bar}] {share:4.0%} {rows:,} rows", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Wipes the bar, so that a result or an error starts on an empty line."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
