"""ODAHU GPPI artifacts, by the rules and with the words of the reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mpack.artifact.model import Description, Trust
from mpack.artifact.odahu import OdahuFormat
from mpack.errors import InputError
from mpack.testing.trees import tree_of_files, tree_of_folder

MODELS = Path(__file__).parents[2] / "fixtures" / "models"
MANIFEST: dict[str, Any] = {
    "binaries": {"type": "python", "dependencies": "conda", "conda_path": "odahuflow_model/conda.yaml"},
    "model": {"name": "wine", "version": 1.0, "workDir": "odahuflow_model", "entrypoint": "entrypoint"},
    "odahuflowVersion": "1.0",
    "output": {"run_id": "x"},
}
PYTHON = {"type": "python", "dependencies": "conda"}
FILES: dict[str, bytes | str] = {
    "odahuflow_model/conda.yaml": "dependencies: ['python=3.9', {pip: ['scikit-learn==1.3.2', 'xgboost==2.1.3']}]",
    "odahuflow_model/entrypoint.py": "raise SystemExit('must not run')",
    "odahuflow_model/head_input.pkl": b"\x80\x04cposix\nsystem\n(X\x01\x00\x00\x00xtR.",
    "odahuflow_model/head_output.pkl": b"\x80\x04N.",
}


def read(directory: Path, manifest: Any, name: str = "odahuflow.project.yaml", **files: bytes | str) -> Description:
    """Reads an artifact with this manifest (a value, or text)."""
    text = manifest if isinstance(manifest, str) else yaml.safe_dump(manifest)
    tree = tree_of_files(directory, {name: text, **(files or FILES)})
    (candidate,) = OdahuFormat().detect(tree)
    return OdahuFormat().read(tree, candidate, Trust())


@pytest.mark.parametrize("name", ["odahuflow.project.yaml", "odahuflow.project.yml", "odahuflow.model.yaml"])
def test_reading(name: str, tmp_path: Path) -> None:
    """Every name of the manifest; samples go to the image unread; the code that it brings is shown, and its pickles."""
    found = read(tmp_path, MANIFEST, name)
    assert (found.name, found.version, found.python, found.brings_code) == ("wine", "1.0", "3.9", True)
    assert [item.line for item in found.requirements] == ["scikit-learn==1.3.2", "xgboost-cpu==2.1.3"]
    assert (found.loader.kind, found.loader.path) == ("odahu", "odahuflow_model")
    assert found.loader.options == {"entrypoint": "entrypoint", "workdir": "odahuflow_model"}
    assert found.sample is not None
    assert found.sample.input_file == "odahuflow_model/head_input.pkl"
    assert found.sample.output_file == "odahuflow_model/head_output.pkl"
    assert found.needs == {"pandas"}
    assert set(found.ships) == {name, *FILES}
    assert [item.level for item in found.findings][:1] == ["warning"]
    assert any("posix.system" in item.message and item.level == "danger" for item in found.findings)


def test_json_first(tmp_path: Path) -> None:
    """A manifest in JSON is read as such."""
    assert read(tmp_path, json.dumps(MANIFEST)).name == "wine"


def test_fixture() -> None:
    """A real artifact without samples."""
    tree = tree_of_folder(MODELS / "odahu-invoices" / "invoices")
    (candidate,) = OdahuFormat().detect(tree)
    found = OdahuFormat().read(tree, candidate, Trust())
    assert (found.name, found.version, found.sample, found.needs) == ("invoices", "2.1.0", None, frozenset())


def changed(**sections: Any) -> dict[str, Any]:
    """The manifest with sections replaced; None takes one out."""
    return {key: value for key, value in {**MANIFEST, **sections}.items() if value is not None}


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (changed(binaries={"type": "java", "dependencies": "x"}, model=None), "Unsupported model binaries type: java"),
        (changed(binaries={**PYTHON, "dependencies": "pip"}, model=None), "Unsupported model dependencies type: pip"),
        (changed(model=None, odahuflowVersion=None), "Model section is not set"),
        (changed(binaries=PYTHON, odahuflowVersion=None), "odahuflowVersion is not set"),
        (changed(binaries=PYTHON), "Conda path is not set"),
        ("binaries: [", "Odahu manifest file is in incorrect format"),
        ("binaries: x", "Odahu manifest file is in incorrect format: binaries is not set"),
        (changed(model={"name": "wine"}), "incorrect format: model.name and model.version"),
        (changed(model={**MANIFEST["model"], "workDir": "nowhere"}), "model.workDir names nowhere"),
        (changed(model={**MANIFEST["model"], "workDir": "../x"}), "model.workDir names ../x"),
        (changed(model={**MANIFEST["model"], "entrypoint": "other"}), "model.entrypoint names the module other"),
        (changed(binaries={**MANIFEST["binaries"], "conda_path": "x.yaml"}), "binaries.conda_path names x.yaml"),
    ],
)  # fmt: skip
def test_wrong_manifest(manifest: Any, message: str, tmp_path: Path) -> None:
    """The reference's checks, in its order: type, dependencies, model, odahuflowVersion, conda_path."""
    with pytest.raises(InputError) as caught:
        read(tmp_path, manifest)
    assert message in caught.value.message
    assert caught.value.code == "artifact-invalid"


def test_a_triton_project_is_none(tmp_path: Path) -> None:
    """The same file without binaries belongs to a Triton repository."""
    assert OdahuFormat().detect(tree_of_files(tmp_path, {"odahuflow.project.yaml": "name: x\nversion: 1\n"})) == []
