"""A way to a server that stops in the middle of what it carries, for tests that kill a push there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mpack.testing.relay import Carry, relay


@contextmanager
def pausing(port: int, after: int) -> Iterator[tuple[str, threading.Event]]:
    """A way to the registry that stops, with all connections open, when `after` bytes have gone there."""
    paused, ended, left = threading.Event(), threading.Event(), [after]

    def carrier(there: bool) -> Carry:
        def carry(data: bytes) -> bytes | None:
            if not there:
                return data
            if left[0] < 0:
                ended.wait()
                return None
            left[0] -= len(data)
            if left[0] >= 0:
                return data
            paused.set()
            return data[: len(data) // 2]

        return carry

    with relay(port, carrier) as way:
        try:
            yield f"localhost:{way}", paused
        finally:
            ended.set()
