"""Without a container engine: images come about and are verified all the same; what needs one says so."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

NOWHERE = {"DOCKER_HOST": "unix:///nonexistent/docker.sock", "DOCKER_CONTEXT": ""}
INVOICES = Path(__file__).parents[2] / "fixtures" / "models" / "odahu-invoices" / "invoices"


def test_build_goes_to_the_store(mpack: Any, echo: dict[str, str], model: Path, tmp_path: Path) -> None:
    """The image is in the store, verified by runc; stdout is its name and nothing else."""
    lock = tmp_path / "lock"
    done = mpack("build", model, "-p", "echo", "-t", "mpack-test-alone:1", "--lock", lock, **echo, **NOWHERE)
    assert done.stdout == "mpack-test-alone:1\n"
    result = mpack.json("build", model, "-p", "echo", "-t", "mpack-test-alone:1", "--lock", lock, **echo, **NOWHERE)
    assert (result["builder"], result["verified"]["status"]) == ("embedded", "passed")
    names = [name for item in json.loads(mpack("images", "--json", **NOWHERE).stdout) for name in item["names"]]
    assert "mpack-test-alone:1" in names
    assert json.loads(mpack("verify", "mpack-test-alone:1", "--json", **NOWHERE).stdout)["status"] == "passed"
    mpack("rm", "mpack-test-alone:1", **NOWHERE)


@pytest.mark.parametrize("options", [("--builder", "docker"), ("-o", "docker")], ids=lambda value: value[0].strip("-"))
def test_what_needs_an_engine(options: tuple[str, str], mpack: Any, model: Path, tmp_path: Path) -> None:
    """The docker builder and the docker output end with exit 3, naming what was tried and the way without."""
    done = mpack("build", model, *options, "--lock", tmp_path / "lock", "--json", code=3, **NOWHERE)
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "engine-unavailable"
    assert "nonexistent/docker.sock" in error["message"] and str(shutil.which("docker")) in error["message"]
    assert "embedded" in error["hint"] or "store" in error["hint"]
    assert not (tmp_path / "lock").exists()


def test_no_docker_client(mpack: Any, model: Path, tmp_path: Path) -> None:
    """On a machine without any docker client the error says that there is none."""
    done = mpack("build", model, "--builder", "docker", code=3, PATH=str(tmp_path))
    assert "docker" in done.stderr and "PATH" in done.stderr


def test_command_line_image_without_root(
    installed: Callable[[str], Path],
    interpreters: dict[str, str],
    base_home: Callable[..., Path],
    somebody: Any,
) -> None:
    """A user without root and engine: the image's program, root of a sandbox that may not change users, is verified.

    (tests/integration/test_same_digest.py does the same with a docker-rest image.)
    """
    home = base_home("home-cli", somebody.uid)
    mpack = installed(interpreters[f"3.{sys.version_info[1]}"])
    options = ["-p", "docker-cli", "-t", "cli:1", "--lock", str(somebody.directory / "cli.lock"), "--json"]
    done = somebody.run([str(mpack), "build", str(INVOICES), *options], MPACK_HOME=str(home), **NOWHERE)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["outputs"], result["packager"]) == (["cli:1"], "docker-cli")
    assert (result["verified"]["status"], result["verified"]["against"]) == ("passed", "load")
    assert list((somebody.directory / "tmp").iterdir()) == []
