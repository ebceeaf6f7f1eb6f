"""Byte code made by the image's own interpreter, inside the sandbox."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from mpack.builders import BuiltImage
from mpack.errors import EnvironmentFault, InternalError
from mpack.plan import VENV, Bytecode
from mpack.sandbox import Box, Sandbox, runs_here, this_platform
from mpack.sandbox.codecache import CodeCache, code_key

#: Without site packages from the start: what a wheel's .pth would run has no say in what is compiled, or cached.
COMPILE = (f"{VENV}/bin/python", "-S", "-B", "-m", "mpack_runtime.compile")


class SandboxCompiler:
    """`compile` runs `mpack_runtime.compile` in the image: source paths on stdin, a tar of .pyc on stdout."""

    def __init__(self, sandbox: Sandbox | None, cache: CodeCache) -> None:
        self._sandbox = sandbox
        self._cache = cache

    def compile(
        self,
        image: BuiltImage,
        bytecode: Bytecode,
        hashes: Mapping[str, str],
        workplace: Callable[[Sequence[str]], BuiltImage],
    ) -> Mapping[str, bytes]:
        """Absolute .pyc path -> bytes. `hashes` are the sources' SHA-256: what was compiled before is not again.

        The rest is compiled in what `workplace` makes: an image with the same interpreter, mpack's runtime, and of all
        sources only those. So what else is in an image has no say in what is cached for others. Raises EnvironmentFault
        sandbox-unavailable (with what to do) when there is something to compile and nothing here can run it.
        """
        base = [layer.diff_id for layer in image.layers if layer.kind == "base"]
        keys = {
            source: code_key(base, bytecode.python_version, source, sha256, bytecode.options)
            for source, sha256 in hashes.items()
        }
        paths = {source: cached_path(source, bytecode.python_version) for source in bytecode.sources}
        cached = self._cache.get(keys.values())
        compiled = {paths[source]: cached[key] for source, key in keys.items() if key in cached}
        missing = [source for source in bytecode.sources if paths[source] not in compiled]
        if missing:
            with self._place(image, missing, workplace) as box:
                made = _read_tar(_run(box, missing, *bytecode.options), {paths[source] for source in missing})
            if base:
                self._cache.put({keys[source]: made[paths[source]] for source in missing if paths[source] in made})
            compiled |= made
        return compiled

    @contextmanager
    def _place(
        self, image: BuiltImage, missing: Sequence[str], workplace: Callable[[Sequence[str]], BuiltImage]
    ) -> Iterator[Box]:
        if not runs_here(image.platform):
            raise EnvironmentFault(
                "sandbox-unavailable",
                f"The lock asks for byte code, and the image's interpreter is for {image.platform}; this machine is "
                f"{this_platform()}.",
                "Build on a machine of that platform; or lock again without byte code: --update-lock.",
            )
        with self._require().open(workplace(missing)) as box:
            yield box

    def _require(self) -> Sandbox:
        if self._sandbox is None:
            raise EnvironmentFault(
                "sandbox-unavailable",
                "The lock asks for byte code, and neither a container engine nor runc is at hand to run the image's "
                "interpreter.",
                "Install runc or start docker; or lock again without byte code: --update-lock --no-verify.",
            )
        return self._sandbox


def _run(box: Box, sources: Sequence[str], *options: str) -> bytes:
    done = box.run(options, entrypoint=COMPILE, stdin="\n".join(sources).encode())
    if done.returncode != 0:
        raise InternalError(
            "internal", f"Byte-compiling in the image failed with exit code {done.returncode}:\n{done.stderr}"
        )
    return done.stdout


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
            # The sandbox held the model's environment: what comes out of it is checked like any other input.
            if stream is None or path not in expected or path in compiled:
                raise InternalError("internal", f"Byte-compiling in the image wrote an odd entry: {member.name!r}.")
            compiled[path] = stream.read()
    return compiled
