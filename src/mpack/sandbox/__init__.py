"""Where model code runs: no network, read-only root, no capabilities, no mount but a scratch /tmp, bounded time.

A `Sandbox` makes an image runnable once (`open`), a `Box` runs it as often as asked. Two are known: a docker engine,
and runc (as root or rootless) on unpacked layers.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mpack.builders import BuiltImage

if TYPE_CHECKING:
    from mpack.engine import Docker
    from mpack.oci.store import Store

#: uid and gid that model code has in a sandbox.
SANDBOX_UID = 65532
#: Size of the scratch /tmp in bytes, and how many processes and threads a sandbox may have.
TMP_BYTES = 256 << 20
PIDS = 1024


@dataclass(frozen=True)
class Completed:
    """How a run ended: exit code, the whole of stdout, and stderr as text."""

    returncode: int
    stdout: bytes
    stderr: str


class Box(Protocol):
    """An image ready to run."""

    def run(
        self, args: Sequence[str], *, entrypoint: Sequence[str] = (), stdin: bytes = b"", timeout: float = 600
    ) -> Completed:
        """Runs the image with `args` after its entry point (or `entrypoint`). `timeout` is seconds.

        Raises EnvironmentFault engine-failed when the sandbox itself fails; a time-out gives exit code 124.
        """


class Sandbox(Protocol):
    """A way of running images."""

    name: str

    def open(self, image: BuiltImage) -> AbstractContextManager[Box]:
        """Makes the image runnable; leaving the context removes all that this took."""


def pick_sandbox(store: Store, docker: Docker | None, *, prefer_docker: bool) -> Sandbox | None:
    """docker where the image goes there anyway, else runc (no copy into the engine), else docker, else None."""
    runc = shutil.which("runc")
    if docker is not None and (prefer_docker or runc is None):
        from mpack.sandbox.docker import DockerSandbox

        return DockerSandbox(docker, store)
    if runc is not None:
        from mpack.sandbox.runc import RuncSandbox

        return RuncSandbox(runc, store)
    return None
