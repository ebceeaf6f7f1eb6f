"""The sample plugin of a third party, installed as its README says: listed, described, built, run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.docker, pytest.mark.integration]

IMAGE = "mpack-test-echo:1"
OWN = ["docker-cli", "docker-rest", "docker-triton"]


def install(directory: Path, distribution: str, entry_point: str, **modules: str) -> dict[str, str]:
    """A distribution as an installer leaves it, and the environment in which it is found."""
    info = directory / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mpack.packagers]\n{entry_point}\n")
    for name, source in modules.items():
        (directory / f"{name}.py").write_text(source)
    return {"PYTHONPATH": str(directory)}


def test_listed(mpack: Any, echo: dict[str, str]) -> None:
    """`mpack packagers` lists it among mpack's own; `packagers echo` describes its argument, as text and as JSON."""
    listed = mpack("packagers", **echo)
    assert [line.split()[0] for line in listed.stdout.splitlines()] == [*OWN, "echo"]
    assert "an image that says what model it holds" in listed.stdout and listed.stderr == ""
    shown = mpack("packagers", "echo", **echo).stdout
    assert "greeting" in shown and "What the image says first." in shown and "This is" in shown
    described = mpack.json("packagers", "echo", **echo)
    assert described["arguments"]["properties"]["greeting"]["maxLength"] == 80
    assert "docker" in described["targets"]


def test_absent_without_its_installation(mpack: Any, model: Path) -> None:
    """Where it is not installed, the packager is unknown: exit 2, and those installed are named."""
    done = mpack("build", model, "-p", "echo", code=2)
    assert done.stdout == "" and ", ".join(OWN) in done.stderr


@pytest.mark.parametrize("builder", ["embedded", "docker"])
def test_built(
    builder: str, mpack: Any, engine: str, echo: dict[str, str], model: Path, tmp_path: Path, remove_image: Any
) -> None:
    """Both builders build and verify its image, and the image says what it was told to."""
    remove_image(IMAGE)
    options = ["-p", "echo", "-a", "greeting=Hello", "--builder", builder, "-o", "docker", "-t", IMAGE]
    built = mpack.json("build", model, *options, "--lock", tmp_path / "lock", **echo)
    assert (built["packager"], built["builder"], built["image"]) == ("echo", builder, IMAGE)
    assert built["verified"]["status"] == "passed"
    done = subprocess.run([engine, "run", "--rm", "--network=none", IMAGE], capture_output=True, text=True)
    assert done.stdout == "Hello scores 0\nscores.onnx\n", done.stderr


def test_its_arguments_are_checked(mpack: Any, echo: dict[str, str], model: Path) -> None:
    """An argument that it refuses, or does not have, is a usage error in mpack's words."""
    done = mpack("build", model, "-p", "echo", "-a", "greeting=" + "x" * 81, code=2, **echo)
    assert "echo refuses greeting" in done.stderr
    done = mpack("build", model, "-p", "echo", "-a", "geeting=x", code=2, **echo)
    assert "geeting: no such argument" in done.stderr and "greeting" in done.stderr


def test_broken_plugin(mpack: Any, echo: dict[str, str], model: Path, tmp_path: Path) -> None:
    """A plugin that cannot be imported is named with its distribution; the others are listed and work."""
    broken = install(tmp_path, "acme-broken", "acme = acme_broken:Acme", acme_broken="import no_such_module_at_all")
    both = {"PYTHONPATH": f"{broken['PYTHONPATH']}:{echo['PYTHONPATH']}"}
    listed = mpack("packagers", "--json", **both)
    assert [item["name"] for item in json.loads(listed.stdout)] == [*OWN, "echo"]
    assert "acme-broken 1.0" in listed.stderr and "no_such_module_at_all" in listed.stderr
    done = mpack("build", model, "-p", "acme", code=2, **both)
    assert "acme-broken 1.0" in done.stderr and "Traceback" not in done.stderr
    assert mpack("plan", model, "--spec", "-p", "echo", **both).stderr.count("acme") == 0


def test_duplicate_plugin(mpack: Any, echo: dict[str, str], model: Path, tmp_path: Path) -> None:
    """Two distributions with one packager's name: both are named, neither is used, the others work."""
    second = install(tmp_path, "acme-echo", "echo = acme_echo:Echo", acme_echo="class Echo: pass")
    both = {"PYTHONPATH": f"{second['PYTHONPATH']}:{echo['PYTHONPATH']}"}
    listed = mpack("packagers", **both)
    assert [line.split()[0] for line in listed.stdout.splitlines()] == OWN
    assert "acme-echo 1.0" in listed.stderr and "mpack-echo 0.1.0" in listed.stderr
    done = mpack("build", model, "-p", "echo", code=2, **both)
    assert "acme-echo 1.0" in done.stderr and "mpack-echo 0.1.0" in done.stderr
    assert mpack("plan", model, "--spec", "-p", "docker-cli", **both).stderr.count("echo") == 0
