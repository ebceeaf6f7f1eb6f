"""Conda packages in locks: mpack's own, and conda-lock's format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from mpack.conda.condalock import CondaPins, conda_lock_text, read_conda_lock
from mpack.env.lockfile import LockEntry
from mpack.errors import InputError
from mpack.plan import CONDA, BaseImage, CondaEnvironment, CondaPackage, Environment, below_venv

SHA = "a" * 64
PYTHON = CondaPackage("python", "3.11.2", "h1_0", "linux-64", "conda-forge", "python-3.11.2-h1_0.conda", SHA, 9)
TOOL = CondaPackage(
    "tool",
    "1!2.0",
    "0",
    "noarch",
    "https://conda.example.org/mine",
    "tool-1!2.0-0.tar.bz2",
    SHA,
    9,
    ("python >=3.9,<4", "x"),
)
SITE = "lib/python3.11/site-packages"
BASE = BaseImage("b:1", f"sha256:{SHA}", "linux/amd64", "/usr/bin/python3.11", "3.11.4", ("/usr/lib/python3",))


def entry(*packages: CondaPackage, site: str = SITE, interpreter: bool = True) -> LockEntry:
    conda = CondaEnvironment(packages, site, interpreter)
    return LockEntry("k", (), BASE, Environment("3.11", "linux/amd64", (), conda=conda), None, "e")


def test_round_trip() -> None:
    """A lock's entry comes back from JSON; one without conda packages has no word of them."""
    made = entry(PYTHON, TOOL)
    assert LockEntry.from_json(made.to_json()) == made
    assert "conda" not in replace(made.environment, conda=None).to_json()


def changed(**values: Any) -> dict[str, Any]:
    data = entry(PYTHON, TOOL).to_json()
    data["environment"]["conda"]["packages"][1] |= values
    return data


@pytest.mark.parametrize(
    "values",
    [
        {"name": "../tool"},
        {"version": "1/2"},
        {"build": "../0"},
        {"subdir": "linux-aarch64"},
        {"subdir": "../x"},
        {"file": "../../tool-1!2.0-0.conda"},
        {"file": "tool-3.0-0.conda"},
        {"sha256": "A" * 64},
        {"size": -1},
        {"size": "9"},
        {"channel": "file:///srv"},
        {"channel": "https://me:pw@conda.example.org/mine"},
        {"channel": "https://conda.example.org/t/token/mine"},
        {"channel": "-x"},
        {"depends": [1]},
        {"name": "python", "version": "3.11.2", "build": "h1_0", "file": "python-3.11.2-h1_0.conda"},
    ],
)
def test_hostile_lock(values: dict[str, Any]) -> None:
    """A lock comes with a model: what mpack would not have written is refused before any use."""
    with pytest.raises((ValueError, TypeError)):
        LockEntry.from_json(changed(**values))


@pytest.mark.parametrize("values", [{"site": "../x"}, {"site": ""}, {"interpreter": 1}])
def test_hostile_environment(values: dict[str, Any]) -> None:
    """So is a place of Python packages elsewhere, or a Python that is not there."""
    data = entry(PYTHON, TOOL).to_json()
    data["environment"]["conda"] |= values
    with pytest.raises((ValueError, TypeError)):
        LockEntry.from_json(data)


def test_below_the_venv() -> None:
    """The venv stands on conda's Python, or on the base's with conda's packages before the base's, or on the base."""
    conda = entry(PYTHON).environment.conda
    assert conda is not None
    own = below_venv(BASE, conda)
    assert (own.python, own.python_version, own.minor) == (f"{CONDA}/bin/python3.11", "3.11.2", "3.11")
    assert own.site_dirs == (f"{CONDA}/{SITE}",) and own.digest == BASE.digest
    beside = below_venv(BASE, replace(conda, interpreter=False))
    assert (beside.python, beside.site_dirs) == (BASE.python, (f"{CONDA}/{SITE}", *BASE.site_dirs))
    assert (
        below_venv(BASE, replace(conda, packages=(TOOL,), site="", interpreter=False)) == BASE == below_venv(BASE, None)
    )


def test_conda_lock() -> None:
    """What is written is version 1 of conda-lock's format, and is read again; sizes are not in it."""
    text = conda_lock_text([entry(PYTHON, TOOL)])
    value = yaml.safe_load(text)
    assert value["version"] == 1 and value["metadata"]["platforms"] == ["linux-64"]
    assert [item["url"] for item in value["package"]] == [
        "https://conda.anaconda.org/conda-forge/linux-64/python-3.11.2-h1_0.conda",
        "https://conda.example.org/mine/noarch/tool-1!2.0-0.tar.bz2",
    ]
    assert value["package"][1]["dependencies"] == {"python": ">=3.9,<4", "x": ""}
    assert read_conda_lock(text) == {"linux/amd64": (replace(PYTHON, size=0), replace(TOOL, size=0))}
    with pytest.raises(InputError, match="no conda packages") as caught:
        conda_lock_text([replace(entry(), environment=Environment("3.11", "linux/amd64", ()))])
    assert caught.value.code == "lock-mismatch"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("version: 1\n", "version: 4\n"),
        ("package:", "packages:"),
        ("https://conda.anaconda.org/conda-forge/linux-64/", "https://conda.anaconda.org/../linux-64/"),
        ("https://conda.example.org/mine", "https://me:pw@conda.example.org/mine"),
        ("https://conda.example.org/mine", "file:///srv"),
        (f"sha256: {SHA}", "sha256: 1"),
        ("name: tool", "name: other"),
        ("/noarch/", "/win-64/"),
        ("metadata", "{"),
    ],
)
def test_bad_conda_lock(old: str, new: str) -> None:
    """A file that is none, or would lead elsewhere, is refused in words."""
    text = conda_lock_text([entry(PYTHON, TOOL)])
    assert old in text
    with pytest.raises(InputError, match=r"no conda-lock\.yml") as caught:
        read_conda_lock(text.replace(old, new))
    assert caught.value.code == "lock-invalid" and "pw" not in caught.value.message


def test_conda_lock_of_aliases() -> None:
    """A few lines that say each other again and again are not written out."""
    levels = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    package = "package: [{manager: conda, platform: linux-64, name: *a11, version: '1', url: u, hash: {sha256: x}}]\n"
    with pytest.raises(InputError, match="its aliases make more than"):
        read_conda_lock(f"version: 1\na0: &a0 x\n{levels}{package}")


def test_pins(tmp_path: Path) -> None:
    """Pins that a lock is at odds with are named; a file without the platform, or for no conda packages, says so."""
    path = tmp_path / "conda-lock.yml"
    path.write_text(conda_lock_text([entry(PYTHON, TOOL)]))
    pins = CondaPins.read(path, "linux/amd64")
    pins.require(entry(PYTHON, TOOL).environment)
    other = replace(PYTHON, version="3.11.9", sha256="b" * 64)
    with pytest.raises(InputError, match=r"python 3\.11\.9 h1_0 is locked, 3\.11\.2 h1_0 pinned"):
        pins.require(entry(other, TOOL).environment)
    with pytest.raises(InputError, match="another SHA-256"):
        pins.require(entry(replace(PYTHON, sha256="b" * 64)).environment)
    with pytest.raises(InputError, match="Python index"):
        pins.require(Environment("3.11", "linux/amd64", ()))
    with pytest.raises(InputError, match="linux/arm64"):
        CondaPins.read(path, "linux/arm64")
