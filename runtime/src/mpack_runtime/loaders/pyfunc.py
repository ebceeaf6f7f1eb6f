"""Any MLflow python_function, through mlflow itself: code, context artifacts, parameters."""

from __future__ import annotations

from typing import Any

from mpack_runtime.config import ModelConfig
from mpack_runtime.frame import Frame, Inputs
from mpack_runtime.loaders import Model


class PyfuncModel(Model):
    """A loaded python_function: fed a DataFrame, an array, or a dict of arrays."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def predict(self, inputs: Inputs) -> Any:
        data: Any
        if isinstance(inputs, Frame):
            data = inputs.pandas()
        else:
            data = inputs.single() if list(inputs.arrays) == [""] else dict(inputs.arrays)
        if inputs.params:
            return self._model.predict(data, params=dict(inputs.params))
        return self._model.predict(data)


def load(config: ModelConfig) -> Model:
    """Loads the model directory with mlflow.pyfunc."""
    import mlflow.pyfunc

    return PyfuncModel(mlflow.pyfunc.load_model(str(config.path)))
