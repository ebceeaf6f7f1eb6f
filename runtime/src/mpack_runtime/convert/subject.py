"""What of a loaded model is converted: the estimator, the form of its inputs, the categories that it knows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mpack_runtime.convert.boosters import BareLightGBM, BareXGBoost
from mpack_runtime.convert.forest import Unsupported
from mpack_runtime.convert.questions import Shape
from mpack_runtime.frame import Array
from mpack_runtime.loaders import Model
from mpack_runtime.loaders.converted import LOGARITHMS
from mpack_runtime.service import Service

#: What is asked of an estimator -> the number of the graph's output that says it.
METHODS = {"predict": 0, "predict_proba": 1, LOGARITHMS: 1}
_NUMBERS = ("integer", "long", "float", "double", "boolean", "any")


def estimator_of(model: Model) -> Any:
    """The estimator, or a bare booster in the form that skl2onnx knows models in. Raises Unsupported."""
    kind = type(model).__module__.rpartition(".")[2]
    booster = getattr(model, "_booster", None)
    if booster is not None:
        return (BareXGBoost if kind == "xgboost" else BareLightGBM)(booster)
    estimator = getattr(model, "estimator", None) or getattr(model, "_estimator", None)
    if estimator is None:
        raise Unsupported(f"the loader {kind} has no estimator to convert")
    return estimator


def outputs_of(service: Service, outputs: Sequence[str]) -> dict[str, str]:
    """The graph's output for each method that it may answer, the model's own first. Raises Unsupported for that one."""
    own, model = service.method, service.model
    if METHODS.get(own, len(outputs)) >= len(outputs):
        raise Unsupported(f"its method {own} has no graph")
    others = [method for method, index in METHODS.items() if method in model.methods and index < len(outputs)]
    return {method: outputs[METHODS[method]] for method in dict.fromkeys([own, *others])}


def shape_of(service: Service) -> Shape:
    """What a request becomes. Raises Unsupported where nothing tells, or it is no table."""
    if service.signature.params:
        raise Unsupported("its signature has parameters")
    tensors = service.signature.input_tensors
    if tensors:
        sizes = tensors[0].shape[1:]
        if len(tensors) > 1 or len(sizes) != 1 or sizes[0] < 1 or tensors[0].dtype not in ("float32", "float64"):
            raise Unsupported("its inputs are no table of a known width")
        return Shape((None,) * sizes[0], ("any",) * sizes[0], (tensors[0].name or "", tensors[0].dtype))
    columns = service.signature.input_columns
    if not columns:
        raise Unsupported("neither the model nor a signature tells its inputs")
    for column in columns:
        if column.type not in (*_NUMBERS, "string"):
            raise Unsupported(f"the column {column.name} is of the type {column.type}")
    return Shape(tuple(column.name for column in columns), tuple(column.type for column in columns))


def kinds_of(estimator: Any, shape: Shape, words: list[list[str]]) -> list[str]:
    """The graph's inputs: "matrix", or a kind for each column where some are text or are picked by name."""
    by_name = any(_picks(part) for part in _parts(estimator))
    text = [kind == "string" or bool(known) for kind, known in zip(shape.types, words)]
    if not by_name and not any(text):
        return ["matrix"]
    if shape.tensor is not None or None in shape.names:
        raise Unsupported("it picks columns by name, and its inputs have none")
    return ["string" if item else "number" for item in text]


def words_of(estimator: Any, shape: Shape) -> list[list[str]]:
    """The categories, where they are text, of each column."""
    found: list[list[str]] = [[] for _ in shape.names]
    for places, part in _fitted(estimator, shape):
        for place, values in zip(places, getattr(part, "categories_", ())):
            if values.dtype.kind in "OU":
                found[place] = [item for item in values.tolist() if isinstance(item, str)]
    return found


def numbers_of(estimator: Any, shape: Shape) -> list[list[float]]:
    """Numbers that tell of each column's range, from what was fitted on it: scalers, imputers, kept rows."""
    found: list[list[float]] = [[] for _ in shape.names]
    for places, part in _fitted(estimator, shape):
        for row in _told(part):
            if len(row) == len(places):
                for place, value in zip(places, row):
                    found[place].append(float(value))
    return found


def _told(part: Any) -> Iterator[Array]:
    middle = np.asarray(getattr(part, "mean_", getattr(part, "center_", None)))
    scale = np.asarray(getattr(part, "scale_", None))
    if middle.ndim == 1 and middle.shape == scale.shape and middle.dtype.kind == scale.dtype.kind == "f":
        yield from (middle - 2 * scale, middle + 2 * scale)
    for name in ("data_min_", "data_max_", "statistics_"):
        values = np.asarray(getattr(part, name, ()))
        if values.ndim == 1 and values.dtype.kind in "fiu":
            yield values
    for name in ("support_vectors_", "_fit_X", "theta_"):
        rows = getattr(part, name, None)
        if isinstance(rows, np.ndarray) and rows.ndim == 2 and len(rows) and rows.dtype.kind in "fiu":
            yield from (rows.min(axis=0), rows.max(axis=0))


def _fitted(estimator: Any, shape: Shape) -> Iterator[tuple[list[int], Any]]:
    """What was fitted on the inputs themselves, and on which of them."""
    yield list(range(len(shape.names))), _first(estimator)
    known = {name: index for index, name in enumerate(shape.names)}
    for _, member, picked in getattr(_first(estimator), "transformers_", ()):
        places = [known.get(item, item) for item in _listed(picked)]
        if all(isinstance(place, int) and 0 <= place < len(shape.names) for place in places):
            for part in _parts(member):
                yield places, part


def before_trees(estimator: Any) -> Any:
    """What stands before the last step, if it can be gone through both ways; else None."""
    steps = getattr(estimator, "steps", ())
    if len(steps) < 2 or not hasattr(estimator[:-1], "inverse_transform"):
        return None
    return estimator[:-1]


def _listed(picked: Any) -> list[Any]:
    if isinstance(picked, slice) or callable(picked):
        return []
    return (
        [picked]
        if isinstance(picked, (str, int))
        else [getattr(item, "item", lambda item=item: item)() for item in picked]
    )


def _first(estimator: Any) -> Any:
    steps = getattr(estimator, "steps", None)
    return steps[0][1] if steps else estimator


def _picks(part: Any) -> bool:
    """True for what sends columns different ways by name."""
    return type(part).__name__ == "ColumnTransformer" and getattr(part, "feature_names_in_", None) is not None


def _parts(estimator: Any) -> Iterator[Any]:
    """An estimator and the estimators that it consists of."""
    yield estimator
    members = [item[1] for item in getattr(estimator, "steps", ())]
    members += [item[1] for item in getattr(estimator, "transformers_", ())]
    members += [item[1] for item in getattr(estimator, "transformer_list", ())]
    for member in members:
        if not isinstance(member, str) and member is not None:
            yield from _parts(member)


def told_json(model: Model) -> dict[str, Any] | None:
    """What only the model itself tells of its inputs, in model.json's form: the graph tells it in its place."""
    if model.signature is None:
        return None
    inputs = [
        {"kind": "column", "name": field.name, "type": field.type, "required": field.required}
        for field in model.signature.input_columns
    ]
    return {"inputs": inputs, "outputs": [], "params": []}
