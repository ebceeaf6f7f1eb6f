"""scikit-learn estimators and pipelines: pickle, cloudpickle, joblib and skops files.

A DataFrame is fed where the model was fitted on one (it has `feature_names_in_`) or where a column is not numeric, and
pandas is installed; else a matrix.
"""

from __future__ import annotations

import importlib.util
import pickle
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mpack_runtime.config import ModelConfig
from mpack_runtime.errors import LoadFailure
from mpack_runtime.frame import Frame, Inputs
from mpack_runtime.loaders import Model
from mpack_runtime.loaders.sklearn_linear import shortened
from mpack_runtime.signature import Column, Signature

METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "transform", "score_samples")
#: The margins of boosted trees, before their objective makes probabilities or the like of them.
RAW = "predict_raw"
#: Methods that answer a column a class.
BY_CLASS = ("predict_proba", "predict_log_proba", "decision_function", RAW)


class EstimatorModel(Model):
    """Any object with scikit-learn's interface."""

    def __init__(self, estimator: Any, method: str, more: Mapping[str, Callable[[Any], Any]] | None = None) -> None:
        self.estimator = estimator
        self.method = method
        self._methods = {**methods_of(estimator), method: getattr(estimator, method), **(more or {})}
        self.methods = tuple(self._methods)
        self._named = getattr(estimator, "feature_names_in_", None) is not None
        self._pandas = importlib.util.find_spec("pandas") is not None
        self.signature = estimator_signature(estimator)
        if self._named and not self._pandas:
            # A matrix has no names, and needs none: its columns were put in the model's order by name.
            warnings.filterwarnings("ignore", message="X does not have valid feature names", category=UserWarning)
        if "predict" in self._methods:
            self._methods["predict"] = shortened(estimator, self._methods["predict"])

    def predict(self, inputs: Inputs) -> Any:
        table = self.table(inputs) if isinstance(inputs, Frame) else inputs.single()
        return self._methods[inputs.method or self.method](table)

    def table(self, frame: Frame) -> Any:
        """What the estimator is asked with."""
        wants_frame = (self._named and frame.columns is not None) or not frame.numeric
        return frame.pandas() if self._pandas and wants_frame else frame.matrix()

    def output_names(self, method: str) -> tuple[str, ...]:
        return class_names(self.estimator) if method in BY_CLASS else ()

    def rowwise(self) -> bool:
        return _is_plain(self.estimator) and all(map(_is_plain, self.estimator.get_params(deep=True).values()))


#: Libraries whose estimators answer each row by itself.
_ROWWISE = ("sklearn", "xgboost", "lightgbm")


def _is_plain(value: Any) -> bool:
    """True unless it is code of somebody else's: what that does with rows nobody knows."""
    if hasattr(value, "fit"):
        return type(value).__module__.partition(".")[0] in _ROWWISE
    return isinstance(value, type) or not callable(value)


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


def methods_of(estimator: Any) -> dict[str, Callable[[Any], Any]]:
    """Those of METHODS that the estimator has; scikit-learn leaves out what its parameters do not allow."""
    found = {}
    for name in METHODS:
        with suppress(Exception):  # a property of the model's own code, which nobody may ever ask for
            method = getattr(estimator, name, None)
            if callable(method):
                found[name] = method
    return found


def class_names(estimator: Any) -> tuple[str, ...]:
    """A classifier's labels as text, in its order; of other models, and of several targets, nothing."""
    labels: list[Any] = []
    with suppress(Exception):
        labels = list(getattr(estimator, "classes_", ()))
    return tuple(map(str, labels)) if all(getattr(label, "ndim", 0) == 0 for label in labels) else ()


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
