"""Pickles judged without being loaded: what a pickle names, whether that is plain model data, what it tells of itself.

A pickle is a program: it may call anything that it names. `scan_pickle` follows it (`pickle_machine`), `judge` holds
the names against the allow-list of known constructors (`allowlist`) and against the user's `Trust`.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import field
from functools import partial
from typing import Any, BinaryIO, cast

from mpack.artifact.allowlist import known
from mpack.artifact.model import Finding, Tree, Trust
from mpack.artifact.pickle_machine import Machine
from mpack.artifact.pickle_source import Source, Unfollowable, compression_of, decompressed
from mpack.artifact.pickle_values import Global, Instance
from mpack.errors import EnvironmentFault, InputError
from mpack.records import dataclass

#: Names shown in a message; more are counted.
SHOWN_NAMES = 12
#: How much of a file `root_of` follows to see what is in it.
PEEK = 1 << 16
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True)
class PickleScan:
    """What a pickle file would do. `serialization` is how it must be read: "pickle" or "joblib"; `problem` is a clause
    where the stream cannot be followed to its end (then `globals` is what was found before)."""

    path: str
    serialization: str
    compression: str | None
    globals: tuple[Global, ...]
    unknown: tuple[Global, ...]
    problem: str | None = None
    root: Any = None
    instances: tuple[Instance, ...] = field(default=(), repr=False)

    def modules(self) -> frozenset[str]:
        """Top-level packages of everything named."""
        return frozenset(found.module.partition(".")[0] for found in self.globals)

    def attributes(self, name: str) -> list[Any]:
        """The values of one attribute, over all instances that set it."""
        return [value for item in self.instances if (value := item.attribute(name)) is not None]

    def instances_of(self, name: str) -> list[Instance]:
        """Instances whose class has this name."""
        return [item for item in self.instances if item.of.name == name]


def scan_pickle(tree: Tree, path: str, *, joblib: bool | None = None) -> PickleScan:
    """Follows one pickle file to its end. `joblib`: is it read by joblib.load (None: as its content says)?

    Whoever loads the file must load it as `serialization` says: the bytes of joblib's arrays stand between opcodes.
    """
    compression = None if joblib is False else compression_of(tree.head(path, 8))
    with tree.open(path) as stream:
        return scan_stream(stream, path, joblib=joblib is not False, compression=compression)


def scan_stream(stream: BinaryIO, path: str, *, joblib: bool = False, compression: str | None = None) -> PickleScan:
    """`scan_pickle` for a stream. Bytes after the first pickle must be pickles too, and are judged with it."""
    allowed = partial(known, joblib=joblib)
    machines: list[Machine] = []
    problem: str | None = None
    root: Any = None
    try:
        source = Source(decompressed(stream, compression) if compression else stream)
        while not machines or not source.at_end():
            machines.append(Machine(source, allowed, joblib=joblib and not machines))
            value = machines[-1].run()
            root = value if len(machines) == 1 else root
    except Unfollowable as error:
        problem = f"{error} (near byte {source.position})" if machines else str(error)
        if len(machines) > 1:
            problem = f"bytes follow the end of the pickle, and there {problem}"
    names = tuple({name: None for machine in machines for name in machine.globals})
    return PickleScan(
        path=path,
        serialization="joblib" if compression or any(machine.arrays for machine in machines) else "pickle",
        compression=compression,
        globals=names,
        unknown=tuple(name for name in names if not allowed(name.module, name.name)),
        problem=problem,
        root=root.of if isinstance(root, Instance) else root,
        instances=tuple(item for machine in machines for item in machine.instances),
    )


def root_of(tree: Tree, path: str) -> Global | None:
    """The first global that a pickle (joblib's, compressed, too) names: as a rule its object's class. None: no pickle,
    or plain data only. Cheap, and never raises on bad content."""
    head = tree.head(path, 8)
    compression = compression_of(head)
    if not compression and (not head or head[0] not in b"\x80(]}c"):
        return None
    with tree.open(path) as stream:
        if not compression and head[0] != 0x80:  # text may begin so, but hardly end with STOP
            stream.seek(-1, io.SEEK_END)
            if stream.read(1) != b".":
                return None
            stream.seek(0)
        try:
            content = decompressed(stream, compression) if compression else stream
            machine = Machine(Source(cast(BinaryIO, _Limited(content))), known, joblib=True)
        except EnvironmentFault:  # lz4's library is missing: `read` will say so
            return Global("joblib", "compressed")
        try:
            machine.run()
        except (Unfollowable, OSError):
            pass
        first = next(iter(machine.globals), None)
        # Text may begin with the letter of an opcode, and then name what no module is called.
        return first if first and _DOTTED.fullmatch(first.module) and _DOTTED.fullmatch(first.name) else None


def looks_like_pickle(tree: Tree, path: str) -> bool:
    """True if a file begins as a pickle of protocol 2 or later does, or is one that names anything."""
    head = tree.head(path, 2)
    return (len(head) == 2 and head[0] == 0x80 and 2 <= head[1] <= 5) or root_of(tree, path) is not None


def judge(scan: PickleScan, trust: Trust) -> tuple[Finding, ...]:
    """Findings on an acceptable pickle. Raises InputError pickle-refused on any other."""
    refused = [name for name in scan.unknown if not _trusted(name, trust)]
    if trust.pickle:
        return tuple(_as_findings(scan, "accepted only with --trust-pickle"))
    if scan.problem:
        raise InputError(
            "pickle-refused",
            f"The pickle {scan.path} cannot be checked: {scan.problem}.{_names(scan.unknown)}",
            "Save the model again with a current pickle, joblib or skops; if you know where the file comes from,"
            " --trust-pickle accepts it unchecked (it is loaded in the image only).",
        )
    if refused:
        packages = sorted({name.module.partition(".")[0] for name in refused if _trustable(name)})
        options = " ".join(f"--trust-module {name}" for name in packages)
        own = f"{options} accepts the classes of your own packages; " if packages else ""
        raise InputError(
            "pickle-refused",
            f"The pickle {scan.path} names what is not plain model data:{_names(refused)}",
            f"If you know where the file comes from: {own}--trust-pickle accepts everything in it."
            " Functions defined in a notebook or script belong into an MLflow python_function model.",
        )
    if scan.unknown:
        return tuple(_as_findings(scan, "accepted by --trust-module"))
    return ()


def show_pickles(tree: Tree, paths: Iterable[str]) -> Iterator[Finding]:
    """Findings on the pickles of an artifact that openly brings code: shown, not refused."""
    for path in paths:
        if not looks_like_pickle(tree, path):
            continue
        try:
            yield from _as_findings(scan_pickle(tree, path), "part of a model that brings its own code")
        except EnvironmentFault as error:
            yield Finding("warning", error.message, path)


def _as_findings(scan: PickleScan, why: str) -> Iterable[Finding]:
    if scan.unknown:
        yield Finding(
            "danger", f"the pickle names what is not plain model data ({why}):{_names(scan.unknown)}", scan.path
        )
    if scan.problem:
        yield Finding("danger", f"the pickle cannot be checked ({why}): {scan.problem}", scan.path)


def _trustable(name: Global) -> bool:
    """True for what --trust-module may grant: never the standard library, whose os and builtins run anything."""
    top = name.module.partition(".")[0]
    return top not in sys.stdlib_module_names and top != "__main__"


def _trusted(name: Global, trust: Trust) -> bool:
    return name.module.partition(".")[0] in trust.modules and _trustable(name)


def _names(names: Iterable[Global]) -> str:
    listed = [str(name) for name in names]
    if not listed:
        return ""
    more = f" and {len(listed) - SHOWN_NAMES} more" if len(listed) > SHOWN_NAMES else ""
    return f" {', '.join(listed[:SHOWN_NAMES])}{more}."


class _Limited:
    """The first bytes of a stream; then it ends."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = PEEK

    def seekable(self) -> bool:
        return False

    def read(self, size: int) -> bytes:
        data = self._stream.read(min(size, self._left))
        self._left -= len(data)
        return data
