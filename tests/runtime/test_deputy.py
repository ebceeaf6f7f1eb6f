"""Who stands in for a worker's loop: when, for how long, and what becomes of what it meets."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
from mpack_runtime.rest.deputy import Deputy


def test_the_deputy_comes_when_it_is_needed() -> None:
    """Not before its time, not after; turns never overlap what the loop does."""
    begun, turns, here = [], [], threading.Event()

    def turn(seconds: float) -> None:
        assert not here.is_set()
        turns.append(seconds)
        time.sleep(0.01)

    here.set()
    deputy = Deputy(lambda: begun.append(time.monotonic()), turn, lambda: None)
    for _ in range(200):
        here.clear()
        deputy.away()
        deputy.back()
        here.set()
    assert not begun
    for number in (1, 2):
        left = time.monotonic()
        here.clear()
        deputy.away()
        while len(turns) < 3 * number:
            time.sleep(0.01)
        deputy.back()
        here.set()
        seen = len(turns)
        time.sleep(0.1)
        assert len(turns) == seen and len(begun) == number and begun[-1] - left >= 0.04


def test_the_deputy_goes_when_it_is_not_needed() -> None:
    """At once, whatever it waits for; what it met is raised in the loop, and it comes again."""
    ended, acts = threading.Event(), threading.Event()

    def turn(seconds: float) -> None:
        acts.set()
        assert ended.wait(10)
        if broken:
            raise ValueError("broken")

    deputy = Deputy(acts.clear, turn, ended.set)
    for broken in (False, True, False, True, True):
        deputy.away()
        assert acts.wait(5)
        begun = time.monotonic()
        with pytest.raises(ValueError) if broken else contextlib.nullcontext():
            deputy.back()
        assert time.monotonic() - begun < 5
        ended.clear()
        acts.clear()


def test_the_deputy_takes_no_turn_more() -> None:
    """Its turns follow each other so fast that the loop would not get a word in."""
    left, late = threading.Event(), []
    deputy = Deputy(lambda: None, lambda seconds: time.sleep(0.005) or late.append(left.is_set()), left.set)
    for _ in range(30):
        deputy.away()
        time.sleep(0.1)
        deputy.back()
        left.clear()
    assert len(late) > 30 and late.count(True) <= 30
