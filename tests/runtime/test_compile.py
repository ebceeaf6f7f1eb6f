"""Byte code: the same bytes whatever the order, and an interpreter that takes it without the source."""

from __future__ import annotations

import argparse
import asyncio.events
import inspect
import io
import logging.config
import marshal
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import mpack_runtime
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
    return subprocess.run(command, input=tarred(paths), capture_output=True, check=False, env={**os.environ, **env})


def tarred(paths: list[str]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", dereference=True) as tar:
        for path in paths:
            tar.add(path)
    return stream.getvalue()


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


#: Two classes whose constant sets have the same strings, names among them; and a class in a class.
SETS = """
class One:
    allowed = choose({"constant", "adaptive", "optimal"})
class Two:
    allowed = choose({"constant", "adaptive", "optimal"})
    class Inner:
        pass
"""
STATE = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from mpack_runtime.compile import compile_source
kept = []
for path in sys.argv[3:]:
    if sys.argv[2] == "used":
        import decimal, http.client, pickle, sqlite3, unittest, xml.dom.minidom
        kept.append(compile(open(path, "rb").read(), path, "exec"))
    print(hashlib.sha256(compile_source(path, open(path, "rb").read())).hexdigest())
"""


def test_the_state_of_the_process_has_no_say(tmp_path: Path) -> None:
    """In a fresh process and in one that holds a thousand modules' strings, the same sources in another order."""
    sources = [argparse.__file__, asyncio.events.__file__, inspect.__file__, logging.config.__file__]
    sources += [tarfile.__file__, str(tmp_path / "sets.py")]
    (tmp_path / "sets.py").write_text(SETS)
    root = str(Path(mpack_runtime.__file__).parents[1])

    def hashes(state: str, paths: list[str]) -> list[str]:
        command = [sys.executable, "-S", "-c", STATE, root, state, *paths]
        env = {**os.environ, "PYTHONHASHSEED": "0"}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.split()

    fresh = hashes("fresh", sources)
    assert len(set(fresh)) == len(sources)
    assert hashes("used", sources[::-1])[::-1] == fresh


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
    """A syntax error and a null byte end with 1 and the path on stderr; so does what is no tar."""
    paths = write(tmp_path)
    for text in ("def (:\n", "x = 1\0"):
        broken = tmp_path / "broken.py"
        broken.write_text(text)
        result = run([*paths, str(broken)])
        assert result.returncode == 1 and str(broken).encode() in result.stderr
    command = [sys.executable, "-m", "mpack_runtime.compile"]
    result = subprocess.run(command, input=b"no tar" * 200, capture_output=True, check=False)
    assert result.returncode == 1 and b"Byte code: " in result.stderr


DOCUMENTED = """'''The module.

More of it.
'''
def filled():
    '''Returns %s.

    And more.
    '''
def counted():
    '''Takes 5% of all.

    And 5 %, more.
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
    assert (shortened["counted"].__doc__ == "Takes 5% of all.") is short
    assert (shortened["__doc__"], shortened["Thing"].act.__doc__, shortened["Thing"].__doc__) == (
        ("The module.", "Acts.", "Thing.") if short else (whole["__doc__"], whole["Thing"].act.__doc__, "Thing.")
    )
    assert shortened["bare"]() == 1 and shortened["bare"].__code__.co_firstlineno == 23


def execute(pyc: bytes) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "a"}
    exec(marshal.loads(pyc[16:]), names)
    return names
