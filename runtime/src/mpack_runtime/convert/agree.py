"""Whether two models agree: the same labels, types and shapes, and numbers within a tolerance."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mpack_runtime.convert.forest import Unsupported
from mpack_runtime.frame import Array, Frame, Inputs, Tensors
from mpack_runtime.loaders import Model

#: Of a group that the original refuses as a whole, as many rows are asked one by one.
ALONE = 100


class Refused(Exception):
    """A model raised. The message is its own."""


def ask(model: Model, inputs: Inputs) -> Array:
    """The model's answer. Raises Refused, and Unsupported for an answer that is no array."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            answer = model.predict(inputs)
    except Exception as error:
        raise Refused(str(error).strip() or type(error).__name__) from error
    if type(answer) is not np.ndarray or answer.ndim not in (1, 2) or answer.dtype.kind not in "biufOU":
        raise Unsupported(f"it answers a {type(answer).__name__}, not an array of numbers or text")
    return answer


@dataclass
class Agreement:
    """Asks both and counts. `tolerance` is relative, beside zero to a thousandth of the group's largest number."""

    original: Model
    converted: Model
    tolerance: float
    method: str = ""
    rows: int = 0
    largest: float = 0.0
    #: Rows that both refused.
    refused: int = 0

    def all(self, asked: Sequence[Inputs], large: Sequence[Inputs]) -> None:
        """Asks everything: `large` only for whether it is answered, and 20 rows of each of the first groups alone too.

        Raises Unsupported naming what they differ on.
        """
        for inputs in asked:
            self.check(inputs)
        for inputs in large:
            self.check_whether(inputs)
        for inputs in asked[:2]:
            for index in range(min(20, inputs.rows)):
                self.check(part(inputs, index))

    def check(self, inputs: Inputs) -> None:
        """Raises Unsupported naming the row on which they differ."""
        inputs = replace(inputs, method=self.method)
        try:
            expected = ask(self.original, inputs)
        except Refused as error:
            if inputs.rows > 1:
                for index in range(min(ALONE, inputs.rows)):
                    self.check(part(inputs, index))
                return
            self._refuses(inputs, str(error))
            return
        try:
            got = ask(self.converted, inputs)
        except Refused as error:
            raise Unsupported(
                f"to {_row(inputs, 0)} it answers {_short(expected[0])}; converted it refuses: {error}"
            ) from error
        self.compare(inputs, expected, got)

    def check_whether(self, inputs: Inputs) -> None:
        """Raises Unsupported where only one of them answers: of numbers that leave no digit of the others, no more can
        be asked."""
        inputs = replace(inputs, method=self.method)
        try:
            ask(self.original, inputs)
        except Refused as error:
            self._refuses(inputs, str(error))
            return
        try:
            ask(self.converted, inputs)
        except Refused as error:
            raise Unsupported(f"{_row(inputs, 0)} is answered; converted it is refused: {error}") from error

    def _refuses(self, inputs: Inputs, why: str) -> None:
        try:
            got = ask(self.converted, inputs)
        except Refused:
            self.refused += 1
            return
        lines = why.splitlines()
        raise Unsupported(f"{_row(inputs, 0)} is refused ({lines[0]}); converted it answers {_short(got[0])}")

    def compare(self, inputs: Inputs, expected: Array, got: Array) -> None:
        """Raises Unsupported naming the row on which two answers to `inputs` differ."""
        if expected.dtype != got.dtype or expected.shape != got.shape:
            raise Unsupported(
                f"it answers {expected.dtype} of the shape {expected.shape}, converted {got.dtype} of {got.shape}"
            )
        self.rows += len(expected)
        if expected.dtype.kind != "f":
            wrong = expected != got
        else:
            difference = _relative(expected, got)
            self.largest = max(self.largest, float(difference.max(initial=0.0)))
            wrong = difference > self.tolerance
        if not wrong.any():
            return
        row = int(np.flatnonzero(wrong.reshape(len(wrong), -1).any(axis=1))[0])
        detail = f", {self.largest:.2g} apart where {self.tolerance:g} is allowed" if expected.dtype.kind == "f" else ""
        raise Unsupported(
            f"to {_row(inputs, row)} it answers {_short(expected[row])}, converted {_short(got[row])}{detail}"
        )


def _relative(expected: Array, got: Array) -> Array:
    left, right = expected.astype(np.float64), got.astype(np.float64)
    finite = np.abs(left[np.isfinite(left)])
    floor = float(finite.max(initial=0.0)) * 1e-3
    with np.errstate(all="ignore"):
        difference = np.abs(left - right) / np.maximum(np.maximum(np.abs(left), np.abs(right)), floor)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    return np.where(same, 0.0, np.where(np.isnan(difference), np.inf, difference))


def part(inputs: Inputs, index: int) -> Inputs:
    """One row."""
    if isinstance(inputs, Frame):
        return Frame(inputs.columns, tuple(column[index : index + 1] for column in inputs.data), 1)
    return Tensors({name: array[index : index + 1] for name, array in inputs.arrays.items()})


def _row(inputs: Inputs, index: int) -> str:
    one = part(inputs, index)
    values: Any = one.values()[0] if isinstance(one, Frame) else one.single()[0].tolist()
    return f"the row {_short(values)}"


def _short(value: Any) -> str:
    text = repr(value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value)
    return text if len(text) <= 400 else text[:397] + "..."
