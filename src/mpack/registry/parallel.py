"""Several blobs at once."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

THREADS = 4
#: Seconds that threads get to end after a failure; one that waits for the registry is left behind.
_PATIENCE = 2.0
T = TypeVar("T")
R = TypeVar("R")


def in_parallel(task: Callable[[T], R], items: Sequence[T], stop: threading.Event) -> list[R]:
    """The task's results in order, of THREADS threads. The first failure, or an interrupt, sets `stop` and is raised.

    The threads do not keep the process alive: Ctrl-C need not wait for a registry that does not answer.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    ended: queue.SimpleQueue[tuple[int, R | None, BaseException | None]] = queue.SimpleQueue()
    for number in range(len(items)):
        waiting.put(number)

    def work() -> None:
        while not stop.is_set():
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                ended.put((number, task(items[number]), None))
            except BaseException as error:
                ended.put((number, None, error))
                return

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(THREADS, len(items)))]
    results: dict[int, R] = {}
    try:
        for thread in threads:
            thread.start()
        while len(results) < len(items):
            number, result, error = ended.get()
            if error is not None:
                raise error
            results[number] = result  # type: ignore[assignment]
    except BaseException:
        stop.set()
        deadline = time.monotonic() + _PATIENCE
        for thread in threads:
            if thread.is_alive():  # an interrupt may come before all have been started
                thread.join(max(0.0, deadline - time.monotonic()))
        raise
    return [results[number] for number in range(len(items))]
