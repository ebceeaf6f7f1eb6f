"""A docker engine as a sandbox. An image of the store is loaded without a name, and removed again if this loaded it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from mpack.builders import BuiltImage
from mpack.engine import Docker
from mpack.errors import EnvironmentFault
from mpack.oci.store import Store
from mpack.sandbox import PIDS, SANDBOX_UID, TMP_BYTES, Completed, memory_limit, processor_limit


class DockerSandbox:
    """Runs images in a docker engine, local or remote: nothing of the host is mounted."""

    name = "docker"

    def __init__(self, docker: Docker, store: Store) -> None:
        self._docker = docker
        self._store = store
        self._loaded: list[str] = []

    @contextmanager
    def open(self, image: BuiltImage) -> Iterator[DockerBox]:
        from mpack.targets.docker import load_image

        if image.location == "store" and not self._docker.exists(image.id):
            self._loaded.append(image.id)
            load_image(self._docker, self._store, image)
        yield DockerBox(self._docker, image.id)

    def close(self) -> None:
        """Removes what this loaded. A name given meanwhile (by the docker target, or by the user) keeps an image."""
        # An engine that is gone must not hide the error that comes of it.
        with suppress(EnvironmentFault):
            while self._loaded:
                self._docker.remove_untagged(self._loaded.pop())


class DockerBox:
    """One image that the engine has."""

    def __init__(self, docker: Docker, image_id: str) -> None:
        self._docker = docker
        self._id = image_id

    def run(
        self, args: Sequence[str], *, entrypoint: Sequence[str] = (), stdin: bytes = b"", timeout: float = 600
    ) -> Completed:
        processors = processor_limit()
        options = [
            "--network=none",
            "--read-only",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
            f"--user={SANDBOX_UID}:{SANDBOX_UID}",
            f"--pids-limit={PIDS}",
            f"--memory={memory_limit()}",
            *([] if processors is None else [f"--cpu-quota={processors * 100_000}"]),
            f"--tmpfs=/tmp:rw,nosuid,nodev,size={TMP_BYTES}",
        ]
        command = list(args)
        if entrypoint:
            options.append(f"--entrypoint={entrypoint[0]}")
            command = [*entrypoint[1:], *command]
        done = self._docker.run(self._id, command, options=options, stdin=stdin, timeout=timeout)
        return Completed(done.returncode, done.stdout, done.stderr)
