"""Several requests' inputs as one, so that the model is asked once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np

from mpack_runtime.frame import Array, Frame, Inputs, Tensors


def kind(inputs: Inputs) -> Hashable:
    """Inputs of one kind can be joined: the same names, types, method, and shapes but for the number of rows."""
    if isinstance(inputs, Frame):
        return (inputs.columns, tuple(column.dtype.str for column in inputs.data), inputs.method)
    return (*((name, array.dtype.str, array.shape[1:]) for name, array in inputs.arrays.items()), inputs.method)


def join(parts: Sequence[Inputs]) -> Inputs:
    """All rows of inputs of one kind, in order."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Frame):
        tables = [part for part in parts if isinstance(part, Frame)]
        data = tuple(np.concatenate(columns) for columns in zip(*(table.data for table in tables)))
        return replace(first, data=data, rows=sum(table.rows for table in tables))
    groups = [part.arrays for part in parts if isinstance(part, Tensors)]
    return replace(first, arrays={name: np.concatenate([arrays[name] for arrays in groups]) for name in first.arrays})


def split(outputs: dict[str, Array], rows: Sequence[int]) -> list[dict[str, Array]]:
    """The joined answer's rows for each part."""
    ends = np.cumsum(rows)[:-1]
    cut = {name: np.split(array, ends) for name, array in outputs.items()}
    return [{name: pieces[index] for name, pieces in cut.items()} for index in range(len(rows))]
