"""LightGBM: a Booster's text file, or a pickle of one of its scikit-learn classes; told apart by content."""

from __future__ import annotations

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
        names = booster.feature_name()
        generated = names == [f"Column_{index}" for index in range(len(names))]  # trained without names
        self.signature = Signature(inputs=tuple(Column(None if generated else name, "double") for name in names))

    def predict(self, inputs: Inputs) -> Any:
        matrix = inputs.single() if isinstance(inputs, Tensors) else inputs.matrix()
        return self._booster.predict(matrix, num_threads=threads.per_worker())


def load(config: ModelConfig) -> Model:
    """Reads a text model, or what a pickle holds."""
    import lightgbm

    with config.path.open("rb") as stream:
        text = stream.read(4) == b"tree"
    if text:
        return BoosterModel(lightgbm.Booster(model_file=str(config.path)))
    held = read_estimator(config.path, config.loader.options)
    return BoosterModel(held) if isinstance(held, lightgbm.Booster) else EstimatorModel(held, "predict")
