"""ONNX models through onnxruntime. One output is answered as it is, several as an object of names and values."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpack_runtime import threads
from mpack_runtime.config import ModelConfig
from mpack_runtime.errors import BadRequest, LoadFailure
from mpack_runtime.frame import Array, Frame, Inputs
from mpack_runtime.loaders import Model
from mpack_runtime.signature import Signature, Tensor

#: onnxruntime's type of a tensor -> NumPy's.
DTYPES = {
    "float": "float32", "double": "float64", "float16": "float16", "string": "str", "bool": "bool",
    "int8": "int8", "int16": "int16", "int32": "int32", "int64": "int64",
    "uint8": "uint8", "uint16": "uint16", "uint32": "uint32", "uint64": "uint64",
}  # fmt: skip


class OnnxModel(Model):
    """A graph of tensors in, tensors (or a ZipMap's list of objects) out."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._inputs = tuple(_tensor(item, "input") for item in session.get_inputs())
        self._outputs = tuple(item.name for item in session.get_outputs())
        outputs = [item for item in session.get_outputs() if item.type.startswith("tensor(")]
        told = tuple(_tensor(item, "output") for item in outputs) if len(outputs) == len(self._outputs) else ()
        self.signature = Signature(self._inputs, told)

    def predict(self, inputs: Inputs) -> Any:
        feeds = self._from_frame(inputs) if isinstance(inputs, Frame) else dict(inputs.arrays)
        if len(feeds) == 1 and len(self._inputs) == 1:
            feeds = {str(self._inputs[0].name): next(iter(feeds.values()))}
        answers = self._session.run(None, {str(item.name): _cast(feeds, item) for item in self._inputs})
        return answers[0] if len(answers) == 1 else dict(zip(self._outputs, answers))

    def rowwise(self) -> bool:
        """Where every input and output has a free first dimension."""
        sides = (*self.signature.inputs, *self.signature.outputs) if self.signature else ()
        return all(isinstance(item, Tensor) and item.shape[:1] == (-1,) for item in sides)

    def _from_frame(self, frame: Frame) -> dict[str, Array]:
        """A table for a graph: all of it as one input's matrix, or a column for each input."""
        if len(self._inputs) == 1:
            return {str(self._inputs[0].name): frame.matrix()}
        names = frame.columns or tuple(str(item.name) for item in self._inputs)
        if len(names) != len(frame.data):
            raise BadRequest(f"The request has {len(frame.data)} columns; the model takes {len(names)} inputs.")
        return dict(zip(names, frame.data))


def load(config: ModelConfig) -> Model:
    """Opens a session; its thread pool has the size that `threads.apply` set. A graph that was made of a model of
    another library answers as that did."""
    how = config.loader.options.get("converted")
    if how is not None:
        from mpack_runtime.loaders.converted import load as load_converted

        return load_converted(str(config.path), how)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads.per_worker()
    options.inter_op_num_threads = 1
    return OnnxModel(
        onnxruntime.InferenceSession(str(config.path), options, providers=onnxruntime.get_available_providers())
    )


def _tensor(item: Any, side: str) -> Tensor:
    """One input or output of a session; named and unknown dimensions are free."""
    element = item.type[len("tensor(") : -1] if item.type.startswith("tensor(") else ""
    if element not in DTYPES:
        raise LoadFailure(f"The model's {side} {item.name!r} is of the type {item.type}, which cannot be sent as JSON.")
    shape = tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in item.shape or ())
    return Tensor(item.name, DTYPES[element], shape)


def _cast(feeds: dict[str, Array], tensor: Tensor) -> Array:
    """An input in the graph's own dtype, with a last dimension of 1 where the graph has one more."""
    array = feeds.get(str(tensor.name))
    if array is None:
        raise BadRequest(f"Missing input {tensor.name!r}: the request has {', '.join(feeds)}.")
    if array.ndim + 1 == len(tensor.shape) and tensor.shape[-1] in (1, -1):
        array = array[..., np.newaxis]
    return array.astype(object) if tensor.dtype == "str" else np.ascontiguousarray(array, dtype=tensor.dtype)
