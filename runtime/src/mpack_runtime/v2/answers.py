"""A model's answer as V2 tensors: what REST and gRPC share. Nothing that a model answers is without a form.

The signature tells names, types and shapes. Where the answer does not fit them it keeps its own types, and where a
value is no tensor at all (lists of different lengths), each row is JSON text. A missing value is NaN in floats and None
among text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mpack_runtime.errors import ModelFailure
from mpack_runtime.frame import Prediction
from mpack_runtime.render import plain
from mpack_runtime.v2 import outputs
from mpack_runtime.v2.raw import V2Tensor
from mpack_runtime.v2.spec import Spec
from mpack_runtime.v2.tensors import objects


def answer(prediction: Prediction, specs: Sequence[Spec]) -> list[V2Tensor]:
    """The answer's tensors, in the order of `specs` (none: as the answer itself tells)."""
    whole = Prediction(_listed(prediction.value), prediction.columns, prediction.table)
    if specs:
        try:
            return _encoded(whole, specs)
        except ModelFailure:
            pass
    try:
        told = outputs.told_by(whole)
        if len({spec.name for spec in told}) < len(told):
            whole = replace(whole, columns=())
            told = outputs.told_by(whole)
        if len(told) == len(specs):
            told = tuple(Spec(spec.name, item.datatype, item.shape) for spec, item in zip(specs, told))
        return _encoded(_renamed(whole, told), told)
    except (ModelFailure, TypeError, ValueError):  # NumPy's, of lists that differ in depth
        name = specs[0].name if len(specs) == 1 else "predict"
        return [V2Tensor(name, "BYTES", _rows(whole.value))]


def _listed(value: Any) -> Any:
    """Single values as lists of one."""
    if isinstance(value, Mapping):
        return {str(name): _listed(item) for name, item in value.items()}
    return value if isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim) else [value]


def _renamed(prediction: Prediction, specs: Sequence[Spec]) -> Prediction:
    """An object's keys, or a table's columns, under the names of as many `specs`."""
    names = [spec.name for spec in specs]
    if isinstance(prediction.value, Mapping):
        return replace(prediction, value=dict(zip(names, prediction.value.values())))
    return replace(prediction, columns=tuple(names))


def _encoded(prediction: Prediction, specs: Sequence[Spec]) -> list[V2Tensor]:
    return [V2Tensor.of(name, array) for name, array in outputs.encode(prediction, specs, gaps=True).items()]


def _rows(value: Any) -> Any:
    rows = value if isinstance(value, list) else [value]
    return objects([json.dumps(plain(row, numpy=False)).encode() for row in rows]).reshape(-1, 1)
