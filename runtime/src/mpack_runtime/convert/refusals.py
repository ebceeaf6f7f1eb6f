"""What a model refuses: missing and boundless numbers. A graph takes them all, so whoever asks it must know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


def accepted(model: Model, shape: Shape, rows: Sequence[Array], sample: Inputs | None) -> Inputs:
    """Rows that the model answers. Raises Unsupported if it answers none."""
    tried = shape.inputs([column[:50] for column in rows])
    for inputs in [sample] * (sample is not None) + [tried, *(part(tried, index) for index in range(tried.rows))]:
        try:
            ask(model, inputs)
        except Refused as error:
            why = str(error).splitlines()[0]
        else:
            return inputs
    raise Unsupported(f"the model answers none of the rows that it is asked: {why}")


def form(model: Model, inputs: Inputs) -> dict[str, Any]:
    """The dtype and the number of dimensions of its answers; text has no width of its own."""
    answer = ask(model, inputs)
    return {"dtype": answer.dtype.str if answer.dtype.kind != "O" else "O", "ndim": answer.ndim}


def probe(model: Model, shape: Shape, rows: Sequence[Array]) -> dict[str, Any]:
    """`no_nan`: the columns in which NaN is refused; `limit`: the largest number that is not, None for any."""
    few = _answered(model, shape, rows)
    numbers = [index for index, column in enumerate(few) if column.dtype != object]
    no_nan = [index for index in numbers[:COLUMNS] if _refuses(model, shape, with_one(few, index, np.nan))]
    if no_nan == numbers[:COLUMNS]:
        no_nan = numbers
    limit = None
    for value, allowed in ((np.inf, _DOUBLE), (1e39, _SINGLE)):
        if any(_refuses(model, shape, with_one(few, index, value)) for index in numbers[:COLUMNS]):
            limit = allowed
    if no_nan and limit is None:
        limit = _DOUBLE
    return {"no_nan": no_nan, "limit": limit}


def odd(shape: Shape, rows: Sequence[Array]) -> Iterator[Inputs]:
    """Rows with a missing or boundless value in each column in turn."""
    few = [column[:2] for column in rows]
    for index, column in list(enumerate(few))[:COLUMNS]:
        for value in (None,) if column.dtype == object else (np.nan, np.inf, -np.inf, 1e39, -1e39, 1e300):
            yield shape.inputs(with_one(few, index, value))


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
