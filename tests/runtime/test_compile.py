"""Byte code: the same bytes whatever the order, and an interpreter that takes it without the source."""

from __future__ import annotations

import io
import marshal
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

ALPHA = """
NAMES = frozenset({'b', 'a', 'c', 'd'})
import json

def shared(alpha, beta=1):
    'Doc.'
    return alpha in {'x', 'y', 'z'}
"""
BETA = """# -*- coding: latin-1 -*-
class Beta:
    shared = 'na\xefve'
    def alpha(self, *, json=None):
        return json
"""
GAMMA = """
import re
PATTERN = re.compile('a')
def alpha():
    shared = 'alpha'
    return shared
"""
SOURCES = {"alpha.py": ALPHA, "beta.py": BETA, "pkg/__init__.py": "", "pkg/gamma.py": GAMMA}


def write(root: Path) -> list[str]:
    paths = []
    for name, text in SOURCES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("latin-1"))
        paths.append(str(path))
    return paths


def run(paths: list[str], *options: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "mpack_runtime.compile", *options]
    text = "\n".join([*paths, ""]).encode()
    return subprocess.run(command, input=text, capture_output=True, check=False, env={**os.environ, **env})


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {item.name: tar.extractfile(item).read() for item in tar}  # type: ignore[union-attr]


def test_two_orders_give_the_same_bytes(tmp_path: Path) -> None:
    """Reversed, with another hash seed, and with half of the files: every file's code is the same, bit for bit."""
    paths = [*write(tmp_path), subprocess.__file__, os.__file__, tarfile.__file__]
    first, second = run(paths, PYTHONHASHSEED="1"), run(paths[::-1], PYTHONHASHSEED="2")
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    half = members(run(paths[::2]).stdout)
    assert len(half) == 4 and half.items() <= members(first.stdout).items()


def test_interpreter_takes_the_code_without_checking_the_source(tmp_path: Path) -> None:
    """Unpacked beside changed sources, the byte code is what runs: it is unchecked."""
    paths = write(tmp_path)
    for name, data in members(run(paths).stdout).items():
        target = Path("/", name)
        assert target.parent.name == "__pycache__"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(data)
    (tmp_path / "beta.py").write_text("raise SystemExit('the source was run')\n")
    code = "import alpha, beta, pkg.gamma; print(beta.Beta.shared, alpha.shared('x'), pkg.gamma.alpha())"
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout == "naïve True alpha\n"


def test_members_hold_nothing_that_varies(tmp_path: Path) -> None:
    """Sorted, no time, root's, 0644, relative names."""
    with tarfile.open(fileobj=io.BytesIO(run(write(tmp_path)).stdout)) as tar:
        items = tar.getmembers()
    assert [item.name for item in items] == sorted(item.name for item in items)
    assert {(item.mtime, item.uid, item.gid, item.mode, item.name[0] == "/") for item in items} == {
        (0, 0, 0, 0o644, False)
    }


def test_a_source_that_fails_is_named(tmp_path: Path) -> None:
    """A missing file and a syntax error end with 1 and the path on stderr."""
    broken = tmp_path / "broken.py"
    broken.write_text("def (:\n")
    for path in (str(broken), str(tmp_path / "missing.py")):
        result = run([path])
        assert result.returncode == 1 and path.encode() in result.stderr


DOCUMENTED = """'''The module.

More of it.
'''
def filled():
    '''Returns %s.

    And more.
    '''
class Thing:
    "Thing."
    def act(self):
        '''
        Acts.

        At length.
        '''
def bare(): return 1
"""


@pytest.mark.parametrize(("package", "short"), [("scipy", True), ("numpy", False)])
def test_short_docstrings(package: str, short: bool, tmp_path: Path) -> None:
    """Where it is asked for, those of known packages keep their first line; one that is filled in is kept whole."""
    source = tmp_path / "site-packages" / package / "a.py"
    source.parent.mkdir(parents=True)
    source.write_text(DOCUMENTED)
    whole, shortened = (
        execute(members(run([str(source)], *options).stdout).popitem()[1]) for options in ([], ["--short-docstrings"])
    )
    assert whole["__doc__"] == "The module.\n\nMore of it.\n"
    assert whole["Thing"].act.__doc__.strip().endswith("At length.")
    assert shortened["filled"].__doc__ == whole["filled"].__doc__
    assert (shortened["__doc__"], shortened["Thing"].act.__doc__, shortened["Thing"].__doc__) == (
        ("The module.", "Acts.", "Thing.") if short else (whole["__doc__"], whole["Thing"].act.__doc__, "Thing.")
    )
    assert shortened["bare"]() == 1 and shortened["bare"].__code__.co_firstlineno == 18


def execute(pyc: bytes) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "a"}
    exec(marshal.loads(pyc[16:]), names)
    return names
