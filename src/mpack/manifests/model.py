"""What manifests say, as frozen data: checked each by itself, not yet against one another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from mpack.connections import Connection
from mpack.records import dataclass


@dataclass(frozen=True)
class Where:
    """Where a document stands: its file, which document of it (from 1), the line that it begins on (None: not known),
    and the lines of its fields by path ("spec.targets[0].name")."""

    file: Path
    document: int = 1
    line: int | None = None
    lines: Mapping[str, int | None] = field(default_factory=dict, compare=False, repr=False)

    def line_of(self, path: str) -> int | None:
        """The line of a field, or of the nearest around it that is there."""
        while path:
            line = self.lines.get(path)
            if line is not None:
                return line
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.line

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line is not None else str(self.file)


@dataclass(frozen=True)
class Resources:
    """Bounds: processors (fractions too) and bytes. None: not said."""

    cpu_limit: float | None = None
    cpu_request: float | None = None
    memory_limit: int | None = None
    memory_request: int | None = None


@dataclass(frozen=True)
class PackagingTarget:
    """A target of a ModelPackaging: "docker-push" or "docker-pull", and the id of a connection."""

    name: str
    connection: str


@dataclass(frozen=True)
class ModelPackaging:
    """One packaging. `not_used`: fields of a cluster that are kept and mean nothing here ("spec.nodeSelector")."""

    id: str
    artifact_name: str
    integration: str
    arguments: Mapping[str, Any]
    targets: tuple[PackagingTarget, ...]
    resources: Resources
    output_connection: str | None
    image: str | None
    not_used: tuple[str, ...]
    document: Mapping[str, Any] = field(compare=False, repr=False)
    where: Where


@dataclass(frozen=True)
class TargetSchema:
    """What an integration says of a target."""

    name: str
    connection_types: tuple[str, ...]
    default: str
    required: bool


@dataclass(frozen=True)
class PackagingIntegration:
    """A set of arguments and defaults over a packager that is installed. `arguments`: a JSON Schema (type object), None
    where the packager's own arguments are meant. `where` None: it comes with mpack."""

    id: str
    packager: str
    default_image: str
    arguments: Mapping[str, Any] | None
    targets: tuple[TargetSchema, ...]
    not_used: tuple[str, ...] = ()
    document: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    where: Where | None = None


@dataclass(frozen=True)
class Manifests:
    """All that was read, by id; the later document of an id wins. `passed_over`: (kind, id, where) of other kinds.
    `warnings`: what to tell, a sentence each."""

    packagings: Mapping[str, ModelPackaging]
    integrations: Mapping[str, PackagingIntegration]
    connections: Mapping[str, Connection]
    passed_over: tuple[tuple[str, str, Where], ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckedPackaging:
    """A packaging whose integration, arguments, targets and connections were found and agree.

    `arguments`: values as JSON has them, by the names of the packager `packager`; the integration's defaults are in
    there. `push`, `pull`: the connections of docker-push and docker-pull; `output`: where the artifact is. None: none.
    """

    packaging: ModelPackaging
    integration: PackagingIntegration
    packager: str
    artifact_name: str
    arguments: Mapping[str, Any]
    push: Connection | None
    pull: Connection | None
    output: Connection | None
    resources: Resources
    warnings: tuple[str, ...] = ()
