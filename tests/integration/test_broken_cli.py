"""Faulty artifacts through the whole command: one of fixtures/broken for each error code, and faults of the request.

tests/unit/test_broken.py opens every one of fixtures/broken; here a sample goes through `mpack build` as a process.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytestmark = [pytest.mark.docker, pytest.mark.integration]

BROKEN = Path(__file__).parents[2] / "fixtures" / "broken"
MODELS = BROKEN.parent / "models"


def first_of_each_code() -> list[str]:
    """The first folder, by name, of every error code; of refused pickles every fourth, for they are the dangerous."""
    found: dict[str, list[str]] = {}
    for path in sorted(BROKEN.glob("*/case.toml")):
        found.setdefault(tomllib.loads(path.read_text("utf-8"))["code"], []).append(path.parent.name)
    dangerous = found.pop("pickle-refused")
    return sorted([names[0] for names in found.values()] + dangerous[::4])


def artifact_of(name: str, directory: Path) -> str:
    """The case's artifact, copied or made in `directory`."""
    source = BROKEN / name
    if (source / "make.py").exists():
        return str(runpy.run_path(str(source / "make.py"))["make"](directory))
    shutil.copytree(source, directory, dirs_exist_ok=True, symlinks=True)
    (directory / "case.toml").unlink()
    return str(directory / tomllib.loads((source / "case.toml").read_text("utf-8"))["artifact"])


def below(directory: Path) -> list[str]:
    """Every name below a directory."""
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def engine_holds(engine: str) -> tuple[str, str]:
    """Named images of mpack's tests' names, and its containers: what a refused build must not add to."""
    images = [engine, "images", "-q", "--no-trunc", "--filter", "reference=mpack-broken*"]
    containers = [engine, "ps", "-aq", "--no-trunc", "--filter", "ancestor=mpack-broken"]
    answers = [subprocess.run(command, capture_output=True, text=True, check=True) for command in (images, containers)]
    return answers[0].stdout, answers[1].stdout


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path, Path]:
    """(current directory, TMPDIR, MPACK_HOME), empty."""
    made = (tmp_path / "cwd", tmp_path / "tmp", tmp_path / "home")
    for path in made:
        path.mkdir()
    return made


def build(places: tuple[Path, Path, Path], *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    cwd, tmp, home = places
    return subprocess.run(
        [str(Path(sys.executable).with_name("mpack")), "build", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "MPACK_HOME": str(home), "TMPDIR": str(tmp), **environment},
    )


def assert_nothing_left(places: tuple[Path, Path, Path]) -> None:
    """Nothing in the current directory, in TMPDIR or in the store."""
    cwd, tmp, home = places
    assert (below(cwd), below(tmp)) == ([], [])
    assert not [name for name in below(home) if "/blobs/sha256/" in name or name.endswith("index.json")]


@pytest.mark.parametrize("name", first_of_each_code())
def test_fault(name: str, places: tuple[Path, Path, Path], tmp_path: Path, engine: str) -> None:
    """Exit code and sentences on stderr, nothing on stdout, nothing left anywhere, and the pickle never ran."""
    case: dict[str, Any] = tomllib.loads((BROKEN / name / "case.toml").read_text("utf-8"))
    (tmp_path / "artifact").mkdir()
    location = artifact_of(name, tmp_path / "artifact")
    kept = below(tmp_path / "artifact")
    held = engine_holds(engine)
    options = ("-t", "mpack-broken:1", *case.get("arguments", []))

    done = build(places, *options, "--", location, MPACK_CANARY=str(tmp_path / "canary"))

    assert (done.returncode, done.stdout) == (case["exit"], "")
    message, hint = done.stderr.split("mpack: ", 1)[1].rsplit("\n  ", 1)
    assert re.search(case["message"], message), done.stderr
    assert hint.strip() and "Traceback" not in done.stderr
    assert_nothing_left(places)
    assert below(tmp_path / "artifact") == kept, "a lock or another file was left beside the artifact"
    assert not (tmp_path / "canary").exists()
    assert engine_holds(engine) == held


def test_fault_as_json(places: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """With --json stdout is one object of code, message and hint; people still read the words on stderr."""
    done = build(places, str(BROKEN / "mlmodel-not-yaml"), "--json", "-t", "mpack-broken:1")
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 1
    assert set(error) == {"code", "message", "hint"} and error["code"] == "artifact-invalid"
    assert error["message"] in done.stderr and error["hint"] in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-p", "no-such"], 2, "No packager named no-such is installed"),
        (["-a", "prot=1"], 2, "prot: no such argument"),
        (["-a", "port"], 2, "KEY=VALUE"),
        (["--no-such-option"], 2, "--no-such-option"),
        (["-o", "nowhere:x"], 2, "nowhere"),
        (["-t", "!!!"], 1, "!!!"),
        (["--base", "mpack-test-absent:1", "-o", "store"], 3, "mpack-test-absent:1"),
    ],
    ids=lambda value: value[0].lstrip("-") if isinstance(value, list) else None,
)
def test_wrong_request(arguments: list[str], code: int, message: str, places: tuple[Path, Path, Path]) -> None:
    """A wrong option, argument, name or base of a sound model: its exit code, the word in question, nothing left."""
    done = build(places, str(MODELS / "onnx-two-inputs" / "scores.onnx"), *arguments)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr
    assert_nothing_left(places)
