"""Who may ask the model: so many at once, so many more wait their turn, in order and not for ever.

Nothing here knows what carries the requests. A thread that waits costs no processor time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

from mpack_runtime.errors import Overloaded
from mpack_runtime.frame import Inputs

FULL, LATE = "full", "late"
#: Seconds after which a refused client may try again.
RETRY = 1


class Watch:
    """Is told, in the thread that asks, what becomes of it."""

    def waits(self) -> float:
        """It waits for its turn, or for another's call that answers it. The seconds that it has waited elsewhere."""
        return 0.0

    def works(self) -> None:
        """It waits no more."""

    def begins(self) -> None:
        """A call of the model begins."""

    def refused(self, reason: str) -> None:
        """It is not asked: FULL, too many wait, or LATE, it was not its turn in time."""


class Ask:
    """One question to the model. `kind`: those of one kind may be asked as one; None: this one is asked alone.

    `done`: another's call has answered it; then `error` is what the model raised for it, or None.
    """

    __slots__ = ("answer", "done", "error", "inputs", "kind", "wake")

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self.kind: Hashable = None
        self.wake: threading.Lock | None = None
        self.answer: Any = None
        self.error: BaseException | None = None
        self.done = False


class Gate:
    """Lets `width` askers through at once; those and the ones that wait are `capacity` at most, and none waits
    longer than `patience` seconds for its turn."""

    def __init__(self, width: int, capacity: int, patience: float, watch: Watch | None = None) -> None:
        self.width, self.capacity, self.patience = width, capacity, patience
        self.watch = watch or Watch()
        #: Whoever waits is told its kind by this; None: nothing is asked as one.
        self.kind: Callable[[Inputs], Hashable] | None = None
        self._lock = threading.Lock()
        self._running = 0
        self._waiting: deque[Ask] = deque()
        self._gathering: _Gathering | None = None
        self._claimed = 0  # the thread that has claimed a place

    def claim(self) -> bool:
        """True: the calling thread's next `enter` will not wait. What it does not enter it must `unclaim`."""
        with self._lock:
            free = self._running < self.width and not self._waiting and self._gathering is None and not self._claimed
            if free:
                self._running += 1
                self._claimed = threading.get_ident()
        return free

    def unclaim(self) -> None:
        """Gives a claimed place back unless it was entered."""
        if self._claimed == threading.get_ident():
            self._claimed = 0
            self.leave()

    def ask(self, inputs: Inputs, call: Callable[[Inputs], Any]) -> Any:
        """The answer of `call`, when it is its turn, joined with nothing. Raises what it raises, or Overloaded."""
        self.enter(Ask(inputs))
        try:
            return call(inputs)
        finally:
            self.leave()

    def enter(self, ask: Ask) -> bool:
        """True: it is the caller's turn, and it must `leave`. False: another's call has answered. Raises Overloaded."""
        if self._claimed == threading.get_ident():
            self._claimed = 0
            return True
        with self._lock:
            if self._running < self.width and not self._waiting and self._gathering is None:
                self._running += 1
                return True
            full = self._running + len(self._waiting) >= self.capacity
            if not full:
                self._append(ask)
        if full:
            self.watch.refused(FULL)
            raise refusal(FULL, self.patience)
        waited = self.watch.waits()
        try:
            self._wait(ask, max(0.0, self.patience - waited))
        finally:
            self.watch.works()
        return not ask.done

    def leave(self) -> None:
        """The caller's turn is over; it is now that of whoever waits longest."""
        with self._lock:
            self._running -= 1
            called = self._next()
        for ask in called:
            _wake(ask)

    def take(self, first: Ask, rows: int, asks: int, delay: float = 0.0) -> list[Ask]:
        """In the caller's turn: those that wait and are of its kind, while all have not more than `rows` and are not
        more than `asks`; each must be answered (`finish`). With `delay` it waits so many seconds for them."""
        kind = self.kind  # another thread may end the joining meanwhile
        if kind is None or not (delay or self._waiting):
            return []
        if first.kind is None:
            first.kind = kind(first.inputs)
            if first.kind is None:
                return []
        if delay and first.inputs.rows < rows:
            self._gather(first, rows, delay)
        with self._lock:
            taken: list[Ask] = []
            kept: deque[Ask] = deque()
            total = first.inputs.rows
            for ask in self._waiting:
                if ask.kind == first.kind and total + ask.inputs.rows <= rows and len(taken) + 1 < asks:
                    taken.append(ask)
                    total += ask.inputs.rows
                else:
                    kept.append(ask)
            self._waiting = kept
            called = self._next()
        for ask in called:
            _wake(ask)
        return taken

    def _append(self, ask: Ask) -> None:
        kind = self.kind
        if kind is not None and ask.kind is None:
            ask.kind = kind(ask.inputs)
        ask.wake = threading.Lock()
        ask.wake.acquire()
        self._waiting.append(ask)
        if self._gathering is not None:
            self._gathering.add(ask)

    def _wait(self, ask: Ask, patience: float) -> None:
        if ask.wake is None or ask.wake.acquire(timeout=patience):
            return
        with self._lock:
            late = ask in self._waiting
            if late:
                self._waiting.remove(ask)
        if late:
            self.watch.refused(LATE)
            raise refusal(LATE, self.patience)
        # Its turn came in the same moment, or another's call is about to answer it.
        ask.wake.acquire()

    def _next(self) -> list[Ask]:
        called = []
        while self._waiting and self._running < self.width and self._gathering is None:
            self._running += 1
            called.append(self._waiting.popleft())
        return called

    def _gather(self, first: Ask, rows: int, delay: float) -> None:
        with self._lock:
            if self._gathering is not None:
                return
            self._gathering = gathering = _Gathering(first, rows)
            for ask in self._waiting:
                gathering.add(ask)
        try:
            gathering.enough.acquire(timeout=delay)
        finally:
            with self._lock:
                self._gathering = None


class _Gathering:
    """One that waits for company; meanwhile whoever comes waits too."""

    def __init__(self, first: Ask, rows: int) -> None:
        self._kind, self._missing = first.kind, rows - first.inputs.rows
        self.enough = threading.Lock()
        self.enough.acquire()

    def add(self, ask: Ask) -> None:
        if ask.kind == self._kind and self._missing > 0:
            self._missing -= ask.inputs.rows
            if self._missing <= 0:
                self.enough.release()


def refusal(reason: str, patience: float) -> Overloaded:
    """The error for one that is refused; `patience` is seconds."""
    if reason == FULL:
        return Overloaded("The service is busy: as many predictions wait as may (MPACK_QUEUE).", 429, RETRY)
    words = f"it was not this request's turn within {patience:g} seconds (MPACK_QUEUE_TIMEOUT)"
    return Overloaded(f"The service is busy: {words}.", 503, RETRY)


def finish(ask: Ask, answer: Any, error: BaseException | None = None) -> None:
    """Answers one that `take` gave."""
    ask.answer, ask.error, ask.done = answer, error, True
    _wake(ask)


def _wake(ask: Ask) -> None:
    if ask.wake is not None:
        ask.wake.release()
