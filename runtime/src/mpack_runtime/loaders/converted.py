"""A graph that `mpack build --optimize onnx` made of a model of another library, answering as that model does.

`options.converted` of the loader tells how the graph's inputs come about, what the original told of them, its methods
with output, dtype and number of dimensions (its own first), and which numbers the original refuses:

    {"inputs": ["matrix"] or number or string for each column, "signature": {…} or null, "columns": 4,
     "methods": {"predict": {"output": "label", "dtype": "int64", "ndim": 1, "names": []}}, "rowwise": true,
     "limit": 1.7e308 or null, "no_nan": [0, 1]}
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mpack_runtime.frame import Array, Frame, Inputs
from mpack_runtime.loaders import Model
from mpack_runtime.signature import Signature

#: Stands for a missing value among text, for which ONNX has no form.
MISSING = "\x00missing"
#: The method whose answers are those of the output's shares.
LOGARITHMS = "predict_log_proba"


class ConvertedModel(Model):
    """A session whose thread adds in one order, so that an answer does not depend on the processors."""

    def __init__(self, session: Any, how: Any) -> None:
        self._run = session.run
        self.signature = None if how["signature"] is None else Signature.from_json(how["signature"])
        inputs = session.get_inputs()
        self._names = [item.name for item in inputs]
        self._number = np.float64 if any(item.type == "tensor(double)" for item in inputs) else np.float32
        self._kinds: list[str] = list(how["inputs"])
        self._feeds = self._matrix if self._kinds == ["matrix"] else self._columns
        self._width = int(how["columns"])
        self._answers = {
            method: ([told["output"]], np.dtype(told["dtype"]), told["ndim"] == 1)
            for method, told in how["methods"].items()
        }
        self._output_names = {method: tuple(told["names"]) for method, told in how["methods"].items()}
        self.methods = tuple(self._answers)
        self.method = self.methods[0]
        self._rowwise = bool(how["rowwise"])
        self._limit: float | None = how["limit"]
        self._no_nan: list[int] = list(how["no_nan"])

    def predict(self, inputs: Inputs) -> Any:
        method = inputs.method or self.method
        output, dtype, flat = self._answers[method]
        answer = self._run(output, self._feeds(inputs))[0]
        if method == LOGARITHMS:
            with np.errstate(divide="ignore"):
                answer = np.log(answer)
        if flat and answer.ndim == 2:
            answer = answer[:, 0]
        return answer if answer.dtype == dtype else answer.astype(dtype)

    def output_names(self, method: str) -> tuple[str, ...]:
        return self._output_names[method]

    def rowwise(self) -> bool:
        return self._rowwise

    def _matrix(self, inputs: Inputs) -> dict[str, Array]:
        if isinstance(inputs, Frame):
            if inputs.whole is not None:
                matrix = np.asarray(inputs.whole, dtype=np.float64)
            else:
                columns = np.array(inputs.data, dtype=np.float64)
                matrix = columns.reshape(1, -1) if inputs.rows == 1 else np.ascontiguousarray(columns.T)
        else:
            matrix = np.ascontiguousarray(inputs.single(), dtype=np.float64)
            if matrix.ndim != 2:
                raise ValueError(f"Expected 2D array, got {matrix.ndim}D array instead.")
        if matrix.shape[1] != self._width:
            raise ValueError(f"X has {matrix.shape[1]} features, but the model expects {self._width}.")
        # False for NaN as well, so one look finds all that may have to be refused.
        if self._limit is not None and not (np.abs(matrix) <= self._limit).all():
            self._refuse(matrix.T)
        return {self._names[0]: matrix if self._number is np.float64 else matrix.astype(self._number)}

    def _columns(self, inputs: Inputs) -> dict[str, Array]:
        if not isinstance(inputs, Frame) or len(inputs.data) != self._width:
            raise ValueError(f"The model takes a table of {self._width} columns.")
        feeds = {}
        for index, (name, kind, column) in enumerate(zip(self._names, self._kinds, inputs.data)):
            feeds[name] = (self._text(column) if kind == "string" else self._numbers(column, index))[:, np.newaxis]
        return feeds

    def _text(self, column: Array) -> Array:
        made = np.empty(len(column), dtype=object)
        made[:] = [item if type(item) is str else MISSING if item is None else str(item) for item in column.tolist()]
        return made

    def _numbers(self, column: Array, index: int) -> Array:
        numbers = column.astype(np.float64)
        if self._limit is not None and not (np.abs(numbers) <= self._limit).all():
            self._refuse([numbers], index)
        return numbers.astype(self._number)

    def _refuse(self, columns: Any, first: int = 0) -> None:
        """Raises ValueError for what the original refuses, in its words."""
        for index, column in enumerate(columns, first):
            if index in self._no_nan and np.isnan(column).any():
                raise ValueError("Input X contains NaN.")
            if (np.abs(column) > self._limit).any():
                raise ValueError("Input X contains infinity or a value too large for the model.")


def load(path: str, how: Any) -> Model:
    """Opens a session of one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return ConvertedModel(onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]), how)
