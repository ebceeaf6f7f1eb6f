"""What caches keep between builds, and giving it back: what was longest of no use goes first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import field

from mpack.records import dataclass


@dataclass(frozen=True)
class Prunable:
    """One entry of a cache: the bytes that go with it, and when it was last of use (seconds since 1970)."""

    size: int
    used: float
    remove: Callable[[], None] = field(compare=False)


def prune(entries: Iterable[Prunable], *, older_than: float | None = None, keep_size: int | None = None) -> int:
    """Removes what was of no use for `older_than` seconds, then the oldest until `keep_size` bytes are left; how many.

    The caller sees to it that nothing is in use.
    """
    ordered = sorted(entries, key=lambda entry: entry.used)
    left, limit = sum(entry.size for entry in ordered), time.time() - (older_than or 0.0)
    count = 0
    for entry in ordered:
        old = older_than is not None and entry.used <= limit
        if old or (keep_size is not None and left > keep_size and entry.size > 0):
            entry.remove()
            left -= entry.size
            count += 1
    return count
