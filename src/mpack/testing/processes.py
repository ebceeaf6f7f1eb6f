"""What a machine can see of programs that run on it: command lines, and what is in their environments."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

_EVERY = 0.005


@contextmanager
def watched_processes() -> Iterator[set[str]]:
    """The command line of every process of this machine that is seen while the block runs (Linux, every 5 ms)."""
    with _watching(lambda place: _read(place / "cmdline").decode("utf-8", "replace")) as seen:
        yield seen


@contextmanager
def watched_environments(texts: Collection[bytes]) -> Iterator[set[str]]:
    """The command line of every process that is seen with one of the texts in its environment while the block runs."""

    def look(place: Path) -> str | None:
        found = _read(place / "environ")
        return _read(place / "cmdline").decode("utf-8", "replace") if any(text in found for text in texts) else None

    with _watching(look, 4 * _EVERY) as seen:
        yield seen


def _read(path: Path) -> bytes:
    return path.read_bytes().replace(b"\0", b" ")


@contextmanager
def _watching(look: Callable[[Path], str | None], every: float = _EVERY) -> Iterator[set[str]]:
    seen: set[str] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for place in Path("/proc").glob("[0-9]*"):
                try:
                    found = look(place)
                except OSError:
                    continue
                if found is not None:
                    seen.add(found)
            time.sleep(every)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()
