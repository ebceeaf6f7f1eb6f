"""LightGBM: a Booster's text file, or a pickle of one of its scikit-learn classes; told apart by content."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

from mpack_runtime import threads
from mpack_runtime.config import ModelConfig
from mpack_runtime.frame import Frame, Inputs, Tensors
from mpack_runtime.loaders import Model
from mpack_runtime.loaders.categories import Categories
from mpack_runtime.loaders.sklearn import RAW, EstimatorModel, read_estimator
from mpack_runtime.signature import Column, Signature


class BoosterModel(Model):
    """A bare Booster: raw numbers or probabilities, as its objective says."""

    def __init__(self, booster: Any) -> None:
        self._booster = booster
        self._categories = categories_of(booster)
        self.signature = self._categories.typed(features(booster.feature_name(), "double"))
        self.methods = ("predict", RAW)

    def predict(self, inputs: Inputs) -> Any:
        matrix = inputs.single() if isinstance(inputs, Tensors) else self._categories.matrix(inputs)
        return self._booster.predict(matrix, raw_score=inputs.method == RAW, num_threads=threads.per_worker())


class WrapperModel(EstimatorModel):
    """A scikit-learn class of LightGBM: labels for classifiers, numbers for regressors."""

    def __init__(self, estimator: Any) -> None:
        super().__init__(estimator, "predict", {RAW: partial(estimator.predict, raw_score=True)})
        self._categories = categories_of(estimator.booster_)
        self.signature = features(estimator.feature_name_, "any")
        if self._categories:
            # A matrix has no names, and needs none: its columns were put in the model's order by name.
            warnings.filterwarnings("ignore", message="X does not have valid feature names", category=UserWarning)

    def table(self, frame: Frame) -> Any:
        return self._categories.matrix(frame) if self._categories else super().table(frame)

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
    return WrapperModel(held)


def categories_of(booster: Any) -> Categories:
    """Those of pandas that it was trained on; a value that is none of them is missing, as LightGBM itself takes it."""
    values, told = booster.pandas_categorical or [], booster.params
    # What a text file tells under the one name, a pickle does under the other.
    where = told.get("categorical_feature") or told.get("categorical_column") or []
    fits = isinstance(where, list) and len(where) == len(values) and all(type(index) is int for index in where)
    return Categories(dict(zip(sorted(where), values)) if fits else {}, strict=False)


def features(names: Sequence[str], kind: str) -> Signature:
    """One column a feature; without names where LightGBM made them up (Column_0, …)."""
    generated = list(names) == [f"Column_{index}" for index in range(len(names))]
    return Signature(inputs=tuple(Column(None if generated else name, kind) for name in names))
