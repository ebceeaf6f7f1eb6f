"""LightGBM: a Booster's text file, or a pickle of one of its scikit-learn classes; told apart by content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpack_runtime import threads
from mpack_runtime.config import ModelConfig
from mpack_runtime.frame import Inputs, Tensors
from mpack_runtime.loaders import Model
from mpack_runtime.loaders.sklearn import EstimatorModel, read_estimator
from mpack_runtime.signature import Column, Signature


class BoosterModel(Model):
    """A bare Booster: raw numbers or probabilities, as its objective says."""

    def __init__(self, booster: Any) -> None:
        self._booster = booster
        self.signature = features(booster.feature_name(), "double")

    def predict(self, inputs: Inputs) -> Any:
        matrix = inputs.single() if isinstance(inputs, Tensors) else inputs.matrix()
        return self._booster.predict(matrix, num_threads=threads.per_worker())

    def rowwise(self) -> bool:
        return True


def load(config: ModelConfig) -> Model:
    """Reads a text model, or what a pickle holds."""
    import lightgbm

    with config.path.open("rb") as stream:
        text = stream.read(4) == b"tree"
    if text:
        return BoosterModel(lightgbm.Booster(model_file=str(config.path)))
    held = read_estimator(config.path, config.loader.options)
    if isinstance(held, lightgbm.Booster):
        return BoosterModel(held)
    model = EstimatorModel(held, "predict")
    model.signature = features(held.feature_name_, "any")
    return model


def features(names: Sequence[str], kind: str) -> Signature:
    """One column a feature; without names where LightGBM made them up (Column_0, …)."""
    generated = list(names) == [f"Column_{index}" for index in range(len(names))]
    return Signature(inputs=tuple(Column(None if generated else name, kind) for name in names))
