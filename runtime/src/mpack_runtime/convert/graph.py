"""An estimator as an ONNX model: by skl2onnx, in float64 where all of its operators can, and with the same bytes again
for the same estimator."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mpack_runtime.convert import boosters, encoders, forest, trees
from mpack_runtime.convert.forest import Unsupported

#: Operators of ONNX itself: old enough for every onnxruntime that has trees in float64.
OPSET = 18
IR_VERSION = 9
#: What a matrix is called; columns have the numbers of theirs.
MATRIX = "inputs"


@dataclass(frozen=True)
class Converted:
    """`model` is the file; where it is not computed in float64 (`double`), `lost` says so and why."""

    model: bytes
    outputs: tuple[str, ...]
    double: bool
    lost: str
    #: A feature and a threshold of every test of a tree; `direct`: features are the inputs themselves.
    tests: tuple[tuple[int, float], ...]
    direct: bool


def convert(estimator: Any, columns: Sequence[str | None], types: list[str]) -> Converted:
    """`types` has "matrix" alone, or number or string for each of `columns`.

    Raises Unsupported with the reason for the better of both attempts.
    """
    logging.disable(logging.WARNING)
    trees.register()
    boosters.register()
    reason = None
    for double in (True, False):
        encoders.register(double=double)
        try:
            found = _convert(estimator, columns, types, double=double)
            _open(found[0])
        except Exception as error:  # whatever converters raise for what they do not know
            reason = reason or _reason(error)
        else:
            lost = "" if double else f"computes in float32 ({reason})"
            return Converted(*found, double, lost, *_tests(found[0]))
    raise Unsupported(reason or "it cannot be converted")


def _convert(
    estimator: Any, columns: Sequence[str | None], types: list[str], *, double: bool
) -> tuple[bytes, tuple[str, ...]]:
    import skl2onnx
    from skl2onnx.common import data_types as of

    number = of.DoubleTensorType if double else of.FloatTensorType
    kinds = {"number": number, "string": of.StringTensorType}
    if types == ["matrix"]:
        initial = [(MATRIX, number([None, len(columns)]))]
    else:
        initial = [(str(name), kinds[kind]([None, 1])) for name, kind in zip(columns, types)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = _written(skl2onnx, estimator, initial, {id(estimator): {"zipmap": False}})
        except NameError:  # the option is not known for what is no classifier, and for some that are
            model = _written(skl2onnx, estimator, initial, None)
    if double:
        _tell_double(model.graph)
    return _same_again(model)


def _written(skl2onnx: Any, estimator: Any, initial: Any, options: Any) -> Any:
    return skl2onnx.to_onnx(
        estimator,
        initial_types=initial,
        options=options,
        target_opset={"": OPSET, forest.DOMAIN: 3},
        name="model",
    )


def _tell_double(graph: Any) -> None:
    """Casts numbers that are answered to float64: what is announced of them is not always what they are."""
    from onnx import TensorProto, helper

    for output in graph.output:
        kind = output.type.tensor_type
        if kind.elem_type in (TensorProto.FLOAT, TensorProto.DOUBLE):
            name = f"{output.name}_double"
            graph.node.append(helper.make_node("Cast", [output.name], [name], name=name, to=TensorProto.DOUBLE))
            output.name, kind.elem_type = name, TensorProto.DOUBLE


def _same_again(model: Any) -> tuple[bytes, tuple[str, ...]]:
    """The file without what varies, and its outputs' names."""
    trees_there = any(node.op_type == "TreeEnsemble" for node in model.graph.node)
    versions = {item.domain: item.version for item in model.opset_import}
    if trees_there:
        versions[forest.DOMAIN] = forest.OPSET
    del model.opset_import[:]
    for domain, version in sorted(versions.items()):
        model.opset_import.add(domain=domain, version=version)
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version, model.doc_string = "mpack", "", ""
    model.domain, model.model_version = "", 0
    model.graph.name, model.graph.doc_string = "model", ""
    del model.metadata_props[:]
    return model.SerializeToString(deterministic=True), tuple(item.name for item in model.graph.output)


def _open(model: bytes) -> None:
    """Raises what onnxruntime says of an operator that it has not in these types."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _reason(error: Exception) -> str:
    """A clause of one line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", lines[0].strip()).rstrip(".")
    text = text.partition("This usually means")[0].rstrip(" .")
    return text if len(text) <= 300 else text[:297] + "..."


def _tests(model: bytes) -> tuple[tuple[tuple[int, float], ...], bool]:
    """All tests of trees, and whether they read the inputs themselves, not what something made of them."""
    import onnx

    graph = onnx.load_from_string(model).graph
    makers = {output: node for node in graph.node for output in node.output}
    found: set[tuple[int, float]] = set()
    direct = True
    for node in graph.node:
        if node.op_type != "TreeEnsemble":
            continue
        values = {item.name: item for item in node.attribute}
        splits = onnx.numpy_helper.to_array(values["nodes_splits"].t).astype(float).tolist()
        found.update(zip(values["nodes_featureids"].ints, splits))
        source = node.input[0]
        while source in makers and makers[source].op_type == "Cast":
            source = makers[source].input[0]
        direct = direct and source == MATRIX
    return tuple(sorted(found)), direct
