"""Bare ONNX files: inputs, outputs, opsets and weights beside them, read without onnx."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mpack.artifact.model import Description, Tree, Trust
from mpack.artifact.onnx import OnnxFormat
from mpack.errors import InputError
from mpack.signature import Tensor
from mpack.testing.trees import tree_of_files, tree_of_folder

MODELS = Path(__file__).parents[2] / "fixtures" / "models"


def model(opset: int = 17, ir: int = 8, domain: str = "", dims: object = ("batch", 3)) -> onnx.ModelProto:
    """y = x @ w, with w an initialiser that is an input too, as IR 3 had it."""
    weights = numpy_helper.from_array(np.ones((3, 2), dtype=np.float32), "w")
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, dims),
        helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 2]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [weights])
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir)


def read(tree: Tree) -> Description:
    """Reads the one ONNX model of a tree."""
    (candidate,) = OnnxFormat().detect(tree)
    return OnnxFormat().read(tree, candidate, Trust())


def test_signature(tmp_path: Path) -> None:
    """Initialisers are no inputs; named dimensions are free; the file need not be called .onnx."""
    found = read(tree_of_files(tmp_path, {"model.bin": model().SerializeToString()}))
    assert found.signature is not None
    assert found.signature.inputs == (Tensor("x", "float32", (-1, 3)),)
    assert found.signature.outputs == (Tensor("y", "float32", (-1, 2)),)
    assert [item.line for item in found.requirements] == ["onnxruntime>=1.15"]
    assert (found.loader.kind, found.loader.path, dict(found.ships)) == (
        "onnx",
        "model.bin",
        {"model.bin": "model.bin"},
    )


@pytest.mark.parametrize(
    ("opset", "ir", "runtime"), [(9, 4, "1.15"), (20, 9, "1.17"), (21, 10, "1.18"), (17, 10, "1.18"), (22, 10, "1.20")]
)
def test_runtime(opset: int, ir: int, runtime: str, tmp_path: Path) -> None:
    """onnxruntime is new enough for the opset and the IR version."""
    found = read(tree_of_files(tmp_path, {"m.onnx": model(opset, ir).SerializeToString()}))
    assert [item.line for item in found.requirements] == [f"onnxruntime>={runtime}"]


@pytest.mark.parametrize("name", ["onnx-iris/iris.onnx", "onnx-two-inputs/scores.onnx"])
def test_agrees_with_onnx(name: str) -> None:
    """On real models, inputs and outputs are those that the onnx package reads."""
    found = read(tree_of_folder(MODELS / name))
    graph = onnx.load(MODELS / name).graph
    assert found.signature is not None
    for told, values in ((found.signature.inputs, graph.input), (found.signature.outputs, graph.output)):
        for item, value in zip(told, values, strict=True):
            assert isinstance(item, Tensor)
            kind = value.type.tensor_type
            assert item.name == value.name
            assert item.dtype == helper.tensor_dtype_to_np_dtype(kind.elem_type).name
            dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]
            assert list(item.shape) == dims


def external(location: str) -> bytes:
    """A model whose weights stand in another file."""
    made = model()
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    return made.SerializeToString()


def test_external_data(tmp_path: Path) -> None:
    """Weights beside the model are shipped with it."""
    tree = tree_of_files(tmp_path, {"m/model.onnx": external("w/weights.bin"), "m/w/weights.bin": b"x", "other": b"y"})
    assert set(read(tree).ships) == {"m/model.onnx", "m/w/weights.bin"}


@pytest.mark.parametrize(
    ("location", "code"),
    [("weights.bin", "artifact-invalid"), ("../w", "artifact-unsafe"), ("/etc/passwd", "artifact-unsafe")],
)
def test_external_data_elsewhere(location: str, code: str, tmp_path: Path) -> None:
    """Weights that are missing, or outside the model's folder, are refused by name."""
    with pytest.raises(InputError, match=re.escape(location)) as caught:
        read(tree_of_files(tmp_path, {"model.onnx": external(location)}))
    assert caught.value.code == code


def test_other_types_have_no_signature(tmp_path: Path) -> None:
    """A sequence or a map is left to onnxruntime."""
    made = model()
    made.graph.output.append(helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None))
    found = read(tree_of_files(tmp_path, {"m.onnx": made.SerializeToString()}))
    assert found.signature is not None
    assert found.signature.outputs == ()


def test_foreign_operators_are_shown(tmp_path: Path) -> None:
    """Operators that onnxruntime does not bring are a warning."""
    found = read(tree_of_files(tmp_path, {"m.onnx": model(domain="acme.ops").SerializeToString()}))
    assert ["acme.ops" in finding.message for finding in found.findings] == [True]


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"", "artifact-corrupt"), (b"not onnx at all", "artifact-corrupt"), (b"\x08", "artifact-truncated"),
     (model().SerializeToString()[:-5], "artifact-truncated")],
)  # fmt: skip
def test_broken(data: bytes, code: str, tmp_path: Path) -> None:
    """A file that is none is refused by name."""
    with pytest.raises(InputError, match=r"m\.onnx") as caught:
        read(tree_of_files(tmp_path, {"m.onnx": data}))
    assert caught.value.code == code


@given(st.binary(max_size=200), st.integers(0, 120))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes, place: int) -> None:
    """Damaged models raise InputError or are read; nothing else comes."""
    whole = model().SerializeToString()
    tree = tree_of_files(tmp_path_factory.mktemp("m"), {"m.onnx": whole[:place] + data + whole[place + len(data) :]})
    try:
        read(tree)
    except InputError as error:
        assert error.code.startswith("artifact-")
