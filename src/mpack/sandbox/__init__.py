"""Where model code runs: no network, read-only root, no capabilities, no mount but a scratch /tmp; time, memory and
output are bounded.

A `Sandbox` makes an image runnable once (`open`), a `Box` runs it as often as asked. Two are known: a docker engine,
and runc (as root or rootless) on unpacked layers.
"""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from mpack.builders import BuiltImage
from mpack.records import dataclass

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
    """How a run ended: exit code (124: time was up, 125: too much was written), stdout, and stderr as text."""

    returncode: int
    stdout: bytes
    stderr: str


def memory_limit() -> int:
    """Bytes that a sandbox may take: four fifths of this machine's, so that the machine outlives what runs in it; less
    where a process of this one may have less."""
    own = resource.getrlimit(resource.RLIMIT_DATA)[0]
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 5 * 4
    return most if own == resource.RLIM_INFINITY else min(own, most)


def processor_limit() -> int | None:
    """How many processors a sandbox may use; None for all of the machine's."""
    own = len(os.sched_getaffinity(0))
    return None if own == os.cpu_count() else own


def this_platform() -> str:
    """The Linux platform whose programs this machine's processor runs, e.g. linux/amd64."""
    import platform

    machine = platform.machine().lower()
    return "linux/" + {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def runs_here(platform: str) -> bool:
    """True if images of that platform run here without emulation; a variant (linux/arm64/v8) does not count."""
    return platform.split("/")[:2] == this_platform().split("/")


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
        """Makes the image runnable while the context lasts. What this took is gone when the sandbox is."""


@contextmanager
def pick_sandbox(store: Store, docker: Docker | None, *, prefer_docker: bool) -> Iterator[Sandbox | None]:
    """docker where the image goes there anyway, else runc (no copy into the engine), else docker, else None.

    Images that docker had to be given stay until the context is left, so that each is given once; those without a
    name are removed then.
    """
    runc = shutil.which("runc")
    if docker is not None and (prefer_docker or runc is None):
        from mpack.sandbox.docker import DockerSandbox

        sandbox = DockerSandbox(docker, store)
        try:
            yield sandbox
        finally:
            sandbox.close()
    elif runc is not None:
        from mpack.sandbox.runc import RuncSandbox

        yield RuncSandbox(runc, store)
    else:
        yield None


def in_order(platforms: Sequence[str]) -> tuple[str, ...]:
    """Each platform once, this machine's first: what its image shows is known before the others are made."""
    return tuple(sorted(set(platforms), key=lambda item: (not runs_here(item), item)))
