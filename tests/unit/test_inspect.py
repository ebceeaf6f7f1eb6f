"""`mpack inspect`: what it shows, in words and as JSON, and how it ends."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from mpack.cli.main import run

FIXTURES = Path(__file__).parents[2] / "fixtures"


def inspect(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `mpack inspect`."""
    with pytest.raises(SystemExit) as caught:
        run(["inspect", *arguments])
    out, err = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, out, err


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The one JSON object that `--json` prints."""
    _, out, _ = inspect(capsys, "--json", *arguments)
    assert len(out.splitlines()) == 1
    result: dict[str, Any] = json.loads(out)
    return result


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    """A person sees model, format, Python, requirements, inputs, sample, packagers and files."""
    code, out, err = inspect(capsys, str(FIXTURES / "models" / "mlflow-wine" / "model"))
    assert (code, err) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in out.splitlines() if line and not line.startswith(" "))
    assert rows["format"] == "mlflow (sklearn)"
    assert rows["python"] == "3.11.7"
    assert "scikit-learn==1.9.1" in rows["requires"]
    assert rows["inputs"].startswith("fixed acidity: double, volatile acidity: double")
    assert rows["digest"].startswith("sha256:")
    assert "packager  docker-rest" in out.splitlines()
    assert any(line.endswith("  MLmodel") for line in out.splitlines())


@pytest.mark.parametrize("model", sorted(path.parent.name for path in (FIXTURES / "models").glob("*/expect.json")))
def test_json_of_every_model(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every model fixture is known for what it is, has a digest, and docker-rest and docker-cli take it."""
    directory = FIXTURES / "models" / model
    models = [path for path in directory.iterdir() if path.name != "expect.json" and "mpack" not in path.name]
    value = shown(capsys, str(models[0]))
    assert "error" not in value
    assert value["format"] == model.partition("-")[0]
    assert {item["name"] for item in value["packagers"] if item["accepts"]} >= {"docker-rest", "docker-cli"}
    assert value["digest"].startswith("sha256:")
    assert value["files"]
    assert value["broken_plugins"] == []


def refused(tmp_path: Path, name: str = "pickle-own-class") -> str:
    """A model whose pickle `mpack build` refuses."""
    make = runpy.run_path(str(FIXTURES / "broken" / name / "make.py"))["make"]
    return str(make(tmp_path))


def test_refused_pickle_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a build would refuse is shown first, as a danger, and the exit code is the build's."""
    code, out, err = inspect(capsys, refused(tmp_path))
    assert code == 1
    assert out.splitlines()[0].startswith("DANGER   model.pkl: the pickle names what is not plain model data")
    assert "format    sklearn" in out.splitlines()
    assert "mycompany.scaling.LogScaler" in err
    assert "--trust-module mycompany" in err


def test_refused_pickle_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One object holds both the description and the error."""
    value = shown(capsys, refused(tmp_path))
    assert value["error"]["code"] == "pickle-refused"
    assert value["findings"][0]["level"] == "danger"
    assert value["trust"] == {"modules": [], "pickle": False}


def test_trust_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pickle that the user trusts is accepted, and still shown as a danger."""
    code, out, err = inspect(capsys, refused(tmp_path), "--trust-module", "mycompany")
    assert (code, err) == (0, "")
    assert out.startswith("DANGER")
    assert "trusts    mycompany" in out.splitlines()


def test_fault(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What cannot be opened is one sentence on stderr and nothing on stdout."""
    code, out, err = inspect(capsys, str(tmp_path / "no.zip"))
    assert (code, out) == (1, "")
    assert err.startswith("mpack: ")
    assert "no.zip does not exist." in err


def test_limits_are_options(capsys: pytest.CaptureFixture[str]) -> None:
    """The limits of the command line are those of the reading."""
    model = str(FIXTURES / "models" / "mlflow-wine" / "model")
    assert inspect(capsys, model, "--max-entries", "2")[0] == 1
    assert inspect(capsys, model, "--max-size", "10")[0] == 1
    assert inspect(capsys, model, "--max-size", "much")[0] == 2
