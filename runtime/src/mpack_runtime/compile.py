"""Byte code that is the same every time: `python -m mpack_runtime.compile < paths > code.tar`.

Source paths come on stdin, one a line. The tar (uncompressed, sorted, no times, owned by root) holds each one's
`__pycache__/*.pyc` under its absolute path without the leading slash; unchecked-hash, so that the interpreter never
looks at the source again. Exit 1, with the reason on stderr and no complete tar, where a source is missing or does not
compile.

`--short-docstrings` keeps of the docstrings of the packages in `SHORTENED` the first line only: a part of trimming, for
they are a third of the byte code, and much of what importing these packages takes is formatting them.

What `marshal` writes depends on how often each string is in use in the process. So the interpreter starts anew without
site packages and with a fixed hash seed, and every file is compiled in a fork of that one state. Standard library only.
"""

from __future__ import annotations

import ast
import gc
import importlib.util
import io
import marshal
import os
import re
import struct
import sys
import tarfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO

UNCHECKED_HASH = 1
#: Packages whose docstrings `--short-docstrings` shortens to their first line.
SHORTENED = ("joblib", "narwhals", "pandas", "scipy", "sklearn")
SHORT_DOCSTRINGS = "--short-docstrings"
#: Children at a time; one result in memory each.
PARALLEL = max(2, os.cpu_count() or 1)


def main() -> int:
    """Compiles what stdin names to a tar on stdout."""
    options = [SHORT_DOCSTRINGS] if SHORT_DOCSTRINGS in sys.argv[1:] else []
    if os.environ.get("PYTHONHASHSEED") != "0" or not sys.flags.no_site:
        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100,PTH120 - pathlib adds state
        environment = {"PYTHONHASHSEED": "0", "PYTHONPATH": root}
        os.execve(sys.executable, [sys.executable, "-S", "-B", "-m", "mpack_runtime.compile", *options], environment)  # noqa: S606
    gc.disable()  # each file's process ends before there is anything to gain
    paths = sorted({line for line in sys.stdin.read().splitlines() if line})
    try:
        write_tar(paths, sys.stdout.buffer, SHORTENED if options else ())
    except (OSError, ValueError) as error:
        print(f"Byte code: {error}", file=sys.stderr)
        return 1
    return 0


def write_tar(paths: list[str], out: BinaryIO, shortened: Sequence[str] = ()) -> None:
    """Compiles every source in a fork of this process, two at a time. Raises ValueError naming one that fails.

    `shortened` are packages of which docstrings keep their first line only.
    """
    children: list[tuple[str, int, int]] = []
    waiting = iter(paths)
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        while True:
            while len(children) < PARALLEL and (path := next(waiting, None)) is not None:
                children.append((path, *_fork(path, _package(path) in shortened)))
            if not children:
                return
            path, child, reader = children.pop(0)
            data = _result(path, child, reader)
            member = tarfile.TarInfo(importlib.util.cache_from_source(path, optimization="").lstrip("/"))
            member.size, member.mode = len(data), 0o644
            member.uname = member.gname = "root"
            tar.addfile(member, io.BytesIO(data))


def _package(path: str) -> str:
    """The top-level package of a source below a site directory; "" elsewhere."""
    return re.split("/(?:site|dist)-packages/", path)[-1].partition("/")[0]


def _fork(path: str, shorten: bool) -> tuple[int, int]:
    """Starts a child that compiles one source and writes its .pyc, or why not, to a pipe: its pid, the pipe's end."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, reader
    status = 1
    try:
        try:
            data, status = compile_source(path, shorten), 0
        except Exception as error:
            data = f"{path} cannot be compiled: {type(error).__name__}: {error}".encode()
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(data)
    finally:
        os._exit(status)


def _result(path: str, child: int, reader: int) -> bytes:
    """What the child wrote. Raises ValueError with its reason."""
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise ValueError(data.decode(errors="replace") or f"{path}: the compiling process ended with status {status}")
    return data


def compile_source(path: str, shorten: bool = False) -> bytes:
    """An unchecked-hash .pyc (PEP 552) of the source file. Raises OSError, SyntaxError or ValueError."""
    with open(path, "rb") as stream:  # noqa: PTH123 - pathlib adds state
        source = stream.read()
    code = compile(_shortened(source, path) if shorten else source, path, "exec", dont_inherit=True, optimize=0)
    header = importlib.util.MAGIC_NUMBER + struct.pack("<I", UNCHECKED_HASH) + importlib.util.source_hash(source)
    return header + marshal.dumps(code)


def _shortened(source: bytes, path: str) -> ast.Module:
    """The source with the first line of each docstring; all of one with a %, which packages fill in when imported."""
    tree = ast.parse(source, path)
    for node in _with_bodies(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = getattr(node.body[0], "value", None)
            if not isinstance(node.body[0], ast.Expr) or not isinstance(first, ast.Constant):
                continue
            if isinstance(first.value, str) and "%" not in first.value:
                first.value = first.value.strip().partition("\n")[0].rstrip()
    return tree


def _with_bodies(tree: ast.Module) -> Iterator[ast.AST]:
    """What may hold statements, without a look at any expression."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        yield node
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            todo.extend(getattr(node, name, ()))


if __name__ == "__main__":
    sys.exit(main())
