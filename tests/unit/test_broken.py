"""Every folder of fixtures/broken: the fault is told in words, with its code and exit code, and nothing is left behind.

A case has `case.toml` (summary, artifact, arguments, code, exit, message: a regular expression) and either the artifact
itself or, where git cannot hold it, a `make.py` with `make(directory) -> path`.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click import Context

from mpack.artifact.limits import Limits, parse_size
from mpack.artifact.model import Trust
from mpack.artifact.reader import read_artifact
from mpack.cli.inspect import command
from mpack.cli.main import mpack
from mpack.errors import CODES, MpackError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BROKEN = Path(__file__).parents[2] / "fixtures" / "broken"
CASES = sorted(path.parent.name for path in BROKEN.glob("*/case.toml"))


def case_of(name: str) -> dict[str, Any]:
    """The case's expectations."""
    return tomllib.loads((BROKEN / name / "case.toml").read_text("utf-8"))


def artifact_of(name: str, directory: Path) -> str:
    """The case's artifact, copied or made in `directory`."""
    source = BROKEN / name
    if (source / "make.py").exists():
        return str(runpy.run_path(str(source / "make.py"))["make"](directory))
    shutil.copytree(source, directory, dirs_exist_ok=True, symlinks=True)
    (directory / "case.toml").unlink()
    return str(directory / case_of(name)["artifact"])


def snapshot(directory: Path) -> set[tuple[str, int]]:
    """Everything below a directory, links not followed."""
    return {
        (os.path.join(root, name), os.lstat(os.path.join(root, name)).st_size)
        for root, directories, files in os.walk(directory)
        for name in (*directories, *files)
    }


def test_there_are_enough_cases() -> None:
    """The folder is found, and holds at least the thirty faults that were promised."""
    assert len(CASES) >= 30
    assert not [path.name for path in BROKEN.iterdir() if path.is_dir() and not (path / "case.toml").exists()]


@pytest.mark.parametrize("name", CASES)
def test_fault(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault is refused with its message, code and exit code; nothing is unpickled, run or left behind."""
    case = case_of(name)
    place, scratch, home = (tmp_path / part for part in ("place", "scratch", "home"))
    for directory in (place, scratch, home):
        directory.mkdir()
    location = artifact_of(name, place)
    monkeypatch.setenv("MPACK_CANARY", str(tmp_path / "canary"))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TMPDIR", str(home))
    words = [*case.get("arguments", []), "--", location]
    options = command.make_context("inspect", words, parent=Context(mpack, **mpack.context_settings)).params
    limits = Limits(parse_size(options["max_size"]), options["max_entries"], options["max_ratio"])
    before = snapshot(tmp_path)

    with pytest.raises(MpackError) as caught:
        read_artifact(
            location,
            limits=limits,
            trust=Trust(frozenset(options["trust_module"]), options["trust_pickle"]),
            scratch=scratch,
        )

    error = caught.value
    assert re.search(case["message"], error.message), error.message
    assert (error.code, error.exit_code) == (case["code"], case["exit"])
    assert error.code in CODES
    assert error.hint, "no hint"
    assert snapshot(tmp_path) == before
    assert not (tmp_path / "canary").exists()


LOAD = """
import contextlib, json, os, sys, types
# What the cases' models claim to be; the real one takes seconds to import and is not what runs the command.
base = sys.modules["sklearn.linear_model._base"] = types.ModuleType("sklearn.linear_model._base")
base.LinearRegression = type("LinearRegression", (), {})
for directory, code in json.load(sys.stdin).items():
    os.chdir(directory)
    os.environ["MPACK_CANARY"] = os.path.join(directory, "canary")
    with contextlib.suppress(Exception):
        exec(code, {})
"""


def test_canaries_sing(tmp_path: Path) -> None:
    """Loading such a case as its framework would makes the canary: so that its absence above proves something."""
    codes = {name: case_of(name)["canary"] for name in CASES if "canary" in case_of(name)}
    for name in codes:
        (tmp_path / name).mkdir()
        artifact_of(name, tmp_path / name)
    told = json.dumps({str(tmp_path / name): code for name, code in codes.items()})
    subprocess.run([sys.executable, "-c", LOAD], input=told, text=True, capture_output=True, timeout=120)
    for name in codes:
        for _ in range(100):  # a case may start a process of its own, which nothing waits for
            if (tmp_path / name / "canary").exists():
                break
            time.sleep(0.05)
    assert [name for name in codes if not (tmp_path / name / "canary").exists()] == []
