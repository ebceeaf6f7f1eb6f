"""Which interpreter `mpack run --local` takes."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pytest

from mpack.errors import EnvironmentFault
from mpack.run.local import find_python


def on_path(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = directory / "python3.11"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


def test_a_script_that_starts_the_interpreter_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As pyenv puts one on PATH: a venv that links to the script would import from the script's interpreter."""
    on_path(tmp_path, monkeypatch, f'exec "{sys.executable}" "$@"')
    assert find_python("3.11") == (os.path.realpath(sys.executable), platform.python_version())


def test_a_python_that_does_not_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path(tmp_path, monkeypatch, "echo 'pyenv: python3.11: command not found' >&2; exit 127")
    with pytest.raises(EnvironmentFault, match=r"pyenv: python3\.11: command not found") as caught:
        find_python("3.11")
    assert caught.value.code == "tool-missing"


def test_a_missing_python_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentFault, match=r"there is no python3\.11 on PATH"):
        find_python("3.11")
