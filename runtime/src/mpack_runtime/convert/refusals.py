"""What a model refuses: missing and boundless numbers. A graph takes them all, so whoever asks it must know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mpack_runtime.convert.agree import Refused, ask, part
from mpack_runtime.convert.forest import Unsupported
from mpack_runtime.convert.questions import Shape, with_one
from mpack_runtime.frame import Array, Inputs
from mpack_runtime.loaders import Model

#: Columns that are asked for, one by one.
COLUMNS = 200
_SINGLE, _DOUBLE = float(np.finfo(np.float32).max), float(np.finfo(np.float64).max)
#: What is tried, largest first: both types' largest numbers, and what stays below those after some scaling.
_LIMITS = (_DOUBLE, 1e300, 1e200, 1e100, _SINGLE, 1e37, 1e35, 1e30, 1e25, 1e20)


def accepted(model: Model, shape: Shape, rows: Sequence[Array], sample: Inputs | None) -> Inputs:
    """Rows that the model answers. Raises Unsupported if it answers none."""
    tried = shape.inputs([column[:50] for column in rows])
    for inputs in [*([] if sample is None else [sample]), tried, *(part(tried, index) for index in range(tried.rows))]:
        try:
            ask(model, inputs)
        except Refused as error:
            why = str(error).splitlines()[0]
        else:
            return inputs
    raise Unsupported(f"the model answers none of the rows that it is asked: {why}")


def form(model: Model, inputs: Inputs, method: str) -> dict[str, Any]:
    """The dtype and the number of dimensions of a method's answers, and their columns' names."""
    answer = ask(model, replace(inputs, method=method))
    names = list(model.output_names(method))
    return {"names": names, "dtype": answer.dtype.str if answer.dtype.kind != "O" else "O", "ndim": answer.ndim}


def probe(model: Model, shape: Shape, rows: Sequence[Array], *, double: bool) -> dict[str, Any]:
    """`no_nan`: the columns in which NaN is refused; `limit`: the largest number that is not, None for any. A graph in
    float32 (not `double`) has that one's largest for its limit."""
    few = _answered(model, shape, rows)
    numbers = _numbers(shape, few)
    no_nan = [index for index in numbers[:COLUMNS] if _refuses(model, shape, with_one(few, index, np.nan))]
    if no_nan == numbers[:COLUMNS]:
        no_nan = numbers
    limit = None if double and not no_nan else _DOUBLE if double else _SINGLE
    tried = (np.inf, *(item for item in _LIMITS if limit is None or item <= limit))
    for value, below in zip(tried, tried[1:]):
        if any(_refuses(model, shape, with_one(few, index, value)) for index in numbers[:COLUMNS]):
            limit = below
        elif value <= _DOUBLE:
            break
    return {"no_nan": no_nan, "limit": limit}


def missing(shape: Shape, rows: Sequence[Array]) -> Iterator[Inputs]:
    """Rows with a missing value in each column in turn."""
    few = [column[:2] for column in rows]
    for index, column in list(enumerate(few))[:COLUMNS]:
        yield shape.inputs(with_one(few, index, None if column.dtype == object else np.nan))


def large(shape: Shape, rows: Sequence[Array], limit: float | None) -> Iterator[Inputs]:
    """Rows with the largest numbers within the limit, and the smallest, in each column in turn."""
    few = [column[:1] for column in rows]
    value = np.inf if limit is None else limit
    for index, column in list(enumerate(few))[:COLUMNS]:
        for number in () if column.dtype == object else (value, -value):
            yield shape.inputs(with_one(few, index, number))


def answers_beyond(model: Model, shape: Shape, rows: Sequence[Array], limit: float | None) -> bool:
    """True if the model itself answers numbers that a graph with that limit refuses."""
    few = _answered(model, shape, rows)
    numbers = _numbers(shape, few)
    if limit is None or not numbers:
        return False
    beyond = np.inf if limit == _DOUBLE else limit * 2
    return not all(_refuses(model, shape, with_one(few, index, beyond)) for index in numbers[:COLUMNS])


def _numbers(shape: Shape, rows: Sequence[Array]) -> list[int]:
    """The columns that can hold NaN and infinity."""
    whole = ("integer", "long", "boolean")
    return [index for index, column in enumerate(rows) if column.dtype != object and shape.types[index] not in whole]


def _answered(model: Model, shape: Shape, rows: Sequence[Array]) -> list[Array]:
    """One row that is answered, else the first."""
    for row in range(min(50, len(rows[0]))):
        one = [column[row : row + 1] for column in rows]
        if not _refuses(model, shape, one):
            return one
    return [column[:1] for column in rows]


def _refuses(model: Model, shape: Shape, rows: Sequence[Array]) -> bool:
    try:
        ask(model, shape.inputs(rows))
    except Refused:
        return True
    return False
