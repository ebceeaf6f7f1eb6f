"""ImagePlan: the single truth about an image. Frozen data, JSON both ways, the same on every machine.

A plan holds no host path and no secret. Builders take a plan and the `Contents` its trees name.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

from mpack.records import dataclass
from mpack.spec import FileTree, ImageConfig

PLAN_SCHEMA = 1
VENV = "/opt/mpack/venv"
#: Where conda packages are installed.
CONDA = "/opt/mpack/conda"
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
    commit), "url" (a wheel at `url`), or "base" (already in the base image, or a conda package: not installed).
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
class CondaPackage:
    """One conda package: `file` in the folder `subdir` ("linux-64", "noarch") of `channel`.

    A channel is a name that each machine's own configuration finds ("conda-forge"), or a public http(s) URL. `sha256`
    is lower-case hex, `size` bytes of the file.
    """

    name: str
    version: str
    build: str
    subdir: str
    channel: str
    file: str
    sha256: str
    size: int
    depends: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "depends": list(self.depends)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> CondaPackage:
        return cls(**{**data, "depends": tuple(data["depends"])})


@dataclass(frozen=True)
class CondaEnvironment:
    """The locked conda packages at /opt/mpack/conda, sorted by name.

    `site` is where their Python packages are, relative to that ("lib/python3.11/site-packages"); "" without a Python.
    `interpreter`: the venv stands on their Python, not on the base's.
    """

    packages: tuple[CondaPackage, ...]
    site: str = ""
    interpreter: bool = False

    @property
    def python_version(self) -> str | None:
        """The full version of their Python, if they have one."""
        return next((package.version for package in self.packages if package.name == "python"), None)

    def to_json(self) -> dict[str, Any]:
        return {
            "packages": [package.to_json() for package in self.packages],
            "site": self.site,
            "interpreter": self.interpreter,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> CondaEnvironment:
        return cls(tuple(map(CondaPackage.from_json, data["packages"])), data["site"], data["interpreter"])


def below_venv(base: BaseImage, conda: CondaEnvironment | None) -> BaseImage:
    """The base as a venv on it sees it: with the Python and the packages of conda, where there are any."""
    if conda is None or not conda.site:
        return base
    site = f"{CONDA}/{conda.site}"
    if not conda.interpreter:
        return replace(base, site_dirs=(site, *base.site_dirs))
    version = conda.python_version or ""
    minor = ".".join(version.split(".")[:2])
    return replace(base, python=f"{CONDA}/bin/python{minor}", python_version=version, site_dirs=(site,))


@dataclass(frozen=True)
class Environment:
    """The locked Python environment at /opt/mpack/venv. `relaxed` lists pins that had to move, "name==old -> new".

    `conda`: what stands beside it at /opt/mpack/conda.
    """

    python: str
    platform: str
    packages: tuple[LockedPackage, ...]
    trim: bool = True
    relaxed: tuple[str, ...] = ()
    conda: CondaEnvironment | None = None

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
            **({} if self.conda is None else {"conda": self.conda.to_json()}),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Environment:
        return cls(
            data["python"],
            data["platform"],
            tuple(LockedPackage.from_json(item) for item in data["packages"]),
            data["trim"],
            tuple(data["relaxed"]),
            CondaEnvironment.from_json(data["conda"]) if "conda" in data else None,
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

    @property
    def below(self) -> BaseImage:
        """The base as the venv sees it."""
        return below_venv(self.base, self.environment.conda)

    @property
    def programs(self) -> tuple[str, ...]:
        """The directories that PATH begins with."""
        return (f"{VENV}/bin", *([f"{CONDA}/bin"] if self.environment.conda is not None else []))

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
