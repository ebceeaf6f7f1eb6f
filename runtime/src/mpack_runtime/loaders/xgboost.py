"""XGBoost: a Booster's file (JSON or UBJSON), alone or behind one of XGBoost's scikit-learn classes."""

from __future__ import annotations

from typing import Any

from mpack_runtime import threads
from mpack_runtime.config import ModelConfig
from mpack_runtime.errors import LoadFailure
from mpack_runtime.frame import Inputs, Tensors
from mpack_runtime.loaders import Model
from mpack_runtime.signature import Column, Signature

WRAPPERS = ("XGBClassifier", "XGBRegressor", "XGBRanker", "XGBRFClassifier", "XGBRFRegressor")


class BoosterModel(Model):
    """A bare Booster: margins or probabilities, as its objective says."""

    def __init__(self, booster: Any) -> None:
        self._booster = booster
        self.signature = booster_signature(booster)

    def predict(self, inputs: Inputs) -> Any:
        import xgboost

        matrix = inputs.single() if isinstance(inputs, Tensors) else inputs.matrix()
        names, types = self._booster.feature_names, self._booster.feature_types
        categorical = bool(types) and "c" in types
        return self._booster.predict(
            xgboost.DMatrix(
                matrix,
                feature_names=names,
                feature_types=types if categorical else None,
                enable_categorical=categorical,
                nthread=threads.per_worker(),
            )
        )

    def rowwise(self) -> bool:
        return True


class WrapperModel(Model):
    """A scikit-learn class of XGBoost: labels for classifiers, numbers for regressors."""

    def __init__(self, estimator: Any) -> None:
        self._estimator = estimator
        self.signature = booster_signature(estimator.get_booster())

    def predict(self, inputs: Inputs) -> Any:
        # A matrix suffices: the columns already stand in the model's order.
        return self._estimator.predict(inputs.single() if isinstance(inputs, Tensors) else inputs.matrix())

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


def booster_signature(booster: Any) -> Signature:
    """The features' names, where training had them, and that they are numbers."""
    count = int(booster.num_features())
    return Signature(inputs=tuple(Column(name, "double") for name in booster.feature_names or (None,) * count))
