"""The format "triton": which layout is told, what is taken from it, and which artifacts stay those of other formats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mpack.artifact.limits import Limits
from mpack.artifact.model import Artifact, Description, Trust
from mpack.artifact.reader import detect, read_artifact
from mpack.artifact.triton import TritonFormat
from mpack.artifact.triton_layout import arrange
from mpack.errors import InputError
from mpack.plugins import load_formats
from mpack.signature import Signature, Tensor
from mpack.testing.trees import tree_of_files

FIXTURES = Path(__file__).parents[2] / "fixtures"
ONNX = (FIXTURES / "models" / "onnx-iris" / "iris.onnx").read_bytes()
PYTHON = 'backend: "python"'
GPPI = "binaries: {type: python}\nmodel: {name: a, version: 1}\n"
Files = dict[str, bytes | str]


def read(directory: Path, files: Mapping[str, bytes | str], title: str = "thing") -> Description:
    """Reads the one Triton model or repository of these files."""
    tree = tree_of_files(directory, files, title)
    (candidate,) = TritonFormat().detect(tree)
    return TritonFormat().read(tree, candidate, Trust())


def models(description: Description) -> list[tuple[Any, ...]]:
    """(name, version, backend) of each model."""
    return [(item["name"], item["version"], item["backend"]) for item in description.loader.options["models"]]


LAYOUTS: dict[str, tuple[Files, str, list[tuple[str, str, str | None]], list[str]]] = {
    "repository": (
        {"a/config.pbtxt": PYTHON, "a/1/model.py": "", "b/config.pbtxt": 'platform: "ensemble"', "README.md": "x"},
        "repository",
        [("a", "1", "python"), ("b", "1", "ensemble")],
        ["a/1/model.py", "a/config.pbtxt", "b/config.pbtxt"],
    ),
    "several versions": (
        {"a/config.pbtxt": PYTHON, "a/2/model.py": "", "a/14/model.py": "", "a/data/x": "", "b/1/model.plan": "x"},
        "repository",
        [("a", "14", "python"), ("b", "1", "tensorrt")],
        ["a/14/model.py", "a/2/model.py", "a/config.pbtxt", "a/data/x", "b/1/model.plan"],
    ),
    "a backend that needs no file": (
        {"a/config.pbtxt": 'backend: "identity"', "b/config.pbtxt": PYTHON, "b/1/model.py": ""},
        "repository",
        [("a", "1", "identity"), ("b", "1", "python")],
        ["a/config.pbtxt", "b/1/model.py", "b/config.pbtxt"],
    ),
    "one model, named by its config": (
        {"config.pbtxt": 'name: "wine" ' + PYTHON, "3/model.py": "", "labels.txt": "", "conda.yaml": "{}"},
        "model",
        [("wine", "3", "python")],
        ["wine/3/model.py", "wine/config.pbtxt", "wine/labels.txt"],
    ),
    "one model, named by its folder": (
        {"config.pbtxt": PYTHON, "0/model.py": ""},
        "model",
        [("thing", "0", "python")],
        ["thing/0/model.py", "thing/config.pbtxt"],
    ),
    "the seed's order": (
        {"model.onnx": "not read", "model.py": "", "config.pbtxt": PYTHON, "x/y.txt": ""},
        "seed",
        [("model", "1", "python")],
        ["model/1/model.onnx", "model/1/model.py", "model/1/x/y.txt", "model/config.pbtxt"],
    ),
    "the seed's files": (
        {"model.py": "", "config.pbtxt": PYTHON, "odahuflow.model.yml": "name: w\nversion: v2-3", "conda.yml": "{}"},
        "seed",
        [("w", "23", "python")],
        ["w/23/model.py", "w/23/odahuflow.model.yml", "w/config.pbtxt"],
    ),
    "the seed's ONNX directory": (
        {"model.onnx/model.onnx": ONNX, "odahuflow.project.yaml": "version: 1.0"},
        "seed",
        [("model", "10", "onnxruntime")],
        ["model/10/model.onnx/model.onnx", "model/10/odahuflow.project.yaml"],
    ),
    "the seed's Caffe2 pair": (
        {"model.netdef": "n", "init_model.netdef": "w", "config.pbtxt": ""},
        "seed",
        [("model", "1", "caffe2")],
        ["model/1/init_model.netdef", "model/1/model.netdef", "model/config.pbtxt"],
    ),
    "the largest version": (
        {"2/a.onnx": "not read", "14/a.onnx": ONNX, "14/a.data": "w"},
        "versions",
        [("thing", "14", "onnxruntime")],
        ["thing/14/a.data", "thing/14/model.onnx"],
    ),
    "a folder to descend into": (
        {"1/net/x.pt": "not read", "2/net/x.pt": "not read", "2/net/words.txt": ""},
        "versions",
        [("thing", "2", "pytorch")],
        ["thing/2/model.pt", "thing/2/words.txt"],
    ),
    "IR by any name": (
        {f"{number}/net.{suffix}": (FIXTURES / "broken/triton-ir-without-weights/model/model.xml").read_bytes()
         for number in (1, 2) for suffix in ("xml", "bin")},
        "versions",
        [("thing", "2", "openvino")],
        ["thing/2/model.bin", "thing/2/model.xml"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("title", LAYOUTS)
def test_layout(title: str, tmp_path: Path) -> None:
    """Each layout's models, versions, backends and files."""
    files, layout, expected, ships = LAYOUTS[title]
    found = read(tmp_path, files)
    assert (found.loader.options["layout"], models(found), sorted(found.ships)) == (layout, expected, ships)
    assert found.brings_code == any(path.endswith("model.py") for path in ships)


@pytest.mark.parametrize(
    ("files", "formats"),
    [
        ({"model.onnx": ONNX}, ["onnx"]),
        ({"model.onnx": ONNX, "conda.yaml": "{}", "_schema.json": "{}"}, ["onnx"]),
        ({"1/model.onnx": ONNX}, ["onnx"]),
        ({"wine/1/model.onnx": ONNX, "README.md": ""}, ["onnx"]),
        ({"model.onnx": ONNX, "odahuflow.project.yaml": GPPI, "conda.yaml": "{}"}, ["odahu"]),
        ({"odahuflow.project.yaml": json.dumps({"model": {}, "binaries": {}}), "model.py": ""}, ["odahu"]),
        ({"MLmodel": "flavors: {}", "model.onnx": ONNX, "odahuflow.project.yaml": "name: a"}, ["mlflow"]),
        ({"MLmodel": "flavors: {}", "triton/app/1/model.onnx": ONNX, "triton/app/config.pbtxt": ""}, ["mlflow"]),
        ({"odahuflow.project.yaml": "name: a\nversion: 1", "model/MLmodel": "flavors: {}"}, ["mlflow"]),
        ({"odahuflow.project.yaml": "name: a", "model.onnx": ONNX}, ["triton"]),
        ({"a/1/model.onnx": ONNX, "b/1/model.onnx": ONNX}, ["triton"]),
        ({"a/1/iris.onnx": ONNX}, ["onnx"]),
        ({"1/saved_model.pb": "x"}, ["savedmodel"]),
        ({"1/saved_model.pb": "x", "2/saved_model.pb": "x"}, ["triton"]),
        ({"model.py": "", "notes.txt": ""}, []),
        ({"1/x.pt": "x", "2/x.pt": "x", "model.bst": b"binf"}, ["xgboost"]),
    ],
)
def test_who_takes_it(files: Files, formats: list[str], tmp_path: Path) -> None:
    """What other formats read stays theirs; a Triton layout is told by what only Triton has."""
    tree = tree_of_files(tmp_path, files)
    found, faults = detect(tree, load_formats()[0])
    outermost = {
        name
        for name, candidate in found
        if not any(other.contains(candidate) and not candidate.contains(other) for _, other in found)
    }
    assert (sorted(outermost), faults) == (formats, [])


def test_signatures(tmp_path: Path) -> None:
    """A schema beside the versions tells the tensors; without one an ONNX file does; each model has its own."""
    schema = {
        "inputs": [{"name": "INPUT__0", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "OUTPUT__0", "datatype": "BYTES", "shape": [-1]}],
    }
    found = read(tmp_path / "a", {"1/m.pt": "", "2/m.pt": "", "_schema.json": json.dumps(schema)})
    expected = Signature((Tensor("INPUT__0", "float32", (-1, 4)),), (Tensor("OUTPUT__0", "str", (-1,)),))
    assert found.signature == expected
    assert not any("_schema" in path for path in found.ships)
    both = read(tmp_path / "b", {"x/1/model.onnx": ONNX, "y/config.pbtxt": PYTHON, "y/1/model.py": ""})
    assert both.signature is None
    told = [item["signature"] for item in both.loader.options["models"]]
    assert [field["name"] for field in told[0]["inputs"]] == ["X"]
    assert told[1] is None


def test_findings(tmp_path: Path) -> None:
    """What is odd is shown: code, a second model file, ignored directories, what is left out."""
    seed = read(tmp_path / "a", {"model.py": "", "model.pt": "", "config.pbtxt": PYTHON, "head.pkl": b"\x80\x04N."})
    assert ("warning", "model.pt beside model.py: the python model is served", "model.pt") in [
        (item.level, item.message, item.path) for item in seed.findings
    ]
    assert any("brings its own code (model.py)" in item.message for item in seed.findings)
    files = {"a/config.pbtxt": PYTHON, "a/1/model.py": "", "a/01/model.py": "", "docs/x": "", "b/config.pbtxt": ""}
    repository = read(tmp_path / "b", {**files, "b/1/model.plan": ""})
    told = [(item.level, item.path, item.message) for item in repository.findings]
    assert ("warning", "a/01", "Triton ignores version directories with leading zeros") in told
    assert ("note", None, "left out, being no model: docs") in told


def test_arrange(tmp_path: Path) -> None:
    """mpack.toml's name, version and signature go into one model's directories; a repository keeps its own."""
    seed = read(tmp_path / "a", {"model.py": "", "config.pbtxt": PYTHON, "odahuflow.project.yaml": "name: a"})
    signature = Signature((Tensor("x", "float32", (-1,)),))
    (model,), ships = arrange(replace(seed, name="b", version="2.0", signature=signature))
    assert (model["name"], model["version"], model["versions"]) == ("b", "20", ["20"])
    assert model["signature"] == signature.to_json()
    assert ships == {
        "b/20/model.py": "model.py",
        "b/20/odahuflow.project.yaml": "odahuflow.project.yaml",
        "b/config.pbtxt": "config.pbtxt",
    }
    with pytest.raises(InputError, match="valid URL path segment"):
        arrange(replace(seed, name="b c"))
    alone = read(tmp_path / "b", {"config.pbtxt": PYTHON, "2/model.py": "", "3/model.py": ""})
    (model,), ships = arrange(replace(alone, name="n", version="9"))
    assert (model["versions"], sorted(ships)) == (["2", "3"], ["n/2/model.py", "n/3/model.py", "n/config.pbtxt"])
    many = read(tmp_path / "c", {"a/config.pbtxt": PYTHON, "a/1/model.py": "", "b/1/model.plan": ""})
    assert arrange(replace(many, name="n", version="9")) == (many.loader.options["models"], many.ships)


@pytest.mark.parametrize("fixture", ["ensemble", "seed-python"])
def test_fixtures(fixture: str, tmp_path: Path) -> None:
    """The fixtures that the real server answers are read as their expect.json says."""
    folder = FIXTURES / "triton" / fixture
    expect = json.loads((folder / "expect.json").read_text("utf-8"))
    found: Artifact = read_artifact(str(folder / expect["artifact"]), limits=Limits(), trust=Trust(), scratch=tmp_path)
    assert [found.format, found.name, found.version] == [expect["format"], expect["name"], expect["version"]]
    assert found.python == expect["python"]
    assert found.description.loader.options["layout"] == expect["layout"]
    laid, ships = arrange(found.description)
    assert [item["name"] for item in laid] == expect["models"]
    assert {item["name"]: item["version"] for item in laid}[expect["model"]] == expect["model_version"]
    assert "mpack.toml" not in " ".join(ships)
    sample = found.description.sample
    assert sample is not None
    asked = [item for item in expect["requests"] if item["request"]["inputs"] == sample.request["inputs"]]
    assert [{"outputs": item["outputs"]} for item in asked] == [sample.expected]


def test_two_pythons_are_told(tmp_path: Path) -> None:
    conda = "dependencies: [python={}]"
    files = {"a/config.pbtxt": PYTHON, "a/1/model.py": "", "b/config.pbtxt": PYTHON, "b/1/model.py": ""}
    files |= {"a/conda.yaml": conda.format("3.11.2"), "b/conda.yaml": conda.format("3.9")}
    description = read(tmp_path / "two", files)
    assert description.python == "3.11.2"
    assert [item.path for item in description.findings if "asks for Python 3.9" in item.message] == ["b/conda.yaml"]
    again = read(tmp_path / "one", files | {"b/conda.yaml": conda.format("3.11")})
    assert not [item for item in again.findings if "asks for Python" in item.message]
