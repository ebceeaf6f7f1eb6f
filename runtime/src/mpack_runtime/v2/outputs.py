"""A model's answer as named V2 tensors. Knows nothing of Triton.

Numbers are converted to the declared type only if nothing is lost. Missing values are NaN in floats; the other types
have none, and an answer that needs one is an error. BYTES are UTF-8 text; numbers, booleans and objects in them are
JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mpack_runtime.errors import ModelFailure
from mpack_runtime.frame import Array, Prediction
from mpack_runtime.v2.spec import Spec
from mpack_runtime.v2.tensors import Unfit, cast, datatype_of, fit, objects, plain_array
from mpack_runtime.wire_columns import quote, sentence


def encode(
    prediction: Prediction, specs: Sequence[Spec], *, exact: bool = True, gaps: bool = False
) -> dict[str, Array]:
    """The answer as these outputs (not `exact`: floats may be rounded; `gaps`: missing text is None).

    Raises ModelFailure.
    """
    found = {}
    try:
        for spec, value in zip(specs, _values(prediction, specs)):
            what = f"output {quote(spec.name)}"
            found[spec.name] = fit(_typed(value, spec.datatype, what, exact, gaps), spec.shape, what)
    except Unfit as error:
        raise ModelFailure(sentence(f"{error}.")) from error
    return found


def _values(prediction: Prediction, specs: Sequence[Spec]) -> list[Any]:
    """One value an output: of an object by its keys, of a table by its columns. Raises Unfit."""
    value, names = prediction.value, [spec.name for spec in specs]
    if isinstance(value, Mapping):
        if all(name in value for name in names):
            return [value[name] for name in names]
        if len(names) == len(value) == 1:
            return list(value.values())
        raise Unfit(f"the model answers {_listed(value)}, where {_listed(names)} is declared")
    if len(names) == 1:
        return [value]
    columns = _columns(value, len(names))
    if columns is not None:
        if set(names) == set(prediction.columns):
            return [columns[prediction.columns.index(name)] for name in names]
        return columns
    if isinstance(value, list) and len(value) == len(names):
        return value
    raise Unfit(f"the model answers one value, where the outputs {_listed(names)} are declared")


def _columns(value: Any, width: int) -> list[Any] | None:
    """The columns of a table of that width."""
    if isinstance(value, np.ndarray):
        return [value[:, index] for index in range(width)] if value.ndim == 2 and value.shape[1] == width else None
    if isinstance(value, list) and value and all(isinstance(row, list) and len(row) == width for row in value):
        return [list(column) for column in zip(*value)]
    return None


def _listed(names: Any) -> str:
    return ", ".join(quote(str(name)) for name in names)


def _typed(value: Any, datatype: str, what: str, exact: bool, gaps: bool) -> Array:
    try:
        array = plain_array(value)
    except ValueError as error:  # NumPy's, of lists that differ in depth
        raise Unfit(f"{what} is ragged: lists of one level must have one length") from error
    if array.dtype == object and any(isinstance(item, (list, np.ndarray)) for item in array.ravel().tolist()):
        raise Unfit(f"{what} is ragged: lists of one level must have one length")
    if datatype != "BYTES":
        return cast(array, datatype, what, exact=exact)
    items = array.ravel().tolist()
    return objects([None if gaps and item is None else _text(item, what) for item in items]).reshape(array.shape)


def _text(item: Any, what: str) -> bytes:
    if item is None:
        raise Unfit(f"{what} has a missing value, which BYTES cannot hold")
    try:
        return (item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)).encode()
    except UnicodeEncodeError as error:
        raise Unfit(f"{what} has text with half a character (a lone surrogate), which UTF-8 cannot hold") from error


def told_by(prediction: Prediction) -> tuple[Spec, ...]:
    """The outputs as an answer tells them: one a named column or key, else `predict`; the first dimension is free."""
    value, names = prediction.value, prediction.columns
    if isinstance(value, Mapping) and value:
        return tuple(_told(str(name), item) for name, item in value.items())
    columns = _columns(value, len(names)) if len(names) > 1 else None
    if columns is not None:
        return tuple(_told(name, column) for name, column in zip(names, columns))
    return (_told(names[0] if len(names) == 1 else "predict", value),)


def _told(name: str, value: Any) -> Spec:
    array = plain_array(value)
    datatype = datatype_of(array)
    shape = (-1, *array.shape[1:]) if array.ndim > 1 else (-1, 1)
    return Spec(name, datatype, shape)
