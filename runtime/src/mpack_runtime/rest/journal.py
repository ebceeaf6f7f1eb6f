"""Records on disk, written by a thread of their own: whoever has one to keep never waits for the disk.

The queue has a limit in bytes. What does not fit is dropped and counted; what cannot be written is counted too.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mpack_runtime.rest.journal_files import Files

#: A line for a stream of a model's: stream, model version, seconds since the epoch, JSON without a line end.
Line = tuple[str, str, float, bytes]
_QUIET = 60.0
#: Seconds that records may wait for others: a thread that wakes for each takes turns away from those that predict.
_GATHER = 0.1


@dataclass
class Entry:
    lines: Callable[[], Iterable[Line]]
    size: int
    written: threading.Event | None = None
    well: bool = False


class Journal:
    """`count` is told of every outcome: "written", "dropped" or "failed". `capacity` is bytes of entries that wait, and
    `gather` seconds that they wait for others."""

    def __init__(
        self, files: Files | None, count: Callable[[str], None], capacity: int = 32 << 20, gather: float = _GATHER
    ) -> None:
        self._files = files
        self._gathering = gather
        #: Entries that are neither written nor given up.
        self._left = 0
        self._count = count
        self._capacity = capacity
        self._waiting: deque[Entry] = deque()
        self._bytes = 0
        self._closing = False
        self._hurry = False
        self._complained = -_QUIET
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def put(self, lines: Callable[[], Iterable[Line]], size: int) -> bool:
        """Has the lines written later; they are made in the journal's thread. False: dropped, for want of room."""
        return self._add(Entry(lines, size))

    def deliver(self, lines: Callable[[], Iterable[Line]], size: int, timeout: float) -> bool:
        """As `put`, and waits: true once they are in the file. `timeout` is seconds."""
        entry = Entry(lines, size, threading.Event())
        assert entry.written is not None
        return self._add(entry) and entry.written.wait(timeout) and entry.well

    def close(self, timeout: float) -> None:
        """Takes no more, and writes what waits; gives up after `timeout` seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        if self._thread.is_alive():
            print(
                f"MPACK_LOG_DIR: not all records were written within {timeout:g} seconds.", file=sys.stderr, flush=True
            )

    def _add(self, entry: Entry) -> bool:
        with self._changed:
            fits = not self._closing and self._bytes + entry.size <= self._capacity
            if fits:
                self._left += 1
                self._waiting.append(entry)
                self._bytes += entry.size
                self._hurry = self._hurry or entry.written is not None
                if len(self._waiting) == 1 or self._urgent():
                    self._changed.notify()
        if not fits:
            self._count("dropped")
        return fits

    def _urgent(self) -> bool:
        return self._closing or self._hurry or self._bytes > self._capacity / 2

    def _run(self) -> None:
        while batch := self._gather():
            self._keep(batch)
        if self._files is not None:
            self._files.close()

    def _keep(self, batch: list[Entry]) -> None:
        for entry in batch:
            entry.well = self._write(entry)
            self._done(entry)

    def _done(self, entry: Entry) -> None:
        """The entry is written, or given up."""
        self._count("written" if entry.well else "failed")
        if entry.written is not None:
            entry.written.set()
        with self._changed:
            self._bytes -= entry.size
            self._left -= 1

    def _gather(self) -> list[Entry]:
        """What waits, soon after there is something; nothing: the journal is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            self._changed.wait_for(self._urgent, self._gathering)
            batch = list(self._waiting)
            self._waiting.clear()
            self._hurry = False
            return batch

    def _write(self, entry: Entry) -> bool:
        assert self._files is not None
        try:
            for line in entry.lines():
                self._files.write(*line)
            return True
        except Exception as error:  # the disk's, or a record that cannot be made: neither may end the thread
            self._complain(error)
            return False

    def _complain(self, error: Exception) -> None:
        now = time.monotonic()
        if now - self._complained >= _QUIET:
            self._complained = now
            print(f"MPACK_LOG_DIR: a record cannot be written: {error}.", file=sys.stderr, flush=True)
