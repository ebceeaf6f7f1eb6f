"""Byte code from the sandbox: what is asked for comes back, anything else is refused."""

from __future__ import annotations

import io
import sqlite3
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mpack.builders import BuiltImage, BuiltLayer
from mpack.errors import EnvironmentFault, InternalError
from mpack.plan import Bytecode
from mpack.pruning import prune
from mpack.sandbox import Completed, this_platform
from mpack.sandbox.codecache import CodeCache
from mpack.sandbox.compiler import SandboxCompiler, cached_path

IMAGE = BuiltImage("sha256:1", this_platform(), "embedded", "store", (), 0, "sha256:2")
SOURCES = Bytecode("3.11.2", ("/usr/lib/python3.11/a.py",))
#: A cache that nothing can be written to: every compile is a real one.
CACHE = CodeCache(Path("/dev/null/none"))
COMPILED = "usr/lib/python3.11/__pycache__/a.cpython-311.pyc"


def run(compiler: SandboxCompiler, image: BuiltImage, code: Bytecode, sha256: str = "0" * 64) -> Mapping[str, bytes]:
    """Compiles sources that are all "x = 1"."""
    return compiler.compile(
        image, code, dict.fromkeys(code.sources, sha256), lambda paths: dict.fromkeys(paths, b"x = 1")
    )


class FakeSandbox:
    """A sandbox whose image writes one tar; keeps what it was opened with."""

    name = "fake"

    def __init__(self, names: Sequence[str], code: int = 0) -> None:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = 4
                archive.addfile(info, io.BytesIO(b"code"))
        self.done = Completed(code, stream.getvalue(), "what went wrong")
        self.opened: list[str] = []
        self.compiled = 0
        self.stdin = b""
        self.args: list[str] = []

    @contextmanager
    def open(self, image: BuiltImage) -> Iterator[FakeSandbox]:
        self.opened.append(image.id)
        yield self

    def run(
        self, args: Sequence[str], *, entrypoint: Sequence[str] = (), stdin: bytes = b"", timeout: float = 600
    ) -> Completed:
        self.stdin = stdin
        self.compiled += 1
        self.args = list(args)
        return self.done


def test_cached_path() -> None:
    """Where CPython looks for byte code."""
    assert cached_path("/x/a.b.py", "3.13.0") == "/x/__pycache__/a.b.cpython-313.pyc"


def test_compile() -> None:
    """The sources go in by stdin, the byte code comes out by absolute path."""
    sandbox = FakeSandbox([COMPILED])
    assert run(SandboxCompiler(sandbox, CACHE), IMAGE, SOURCES) == {"/" + COMPILED: b"code"}
    assert sandbox.opened == [IMAGE.id]
    with tarfile.open(fileobj=io.BytesIO(sandbox.stdin)) as archive:
        (member,) = archive
        assert member.name == "usr/lib/python3.11/a.py"
        assert archive.extractfile(member).read() == b"x = 1"  # type: ignore[union-attr]


def test_foreign_platform() -> None:
    """Byte code of an interpreter that does not run here is the machine's lack, with what to do."""
    sandbox = FakeSandbox([COMPILED])
    with pytest.raises(EnvironmentFault, match="linux/s390x") as caught:
        run(SandboxCompiler(sandbox, CACHE), replace(IMAGE, platform="linux/s390x"), SOURCES)
    assert (caught.value.code, sandbox.opened) == ("sandbox-unavailable", [])
    assert "--update-lock" in caught.value.hint


@pytest.mark.parametrize("name", ["etc/passwd", "../x.pyc", "usr/lib/python3.11/__pycache__/b.cpython-311.pyc"])
def test_other_entries_are_refused(name: str) -> None:
    """The sandbox cannot slip in a file that was not asked for."""
    with pytest.raises(InternalError, match="odd entry"):
        run(SandboxCompiler(FakeSandbox([name]), CACHE), IMAGE, SOURCES)


def test_one_file_twice_is_refused() -> None:
    """Nor one file twice."""
    with pytest.raises(InternalError, match="odd entry"):
        run(SandboxCompiler(FakeSandbox([COMPILED, COMPILED]), CACHE), IMAGE, SOURCES)


def test_one_file_left_out_is_refused() -> None:
    """Nor leave one out: that would be another image than the lock's."""
    with pytest.raises(InternalError, match="left out /usr/lib/python3"):
        run(SandboxCompiler(FakeSandbox([]), CACHE), IMAGE, SOURCES)


def test_failure_shows_stderr() -> None:
    """A failing compile is a bug of ours and shows what the image said."""
    with pytest.raises(InternalError, match="what went wrong"):
        run(SandboxCompiler(FakeSandbox([], 1), CACHE), IMAGE, SOURCES)


def test_without_a_sandbox() -> None:
    """No sandbox at hand: exit 3, and what to do."""
    with pytest.raises(EnvironmentFault) as caught:
        run(SandboxCompiler(None, CACHE), IMAGE, SOURCES)
    assert caught.value.code == "sandbox-unavailable"
    assert "--update-lock" in caught.value.hint


BASED = replace(IMAGE, layers=(BuiltLayer("sha256:base", "base"),))


def test_what_was_compiled_once_is_taken_from_the_cache(tmp_path: Path) -> None:
    """The same source under the same base and interpreter is compiled once; another one or another way anew."""
    sandbox, cache = FakeSandbox([COMPILED]), CodeCache(tmp_path)
    compiler = SandboxCompiler(sandbox, cache)
    assert run(compiler, BASED, SOURCES) == run(compiler, BASED, SOURCES) == {"/" + COMPILED: b"code"}
    assert sandbox.compiled == 1
    run(compiler, replace(BASED, layers=(BuiltLayer("sha256:other", "base"),)), SOURCES)
    assert sandbox.compiled == 2
    run(compiler, BASED, Bytecode("3.11.3", SOURCES.sources))
    assert sandbox.compiled == 3
    run(compiler, BASED, replace(SOURCES, short_docstrings=True))
    assert (sandbox.compiled, sandbox.args) == (4, ["--short-docstrings"])
    run(compiler, BASED, SOURCES, "1" * 64)
    assert (sandbox.compiled, sandbox.args) == (5, [])


def test_a_damaged_entry_is_none(tmp_path: Path) -> None:
    """Cut short or changed, an entry is compiled again and replaced; unused ones are pruned."""
    sandbox, cache = FakeSandbox([COMPILED]), CodeCache(tmp_path)
    compiler = SandboxCompiler(sandbox, cache)
    run(compiler, BASED, SOURCES)
    cache.path.write_bytes(cache.path.read_bytes().replace(b"code", b"cod3"))
    assert run(compiler, BASED, SOURCES) == {"/" + COMPILED: b"code"}
    assert sandbox.compiled == 2
    assert [prune(cache.entries(), older_than=age) for age in (3600, -1, -1)] == [0, 1, 0]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE code SET code = 'text'",
        "UPDATE code SET code = 7, sha256 = NULL",
        "UPDATE code SET used = 'long ago'",
        "ALTER TABLE code RENAME COLUMN used TO seen",
        "DROP TABLE code; CREATE TABLE code (key TEXT)",
        "DROP TABLE code; CREATE VIEW code AS SELECT 1 AS key",
    ],
)
def test_a_cache_of_another_shape_is_repaired(tmp_path: Path, change: str) -> None:
    """Rows and tables that mpack did not write cost one compile; afterwards all is kept, and pruned, as ever."""
    sandbox, cache = FakeSandbox([COMPILED]), CodeCache(tmp_path)
    compiler = SandboxCompiler(sandbox, cache)
    run(compiler, BASED, SOURCES)
    with closing(sqlite3.connect(cache.path)) as database, database:
        database.executescript(change)
    prune(cache.entries(), older_than=3600)
    for _ in range(3):
        assert run(compiler, BASED, SOURCES) == {"/" + COMPILED: b"code"}
    assert sandbox.compiled <= 2
    assert prune(cache.entries(), older_than=-1) == 1


@pytest.mark.parametrize("content", [b"", b"no database" * 100, b"SQLite format 3\0" + b"x" * 5000])
def test_a_damaged_cache_is_made_again(tmp_path: Path, content: bytes) -> None:
    """A file that is no database costs one compile, and is a cache again afterwards."""
    sandbox, cache = FakeSandbox([COMPILED]), CodeCache(tmp_path)
    cache.path.write_bytes(content)
    for _ in range(3):
        assert run(SandboxCompiler(sandbox, cache), BASED, SOURCES) == {"/" + COMPILED: b"code"}
    assert sandbox.compiled < 3
