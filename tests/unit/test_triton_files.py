"""SavedModel, TorchScript and OpenVINO IR: told by content, their tensors read, nothing of them loaded."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpack.artifact.model import Description, Tree, Trust
from mpack.artifact.openvino import OpenvinoFormat, read_ir
from mpack.artifact.savedmodel import SavedModelFormat, read_saved_model
from mpack.artifact.torchscript import TorchScriptFormat
from mpack.errors import InputError
from mpack.signature import Signature, Tensor
from mpack.testing.trees import tree_of_files

IR = (Path(__file__).parents[2] / "fixtures/broken/triton-ir-without-weights/model/model.xml").read_text("utf-8")


def field(number: int, value: int | bytes | str) -> bytes:
    """One field on protobuf's wire: a varint or a run of bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value % (1 << 64))
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    """A number on protobuf's wire."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def tensor_info(dtype: int, dims: list[int] | None) -> bytes:
    """tensorflow.TensorInfo; without dims its rank is unknown."""
    shape = field(3, 1) if dims is None else b"".join(field(2, field(1, dim)) for dim in dims)
    return field(1, "node:0") + field(2, dtype) + field(3, shape)


def graph(signatures: dict[str, bytes], tag: str = "serve") -> bytes:
    """tensorflow.MetaGraphDef with signature definitions."""
    entries = b"".join(field(5, field(1, name) + field(2, value)) for name, value in signatures.items())
    return field(2, field(1, field(4, tag)) + field(2, b"\x0a\x00") + entries)


def serving(inputs: dict[str, bytes], outputs: dict[str, bytes]) -> bytes:
    """tensorflow.SignatureDef."""
    sides = ((1, inputs), (2, outputs))
    return b"".join(field(side, field(1, n) + field(2, v)) for side, items in sides for n, v in items.items())


DEFAULT = serving(
    {"words": tensor_info(7, [-1]), "image": tensor_info(1, [-1, 28, 28, 3])}, {"scores": tensor_info(2, [-1, 10])}
)


def saved_model(directory: Path, data: bytes) -> Tree:
    """A SavedModel with variables and an asset."""
    names = ("variables/variables.index", "variables/variables.data-00000-of-00001", "assets/vocabulary.txt")
    return tree_of_files(directory, {"saved_model.pb": data, **dict.fromkeys(names, "x")})


def test_saved_model(tmp_path: Path) -> None:
    """The serving graph's default signature, by name; all of its files go to the image."""
    data = field(1, 1) + graph({"serving_default": serving({}, {})}, "train")
    tree = saved_model(tmp_path, data + graph({"__saved_model_init_op": b"", "serving_default": DEFAULT}))
    (candidate,) = SavedModelFormat().detect(tree)
    found = SavedModelFormat().read(tree, candidate, Trust())
    assert found.signature == Signature(
        (Tensor("image", "float32", (-1, 28, 28, 3)), Tensor("words", "str", (-1,))),
        (Tensor("scores", "float64", (-1, 10)),),
    )
    assert (found.loader.kind, found.loader.path) == ("savedmodel", "model.savedmodel")
    assert dict(found.ships) == {f"model.savedmodel/{path}": path for path in tree}
    assert found.requirements == found.findings == ()


@pytest.mark.parametrize(
    ("signatures", "message"),
    [
        ({}, "no signature serving_default .it has none"),
        ({"predict": DEFAULT, "__init": b""}, "no signature serving_default .it has predict."),
        ({"serving_default": serving({"x": tensor_info(1, None)}, {})}, "no tensor of known type and rank"),
        ({"serving_default": serving({"x": tensor_info(20, [1])}, {})}, "no tensor of known type and rank"),
        ({"serving_default": serving({"x": field(4, b"")}, {})}, "no tensor of known type and rank"),
    ],
)
def test_saved_model_without_signature(signatures: dict[str, bytes], message: str, tmp_path: Path) -> None:
    """What cannot be told is a warning: the model may have a config.pbtxt that tells it."""
    found = read_saved_model(saved_model(tmp_path, field(1, 1) + graph(signatures)), "saved_model.pb")
    assert found.signature is None
    (finding,) = found.findings
    assert finding.level == "warning"
    assert message.replace(".", "") in finding.message.replace("(", "").replace(")", "").replace(".", "")


WHOLE = field(1, 1) + graph({"serving_default": DEFAULT})


@given(
    cut=st.integers(0, len(WHOLE) - 1), flip=st.none() | st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
)
def test_damaged_saved_model(cut: int, flip: tuple[int, int] | None, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A damaged file is an error with its name or reads as something; never another exception."""
    data = bytearray(WHOLE if flip else WHOLE[:cut])
    if flip:
        data[flip[0]] ^= flip[1]
    try:
        read_saved_model(saved_model(tmp_path_factory.mktemp("model"), bytes(data)), "saved_model.pb")
    except InputError as error:
        assert error.code in ("artifact-truncated", "artifact-corrupt")
        assert "saved_model.pb" in error.message
    else:
        assert flip, "what is cut off is told"


def script(*names: str) -> bytes:
    """A zip with these names, as torch writes one."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        for name in names:
            made.writestr(f"net/{name}", b"cposix\nsystem\n(S'exit 1'\ntR.")
    return stream.getvalue()


SCRIPT = script("data.pkl", "constants.pkl", "code/__torch__.py", "version")


def read_script(directory: Path, files: dict[str, bytes | str]) -> Description:
    """Reads the one TorchScript file."""
    tree = tree_of_files(directory, files)
    (candidate,) = TorchScriptFormat().detect(tree)
    return TorchScriptFormat().read(tree, candidate, Trust())


def test_torchscript(tmp_path: Path) -> None:
    """Told from a pickle of torch.save by its code; a schema beside it, or above its version, tells the tensors."""
    found = read_script(tmp_path / "a", {"net.pt": SCRIPT, "old.pt": script("data.pkl", "version")})
    assert (found.loader.kind, found.loader.path, found.signature) == ("torchscript", "net.pt", None)
    assert [item.level for item in found.findings] == ["note"]
    schema = '{"inputs": [{"name": "INPUT__0", "datatype": "FP16", "shape": [1, 2]}]}'
    expected = Signature((Tensor("INPUT__0", "float16", (1, 2)),))
    assert read_script(tmp_path / "b", {"net.pth": SCRIPT, "_schema.json": schema}).signature == expected
    numbered = read_script(tmp_path / "c", {"7/net.pt": SCRIPT, "_schema.json": schema})
    assert (numbered.version, numbered.signature) == ("7", expected)


@pytest.mark.parametrize(
    "data",
    [b"", b"PK\x03\x04 nothing", script("data.pkl", "version"), script("constants.pkl"), SCRIPT[:-30]],
    ids=["empty", "no zip", "a pickle", "no code", "cut"],
)
def test_no_torchscript(data: bytes, tmp_path: Path) -> None:
    """Anything else with that name is left to others."""
    assert TorchScriptFormat().detect(tree_of_files(tmp_path, {"net.pt": data})) == []


def test_ir(tmp_path: Path) -> None:
    """Inputs and outputs under the names that OpenVINO has for them; both files go to the image."""
    tree = tree_of_files(tmp_path, {"net.xml": IR, "net.bin": b"\0" * 8, "other.xml": "<html/>"})
    (candidate,) = OpenvinoFormat().detect(tree)
    found = OpenvinoFormat().read(tree, candidate, Trust())
    assert found.signature == Signature((Tensor("x", "float32", (-1, 2)),), (Tensor("y", "float32", (-1, 2)),))
    assert (found.loader.kind, found.loader.path) == ("openvino", "net.xml")
    assert sorted(found.ships) == ["net.bin", "net.xml"]
    assert found.findings == ()


@pytest.mark.parametrize(
    ("old", "new", "inputs", "outputs"),
    [
        (' names="x"', "", "x", "y"),
        (' names="x"', ' names="first,second"', "first", "y"),
        (' names="x"', r' names="a\,b,c"', "a,b", "y"),
        (' names="y"', "", "x", "y"),
        ('name="y" type="Multiply"', 'name="product" type="Multiply"', "x", "y"),
    ],
)
def test_ir_names(old: str, new: str, inputs: str, outputs: str, tmp_path: Path) -> None:
    """A tensor's first name, else its layer's."""
    assert old in IR
    tree = tree_of_files(tmp_path, {"m.xml": IR.replace(old, new), "m.bin": b"\0" * 8})
    found = read_ir(tree, "m.xml", "m.bin").signature
    assert found is not None
    assert ([item.name for item in found.inputs], [item.name for item in found.outputs]) == ([inputs], [outputs])


@pytest.mark.parametrize(
    ("old", "new", "warning"),
    [
        ('version="11"', 'version="7"', "IR version 7"),
        ('shape="?,2"', 'shape="..."', "no known type or rank"),
        ('shape="?,2" element_type="f32"', 'shape="?,2" element_type="u1"', "no known type or rank"),
        ('from-layer="2"', 'from-layer="9"', "no known type or rank"),
    ],
)
def test_ir_warnings(old: str, new: str, warning: str, tmp_path: Path) -> None:
    """What is too old, or not told, is a warning."""
    assert old in IR
    tree = tree_of_files(tmp_path, {"m.xml": IR.replace(old, new), "m.bin": b"\0" * 8})
    found = read_ir(tree, "m.xml", "m.bin")
    assert warning in " ".join(item.message for item in found.findings)
    assert found.signature is None or found.version == 7


def test_ir_bodies_are_not_the_network(tmp_path: Path) -> None:
    """A loop's body has parameters and results of its own."""
    body = '<body><layers><layer id="0" name="inner" type="Parameter"><data shape="1" element_type="f32"/></layer>'
    loop = f'<layer id="9" name="loop" type="Loop">{body}</layers></body></layer></layers>'
    text = IR.replace("</layers>", loop, 1)
    tree = tree_of_files(tmp_path, {"m.xml": text, "m.bin": b"\0" * 8})
    found = read_ir(tree, "m.xml", "m.bin").signature
    assert found is not None
    assert [item.name for item in found.inputs] == ["x"]


def test_ir_too_deep(tmp_path: Path) -> None:
    """Nesting has an end."""
    tree = tree_of_files(tmp_path, {"m.xml": "<net version='11'>" + "<a>" * 100_000})
    with pytest.raises(InputError, match=r"m\.xml: its elements are nested too deeply") as caught:
        read_ir(tree, "m.xml", "m.bin")
    assert caught.value.code == "artifact-unsafe"
