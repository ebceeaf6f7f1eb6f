"""scikit-learn estimators and pipelines: pickle, cloudpickle, joblib and skops files.

A DataFrame is fed where the model was fitted on one (it has `feature_names_in_`) or where a column is not numeric, and
pandas is installed; else a matrix.
"""

from __future__ import annotations

import importlib.util
import pickle
import warnings
from pathlib import Path
from typing import Any

from mpack_runtime.config import ModelConfig
from mpack_runtime.errors import LoadFailure
from mpack_runtime.frame import Frame, Inputs
from mpack_runtime.loaders import Model
from mpack_runtime.loaders.sklearn_linear import shortened
from mpack_runtime.signature import Column, Signature

METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "transform", "score_samples")


class EstimatorModel(Model):
    """Any object with scikit-learn's interface."""

    def __init__(self, estimator: Any, method: str) -> None:
        self.estimator = estimator
        self._named = getattr(estimator, "feature_names_in_", None) is not None
        self._pandas = importlib.util.find_spec("pandas") is not None
        self.signature = estimator_signature(estimator)
        if self._named and not self._pandas:
            # A matrix has no names, and needs none: its columns were put in the model's order by name.
            warnings.filterwarnings("ignore", message="X does not have valid feature names", category=UserWarning)
        self._method = shortened(estimator, method, getattr(estimator, method))

    def predict(self, inputs: Inputs) -> Any:
        if not isinstance(inputs, Frame):
            return self._method(inputs.single())
        wants_frame = (self._named and inputs.columns is not None) or not inputs.numeric
        return self._method(inputs.pandas() if self._pandas and wants_frame else inputs.matrix())


def load(config: ModelConfig) -> Model:
    """Reads the estimator as `options.serialization` says (default pickle)."""
    options = config.loader.options
    method = options.get("method") or "predict"
    if method not in METHODS:
        raise LoadFailure(f"The option method is {method!r}; it must be one of {', '.join(METHODS)}.")
    estimator = read_estimator(config.path, options)
    if not hasattr(estimator, method):
        raise LoadFailure(
            f"The model {config.loader.path} is a {type(estimator).__name__}, which has no method {method}."
        )
    return EstimatorModel(estimator, method)


def read_estimator(path: Path, options: Any) -> Any:
    """The object in a pickle, cloudpickle, joblib or skops file."""
    serialization = options.get("serialization") or "pickle"
    if serialization == "skops":
        from mpack_runtime.loaders.skops import load as load_skops

        return load_skops(path, trusted=list(options.get("trusted") or ()))
    if serialization == "joblib":
        import joblib

        return joblib.load(path)
    if serialization in ("pickle", "cloudpickle"):
        with path.open("rb") as stream:
            return pickle.load(stream)  # noqa: S301 - the image exists to run this model
    raise LoadFailure(
        f"The option serialization is {serialization!r}; it must be pickle, cloudpickle, joblib or skops."
    )


def estimator_signature(estimator: Any) -> Signature | None:
    """What a fitted estimator says of its inputs: their names, or at least their number."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is not None:
        return Signature(inputs=tuple(Column(str(name)) for name in names))
    count = getattr(estimator, "n_features_in_", None)
    return Signature(inputs=(Column(None),) * int(count)) if count else None
