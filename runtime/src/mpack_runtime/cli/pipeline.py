"""Reading ahead and writing behind, a chunk each, on threads beside the one that predicts."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")
_END = object()


@contextmanager
def ahead(items: Iterable[T]) -> Iterator[Iterator[T]]:
    """The items, made on a thread, one while the one before it is used. Their error comes where they end.

    On leaving, the thread has ended: it makes the item that it is at, and no other.
    """
    line: queue.Queue[object] = queue.Queue(1)
    stopped = threading.Event()
    failed: list[BaseException] = []

    def make() -> None:
        try:
            for item in items:
                line.put(item)
                if stopped.is_set():
                    return
        except BaseException as error:
            failed.append(error)
        finally:
            line.put(_END)

    def taken() -> Iterator[T]:
        while (item := line.get()) is not _END:
            yield item  # type: ignore[misc]
        if failed:
            raise failed[0]

    thread = threading.Thread(target=make, name="read", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        stopped.set()
        while thread.is_alive():
            _drain(line)
            thread.join(0.01)


def _drain(line: queue.Queue[object]) -> None:
    try:
        while True:
            line.get_nowait()
    except queue.Empty:
        pass


class Behind(Generic[T]):
    """Does `work` with each item that it is given, in order, on a thread; at most one item waits.

    An error of `work` is raised by the next `put`, or by `end`, and no item is worked on after it.
    """

    def __init__(self, work: Callable[[T], None]) -> None:
        self._work = work
        self._line: queue.Queue[object] = queue.Queue(1)
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="write", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (item := self._line.get()) is not _END:
            if self._failed is None:
                try:
                    self._work(item)  # type: ignore[arg-type]
                except BaseException as error:
                    self._failed = error

    def put(self, item: T) -> None:
        """Hands the item over; waits while another one waits."""
        if self._failed is not None:
            raise self._failed
        self._line.put(item)

    def end(self) -> None:
        """Returns when all is done and the thread has ended."""
        self.stop()
        if self._failed is not None:
            raise self._failed

    def stop(self) -> None:
        """The same, whatever failed."""
        if self._thread.is_alive():
            self._line.put(_END)
            self._thread.join()
