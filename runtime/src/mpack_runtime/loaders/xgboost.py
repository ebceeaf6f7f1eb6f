"""XGBoost: a Booster's file (JSON or UBJSON), alone or behind one of XGBoost's scikit-learn classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import orjson

from mpack_runtime import threads
from mpack_runtime.config import ModelConfig
from mpack_runtime.errors import LoadFailure
from mpack_runtime.frame import Inputs, Tensors
from mpack_runtime.loaders import Model
from mpack_runtime.loaders.categories import Categories
from mpack_runtime.loaders.sklearn import BY_CLASS, RAW, class_names, methods_of
from mpack_runtime.signature import Column, Signature

WRAPPERS = ("XGBClassifier", "XGBRegressor", "XGBRanker", "XGBRFClassifier", "XGBRFRegressor")


class BoosterModel(Model):
    """A bare Booster: margins or probabilities, as its objective says."""

    def __init__(self, booster: Any) -> None:
        self._booster = booster
        self._categories = categories_of(booster)
        self.signature = self._categories.typed(booster_signature(booster))
        self.methods = ("predict", RAW)

    def predict(self, inputs: Inputs) -> Any:
        import xgboost

        matrix = inputs.single() if isinstance(inputs, Tensors) else self._categories.matrix(inputs)
        names, types = self._booster.feature_names, self._booster.feature_types
        categorical = bool(types) and "c" in types
        return self._booster.predict(
            xgboost.DMatrix(
                matrix,
                feature_names=names,
                feature_types=types if categorical else None,
                enable_categorical=categorical,
                nthread=threads.per_worker(),
            ),
            output_margin=inputs.method == RAW,
        )

    def rowwise(self) -> bool:
        return True


class WrapperModel(Model):
    """A scikit-learn class of XGBoost: labels for classifiers, numbers for regressors."""

    def __init__(self, estimator: Any) -> None:
        self._estimator = estimator
        self._categories = categories_of(estimator.get_booster())
        self.signature = self._categories.typed(booster_signature(estimator.get_booster()))
        raw: Callable[[Any], Any] = partial(estimator.predict, output_margin=True)
        self._methods = {**methods_of(estimator), RAW: raw}
        self.methods = tuple(self._methods)

    def predict(self, inputs: Inputs) -> Any:
        # A matrix suffices: the columns already stand in the model's order.
        matrix = inputs.single() if isinstance(inputs, Tensors) else self._categories.matrix(inputs)
        return self._methods[inputs.method or self.method](matrix)

    def output_names(self, method: str) -> tuple[str, ...]:
        return class_names(self._estimator) if method in BY_CLASS else ()

    def rowwise(self) -> bool:
        return True


def load(config: ModelConfig) -> Model:
    """Reads the model file into the class that `options.class` names (default Booster)."""
    import xgboost

    name = str(config.loader.options.get("class") or "Booster").rpartition(".")[2]
    count = threads.per_worker()
    if name == "Booster":
        booster = xgboost.Booster({"nthread": count})
        booster.load_model(str(config.path))
        return BoosterModel(booster)
    if name not in WRAPPERS:
        raise LoadFailure(f"The option class is {name!r}; it must be Booster or one of {', '.join(WRAPPERS)}.")
    estimator = getattr(xgboost, name)(n_jobs=count)
    estimator.load_model(str(config.path))
    estimator.set_params(n_jobs=count)
    return WrapperModel(estimator)


def categories_of(booster: Any) -> Categories:
    """Those that the model itself knows (XGBoost 3.1 and later); another value is refused, as XGBoost refuses it."""
    if "c" not in (booster.feature_types or ()):
        return Categories({}, strict=True)
    made = orjson.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]
    known = (made.get("gbtree") or made).get("model", {}).get("cats", {}).get("enc", ())
    return Categories({index: values for index, of in enumerate(known) if (values := _names(of))}, strict=True)


def _names(encoded: Mapping[str, Any]) -> list[Any]:
    """One feature's categories: numbers, or text as bytes between offsets; nothing where they are not known."""
    values, offsets = encoded["values"], encoded.get("offsets")
    if offsets is None:
        return list(values)
    text = bytes(value % 256 for value in values)
    if not text.isascii():  # of pandas' text XGBoost counts characters and copies as many bytes
        return []
    return [text[start:end].decode() for start, end in zip(offsets, offsets[1:])]


def booster_signature(booster: Any) -> Signature:
    """The features' names, where training had them, and that they are numbers."""
    count = int(booster.num_features())
    return Signature(inputs=tuple(Column(name, "double") for name in booster.feature_names or (None,) * count))
