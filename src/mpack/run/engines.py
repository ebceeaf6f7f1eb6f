"""Which program runs images here: docker, else podman, else runc."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from mpack.builders import BuiltImage
from mpack.engine import Docker
from mpack.errors import EnvironmentFault
from mpack.images import find_image, open_image, stored_image
from mpack.oci.store import Store
from mpack.run import Started, Wish
from mpack.sandbox import runs_here, this_platform

_PATIENCE = 20.0
_Say = Callable[[str], None]


class Engine(Protocol):
    """Finds images and starts them."""

    name: str

    def image(self, reference: str, platform: str, say: _Say) -> tuple[BuiltImage, Mapping[str, Any]]:
        """The image of a reference, and its `config` object. Raises as `mpack.images.find_image`."""

    def start(self, wish: Wish) -> AbstractContextManager[Started]:
        """Runs it while the context lasts. Nothing is left afterwards."""


def pick_engine(name: str | None, store: Store) -> Engine:
    """The engine of that name, else the first that works here.

    Raises EnvironmentFault engine-unavailable, tool-missing or sandbox-unavailable.
    """
    if name == "docker":
        return DockerEngine(Docker.find(), store)
    if name is not None:
        program = shutil.which(name)
        if program is None:
            raise EnvironmentFault("tool-missing", f"There is no program {name} on PATH.", f"Install {name}.")
        return StoreEngine(name, program, store)
    docker = Docker.answering()
    if docker is not None:
        return DockerEngine(docker, store)
    podman, runc = shutil.which("podman"), shutil.which("runc")
    if podman is not None and (runc is None or _works(podman)):
        return StoreEngine("podman", podman, store)
    if runc is not None:
        return StoreEngine("runc", runc, store)
    raise EnvironmentFault(
        "sandbox-unavailable",
        "Nothing here can run an image: no docker engine answers, and neither podman nor runc is installed.",
        "Install one of them; or, for a model that you trust, give --local.",
    )


class DockerEngine:
    """docker; what only the store has is loaded."""

    name = "docker"

    def __init__(self, docker: Docker, store: Store) -> None:
        self._docker = docker
        self._store = store

    def image(self, reference: str, platform: str, say: _Say) -> tuple[BuiltImage, Mapping[str, Any]]:
        image = find_image(reference, self._store, self._docker, platform, say)
        if image.digest is not None:
            return image, self._store.image(image.digest).runtime
        found = self._docker.inspect(image.id)
        return image, (found or {}).get("Config") or {}

    def start(self, wish: Wish) -> AbstractContextManager[Started]:
        from mpack.run.containers import run_in_docker

        return run_in_docker(self._docker, self._store, wish)


class StoreEngine:
    """podman or runc, on images of the store; what only docker has is copied there."""

    def __init__(self, name: str, program: str, store: Store) -> None:
        self.name = name
        self._program = program
        self._store = store

    def image(self, reference: str, platform: str, say: _Say) -> tuple[BuiltImage, Mapping[str, Any]]:
        found = self._store.find(reference)
        if found is None:
            with self._store.lease():
                found = open_image(reference, self._store, Docker.answering(), platform, say).image
        if not runs_here(found.platform):
            raise EnvironmentFault(
                "sandbox-unavailable",
                f"The image {reference} is for {found.platform}, this machine is {this_platform()}.",
                "Run it on a machine of that platform.",
            )
        return stored_image(found), found.runtime

    def start(self, wish: Wish) -> AbstractContextManager[Started]:
        if self.name == "podman":
            from mpack.run.containers import run_in_podman

            return run_in_podman(self._program, self._store, wish)
        from mpack.run.bundles import run_in_runc

        return run_in_runc(self._program, self._store, wish)


def _works(podman: str) -> bool:
    try:
        done = subprocess.run([podman, "info"], capture_output=True, check=False, timeout=_PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
