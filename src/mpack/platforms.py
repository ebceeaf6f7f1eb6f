"""One build for several platforms: what is asked before, and what is made of the platforms' images after."""

from __future__ import annotations

from collections.abc import Sequence

from mpack.builders import BuiltImage
from mpack.engine import Docker
from mpack.errors import InputError, UsageError
from mpack.oci.store import Store
from mpack.result import PlatformImage
from mpack.sandbox import runs_here, this_platform
from mpack.spec import ImageSpec
from mpack.targets import Target


def require_platforms(
    platforms: Sequence[str], spec: ImageSpec, targets: Sequence[Target], docker: Docker | None
) -> None:
    """Before anything is resolved: what cannot be built for, or written as, these platforms.

    Raises InputError requirements-invalid for a package that would have to be built, UsageError for an output.
    """
    foreign = [item for item in platforms if not runs_here(item)]
    if foreign:
        _require_wheels(spec, foreign)
    if len(platforms) == 1:
        return
    told = " and ".join(platforms)
    for target in targets:
        if target.kind == "docker-archive":
            raise UsageError(
                "usage",
                f"{target} holds an image for one platform, not for {told}.",
                "Name one with --platform, or write oci-archive:FILE.",
            )
        if target.kind == "docker" and docker is not None and docker.platform not in platforms:
            raise UsageError(
                "usage",
                f"The image is to be for {told}, and the docker engine's platform is {docker.platform}.",
                f"Add {docker.platform} to --platform, or choose another output with -o.",
            )


def _require_wheels(spec: ImageSpec, foreign: Sequence[str]) -> None:
    from mpack.env.vcs import is_vcs

    requirements = [item for one in (spec, *(variant.spec for variant in spec.variants)) for item in one.requirements]
    for item in requirements:
        if is_vcs(item.line):
            raise InputError(
                "requirements-invalid",
                f"{item.line} ({item.source}) is a git URL: its wheel would be built on this machine, which is "
                f"{this_platform()} and not {', '.join(foreign)}.",
                "Put wheels of it on an index or into the artifact, or build for this machine's platform alone.",
            )


def require_builder(builder: str, platforms: Sequence[str]) -> None:
    """Raises UsageError for platforms that a builder which runs programs of the image cannot build for."""
    if builder == "embedded":
        return
    if len(platforms) > 1:
        raise UsageError(
            "usage",
            f"{builder} cannot build for {' and '.join(platforms)} at once: steps of its build run in the image.",
            "Use the embedded builder without a Dockerfile template of your own, or build one platform at a time.",
        )
    if builder == "buildah" and not runs_here(platforms[0]):
        raise UsageError(
            "usage",
            f"buildah cannot build for {platforms[0]} here: steps of its build run in the image, and this machine is "
            f"{this_platform()}.",
            "Use the embedded builder without a Dockerfile template of your own, or build on such a machine.",
        )


def as_index(store: Store, made: Sequence[PlatformImage]) -> BuiltImage:
    """The index of the platforms' images, listed in the store without a name."""
    with store.lease():
        images = [store.image(item.image.digest) for item in made if item.image.digest is not None]
        index = store.add_index(images)
    unpacked = sum(item.image.size_unpacked for item in made)
    members = tuple(item.image for item in made)
    return BuiltImage(
        index.id, index.platform, "embedded", "store", (), unpacked, index.digest, index.size, members=members
    )
