"""Byte code made by the image's own interpreter, inside the sandbox."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping

from mpack.builders import BuiltImage
from mpack.errors import EnvironmentFault, InternalError
from mpack.plan import VENV, Bytecode
from mpack.sandbox import Sandbox

COMPILE = (f"{VENV}/bin/python", "-m", "mpack_runtime.compile")


class SandboxCompiler:
    """`compile` runs `mpack_runtime.compile` in the image: source paths on stdin, a tar of .pyc on stdout."""

    def __init__(self, sandbox: Sandbox | None) -> None:
        self._sandbox = sandbox

    def compile(self, image: BuiltImage, bytecode: Bytecode) -> Mapping[str, bytes]:
        """Absolute .pyc path -> bytes.

        Raises EnvironmentFault sandbox-unavailable (with what to do) when the lock asks for byte code and nothing here
        can run the image's interpreter.
        """
        if self._sandbox is None:
            raise EnvironmentFault(
                "sandbox-unavailable",
                f"The lock asks for byte code of CPython {bytecode.python_version}, and neither a container engine nor "
                "runc is at hand to run it.",
                "Install runc or start docker; or lock again without byte code: --update-lock --no-verify.",
            )
        with self._sandbox.open(image) as box:
            done = box.run((), entrypoint=COMPILE, stdin="\n".join(bytecode.sources).encode())
        if done.returncode != 0:
            raise InternalError(
                "internal", f"Byte-compiling in the image failed with exit code {done.returncode}:\n{done.stderr}"
            )
        return _read_tar(done.stdout, {cached_path(source, bytecode.python_version) for source in bytecode.sources})


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
