"""What a request becomes (Frame or Tensors) and what a model's answer becomes (Prediction)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Union

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    Array = np.ndarray[Any, Any]
else:
    Array = np.ndarray  # NumPy before 1.22 cannot be subscripted


@dataclass(frozen=True)
class Frame:
    """A table: one 1-D array a column, all of `rows` values; `columns` is None where the model's inputs have no names.

    Dtypes: bool, int32, int64, float32, float64 (NaN is missing), datetime64[ns] in UTC (NaT is missing), object
    (str, bytes, bool, int or JSON values; None is missing); any number type where a V2 tensor brings it and no type is
    declared. `warnings` tell the client what was ignored. `method` is one of the model's; "" is its own.
    """

    columns: tuple[str, ...] | None
    data: tuple[Array, ...]
    rows: int
    params: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    method: str = ""
    #: All values, where they were read as one matrix. No argument, so that a frame made of another's columns has none.
    whole: Array | None = field(default=None, init=False, compare=False, repr=False)

    @classmethod
    def of_matrix(cls, columns: tuple[str, ...] | None, matrix: Array, data: tuple[Array, ...] = ()) -> Frame:
        """A table of a C-contiguous matrix's columns, or of `data`, whose common type and values the matrix has."""
        frame = cls(columns, data or tuple(matrix.T), len(matrix))
        object.__setattr__(frame, "whole", matrix)
        return frame

    @property
    def numeric(self) -> bool:
        """True if every column is of numbers or booleans."""
        return self.whole is not None or all(column.dtype.kind in "biuf" for column in self.data)

    def matrix(self) -> Array:
        """A 2-D array (rows, columns): of the columns' common number type, else of objects."""
        if self.whole is not None:
            return self.whole
        if self.numeric and self.data:
            return np.stack(self.data, axis=1)
        matrix = np.empty((self.rows, len(self.data)), dtype=object)
        for index, column in enumerate(self.data):
            matrix[:, index] = column.tolist() if column.dtype.kind != "M" else column.astype("datetime64[us]").tolist()
        return matrix

    def values(self) -> list[list[Any]]:
        """Rows of plain Python values: NaN stays NaN, other missing values are None, dates are datetime in UTC."""
        columns = [
            column.astype("datetime64[us]").tolist() if column.dtype.kind == "M" else column.tolist()
            for column in self.data
        ]
        return [list(row) for row in zip(*columns)]

    def pandas(self) -> pd.DataFrame:
        """A DataFrame with these columns, named or numbered from 0. Needs pandas."""
        import pandas as pd

        names: Any = self.columns if self.columns is not None else range(len(self.data))
        frame = pd.DataFrame(dict(enumerate(self.data)), index=pd.RangeIndex(self.rows))
        frame.columns = pd.Index(list(names))
        return frame


@dataclass(frozen=True)
class Tensors:
    """Arrays by input name ("" for the single unnamed one). `rows` is the first dimension of the first.

    `params`, `warnings` and `method` are those of a Frame.
    """

    arrays: Mapping[str, Array]
    params: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    method: str = ""

    @property
    def rows(self) -> int:
        first = next(iter(self.arrays.values()))
        return int(first.shape[0]) if first.ndim else 1

    def single(self) -> Array:
        """The first array: what a model of one input takes."""
        return next(iter(self.arrays.values()))


Inputs = Union[Frame, Tensors]


@dataclass(frozen=True)
class Prediction:
    """An answer that JSON can hold: `value` of lists, dicts, numbers, strings and number arrays; its column names.

    `table`: the columns' names where the model answered a DataFrame or Series; MLflow's protocol writes records then.
    """

    value: Any
    columns: tuple[str, ...] = ()
    table: tuple[str, ...] = field(default=(), compare=False)
