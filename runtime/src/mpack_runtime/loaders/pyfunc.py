"""Any MLflow python_function, through mlflow itself: code, context artifacts, parameters.

MLflow checks its own schema once more, and knows no missing value in a column of whole numbers: an optional one of
which all is missing is left out of the table, as MLflow wants it; one with gaps is refused.
"""

from __future__ import annotations

from typing import Any

from mpack_runtime.config import ModelConfig
from mpack_runtime.errors import BadRequest
from mpack_runtime.frame import Frame, Inputs
from mpack_runtime.loaders import Model
from mpack_runtime.signature import Column


class PyfuncModel(Model):
    """A loaded python_function: fed a DataFrame, an array, or a dict of arrays."""

    def __init__(self, model: Any, columns: tuple[Column, ...]) -> None:
        self._model = model
        whole = ("boolean", "integer", "long")
        self._optional = {column.name for column in columns if not column.required and column.type in whole}

    def predict(self, inputs: Inputs) -> Any:
        data: Any
        if isinstance(inputs, Frame):
            data = self._table(inputs)
        else:
            data = inputs.single() if list(inputs.arrays) == [""] else dict(inputs.arrays)
        if inputs.params:
            return self._model.predict(data, params=dict(inputs.params))
        return self._model.predict(data)

    def _table(self, frame: Frame) -> Any:
        """The DataFrame, without optional columns of which nothing is there."""
        table = frame.pandas()
        for name in self._optional.intersection(frame.columns or ()):
            missing = table[name].isna()
            if missing.all():
                table = table.drop(columns=[name])
            elif missing.any() and table[name].dtype.kind == "f":
                row = int(missing.to_numpy().argmax()) + 1
                raise BadRequest(
                    f'Row {row}, column "{name}": null is not allowed beside numbers, for MLflow models take no missing'
                    " value in a column of whole numbers; its signature can declare the column as double."
                )
        return table


def load(config: ModelConfig) -> Model:
    """Loads the model directory with mlflow.pyfunc."""
    import mlflow.pyfunc

    columns = config.signature.input_columns if config.signature else ()
    return PyfuncModel(mlflow.pyfunc.load_model(str(config.path)), columns)
