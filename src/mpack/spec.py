"""ImageSpec: what a packager wants. Pure data: no image names, tags, random ids, secrets or host paths.

File trees name their content by SHA-256; the bytes travel beside, in `Contents`.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from dataclasses import field, replace
from pathlib import Path
from typing import Any

from mpack.contents import Contents, Source, sha256_bytes
from mpack.records import dataclass

#: Kinds of layers, in image order: what changes least comes first.
LAYER_KINDS = ("base", "dependencies", "runtime", "bytecode", "model", "config")

#: Kinds of base images: with a Python; with a Python and tritonserver.
BASE_KINDS = ("python", "triton")
#: What a base in a file begins with: an OCI layout (its directory), an archive of one, what `docker save` writes.
FILES = ("oci:", "oci-archive:", "docker-archive:")


@dataclass(frozen=True)
class FileEntry:
    """One regular file of a tree: POSIX path relative to the tree's target, size in bytes, content hash, mode."""

    path: str
    size: int
    sha256: str
    mode: int = 0o644

    def to_json(self) -> dict[str, Any]:
        return {"path": self.path, "size": self.size, "sha256": self.sha256, "mode": f"{self.mode:04o}"}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> FileEntry:
        return cls(data["path"], data["size"], data["sha256"], int(data["mode"], 8))


@dataclass(frozen=True)
class FileTree:
    """Files that stand under `target` (absolute image path), owned by root, directories 0755. One tree is one layer."""

    kind: str
    target: str
    files: tuple[FileEntry, ...]

    def __post_init__(self) -> None:
        if self.kind not in LAYER_KINDS:
            raise ValueError(f"layer kind {self.kind!r} is not one of {', '.join(LAYER_KINDS)}")
        object.__setattr__(self, "files", tuple(sorted(self.files, key=lambda entry: entry.path)))

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "target": self.target, "files": [entry.to_json() for entry in self.files]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> FileTree:
        return cls(data["kind"], data["target"], tuple(FileEntry.from_json(item) for item in data["files"]))


@dataclass(frozen=True)
class HealthCheck:
    """Docker's HEALTHCHECK: a command (exec form) and times in seconds."""

    command: tuple[str, ...]
    interval: float = 30.0
    timeout: float = 5.0
    start_period: float = 10.0
    retries: int = 3

    def to_json(self) -> dict[str, Any]:
        return {
            "command": list(self.command),
            "interval": self.interval,
            "timeout": self.timeout,
            "start_period": self.start_period,
            "retries": self.retries,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> HealthCheck:
        return cls(tuple(data["command"]), data["interval"], data["timeout"], data["start_period"], data["retries"])


@dataclass(frozen=True)
class ImageConfig:
    """The run-time configuration of an image, in OCI's terms."""

    env: tuple[tuple[str, str], ...] = ()
    user: str = "65532:65532"
    workdir: str = "/opt/mpack"
    ports: tuple[int, ...] = ()
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    healthcheck: HealthCheck | None = None
    labels: tuple[tuple[str, str], ...] = ()
    stop_signal: str = "SIGTERM"
    #: Directories that stay writable on a read-only root: an engine mounts an unnamed volume there.
    volumes: tuple[str, ...] = ()

    def add_labels(self, labels: dict[str, str]) -> ImageConfig:
        """A copy with `labels` added or replaced, sorted by key."""
        return replace(self, labels=tuple(sorted({**dict(self.labels), **labels}.items())))

    def to_json(self) -> dict[str, Any]:
        return {
            "env": dict(self.env),
            "user": self.user,
            "workdir": self.workdir,
            "ports": list(self.ports),
            "entrypoint": list(self.entrypoint),
            "command": list(self.command),
            "healthcheck": self.healthcheck.to_json() if self.healthcheck else None,
            "labels": dict(self.labels),
            "stop_signal": self.stop_signal,
            "volumes": list(self.volumes),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ImageConfig:
        return cls(
            env=tuple(data["env"].items()),
            user=data["user"],
            workdir=data["workdir"],
            ports=tuple(data["ports"]),
            entrypoint=tuple(data["entrypoint"]),
            command=tuple(data["command"]),
            healthcheck=HealthCheck.from_json(data["healthcheck"]) if data["healthcheck"] else None,
            labels=tuple(sorted(data["labels"].items())),
            stop_signal=data["stop_signal"],
            volumes=tuple(data["volumes"]),
        )


@dataclass(frozen=True)
class Requirement:
    """One requirement line (PEP 508, or a wheel's path inside the artifact) and whose it is, for messages.

    `origin` is "model" or "runtime"; `source` names file and line, e.g. "requirements.txt:3".
    """

    line: str
    origin: str
    source: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"line": self.line, "origin": self.origin, "source": self.source}


def public_name(reference: str) -> str:
    """A base's reference as others may see it: of one in a file its last name, no directory of this machine."""
    kind, _, path = reference.partition(":")
    return f"{kind}:{Path(path).absolute().name}" if reference.startswith(FILES) else reference


@dataclass(frozen=True)
class CondaWish:
    """What is wanted of conda: match specifications as an environment file has them, and the channels that it names."""

    specs: tuple[str, ...]
    channels: tuple[str, ...] = ()

    @property
    def lines(self) -> tuple[str, ...]:
        """What a lock is compared by, beside the requirements."""
        return (*(f"conda {item}" for item in self.specs), f"conda channels: {', '.join(self.channels) or 'any'}")

    def to_json(self) -> dict[str, Any]:
        return {"specs": list(self.specs), "channels": list(self.channels)}


@dataclass(frozen=True)
class BaseWish:
    """Constraints on the base image. `reference` None: mpack picks one; `system_packages` are Debian package names.

    `kind` is "python", or "triton" for a base with a Python and tritonserver. `needs` are absolute paths that the base
    must have. `preferred` is the reference that mpack picks where it can be had and has the model's Python.
    """

    reference: str | None = None
    shell: bool = False
    system_packages: tuple[str, ...] = ()
    kind: str = "python"
    needs: tuple[str, ...] = ()
    preferred: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in BASE_KINDS:
            raise ValueError(f"base kind {self.kind!r} is not one of {', '.join(BASE_KINDS)}")

    def public(self) -> BaseWish:
        """A copy that names no directory of this machine."""
        return replace(self, reference=self.reference and public_name(self.reference))

    def to_json(self) -> dict[str, Any]:
        return {
            "reference": self.reference,
            "shell": self.shell,
            "system_packages": list(self.system_packages),
            "kind": self.kind,
            "needs": list(self.needs),
            "preferred": self.preferred,
        }


@dataclass(frozen=True)
class ImageSpec:
    """What is wanted. `contents` holds the bytes of `trees` and is no part of the value (nor of the JSON)."""

    packager: str
    model_name: str
    model_version: str
    python: str | None
    requirements: tuple[Requirement, ...]
    base: BaseWish
    trees: tuple[FileTree, ...]
    config: ImageConfig
    contents: Contents = field(default_factory=Contents, compare=False, repr=False)
    #: What is wanted instead on a base that has more to offer; the first that fits is taken. `contents` covers them.
    variants: tuple[Variant, ...] = ()
    #: What the packager noticed, for the user to read.
    warnings: tuple[str, ...] = field(default=(), compare=False)
    #: Packages that no Python index has.
    conda: CondaWish | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "packager": self.packager,
            "model": {"name": self.model_name, "version": self.model_version},
            "python": self.python,
            "requirements": [item.to_json() for item in self.requirements],
            "base": self.base.to_json(),
            "trees": [tree.to_json() for tree in self.trees],
            "config": self.config.to_json(),
            "variants": [{"where_base_has": item.where_base_has, **item.spec.to_json()} for item in self.variants],
            **({} if self.conda is None else {"conda": self.conda.to_json()}),
        }

    def public(self) -> ImageSpec:
        """A copy that names no directory of this machine."""
        variants = tuple(replace(item, spec=item.spec.public()) for item in self.variants)
        return replace(self, base=self.base.public(), variants=variants)


@dataclass(frozen=True)
class Variant:
    """The spec for bases that have the file `where_base_has` (absolute path). Both specs wish for the same base."""

    where_base_has: str
    spec: ImageSpec


def json_file(path: str, value: Any) -> tuple[FileEntry, Contents]:
    """A file entry with `value` as canonical JSON (sorted keys, two-space indent, one final newline)."""
    data = (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
    sha256 = sha256_bytes(data)
    return FileEntry(path, len(data), sha256), Contents({sha256: data})


def package_tree(module: str, target: str, kind: str = "runtime") -> tuple[FileTree, Contents]:
    """The files of an installed Python package as a tree, found without importing it (editable installs too).

    Byte code is left out. Raises ModuleNotFoundError when the package is not installed.
    """
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"the package {module} is not installed")
    root = Path(next(iter(found.submodule_search_locations)))
    entries: list[FileEntry] = []
    sources: dict[str, Source] = {}
    for names in sorted(_files_below(str(root))):
        path = root.joinpath(*names)
        data = path.read_bytes()
        sha256 = sha256_bytes(data)
        entries.append(FileEntry("/".join((module, *names)), len(data), sha256))
        sources[sha256] = path
    return FileTree(kind, target, tuple(entries)), Contents(sources)


def _files_below(folder: str, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every file below a folder but byte code, as its names."""
    with os.scandir(folder) as items:
        for item in items:
            if item.is_file():
                yield (*above, item.name)
            elif item.name != "__pycache__" and item.is_dir(follow_symlinks=False):
                yield from _files_below(item.path, (*above, item.name))
