"""Byte code that is the same every time: `python -m mpack_runtime.compile < sources.tar > code.tar`.

The sources come as a tar under their absolute paths without the leading slash; none is read from a disk. The result
(uncompressed, sorted, no times, owned by root) holds each one's `__pycache__/*.pyc` likewise; unchecked-hash, so that
the interpreter never looks at the source again. Exit 1, with the reason on stderr and no complete tar, where a source
does not compile.

`--short-docstrings` keeps of the docstrings of the packages in `SHORTENED` the first line only: a part of trimming, for
they are a third of the byte code, and much of what importing these packages takes is formatting them.

What `marshal` writes depends on how often each string is in use in the process, and on which are interned already: both
are made the same for every file (`_code_of`), so that files can be compiled one after another. Each package has a
process of its own: none has a say in what is compiled of another. Standard library only.
"""

from __future__ import annotations

import ast
import gc
import importlib.util
import io
import marshal
import os
import re
import selectors
import struct
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from types import CodeType
from typing import Any, BinaryIO

UNCHECKED_HASH = 1
#: Packages whose docstrings `--short-docstrings` shortens to their first line.
SHORTENED = ("joblib", "narwhals", "pandas", "scipy", "sklearn")
SHORT_DOCSTRINGS = "--short-docstrings"
#: A field that `%` fills in: "%(name)s", "%s", "%%"; not "95% of all".
_FILLED_IN = re.compile(r"%[-#+.\d]*[(%A-Za-z]")
#: Processes at a time.
PARALLEL = max(2, os.cpu_count() or 1)


def main() -> int:
    """Compiles what comes on stdin to stdout."""
    options = [SHORT_DOCSTRINGS] if SHORT_DOCSTRINGS in sys.argv[1:] else []
    if os.environ.get("PYTHONHASHSEED") != "0" or not sys.flags.no_site:
        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100,PTH120 - pathlib adds state
        environment = {"PYTHONHASHSEED": "0", "PYTHONPATH": root}
        os.execve(sys.executable, [sys.executable, "-S", "-B", "-m", "mpack_runtime.compile", *options], environment)  # noqa: S606
    gc.disable()  # compiling makes no garbage that only the collector finds
    try:
        write_tar(read_tar(sys.stdin.buffer), sys.stdout.buffer, SHORTENED if options else ())
    except (OSError, ValueError, tarfile.TarError) as error:
        print(f"Byte code: {error}", file=sys.stderr)
        return 1
    return 0


def read_tar(stream: BinaryIO) -> dict[str, bytes]:
    """Absolute path -> source. Raises tarfile.TarError."""
    sources = {}
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is not None:
                sources["/" + member.name] = content.read()
    return sources


def write_tar(sources: Mapping[str, bytes], out: BinaryIO, shortened: Sequence[str] = ()) -> None:
    """Compiles all sources. Raises ValueError naming one that fails.

    `shortened` are packages of which docstrings keep their first line only.
    """
    packages: dict[str, dict[str, bytes]] = {}
    for path, source in sources.items():
        packages.setdefault(_package(path), {})[path] = source
    compiled = _side_by_side(packages, shortened)
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for path, code in sorted(compiled.items()):
            member = tarfile.TarInfo(importlib.util.cache_from_source(path, optimization="").lstrip("/"))
            member.size, member.mode = len(code), 0o644
            member.uname = member.gname = "root"
            tar.addfile(member, io.BytesIO(code))


def _side_by_side(packages: Mapping[str, Mapping[str, bytes]], shortened: Sequence[str]) -> dict[str, bytes]:
    """Path -> .pyc of all sources: a process a package, the ones with the most to do first."""
    compiled: dict[str, bytes] = {}
    waiting = sorted(packages, key=lambda name: sum(map(len, packages[name].values())))
    with selectors.DefaultSelector() as selector:
        while waiting or selector.get_map():
            while waiting and len(selector.get_map()) < PARALLEL:
                name = waiting.pop()
                child, reader = _fork(packages[name], name in shortened)
                selector.register(reader, selectors.EVENT_READ, (child, bytearray(), list(packages[name])))
            for key, _ in selector.select():
                child, data, paths = key.data
                if block := os.read(key.fd, 1 << 20):
                    data += block
                    continue
                selector.unregister(key.fd)
                os.close(key.fd)
                compiled.update(_result(child, bytes(data), paths))
    return compiled


def _package(path: str) -> str:
    """The top-level package of a source below a site directory; "" elsewhere."""
    return re.split("/(?:site|dist)-packages/", path)[-1].partition("/")[0]


def _fork(sources: Mapping[str, bytes], shorten: bool) -> tuple[int, int]:
    """Starts a child that compiles these sources, and the end of the pipe that its result comes through."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, reader
    status = 1
    try:
        try:
            codes = [compile_source(path, source, shorten) for path, source in sources.items()]
            data, status = b"".join([struct.pack(f"<{len(codes)}Q", *map(len, codes)), *codes]), 0
        except ValueError as error:
            data = str(error).encode()
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(data)
    finally:
        os._exit(status)


def _result(child: int, data: bytes, paths: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """The sources' .pyc, which follow their sizes. Raises ValueError with the child's reason."""
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise ValueError(data.decode(errors="replace") or f"{paths[0]}: the compiling process ended with {status}")
    sizes = struct.unpack_from(f"<{len(paths)}Q", data)
    end = 8 * len(paths)
    for path, size in zip(paths, sizes):
        yield path, data[end : end + size]
        end += size


def compile_source(path: str, source: bytes, shorten: bool = False) -> bytes:
    """An unchecked-hash .pyc (PEP 552) of a source. Raises ValueError that names it."""
    header = importlib.util.MAGIC_NUMBER + struct.pack("<I", UNCHECKED_HASH) + importlib.util.source_hash(source)
    try:
        return header + _dumped(source, path, shorten)
    except Exception as error:
        raise ValueError(f"{path} cannot be compiled: {type(error).__name__}: {error}") from error


def _dumped(source: bytes, path: str, shorten: bool) -> bytes:
    """The source's code as `marshal` has it, the same in whatever state this process is.

    Two things would vary. An object that is in use once is written without the mark that lets others refer to it; so
    every string is in use twice. And of equal strings the first becomes the interned one: which it was shows where the
    compiler interns one of two uses (a qualified name), or makes an object anew for the interned ones in it (a
    frozenset). A source with such a constant is compiled again, when all of its strings are interned already.
    """
    code = _code_of(source, path, shorten)
    strings, varies = _constants(code)
    if varies:
        code = _code_of(source, path, shorten)
        strings += _constants(code)[0]
    data = marshal.dumps(code)
    strings.clear()  # not before: they are held for as long as `marshal` counts
    return data


def _code_of(source: bytes, path: str, shorten: bool) -> CodeType:
    return compile(_shortened(source, path) if shorten else source, path, "exec", dont_inherit=True, optimize=0)


def _constants(code: CodeType) -> tuple[list[str], bool]:
    """Every string of the code and of all code in it; and whether there is a constant as `_dumped` tells of."""
    strings: list[str] = []
    varies = False
    todo: list[Any] = [code]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            strings.append(item)
        elif isinstance(item, CodeType):
            name = getattr(item, "co_qualname", "")
            varies = varies or ("." in name and name in item.co_consts)
            todo += (item.co_consts, item.co_names, item.co_varnames, item.co_freevars, item.co_cellvars)
            todo += (item.co_filename, item.co_name, name)
        elif isinstance(item, (tuple, frozenset)):
            varies = varies or isinstance(item, frozenset)
            todo += item
    return strings, varies


def _shortened(source: bytes, path: str) -> ast.Module:
    """The source with the first line of each docstring; all of one that packages fill in when they are imported."""
    tree = ast.parse(source, path)
    for node in _with_bodies(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = getattr(node.body[0], "value", None)
            if not isinstance(node.body[0], ast.Expr) or not isinstance(first, ast.Constant):
                continue
            if isinstance(first.value, str) and not _FILLED_IN.search(first.value):
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
