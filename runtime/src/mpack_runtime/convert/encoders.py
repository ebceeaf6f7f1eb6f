"""What comes before a model, in float64 where skl2onnx has it in float32 alone: encoders of categories, imputers."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpack_runtime.convert.forest import Unsupported
from mpack_runtime.convert.nodes import Nodes

_ENCODERS = ("OneHotEncoder", "OrdinalEncoder")


def register(*, double: bool) -> None:
    """Tells skl2onnx of them, or (not `double`) takes that back."""
    from skl2onnx import update_registered_converter
    from skl2onnx._supported_operators import sklearn_operator_name_map
    from sklearn import impute, preprocessing

    kinds = [(getattr(preprocessing, name), _wide, _encode) for name in _ENCODERS]
    for kind, shape, convert in [*kinds, (impute.SimpleImputer, _imputed, _impute)]:
        if double:
            update_registered_converter(kind, f"Mpack{kind.__name__}", shape, convert)
        else:
            sklearn_operator_name_map[kind] = f"Sklearn{kind.__name__}"


def _wide(operator: Any) -> None:
    from skl2onnx.common._registration import get_shape_calculator
    from skl2onnx.common.data_types import DoubleTensorType

    get_shape_calculator(_own(operator))(operator)
    operator.outputs[0].type = DoubleTensorType(operator.outputs[0].type.shape)


def _encode(scope: Any, operator: Any, container: Any) -> None:
    from skl2onnx.common._registration import get_shape_calculator

    inner = scope.declare_local_operator(_own(operator), operator.raw_operator)
    for item in operator.inputs:
        inner.inputs.append(item)
    inner.outputs.append(scope.declare_local_variable("encoded", operator.outputs[0].type))
    get_shape_calculator(_own(operator))(inner)
    Nodes(scope, operator, container).finish(inner.outputs[0].full_name)


def _own(operator: Any) -> str:
    return f"Sklearn{type(operator.raw_operator).__name__}"


def _imputed(operator: Any) -> None:
    from skl2onnx.common.data_types import DoubleTensorType

    operator.outputs[0].type = DoubleTensorType([None, len(operator.raw_operator.statistics_)])


def _impute(scope: Any, operator: Any, container: Any) -> None:
    model, nodes = operator.raw_operator, Nodes(scope, operator, container)
    told = model.missing_values
    values = np.asarray(model.statistics_)
    if not (isinstance(told, float) and np.isnan(told)) or values.dtype.kind not in "fiu" or np.isnan(values).any():
        raise Unsupported("an imputer of anything but numbers for NaN")
    if model.add_indicator:
        raise Unsupported("an imputer with indicators")
    names = [nodes.cast(item.full_name, np.float64) for item in operator.inputs]
    table = nodes.add("Concat", *names, axis=1) if len(names) > 1 else names[0]
    nodes.finish(nodes.add("Where", nodes.add("IsNaN", table), nodes.constant(values[None, :], np.float64), table))
