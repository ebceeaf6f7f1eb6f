"""The whole reading: which model is chosen, what it is called, and what happens to formats that break."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpack.artifact.limits import Limits
from mpack.artifact.model import Artifact, ArtifactFile, Candidate, Tree, Trust
from mpack.artifact.reader import choose, detect, read_artifact
from mpack.errors import InputError

MODELS = Path(__file__).parents[2] / "fixtures" / "models"
TREE = Tree({"a": ArtifactFile("a", 1, "0" * 64, Path("a"))}, "t")


def found(*items: tuple[str, str]) -> list[tuple[str, Candidate]]:
    """(format, root) pairs as the formats report them."""
    return [(name, Candidate(name, root)) for name, root in items]


@pytest.mark.parametrize(
    ("items", "chosen"),
    [
        ([("onnx", "model.onnx")], "onnx"),
        ([("onnx", "model.onnx"), ("mlflow", "")], "mlflow"),
        ([("mlflow", "odahuflow_model"), ("odahu", ""), ("sklearn", "odahuflow_model/model.pkl")], "odahu"),
        ([("mlflow", "a"), ("onnx", "a/b/model.onnx")], "mlflow"),
    ],
)
def test_the_outermost_is_chosen(items: list[tuple[str, str]], chosen: str) -> None:
    """A model that contains the others is the one."""
    assert choose(TREE, found(*items), [], "x")[0] == chosen


@pytest.mark.parametrize(
    "items",
    [
        [("onnx", "a.onnx"), ("onnx", "b.onnx")],
        [("mlflow", ""), ("odahu", "")],
        [("mlflow", "a"), ("mlflow", "ab")],
        [("xgboost", "m.bst"), ("lightgbm", "m.bst")],
    ],
)
def test_two_in_one_place(items: list[tuple[str, str]]) -> None:
    """Two models of which none contains the other: both are named."""
    with pytest.raises(InputError) as caught:
        choose(TREE, found(*items), [], "x")
    assert caught.value.code == "artifact-ambiguous"
    for name, root in items:
        assert f"{root or 'the whole of it'} ({name})" in caught.value.message


def test_none() -> None:
    """No model: what was found and what was tried."""
    with pytest.raises(InputError, match=r"x holds no model .* It has a; the formats tried are one, two\."):
        choose(TREE, [], ["one", "two"], "x")


class Exploding:
    """A third party's format with a bug."""

    name = "exploding"

    def detect(self, tree: Tree) -> list[Candidate]:
        raise KeyError("oops")

    def read(self, tree: Tree, candidate: Candidate, trust: Trust) -> None:
        raise AssertionError


class Finding:
    """A format that sees a model in everything."""

    name = "finding"

    def detect(self, tree: Tree) -> list[Candidate]:
        return [Candidate("finding", "")]

    def read(self, tree: Tree, candidate: Candidate, trust: Trust) -> None:
        raise AssertionError


def test_a_broken_format_harms_no_other() -> None:
    """A format that raises while looking is named; the others' models are found."""
    models, faults = detect(TREE, {"exploding": Exploding(), "finding": Finding()})  # type: ignore[dict-item]
    assert [name for name, _ in models] == ["finding"]
    assert "The format exploding failed to look at the artifact: KeyError: 'oops'." in faults[0].message


def read(location: Path, scratch: Path) -> Artifact:
    """read_artifact with the default limits and no trust."""
    return read_artifact(str(location), limits=Limits(), trust=Trust(), scratch=scratch)


def test_names_fall_back(tmp_path: Path) -> None:
    """A bare file has its file's name and the version 0; mpack.toml beside it wins."""
    source = next((MODELS / "onnx-two-inputs").rglob("*.onnx"))
    (tmp_path / "scratch").mkdir()
    path = tmp_path / "adder-7.onnx"
    path.write_bytes(source.read_bytes())
    artifact = read(path, tmp_path / "scratch")
    assert (artifact.name, artifact.version, artifact.format) == ("adder-7", "0", "onnx")
    (tmp_path / "adder-7.onnx.mpack.toml").write_text('name = "adder"\nversion = "7"\nsystem-packages = ["libgl1"]\n')
    named = read(path, tmp_path / "scratch")
    assert (named.name, named.version, named.system_packages) == ("adder", "7", ("libgl1",))
    assert named.digest == artifact.digest


def test_trust_from_a_file_is_shown(tmp_path: Path) -> None:
    """Trust granted by mpack.toml is in the artifact, and among the findings each time."""
    source = next((MODELS / "onnx-two-inputs").rglob("*.onnx"))
    (tmp_path / "scratch").mkdir()
    (tmp_path / "m.onnx").write_bytes(source.read_bytes())
    (tmp_path / "mpack.toml").write_text('[trust]\nmodules = ["mine"]\n')
    artifact = read(tmp_path / "m.onnx", tmp_path / "scratch")
    assert artifact.trust.modules == {"mine"}
    assert any("lets its pickles name mine" in finding.message for finding in artifact.description.findings)
