"""ImagePlan: the single truth about an image. Frozen data, JSON both ways, the same on every machine.

A plan holds no host path and no secret. Builders take a plan and the `Contents` its trees name.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from mpack.records import dataclass
from mpack.spec import FileTree, ImageConfig

PLAN_SCHEMA = 1
VENV = "/opt/mpack/venv"
RUNTIME = "/opt/mpack/runtime"
MODEL = "/opt/mpack/model"
MODEL_JSON = "/opt/mpack/model.json"
#: What images are built for; `mpack.env.assemble` knows the wheels for each.
PLATFORMS = ("linux/amd64", "linux/arm64")


@dataclass(frozen=True)
class BaseImage:
    """The base by digest, and what its own files say of its Python.

    `digest` is the manifest digest ("sha256:…") in an OCI store or registry, or the image id where an engine has it.
    `python` is the absolute path of the interpreter in the image, `python_version` its full version ("3.11.2"),
    `site_dirs` the directories its interpreter imports from, besides the standard library.
    """

    reference: str
    digest: str
    platform: str
    python: str
    python_version: str
    site_dirs: tuple[str, ...] = ()

    @property
    def minor(self) -> str:
        """The Python minor version, e.g. "3.11"."""
        return ".".join(self.python_version.split(".")[:2])

    def to_json(self) -> dict[str, Any]:
        return {
            "reference": self.reference,
            "digest": self.digest,
            "platform": self.platform,
            "python": self.python,
            "python_version": self.python_version,
            "site_dirs": list(self.site_dirs),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BaseImage:
        return cls(**{**data, "site_dirs": tuple(data["site_dirs"])})


@dataclass(frozen=True)
class LockedPackage:
    """One distribution of the environment.

    `hashes` are "sha256:…" of every wheel that may be installed. `source` is "index", "artifact" (a wheel the artifact
    brought: its SHA-256 is the one hash, `url` its file name, its bytes are in Contents), "vcs" (`url` pinned to a
    commit), "url" (a wheel at `url`), or "base" (already in the base image: not installed).
    """

    name: str
    version: str
    hashes: tuple[str, ...] = ()
    source: str = "index"
    url: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "version": self.version,
            "hashes": list(self.hashes),
            "source": self.source,
            "url": self.url,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> LockedPackage:
        return cls(**{**data, "hashes": tuple(data["hashes"])})


@dataclass(frozen=True)
class Environment:
    """The locked Python environment at /opt/mpack/venv. `relaxed` lists pins that had to move, "name==old -> new"."""

    python: str
    platform: str
    packages: tuple[LockedPackage, ...]
    trim: bool = True
    relaxed: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, "sha256:…": the identity of the lock in labels and caches."""
        return canonical_digest(self.to_json())

    @property
    def to_install(self) -> tuple[LockedPackage, ...]:
        """The packages that the base does not already have."""
        return tuple(package for package in self.packages if package.source != "base")

    def to_json(self) -> dict[str, Any]:
        return {
            "python": self.python,
            "platform": self.platform,
            "packages": [package.to_json() for package in self.packages],
            "trim": self.trim,
            "relaxed": list(self.relaxed),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Environment:
        return cls(
            data["python"],
            data["platform"],
            tuple(LockedPackage.from_json(item) for item in data["packages"]),
            data["trim"],
            tuple(data["relaxed"]),
        )


@dataclass(frozen=True)
class Bytecode:
    """Byte code compiled at build: the interpreter's full version and the absolute image paths of the sources.

    `short_docstrings`: those of some packages keep their first line only (`mpack_runtime.compile.SHORTENED`).
    """

    python_version: str
    sources: tuple[str, ...]
    short_docstrings: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "python_version": self.python_version,
            "short_docstrings": self.short_docstrings,
            "sources": list(self.sources),
        }

    @property
    def options(self) -> tuple[str, ...]:
        """What the image's `mpack_runtime.compile` is to be told."""
        return ("--short-docstrings",) if self.short_docstrings else ()

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Bytecode:
        return cls(data["python_version"], tuple(data["sources"]), data["short_docstrings"] is True)


@dataclass(frozen=True)
class ImagePlan:
    """Everything that decides the image."""

    packager: str
    model_name: str
    model_version: str
    platform: str
    base: BaseImage
    environment: Environment
    bytecode: Bytecode | None
    trees: tuple[FileTree, ...]
    config: ImageConfig

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": PLAN_SCHEMA,
            "packager": self.packager,
            "model": {"name": self.model_name, "version": self.model_version},
            "platform": self.platform,
            "base": self.base.to_json(),
            "environment": self.environment.to_json(),
            "bytecode": self.bytecode.to_json() if self.bytecode else None,
            "trees": [tree.to_json() for tree in self.trees],
            "config": self.config.to_json(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ImagePlan:
        """The inverse of `to_json`. Raises ValueError on another schema, KeyError or TypeError on another shape."""
        if data.get("schema") != PLAN_SCHEMA:
            raise ValueError(f"plan schema {data.get('schema')!r} is not {PLAN_SCHEMA}")
        return cls(
            packager=data["packager"],
            model_name=data["model"]["name"],
            model_version=data["model"]["version"],
            platform=data["platform"],
            base=BaseImage.from_json(data["base"]),
            environment=Environment.from_json(data["environment"]),
            bytecode=Bytecode.from_json(data["bytecode"]) if data["bytecode"] else None,
            trees=tuple(FileTree.from_json(item) for item in data["trees"]),
            config=ImageConfig.from_json(data["config"]),
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, "sha256:…"."""
        return canonical_digest(self.to_json())


def canonical_digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON (sorted keys, no spaces), "sha256:…"."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
