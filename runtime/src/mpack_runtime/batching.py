"""Adaptive batching: what waits for the model is asked as one, where that pays and changes no answer.

Whoever's turn it is at the gate takes those of its kind that wait. A joined call that raises, or whose answer has not
as many rows as were asked, is asked again one by one, so that a bad row fails alone.

In "auto" nothing is joined before the model has shown that it may be: of the first queues each request is asked alone
and then all as one. Only if COMPARED rows came out bit for bit the same, in less time, does joining begin. What is new
in size or kind (another method, other columns), and one of VERIFY joined calls, is compared again; one difference ends
it.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

from mpack_runtime import batches
from mpack_runtime.frame import Inputs
from mpack_runtime.gate import Ask, Gate, finish

#: Rows and queues that must have come out the same.
COMPARED, QUEUES = 32, 3
#: What a request must save of its time: a share, and the seconds that handing its answer to another thread may cost.
SHARE, HANDING = 0.2, 3e-4
#: Requests of one comparison: each is asked twice.
AT_ONCE = 8
#: Of so many joined calls one is compared.
VERIFY = 256
#: Kinds of requests that are remembered as compared; clients may make up any number.
KINDS = 64
OFF, PROBING, ON = "off", "probing", "on"


class Batching:
    """Asks `call` by way of a gate. `always`: the user says that rows may be joined; else `rowwise` is asked, once."""

    def __init__(
        self,
        gate: Gate,
        call: Callable[[Inputs], Any],
        rowwise: Callable[[], bool],
        *,
        always: bool,
        rows: int,
        delay: float = 0.0,
        processors: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`rows` of a joined call at most; `delay` seconds that the first one waits for others; `processors`: where
        calls are joined, more of them at once than that are of no use."""
        self._gate, self._call, self._rowwise, self._always = gate, call, rowwise, always
        self._rows, self._delay, self._processors, self._clock = rows, delay, processors, clock
        self.state = PROBING
        self._lock = threading.Lock()
        self._width = gate.width
        self._asked = False
        self._queues = self._compared = self._largest = self._joined = 0
        self._proven: dict[Hashable, int] = {}  # rows of the largest call that came out the same, by kind
        # The shortest that a request took: longer ones waited for something else, as Python's lock.
        self._alone_seconds = self._joined_seconds = math.inf
        gate.kind = batches.kind
        if always:
            self._begin()

    def ask(self, inputs: Inputs) -> Any:
        """The model's answer. Raises what the model raises, or Overloaded."""
        ask = Ask(inputs)
        if not self._gate.enter(ask):
            if ask.error is not None:
                raise ask.error
            return ask.answer
        try:
            return self._lead(ask)
        finally:
            self._gate.leave()

    def _lead(self, ask: Ask) -> Any:
        company = self._company(ask)
        if not company:
            return self._call(ask.inputs)
        try:
            self._together([ask, *company])
        finally:
            for other in company:
                if other.wake is not None and not other.done:  # the caller itself is ending
                    finish(other, None, RuntimeError("The call that was to answer this request ended."))
        if ask.error is not None:
            raise ask.error
        return ask.answer

    def _company(self, ask: Ask) -> list[Ask]:
        if self.state == ON:
            most = self._rows if self._always else min(self._rows, 2 * self._largest)
            return self._gate.take(ask, most, most, self._delay)
        if self.state == PROBING:
            return self._gate.take(ask, self._rows, AT_ONCE)
        return []

    def _together(self, asks: list[Ask]) -> None:
        rows = sum(ask.inputs.rows for ask in asks)
        if not self._always and self._must_compare(asks[0].kind, rows):
            return self._compare(asks, rows)
        try:
            answers = self._joined_answers(asks)
        except (Exception, SystemExit):
            # One of them is at fault, or the answer cannot be told apart: each is asked alone.
            self._one_by_one(asks)
            return
        for ask, answer in zip(asks, answers):
            finish(ask, answer)

    def _must_compare(self, kind: Hashable, rows: int) -> bool:
        with self._lock:
            self._joined += 1
            return self.state != ON or rows > self._proven.get(kind, 0) or self._joined % VERIFY == 0

    def _joined_answers(self, asks: list[Ask]) -> list[Any]:
        inputs = batches.join([ask.inputs for ask in asks])
        self._gate.watch.begins()
        answer = self._call(inputs)
        try:
            return batches.split(answer, [ask.inputs.rows for ask in asks])
        except ValueError as error:
            self._end(str(error))
            raise

    def _one_by_one(self, asks: list[Ask]) -> float:
        """Answers each alone. The shortest time."""
        shortest = math.inf
        for ask in asks:
            self._gate.watch.begins()
            begun = self._clock()
            try:
                answer = self._call(ask.inputs)
            except (Exception, SystemExit) as error:
                finish(ask, None, error)
            else:
                shortest = min(shortest, self._clock() - begun)
                finish(ask, answer)
        return shortest

    def _compare(self, asks: list[Ask], rows: int) -> None:
        """Answers each alone, and looks whether the joined answer would have been the same, in less time."""
        probe = self._may_probe()
        alone = self._one_by_one(asks)
        if not probe or any(ask.error is not None for ask in asks):
            return  # an error proves nothing
        begun = self._clock()
        try:
            equal = all(map(batches.same, self._joined_answers(asks), (ask.answer for ask in asks)))
        except (Exception, SystemExit):
            equal = False
        if not equal:
            return self._end("joined rows are answered otherwise than alone")
        self._learn(asks[0].kind, rows, alone, (self._clock() - begun) / len(asks))

    def _may_probe(self) -> bool:
        if not self._asked:
            self._asked = True
            try:
                fits = self._rowwise()
            except Exception:  # whatever a model's own attributes do
                fits = False
            if not fits:
                self._end()
        return self.state != OFF

    def _learn(self, kind: Hashable, rows: int, alone: float, joined: float) -> None:
        """So many rows of a kind came out the same; seconds of a request alone and joined."""
        with self._lock:
            self._largest = max(self._largest, rows)
            if len(self._proven) >= KINDS and kind not in self._proven:
                self._proven.clear()
            self._proven[kind] = max(self._proven.get(kind, 0), rows)
            if self.state != PROBING:
                return
            self._queues += 1
            self._compared += rows
            self._alone_seconds = min(self._alone_seconds, alone)
            self._joined_seconds = min(self._joined_seconds, joined)
            if self._compared < COMPARED or self._queues < QUEUES:
                return
        if self._alone_seconds - self._joined_seconds >= max(HANDING, SHARE * self._alone_seconds):
            self._begin()
        else:
            self._end()

    def _begin(self) -> None:
        with self._lock:
            if self.state != PROBING:
                return
            self.state = ON
        self._gate.width = min(self._width, self._processors)

    def _end(self, reason: str = "") -> None:
        """Joins nothing any more. A reason is one that surprises, and goes to the log."""
        with self._lock:
            ended, self.state = self.state == OFF, OFF
        self._gate.kind, self._gate.width = None, self._width
        if reason and not ended:
            print(f"Requests are not batched any more: {reason}.", file=sys.stderr, flush=True)
