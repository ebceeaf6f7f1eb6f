"""Byte code from the sandbox: what is asked for comes back, anything else is refused."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest

from mpack.builders import BuiltImage
from mpack.errors import EnvironmentFault, InternalError
from mpack.plan import Bytecode
from mpack.sandbox import Completed, this_platform
from mpack.sandbox.compiler import SandboxCompiler, cached_path

IMAGE = BuiltImage("sha256:1", this_platform(), "embedded", "store", (), 0, "sha256:2")
SOURCES = Bytecode("3.11.2", ("/usr/lib/python3.11/a.py",))
COMPILED = "usr/lib/python3.11/__pycache__/a.cpython-311.pyc"


class FakeSandbox:
    """A sandbox whose image writes one tar; counts how often it was opened."""

    name = "fake"

    def __init__(self, names: Sequence[str], code: int = 0) -> None:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = 4
                archive.addfile(info, io.BytesIO(b"code"))
        self.done = Completed(code, stream.getvalue(), "what went wrong")
        self.opened = 0
        self.stdin = b""

    @contextmanager
    def open(self, image: BuiltImage) -> Iterator[FakeSandbox]:
        self.opened += 1
        yield self

    def run(
        self, args: Sequence[str], *, entrypoint: Sequence[str] = (), stdin: bytes = b"", timeout: float = 600
    ) -> Completed:
        self.stdin = stdin
        return self.done


def test_cached_path() -> None:
    """Where CPython looks for byte code."""
    assert cached_path("/x/a.b.py", "3.13.0") == "/x/__pycache__/a.b.cpython-313.pyc"


def test_compile() -> None:
    """The sources go in by stdin, the byte code comes out by absolute path."""
    sandbox = FakeSandbox([COMPILED])
    assert SandboxCompiler(sandbox).compile(IMAGE, SOURCES) == {"/" + COMPILED: b"code"}
    assert sandbox.stdin == b"/usr/lib/python3.11/a.py"


def test_foreign_platform() -> None:
    """Byte code of an interpreter that does not run here is the machine's lack, with what to do."""
    sandbox = FakeSandbox([COMPILED])
    with pytest.raises(EnvironmentFault, match="linux/s390x") as caught:
        SandboxCompiler(sandbox).compile(replace(IMAGE, platform="linux/s390x"), SOURCES)
    assert (caught.value.code, sandbox.opened) == ("sandbox-unavailable", 0)
    assert "--update-lock" in caught.value.hint


def test_an_open_box_is_used_again() -> None:
    """The image made runnable for its self-check compiles too."""
    sandbox = FakeSandbox([COMPILED])
    compiler = SandboxCompiler(sandbox)
    with compiler.open(IMAGE):
        compiler.compile(IMAGE, SOURCES)
    assert sandbox.opened == 1


@pytest.mark.parametrize("name", ["etc/passwd", "../x.pyc", "usr/lib/python3.11/__pycache__/b.cpython-311.pyc"])
def test_other_entries_are_refused(name: str) -> None:
    """The sandbox cannot slip in a file that was not asked for."""
    with pytest.raises(InternalError, match="odd entry"):
        SandboxCompiler(FakeSandbox([name])).compile(IMAGE, SOURCES)


def test_one_file_twice_is_refused() -> None:
    """Nor one file twice."""
    with pytest.raises(InternalError, match="odd entry"):
        SandboxCompiler(FakeSandbox([COMPILED, COMPILED])).compile(IMAGE, SOURCES)


def test_failure_shows_stderr() -> None:
    """A failing compile is a bug of ours and shows what the image said."""
    with pytest.raises(InternalError, match="what went wrong"):
        SandboxCompiler(FakeSandbox([], 1)).compile(IMAGE, SOURCES)


def test_without_a_sandbox() -> None:
    """No sandbox at hand: exit 3, and what to do."""
    with pytest.raises(EnvironmentFault) as caught:
        SandboxCompiler(None).compile(IMAGE, SOURCES)
    assert caught.value.code == "sandbox-unavailable"
    assert "--update-lock" in caught.value.hint
