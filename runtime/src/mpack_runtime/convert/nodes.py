"""What the converters of trees write into a graph, around skl2onnx's container."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpack_runtime.convert.forest import DOMAIN, Forest
from mpack_runtime.frame import Array

FLOAT, INT64, DOUBLE = 1, 7, 11
#: skl2onnx writes no newer ai.onnx.ml; `graph` names the one that the trees need when all is written.
ANNOUNCED = 3
_CODES = {np.dtype(np.float32): FLOAT, np.dtype(np.float64): DOUBLE}


class Nodes:
    """The nodes of one operator of skl2onnx. Each method adds one and returns its output's name."""

    def __init__(self, scope: Any, operator: Any, container: Any) -> None:
        self._scope, self._operator, self._container = scope, operator, container
        self.source: str = operator.inputs[0].full_name

    def add(self, kind: str, *inputs: str, domain: str = "", version: int | None = None, **attributes: Any) -> str:
        name: str = self._scope.get_unique_variable_name(kind.lower())
        self._write(kind, inputs, name, domain, version, attributes)
        return name

    def _write(
        self, kind: str, inputs: tuple[str, ...], output: str, domain: str, version: int | None, attributes: Any
    ) -> None:
        node = self._scope.get_unique_operator_name(kind)
        more = {} if version is None else {"op_version": version}
        self._container.add_node(kind, list(inputs), output, op_domain=domain, name=node, **more, **attributes)

    def constant(self, values: Any, dtype: Any = None) -> str:
        """An initializer. Text is kept as text."""
        from onnx import helper

        array = np.asarray(values, dtype)
        name: str = self._scope.get_unique_variable_name("constant")
        text = array.dtype.kind in "OUS"
        code = 8 if text else helper.np_dtype_to_tensor_dtype(array.dtype)
        flat = [str(item).encode() for item in array.ravel()] if text else array.ravel().tolist()
        self._container.add_initializer(name, code, list(array.shape), flat)
        return name

    def cast(self, value: str, dtype: Any) -> str:
        return self.add("Cast", value, to=_CODES[np.dtype(dtype)])

    def forest(self, forest: Forest, source: str) -> str:
        """The trees' sums (rows, targets)."""
        return self.add("TreeEnsemble", source, domain=DOMAIN, version=ANNOUNCED, **forest.attributes())

    def finish(self, value: str, index: int = 0) -> None:
        """Makes `value`, cast to what was announced, the operator's output of that index."""
        from skl2onnx.common.data_types import guess_proto_type

        output = self._operator.outputs[index]
        self._write("Cast", (value,), output.full_name, "", None, {"to": guess_proto_type(output.type)})

    def labels(self, index: str, classes: Array) -> None:
        """Makes the classes at these indices (rows) the operator's first output."""
        self._write_labels(self.add("Gather", self.constant(_whole(classes)), index), classes)

    def _write_labels(self, value: str, classes: Array) -> None:
        output = self._operator.outputs[0].full_name
        self._write("Identity", (value,), output, "", None, {})


def _whole(classes: Array) -> Array:
    """Classes as a graph has them: text, or 64-bit whole numbers."""
    return classes if classes.dtype.kind in "OUS" else classes.astype(np.int64)
