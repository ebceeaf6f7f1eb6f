"""Stands in for a worker's loop where a prediction that it answers itself takes long: connections are looked after
meanwhile, so that health answers and what comes goes to the lanes, as if a thread had been asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: Seconds after which the loop is stood in for; of a turn of it then.
PATIENCE, TURN = 0.05, 0.05


class Deputy:
    """Its thread starts with the first use, and sleeps while nothing is answered."""

    def __init__(self, begin: Callable[[], None], turn: Callable[[float], None], end: Callable[[], None]) -> None:
        """`begin` is called once where it stands in, then `turn` again and again, of so many seconds at most; `end`
        by the loop, so that a turn under way returns."""
        self._begin, self._turn, self._end = begin, turn, end
        self._loop = threading.Lock()  # whoever has it looks after connections
        self._loop.acquire()
        self._since = 0.0
        self._acts = False
        self._error: BaseException | None = None
        self._used = threading.Event()
        self._thread: threading.Thread | None = None

    def away(self) -> None:
        """The loop is with the model from now on."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="deputy", daemon=True)
            self._thread.start()
        self._since = time.monotonic()
        if not self._used.is_set():
            self._used.set()
        self._loop.release()

    def back(self) -> None:
        """The loop looks after connections again. Raises what its deputy's turn has raised."""
        self._since = 0.0  # first, or the deputy would take turn after turn before this thread has the lock
        if not self._loop.acquire(blocking=False):
            self._end()
            self._loop.acquire()
        self._acts = False
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self) -> None:
        while True:
            self._used.wait()
            self._used.clear()
            time.sleep(PATIENCE)
            since = self._since
            while since and self._late(since):
                pass

    def _late(self, since: float) -> bool:
        """True: the loop has been away since then, and is to be looked after further."""
        left = since + PATIENCE - time.monotonic()
        if left > 0:
            time.sleep(left)
        with self._loop:
            if self._since != since:
                return False
            try:
                if not self._acts:
                    self._acts = True
                    self._begin()
                self._turn(TURN)
            except BaseException as error:
                self._error = error
        return self._error is None
