"""Dependency-cache images and bases of the user's own: what the base has is not installed again, by either builder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpack.engine import Docker

pytestmark = [pytest.mark.docker, pytest.mark.integration]

INVOICES = Path(__file__).parents[2] / "fixtures" / "models" / "odahu-invoices" / "invoices"
CACHE, SHELL, OWN = "packaging-model-cache:1.0.0", "mpack-base:python3.11-shell", "mpack-test-own-base:1"
PINNED, CHANGED = "idna==3.10", "idna==3.9"
LIST = """
import importlib.metadata, json
from pathlib import Path
own = sorted(path.name.split("-")[0] for path in Path("/opt/mpack/venv/lib").glob("*/site-packages/*.dist-info"))
print(json.dumps([own, *map(importlib.metadata.version, ("idna", "numpy"))]))
"""


def with_pin(directory: Path, name: str, pin: str) -> Path:
    """A model of the fixtures that also needs a small package, under another name."""
    target = directory / name
    shutil.copytree(INVOICES, target)
    conda = target / "odahuflow_model" / "conda.yaml"
    text = conda.read_text("utf-8")
    first = next(line for line in text.splitlines() if "numpy==" in line)
    conda.write_text(text.replace(first, f"{first}\n{first.replace(first.split('- ')[1], pin)}"), "utf-8")
    project = target / "odahuflow.project.yaml"
    project.write_text(project.read_text("utf-8").replace("invoices", name), "utf-8")
    return target


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_pin(tmp_path_factory.mktemp("models"), "first", PINNED)


@pytest.fixture(scope="module")
def images(engine: str) -> Iterator[list[str]]:
    """Names put into it are removed from the engine when the module ends."""
    names: list[str] = []
    yield names
    for name in reversed(names):
        subprocess.run([engine, "rmi", "-f", name], capture_output=True, check=False)


@pytest.fixture(scope="module")
def cache(mpack: Any, first: Path, images: list[str]) -> str:
    """The dependency-cache image of the first model's conda.yaml."""
    images.append(CACHE)
    made = mpack("base", "build", "--deps", first / "odahuflow_model" / "conda.yaml", "-t", CACHE)
    assert made.stdout == f"{CACHE}\n"
    return CACHE


def build(mpack: Any, images: list[str], artifact: Path, base: str, builder: str) -> dict[str, Any]:
    """A build into the engine, verified; both builders use one lock."""
    name = f"mpack-test-cache-{artifact.name}:{builder}"
    images.append(name)
    lock = artifact.parent / f"{artifact.name}-{base.partition(':')[0]}.lock"
    options = ("--base", base, "--builder", builder, "-o", "docker", "-t", name, "--lock", lock)
    result: dict[str, Any] = mpack.json("build", artifact, *options)
    assert (result["verified"]["status"], result["base"]["reference"]) == ("passed", base)
    return result


def installed(engine: str, image: str) -> tuple[list[str], str, str]:
    """(packages in the image's own venv, the version of idna that the model imports, and of numpy)."""
    command = [engine, "run", "--rm", "--network=none", "--entrypoint=/opt/mpack/venv/bin/python", image, "-c", LIST]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    packages, idna, numpy = json.loads(done.stdout)
    return packages, idna, numpy


def kinds(result: dict[str, Any]) -> list[str]:
    return [layer["kind"] for layer in result["layers"]]


@pytest.fixture(scope="module")
def one(mpack: Any, cache: str, first: Path, images: list[str]) -> dict[str, Any]:
    """The first model on the cache, by the embedded builder."""
    return build(mpack, images, first, cache, "embedded")


def test_same_dependencies(one: dict[str, Any], engine: str) -> None:
    """A model with the cache's dependencies brings none of its own and adds no layer of them."""
    assert "dependencies" not in kinds(one)
    assert installed(engine, one["image"]) == ([], "3.10", "2.4.6")


def test_same_dependencies_by_docker(mpack: Any, cache: str, first: Path, images: list[str], engine: str) -> None:
    """The docker builder installs nothing either; its layer of the environment holds an empty venv."""
    result = build(mpack, images, first, cache, "docker")
    assert installed(engine, result["image"]) == ([], "3.10", "2.4.6")


def test_second_model(one: dict[str, Any], mpack: Any, cache: str, first: Path, images: list[str]) -> None:
    """A second model adds its own files alone: every other layer is the first model's."""
    two = build(mpack, images, with_pin(first.parent, "second", PINNED), cache, "embedded")
    assert "dependencies" not in kinds(two)
    own = {layer["diff_id"] for layer in two["layers"]} - {layer["diff_id"] for layer in one["layers"]}
    assert {layer["kind"] for layer in two["layers"] if layer["diff_id"] in own} <= {"model", "config"}


@pytest.mark.parametrize("builder", ["embedded", "docker"])
def test_changed_pin(builder: str, mpack: Any, cache: str, first: Path, images: list[str], engine: str) -> None:
    """Another version of one small package: that package alone is installed, and it is the one that the model gets."""
    changed = first.parent / f"changed-{builder}"
    result = build(mpack, images, with_pin(first.parent, changed.name, CHANGED), cache, builder)
    assert "dependencies" in kinds(result)
    assert installed(engine, result["image"])[:2] == (["idna"], "3.9")


def test_suggested(mpack: Any, images: list[str], tmp_path: Path) -> None:
    """Of many artifacts, one of them damaged, the packages that two share; the plan on such a cache installs by so many
    bytes less as was said; nothing is written beside the artifacts."""
    pins = {"one": PINNED, "two": PINNED, "three": CHANGED}
    places = [with_pin(tmp_path / "models", name, pin) for name, pin in pins.items()]
    (tmp_path / "models" / "README.md").write_text("Models.\n")
    (tmp_path / "models" / "half.zip").write_bytes(b"PK\x03\x04" + bytes(2000))
    before = sorted(tmp_path.rglob("*"))
    wish = tmp_path / "requirements.txt"
    done = mpack("base", "suggest", tmp_path / "models", "-o", wish, "--json", code=1)
    told = json.loads(done.stdout)
    assert [Path(item["artifact"]).name for item in told["skipped"]] == ["half.zip"]
    assert "README.md" in done.stderr and sorted(tmp_path.rglob("*")) == sorted([*before, wish])
    counts = {(item["name"], item["version"]): item["artifacts"] for item in told["suggestion"]["packages"]}
    assert (counts["idna", "3.10"], counts["numpy", "2.4.6"]) == (2, 3) and ("idna", "3.9") not in counts
    name = "mpack-test-suggested:1"
    images.append(name)
    mpack("base", "build", "--deps", wish, "--python", told["suggestion"]["python"], "-t", name)
    sizes = {item["name"]: item["size"] for item in told["suggestion"]["packages"]}
    said = {item["artifact"]: item["saved"] for item in told["suggestion"]["artifacts"]}
    for place in places:
        packages = json.loads(mpack("plan", place, "--base", name).stdout)["environment"]["packages"]
        assert sum(sizes[item["name"]] for item in packages if item["source"] == "base") == said[str(place)] > 0


@pytest.fixture(scope="module")
def own_base(mpack: Any, engine: str, images: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A base that a user made by a Dockerfile on the base with a shell: pip has put one package into it."""
    images += [SHELL, OWN]
    mpack("base", "build", "--shell", "--python", "3.11")
    context = tmp_path_factory.mktemp("own")
    download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(context), PINNED]
    subprocess.run(download, check=True, capture_output=True)
    (context / "Dockerfile").write_text(
        f"FROM {SHELL}\nCOPY *.whl /wheels/\nRUN python3 -m pip install --no-index /wheels/*.whl && rm -r /wheels\n"
    )
    docker = Docker.find()
    docker.tag(docker.build(context, platform=docker.platform), OWN)
    return OWN


@pytest.mark.parametrize("builder", ["embedded", "docker"])
def test_own_base(builder: str, mpack: Any, own_base: str, first: Path, images: list[str], engine: str) -> None:
    """What pip has put into the user's base is used, what is missing is installed beside it."""
    result = build(mpack, images, first, own_base, builder)
    packages, idna, _ = installed(engine, result["image"])
    assert "numpy" in packages and "flask" in packages and "idna" not in packages
    assert idna == "3.10"
