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
    """Where a document stands: its file, which document of it (from 1), the line that it begins on (None: JSON)."""

    file: Path
    document: int = 1
    line: int | None = None


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
    """A set of arguments and defaults over a packager that is installed. `arguments`: a JSON Schema (type object)."""

    id: str
    packager: str
    default_image: str
    arguments: Mapping[str, Any]
    targets: tuple[TargetSchema, ...]
    document: Mapping[str, Any] = field(compare=False, repr=False)
    where: Where


@dataclass(frozen=True)
class Manifests:
    """All that was read, by id; the later document of an id wins. `passed_over`: (kind, id, where) of other kinds."""

    packagings: Mapping[str, ModelPackaging]
    integrations: Mapping[str, PackagingIntegration]
    connections: Mapping[str, Connection]
    passed_over: tuple[tuple[str, str, Where], ...] = ()
