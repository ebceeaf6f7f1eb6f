"""PyTorch files: the pickles in them are found, and refused without trust."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from mpack.artifact.mlflow import MlflowFormat
from mpack.artifact.model import Description, Trust
from mpack.artifact.torch import scan_torch
from mpack.errors import InputError
from mpack.testing.trees import tree_of_files

MODULE = b"\x80\x02ctorch.nn.modules.linear\nLinear\nq\x00)\x81q\x01}q\x02b."
WEIGHTS = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(X\x01\x00\x00\x00wQtR."


def archive(**files: bytes) -> bytes:
    """A zip as torch.save makes it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        for name, data in files.items():
            made.writestr(f"archive/{name}.pkl", data)
        made.writestr("archive/data/0", b"\0" * 8)
    return stream.getvalue()


def read(directory: Path, data: bytes, trust: Trust) -> Description:
    """An MLflow pytorch model with this file."""
    manifest = "flavors:\n  pytorch:\n    model_data: data\n    pytorch_version: 2.3.0+cu121\n"
    tree = tree_of_files(directory, {"MLmodel": manifest, "data/model.pth": data, "data/info.txt": "mlflow"})
    (candidate,) = MlflowFormat().detect(tree)
    return MlflowFormat().read(tree, candidate, trust)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (archive(data=MODULE), r"data/model\.pth:archive/data\.pkl names .*torch\.nn\.modules\.linear\.Linear"),
        (archive(data=WEIGHTS), "refers to an object outside itself"),
        (archive(data=MODULE, constants=b"\x80\x02N."), r"torch\.jit\.ScriptModule"),
        (MODULE, r"torch\.nn\.modules\.linear\.Linear"),
    ],
    ids=["module", "weights", "script", "legacy"],
)
def test_refused_unless_trusted(data: bytes, message: str, tmp_path: Path) -> None:
    """A whole module is code by name: refused with the names, accepted and shown with --trust-pickle."""
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path / "refused", data, Trust())
    assert caught.value.code == "pickle-refused"
    found = read(tmp_path / "trusted", data, Trust(pickle=True))
    assert (found.loader.kind, found.loader.path) == ("pytorch", "data/model.pth")
    assert [item.line for item in found.requirements] == ["torch==2.3.0"]
    assert {item.level for item in found.findings} >= {"danger"}


def test_broken(tmp_path: Path) -> None:
    """A zip that is none is refused by name."""
    tree = tree_of_files(tmp_path, {"m.pt": b"PK\x03\x04 and nothing else"})
    with pytest.raises(InputError, match=r"m\.pt is no whole PyTorch file"):
        list(scan_torch(tree, "m.pt"))
