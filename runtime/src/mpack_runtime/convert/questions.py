"""What both models are asked: the sample, rows drawn from its ranges, edges, and both sides of trees' thresholds.

All is drawn by one seeded generator, so that the same model is asked the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpack_runtime.frame import Array, Frame, Inputs, Tensors

ROWS = 1000
#: Rows a group, and thresholds at most: a row for each side of each is asked.
GROUP = 2000
THRESHOLDS = 4000
_EDGES = (0.0, -0.0, 1.0, -1.0, 1e-3, 1e3, -1e3, 1e6, 5e-324)
_DTYPES = {"integer": np.int32, "long": np.int64, "float": np.float32, "double": np.float64, "boolean": np.bool_}


@dataclass(frozen=True)
class Shape:
    """What a request becomes: columns of these names and types, or (`tensor`, its name and dtype) one matrix."""

    names: tuple[str | None, ...]
    types: tuple[str, ...]
    tensor: tuple[str, str] | None = None

    def inputs(self, columns: Sequence[Array]) -> Inputs:
        """Rows in that form."""
        if self.tensor is not None:
            return Tensors({self.tensor[0]: np.stack(columns, axis=1).astype(self.tensor[1])})
        named = tuple(name for name in self.names if name is not None)
        data = tuple(_typed(column, kind) for column, kind in zip(columns, self.types))
        return Frame(named if len(named) == len(data) else None, data, len(data[0]))


def _typed(column: Array, kind: str) -> Array:
    if column.dtype == object or kind not in _DTYPES:
        return column
    if kind == "boolean":
        return np.asarray(column > np.median(column))
    with np.errstate(over="ignore", invalid="ignore"):
        if kind in ("integer", "long"):
            column = np.clip(np.nan_to_num(np.rint(column)), -(2**31), 2**31 - 1)
        return column.astype(_DTYPES[kind])


@dataclass(frozen=True)
class Column:
    """How a column is drawn: numbers about `middle`, `spread` wide; or `words`."""

    middle: float
    spread: float
    words: tuple[str, ...] = ()

    def draw(self, random: np.random.Generator, rows: int) -> Array:
        if self.words:
            return np.array(self.words, dtype=object)[random.integers(len(self.words), size=rows)]
        return self.middle + self.spread * random.normal(size=rows)


def columns(
    shape: Shape, sample: Inputs | None, words: Sequence[Sequence[str]], numbers: Sequence[Sequence[float]]
) -> list[Column]:
    """How each column is drawn: from the sample's values, what the model tells of `numbers` and `words`."""
    found = []
    for index in range(len(shape.names)):
        own = sample_column(sample, index)
        if words[index] or (own is not None and own.dtype == object):
            said = [item for item in ([] if own is None else own.tolist()) if isinstance(item, str)]
            found.append(Column(0, 0, tuple(dict.fromkeys([*words[index], *said, "", "no such value"]))))
            continue
        known = [*numbers[index], *([] if own is None else own.astype(float).tolist())]
        known = [value for value in known if np.isfinite(value)]
        low, high = (min(known), max(known)) if known else (-1.0, 1.0)
        found.append(Column((low + high) / 2, max((high - low) / 2, abs(high) / 10, 1e-3 if known else 1.0)))
    return found


def sample_column(sample: Inputs | None, index: int) -> Array | None:
    """A column of a request; None where it has none of that number."""
    if isinstance(sample, Frame):
        return sample.data[index] if index < len(sample.data) else None
    matrix = sample.single() if sample is not None else None
    return matrix[:, index] if matrix is not None and matrix.ndim == 2 and index < matrix.shape[1] else None


def groups(drawn: Sequence[Column], tests: Sequence[tuple[int, float]], before: Any = None) -> Iterator[list[Array]]:
    """Groups of rows, each column by column; `before`: what makes the trees' features of the inputs, and back."""
    random = np.random.default_rng(20)
    yield [column.draw(random, ROWS) for column in drawn]
    for value in _EDGES:
        rows = [column.draw(random, len(drawn) + 1) for column in drawn]
        for index, column in enumerate(drawn):
            if not column.words:
                rows[index][index] = rows[index][-1] = value
        yield rows
    yield from thresholds(drawn, tests, random, before)


def thresholds(
    drawn: Sequence[Column], tests: Sequence[tuple[int, float]], random: np.random.Generator, before: Any = None
) -> Iterator[list[Array]]:
    """Rows on each threshold and beside it: next to it in float64, and in float32."""
    usable = [item for item in tests if item[0] < len(drawn) and np.isfinite(item[1])]
    if len(usable) > THRESHOLDS:
        usable = [usable[index] for index in np.sort(random.permutation(len(usable))[:THRESHOLDS])]
    asked = [(feature, side) for feature, value in usable for side in sides(value)]
    for start in range(0, len(asked), GROUP):
        part = asked[start : start + GROUP]
        rows = [column.draw(random, len(part)) for column in drawn]
        if before is not None:
            rows = list(np.array(before.transform(np.stack(rows, axis=1)), float).T)
            if len(rows) != len(drawn):
                return
        for row, (feature, value) in enumerate(part):
            if not drawn[feature].words:
                rows[feature][row] = value
        yield rows if before is None else list(before.inverse_transform(np.stack(rows, axis=1)).T)


def sides(value: float) -> set[float]:
    """A threshold and its neighbours."""
    with np.errstate(over="ignore"):
        single = np.float32(value)
        near = [np.nextafter(value, -np.inf), np.nextafter(value, np.inf), single]
        near += [np.nextafter(single, np.float32(-np.inf)), np.nextafter(single, np.float32(np.inf))]
    return {value, *(float(item) for item in near if np.isfinite(item))}


def with_one(rows: Sequence[Array], index: int, value: Any) -> list[Array]:
    """The rows with `value` in one column throughout."""
    changed = list(rows)
    changed[index] = np.full(len(rows[index]), value, dtype=object if isinstance(rows[index][0], str) else None)
    return changed
