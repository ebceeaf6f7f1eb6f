"""Features whose values are categories: boosted trees are trained on their numbers, clients send their names.

A model that was trained on pandas' categories knows them, and is then asked by name; one that was trained on numbers
goes on taking numbers. A missing value is NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mpack_runtime.errors import BadRequest
from mpack_runtime.frame import Array, Frame
from mpack_runtime.signature import Column, Signature
from mpack_runtime.wire_columns import describe, quote


class Categories:
    """`values` are each feature's categories in the order of their numbers, by the feature's position.

    `strict`: a value that is none of them is refused; else it is missing, unless it is of another kind: text for a
    number, a boolean for what is none, a list, an object.
    """

    def __init__(self, values: Mapping[int, Sequence[Any]], *, strict: bool) -> None:
        self._codes = {index: {value: code for code, value in enumerate(of)} for index, of in values.items()}
        self._strict = strict

    def __bool__(self) -> bool:
        return bool(self._codes)

    def typed(self, told: Signature) -> Signature:
        """The features' columns, those with categories of any type."""
        fields = enumerate(told.inputs)
        return Signature(tuple(Column(field.name) if index in self._codes else field for index, field in fields))

    def matrix(self, frame: Frame) -> Array:
        """The table with numbers for categories. Raises BadRequest."""
        if not self._codes:
            return frame.matrix()
        columns = [
            self._numbers(column, index, frame) if index in self._codes else column
            for index, column in enumerate(frame.data)
        ]
        return Frame(frame.columns, tuple(columns), frame.rows).matrix()

    def _numbers(self, column: Array, index: int, frame: Frame) -> Array:
        codes = self._codes[index]
        text = any(isinstance(known, str) for known in codes)
        booleans = any(isinstance(known, bool) for known in codes)
        found = np.full(len(column), np.nan)
        for row, value in enumerate(column.tolist()):
            odd = isinstance(value, (list, dict)) or (isinstance(value, bool) and not booleans)
            code = None if odd else codes.get(value)
            if code is not None:
                found[row] = code
            elif value is not None and value == value and (odd or self._strict or isinstance(value, str) != text):
                name = quote(frame.columns[index]) if frame.columns else str(index + 1)
                known = ", ".join(str(known) for known in list(codes)[:20])
                raise BadRequest(f"Row {row + 1}, column {name}: {describe(value)} is none of its categories: {known}.")
        return found
