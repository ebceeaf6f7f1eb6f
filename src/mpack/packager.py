"""The packager interface: a pure function from an artifact and arguments to an ImageSpec.

A third party writes one class and one entry point of group `mpack.packagers`; see docs/howto/write-a-packager.md and
fixtures/plugins/mpack-echo.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from mpack.artifact.model import Artifact
from mpack.spec import ImageSpec

if TYPE_CHECKING:
    from mpack.arguments import Arguments as Arguments

DEFAULT_IMAGE_NAME = "{{ Name }}-{{ Version }}:{{ RandomUUID }}"
#: What the arguments of every packager are where none is given.
DEFAULTS: dict[str, Any] = {"imageName": DEFAULT_IMAGE_NAME, "dockerfileBaseImage": None}


def __getattr__(name: str) -> Any:
    # Loaded when asked for: pydantic takes longer to import than a build whose layers are all there.
    if name == "Arguments":
        from mpack.arguments import Arguments

        return Arguments
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Packager(Protocol):
    """What the core asks of a packager. `spec` is pure: no network, no engine, no ML framework, no model code."""

    name: ClassVar[str]
    summary: ClassVar[str]
    #: Kinds of targets that its images can go to (docker, store, oci, oci-archive, docker-archive, registry).
    targets: ClassVar[tuple[str, ...]]
    #: Its Dockerfile template; it extends "base.j2" of mpack.dockerfile.
    template: ClassVar[Path]

    @property
    def arguments(self) -> type[Arguments]:
        """The pydantic model of its arguments.

        A packager may also have `defaults`, the model's values where nothing is given: the model is then made, and
        pydantic loaded, only for arguments that are given.
        """

    def accepts(self, artifact: Artifact) -> str | None:
        """None if it can package the artifact, else the reason why not, as a clause ("it has no …")."""

    def spec(self, artifact: Artifact, arguments: Arguments) -> ImageSpec:
        """What the image must hold.

        A packager that has `optimizes` set to True may be asked it for a model that was converted to ONNX: the loader
        is then `onnx`, and `requirements` are what serves the graph.
        """
