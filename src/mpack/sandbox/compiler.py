"""Byte code made by the image's own interpreter, inside the sandbox."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from mpack.builders import BuiltImage
from mpack.errors import EnvironmentFault, InternalError
from mpack.oci import tar
from mpack.plan import VENV, Bytecode
from mpack.sandbox import Box, Sandbox, runs_here, this_platform
from mpack.sandbox.codecache import CodeCache, code_key

#: Without site packages from the start: what a wheel's .pth would run has no say in what is compiled, or cached.
COMPILE = (f"{VENV}/bin/python", "-S", "-B", "-m", "mpack_runtime.compile")


class SandboxCompiler:
    """`compile` runs `mpack_runtime.compile` in an image: a tar of sources on stdin, one of .pyc on stdout."""

    def __init__(self, sandbox: Sandbox | None, cache: CodeCache) -> None:
        self._sandbox = sandbox
        self._cache = cache

    def compile(
        self,
        image: BuiltImage,
        bytecode: Bytecode,
        hashes: Mapping[str, str],
        read: Callable[[Sequence[str]], Mapping[str, bytes]],
    ) -> Mapping[str, bytes]:
        """Absolute .pyc path -> bytes. `hashes` are the sources' SHA-256: what was compiled before is not again.

        `image` is a base with mpack's runtime and nothing of a model or of its packages, so that these have no say in
        what is cached for others; `read` gives the sources to compile. Raises EnvironmentFault sandbox-unavailable
        (with what to do) when there is something to compile and nothing here can run it.
        """
        program = " ".join([_program(), *bytecode.options])
        base = [layer.diff_id for layer in image.layers if layer.kind == "base"]
        keys = {
            source: code_key(base, bytecode.python_version, program, source, sha256)
            for source, sha256 in hashes.items()
        }
        paths = {source: cached_path(source, bytecode.python_version) for source in bytecode.sources}
        cached = self._cache.get(keys.values())
        compiled = {paths[source]: cached[key] for source, key in keys.items() if key in cached}
        missing = [source for source in bytecode.sources if paths[source] not in compiled]
        if missing:
            with self._place(image) as box:
                made = _read_tar(_run(box, read(missing), bytecode.options), {paths[source] for source in missing})
            if base:
                self._cache.put({keys[source]: made[paths[source]] for source in missing})
            compiled |= made
        return compiled

    def _place(self, image: BuiltImage) -> AbstractContextManager[Box]:
        if not runs_here(image.platform):
            raise EnvironmentFault(
                "sandbox-unavailable",
                f"The lock asks for byte code, and the image's interpreter is for {image.platform}; this machine is "
                f"{this_platform()}.",
                "Build on a machine of that platform; or lock again without byte code: --update-lock.",
            )
        return self._require().open(image)

    def _require(self) -> Sandbox:
        if self._sandbox is None:
            raise EnvironmentFault(
                "sandbox-unavailable",
                "The lock asks for byte code, and neither a container engine nor runc is at hand to run the image's "
                "interpreter.",
                "Install runc or start docker; or lock again without byte code: --update-lock --no-verify.",
            )
        return self._sandbox


@cache
def _program() -> str:
    """The hash of `mpack_runtime.compile`, which every image has from this installation."""
    found = find_spec("mpack_runtime.compile")
    assert found is not None and found.origin is not None
    return hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()


def _run(box: Box, sources: Mapping[str, bytes], options: Sequence[str]) -> bytes:
    parts = [part for path, data in sources.items() for part in _member(path, data)]
    done = box.run(options, entrypoint=COMPILE, stdin=b"".join([*parts, tar.END]))
    if done.returncode != 0:
        raise InternalError(
            "internal", f"Byte-compiling in the image failed with exit code {done.returncode}:\n{done.stderr}"
        )
    return done.stdout


def _member(path: str, data: bytes) -> tuple[bytes, bytes, bytes]:
    return tar.header(path.lstrip("/"), tar.FILE, size=len(data), mode=0o644), data, tar.padding(len(data))


def cached_path(source: str, python_version: str) -> str:
    """Where CPython looks for the byte code of an absolute source path, e.g. /x/__pycache__/a.cpython-311.pyc."""
    directory, _, name = source.rpartition("/")
    tag = "".join(python_version.split(".")[:2])
    return f"{directory}/__pycache__/{name.removesuffix('.py')}.cpython-{tag}.pyc"


def _read_tar(data: bytes, expected: set[str]) -> dict[str, bytes]:
    compiled: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            stream = archive.extractfile(member)
            path = "/" + member.name.lstrip("/")
            # What comes out of a sandbox is checked like any other input.
            if stream is None or path not in expected or path in compiled:
                raise InternalError("internal", f"Byte-compiling in the image wrote an odd entry: {member.name!r}.")
            compiled[path] = stream.read()
    if lacking := expected.difference(compiled):
        raise InternalError("internal", f"Byte-compiling in the image left out {min(lacking)}.")
    return compiled
