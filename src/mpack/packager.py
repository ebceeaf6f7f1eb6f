"""The packager interface: a pure function from an artifact and arguments to an ImageSpec.

A third party writes one class and one entry point of group `mpack.packagers`; see docs/howto/write-a-packager.md and
fixtures/plugins/mpack-echo.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field

from mpack.artifact.model import Artifact
from mpack.spec import ImageSpec

DEFAULT_IMAGE_NAME = "{{ Name }}-{{ Version }}:{{ RandomUUID }}"


class Arguments(BaseModel):
    """Base of a packager's arguments. Field names are what the user types after `-a`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    imageName: str = Field(
        default=DEFAULT_IMAGE_NAME,
        description="Image name, a Jinja2 template with Name, Version and RandomUUID.",
        min_length=1,
    )
    dockerfileBaseImage: str | None = Field(
        default=None, description="Base image; none: mpack picks one with the model's Python."
    )


class Packager(Protocol):
    """What the core asks of a packager. `spec` is pure: no network, no engine, no ML framework, no model code."""

    name: ClassVar[str]
    summary: ClassVar[str]
    arguments: ClassVar[type[Arguments]]
    #: Kinds of targets that its images can go to (docker, store, oci, oci-archive, docker-archive, registry).
    targets: ClassVar[tuple[str, ...]]
    #: Its Dockerfile template; it extends "base.j2" of mpack.dockerfile.
    template: ClassVar[Path]

    def accepts(self, artifact: Artifact) -> str | None:
        """None if it can package the artifact, else the reason why not, as a clause ("it has no …")."""

    def spec(self, artifact: Artifact, arguments: Arguments) -> ImageSpec:
        """What the image must hold."""
