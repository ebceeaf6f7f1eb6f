"""ODAHU GPPI entry points: a module with init() and predict_on_matrix(), perhaps info() and head_*.pkl samples."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpack_runtime.config import ModelConfig, Sample
from mpack_runtime.errors import LoadFailure
from mpack_runtime.frame import Frame, Inputs, Prediction
from mpack_runtime.loaders import Model, pickled
from mpack_runtime.signature import Column, Field, Signature

INPUT_SAMPLE, OUTPUT_SAMPLE = "head_input.pkl", "head_output.pkl"

#: A word of info() -> column type. The reference calls booleans strings too, so a string says nothing.
TYPES = {"integer": "long", "number": "double", "boolean": "boolean"}
#: Kind of a sample column's dtype -> column type.
KINDS = {"i": "long", "u": "long", "f": "double", "b": "boolean", "M": "datetime"}


class GppiModel(Model):
    """An initialised entry point. It gets rows as lists of plain values, as the reference gives them."""

    def __init__(self, entry: Any, signature: Signature | None, sample: Sample | None, example: Any) -> None:
        self._entry = entry
        make = getattr(entry, "get_output_json_serializer", None)
        serializer = make() if make is not None else None
        self._encoder: json.JSONEncoder | None = serializer() if serializer is not None else None
        self.signature = signature
        self.sample = sample
        self.example = example

    def predict(self, inputs: Inputs) -> Any:
        if isinstance(inputs, Frame):
            names = inputs.columns
            answer = self._entry.predict_on_matrix(
                inputs.values(), provided_columns_names=list(names) if names else None
            )
        else:
            answer = self._entry.predict_on_matrix(inputs.single().tolist(), provided_columns_names=None)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise TypeError("predict_on_matrix() must return two values, the prediction and its column names")
        prediction, columns = answer
        if self._encoder is not None:
            prediction = encoded(prediction, self._encoder)
        return Prediction(prediction, tuple(str(name) for name in columns) if columns is not None else ())


def encoded(value: Any, encoder: json.JSONEncoder) -> Any:
    """A prediction whose objects that JSON has no word for are what the model's own encoder makes of them.

    The reference asks it on the command line alone; here it counts on every road, so that all give one answer.
    """
    if isinstance(value, np.ndarray) and value.dtype == object:
        return encoded(value.tolist(), encoder)
    if isinstance(value, (list, tuple)):
        return [encoded(item, encoder) for item in value]
    if isinstance(value, Mapping):
        return {key: encoded(item, encoder) for key, item in value.items()}
    if value is None or isinstance(value, (str, int, float, np.generic, np.ndarray)) or hasattr(value, "to_numpy"):
        return value
    try:
        made = encoder.default(value)
    except TypeError:  # the encoder does not know it either; mpack may
        return value
    return encoded(made, encoder)


def load(config: ModelConfig) -> Model:
    """Imports the entry point with its directory on sys.path and in MODEL_LOCATION, and calls init()."""
    options = config.loader.options
    workdir = config.root / str(options.get("workdir") or config.loader.path)
    os.environ["MODEL_LOCATION"] = str(workdir)
    sys.path.insert(0, str(workdir))
    entry = importlib.import_module(str(options.get("entrypoint") or "entrypoint"))
    mode = entry.init()
    if mode == "objects":
        raise LoadFailure("Can not handle this types of requests: init() returned 'objects', only 'matrix' is served.")
    if mode != "matrix":
        raise LoadFailure(f"Unknown model's return type: {mode}. init() must return 'matrix'.")
    inputs, outputs = _info(entry)
    head = _read(workdir / INPUT_SAMPLE)
    told = _columns_of(head) or tuple(_column(item) for item in inputs)
    signature = Signature(told, tuple(_column(item) for item in outputs))
    return GppiModel(entry, signature, _sample(config, workdir), _example(inputs))


def _info(entry: Any) -> tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]:
    """What info() tells of inputs and outputs; nothing where the entry point has no such function."""
    if not hasattr(entry, "info"):
        return (), ()
    inputs, outputs = entry.info()
    return inputs or (), outputs or ()


def _column(item: Mapping[str, Any]) -> Field:
    return Column(str(item["name"]), TYPES.get(str(item.get("type")), "any"), bool(item.get("required", True)))


def _read(path: Path) -> Any:
    return pickled.read(path) if path.exists() else None


def _columns_of(head: Any) -> tuple[Field, ...]:
    """The columns of a sample DataFrame with the types of its dtypes; nothing for other samples."""
    if head is None or not hasattr(head, "dtypes") or not hasattr(head, "columns"):
        return ()
    kinds = [KINDS.get(getattr(dtype, "kind", "O"), "any") for dtype in head.dtypes]
    return tuple(Column(str(name), kind) for name, kind in zip(head.columns, kinds))


def _sample(config: ModelConfig, workdir: Path) -> Sample | None:
    """The sample files beside the entry point, relative to the model's root."""
    if not (workdir / INPUT_SAMPLE).exists():
        return None
    place = workdir.relative_to(config.root)
    output = str(place / OUTPUT_SAMPLE) if (workdir / OUTPUT_SAMPLE).exists() else None
    return Sample(input_file=str(place / INPUT_SAMPLE), output_file=output)


def _example(inputs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """One row of the examples that info() gives."""
    if not inputs or any(item.get("example") is None for item in inputs):
        return None
    return {"columns": [str(item["name"]) for item in inputs], "data": [[item["example"] for item in inputs]]}
