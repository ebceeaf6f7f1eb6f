"""Targets: where a finished image goes. `write` gives it its name there and returns the reference to print.

Whatever the target, an image of the store has its name there too afterwards.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mpack.builders import BuiltImage
from mpack.errors import UsageError

if TYPE_CHECKING:
    from mpack.connections import Connection
    from mpack.engine import Docker
    from mpack.oci.store import Store

KINDS = ("docker", "store", "oci:DIR", "oci-archive:FILE", "docker-archive:FILE", "registry:REF")


class Target(Protocol):
    """One `--output`. `str()` of it is what the user wrote."""

    @property
    def kind(self) -> str:
        """docker, store, oci, oci-archive, docker-archive or registry."""

    def write(self, image: BuiltImage, name: str, store: Store, docker: Docker | None) -> str:
        """Writes the image under `name` ("name:tag"), whole or not at all; returns the reference to print.

        Raises EnvironmentFault engine-unavailable, engine-failed, registry-failed, disk-full, disk-unwritable or
        store-corrupt.
        """


def parse_output(text: str, attest: bool = True, sign_key: str | None = None) -> Target:
    """An `--output` as a target. `attest`: SBOM and provenance go with the image; `sign_key` is for a registry's.

    Raises UsageError for what is none and for a place that cannot take an image, InputError image-name-invalid,
    EnvironmentFault tool-missing.
    """
    kind, colon, place = text.partition(":")
    if not colon and kind == "docker":
        from mpack.targets.docker import DockerTarget

        return DockerTarget()
    from mpack.targets import files

    if not colon and kind == "store":
        return files.StoreTarget()
    if kind == "registry" and place:
        from mpack.targets.registry import RegistryTarget

        return RegistryTarget.parse(place, attest, sign_key)
    made: dict[str, type[files.OciDirectory | files.OciArchive | files.DockerArchive]] = {
        "oci": files.OciDirectory,
        "oci-archive": files.OciArchive,
        "docker-archive": files.DockerArchive,
    }
    if kind not in made or not place:
        raise UsageError("usage", f"{text!r} is not an output.", f"Outputs are {', '.join(KINDS)}.")
    target = made[kind](Path(place), attest)
    target.check()
    return target


def connection_targets(connection: Connection | None, name: str, attest: bool = True) -> list[Target]:
    """The registry that a connection leads to, for the image of that name; it takes the connection's credentials.

    Raises InputError connection-invalid, EnvironmentFault registry-failed, secret-unavailable or tool-missing.
    """
    if connection is None:
        return []
    from mpack.targets.registry import RegistryTarget

    target = RegistryTarget.through(connection, name, attest)
    target.check_login()
    return [target]


def default_outputs(docker: Docker | None) -> list[Target]:
    """Where an image goes when nobody said: the engine if one answers, else the store."""
    return [parse_output("store" if docker is None else "docker")]
