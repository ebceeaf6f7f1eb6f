"""What the user asks for: one `mpack build`, as data that needs nothing loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path

from mpack.artifact.limits import Limits
from mpack.artifact.model import Trust
from mpack.connections import Connection
from mpack.records import dataclass


@dataclass(frozen=True)
class ResolveOptions:
    """What the user may decide at this step. `python` ("3.11") is consent to another Python than the model's."""

    platform: str = "linux/amd64"
    python: str | None = None
    trim: bool = True
    allow_vcs: bool = False
    #: Set where the model was converted: its environment is another, and stands in the lock by itself.
    optimize: str | None = None


@dataclass(frozen=True)
class BuildRequest:
    """One `mpack build` as the user asked for it. No `outputs`: the docker daemon if one answers, else the store."""

    location: str
    packager: str = "auto"
    arguments: Mapping[str, str] = field(default_factory=dict)
    tag: str | None = None
    base: str | None = None
    builder: str = "auto"
    options: ResolveOptions = ResolveOptions()
    #: Several give an image index; this machine's comes first. None: that of `options`.
    platforms: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    lock: Path | None = None
    #: A pylock.toml of the user's, whose versions and hashes are taken into the lock.
    pins: Path | None = None
    update_lock: bool = False
    verify: bool = True
    template: Path | None = None
    limits: Limits = Limits()
    trust: Trust = Trust()
    tolerance: float | None = None
    #: "onnx": what the model is converted to; strict: a model that cannot be is an error.
    optimize: str | None = None
    optimize_strict: bool = False
    #: SBOM and provenance go with the image; the key that cosign signs with at registries.
    attest: bool = True
    sign_key: str | None = None
    #: What the artifact, the base and the registry of the outputs are reached with, where that is not the host's own.
    artifact_connection: Connection | None = None
    pull_connection: Connection | None = None
    push_connection: Connection | None = None

    def each(self) -> list[BuildRequest]:
        """The request for each platform by itself."""
        named = [replace(self, options=replace(self.options, platform=item), platforms=()) for item in self.platforms]
        return named or [self]
