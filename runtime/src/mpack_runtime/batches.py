"""Several requests' inputs as one, so that the model is asked once, and its answer in parts again."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mpack_runtime.frame import Frame, Inputs, Prediction, Tensors


class Ambiguous(Exception):
    """A joined answer that may be a part for each row, or one for each output: it happens to have as many of both."""


def kind(inputs: Inputs) -> Hashable:
    """Inputs of one kind can be joined: the same names, types, parameters, and shapes but for the number of rows.

    None: they can be joined with nothing, for they are no rows, or ask for another method than the model's own: what
    was found of that one's answers says nothing of the other's, whose lists may be no rows at all.
    """
    if inputs.method:
        return None
    params = repr(sorted(inputs.params.items())) if inputs.params else ""
    if isinstance(inputs, Frame):
        types = tuple(column.dtype.str for column in inputs.data)
        return (inputs.columns, types, params) if inputs.rows else None
    arrays = inputs.arrays.items()
    if not inputs.rows or any(array.ndim < 1 or len(array) != inputs.rows for _, array in arrays):
        return None
    return (tuple((name, array.dtype.str, array.shape[1:]) for name, array in arrays), params)


def join(parts: Sequence[Inputs]) -> Inputs:
    """All rows of inputs of one kind, in order, with the first one's parameters."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Frame):
        tables = [part for part in parts if isinstance(part, Frame)]
        data = tuple(np.concatenate(columns) for columns in zip(*(table.data for table in tables)))
        return replace(first, data=data, rows=sum(table.rows for table in tables), warnings=())
    groups = [part.arrays for part in parts if isinstance(part, Tensors)]
    arrays = {name: np.concatenate([arrays[name] for arrays in groups]) for name in first.arrays}
    return replace(first, arrays=arrays, warnings=())


def split(answer: Any, rows: Sequence[int]) -> list[Any]:
    """The joined answer's rows for each part: of arrays, tables, lists, and objects of those. Raises ValueError where
    the answer has not as many rows, and Ambiguous."""
    if isinstance(answer, Prediction):
        return [replace(answer, value=value) for value in split(answer.value, rows)]
    if isinstance(answer, dict) and answer:
        cut = {name: split(values, rows) for name, values in answer.items()}
        return [{name: pieces[index] for name, pieces in cut.items()} for index in range(len(rows))]
    table = getattr(answer, "iloc", None)
    if table is None and not isinstance(answer, (np.ndarray, list)):
        raise ValueError(f"an answer of {type(answer).__name__} has no rows")
    if (isinstance(answer, np.ndarray) and not answer.ndim) or len(answer) != sum(rows):
        raise ValueError(f"the answer has not {sum(rows)} rows")
    if isinstance(answer, list) and all(
        isinstance(part, np.ndarray) and part.shape[:1] == (len(answer),) for part in answer
    ):
        raise Ambiguous
    pieces, start = [], 0
    for count in rows:
        if table is None:
            pieces.append(answer[start : start + count])
        else:
            pieces.append(table[start : start + count].reset_index(drop=True))
        start += count
    return pieces


def same(left: Any, right: Any) -> bool:
    """True if two answers are equal bit for bit, types included. What is not compared so is not the same."""
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray):
        if left.dtype != right.dtype or left.shape != right.shape:
            return False
        plain = not left.dtype.hasobject
        return left.tobytes() == right.tobytes() if plain else same(left.ravel().tolist(), right.ravel().tolist())
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, Prediction):
        return same((left.value, left.columns, left.table), (right.value, right.columns, right.table))
    if hasattr(left, "iloc"):
        return bool(left.equals(right))
    return repr(left) == repr(right)
