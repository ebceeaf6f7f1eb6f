"""The nouns of this package: what a source holds (Tree), what a format makes of it (Description), both (Artifact)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from mpack.records import dataclass

if TYPE_CHECKING:
    from mpack.contents import Pending, Standing
    from mpack.signature import Signature
    from mpack.spec import CondaWish, Requirement
    from mpack.stores.model import Origin


@dataclass(frozen=True)
class ArtifactFile:
    """One regular file: POSIX path relative to the artifact's root, size in bytes, SHA-256, where it can be read."""

    path: str
    size: int
    content: str | Pending
    source: Path = field(repr=False, compare=False)
    executable: bool = False

    @property
    def sha256(self) -> str:
        """Lower-case hex SHA-256; of a large file that is still being hashed, when that is done. Raises InputError."""
        return self.content if isinstance(self.content, str) else self.content.sha256()


class Tree(Mapping[str, ArtifactFile]):
    """The opened artifact: path -> file. Links inside are already followed; wrapping folders already taken off."""

    def __init__(self, files: Mapping[str, ArtifactFile], title: str, origin: Origin | None = None) -> None:
        self._files = dict(sorted(files.items()))
        #: Where it was fetched from, if it was.
        self.origin = origin
        #: File name of the artifact without suffix: the fallback for a model's name.
        self.title = title

    def __getitem__(self, path: str) -> ArtifactFile:
        return self._files[path]

    def __iter__(self) -> Any:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def open(self, path: str) -> BinaryIO:
        """A binary stream of one file."""
        return self._files[path].source.open("rb")

    def head(self, path: str, size: int = 4096) -> bytes:
        """The first `size` bytes of one file."""
        with self.open(path) as stream:
            return stream.read(size)

    def read(self, path: str, limit: int = 16 << 20) -> bytes:
        """A whole small file (manifests). Raises InputError artifact-too-large above `limit` bytes."""
        from mpack.errors import InputError

        if self._files[path].size > limit:
            raise InputError(
                "artifact-too-large",
                f"{path} is {self._files[path].size} bytes; a file of its kind may have {limit}.",
            )
        with self.open(path) as stream:
            return stream.read()


@dataclass(frozen=True)
class Candidate:
    """A model that a format sees in a tree: `root` is a directory ("" for the whole tree) or one file's path."""

    format: str
    root: str

    def contains(self, other: Candidate) -> bool:
        """True if the other candidate stands inside this one's directory."""
        return self.root == "" or other.root == self.root or other.root.startswith(self.root + "/")


@dataclass(frozen=True)
class Loader:
    """How the runtime loads the model: `kind` names a module of mpack_runtime.loaders, `path` is relative to
    /opt/mpack/model, `options` is JSON for that loader."""

    kind: str
    path: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """What the self-check asks. `request` is a JSON body for /api/model/invoke, or `input_file` a path in the artifact
    that only the image can read (a pickle). `expected` is the JSON answer, `output_file` likewise. `tolerance` is
    relative."""

    request: Any = None
    input_file: str | None = None
    expected: Any = None
    output_file: str | None = None
    tolerance: float = 1e-6


@dataclass(frozen=True)
class Finding:
    """Something that `mpack inspect` shows: `level` is "note", "warning" or "danger"."""

    level: str
    message: str
    path: str | None = None


@dataclass(frozen=True)
class Description:
    """What a format reads from a tree. `ships` are the paths that the image needs, renamed: image path -> tree path."""

    format: str
    flavor: str
    name: str | None
    version: str | None
    python: str | None
    requirements: tuple[Requirement, ...]
    loader: Loader
    ships: Mapping[str, str]
    signature: Signature | None = None
    sample: Sample | None = None
    #: What the runtime needs beyond flask and numpy for this model, e.g. {"pandas"}: words the packagers map to pins.
    needs: frozenset[str] = frozenset()
    #: True where the artifact openly brings code (python_function with code, an ODAHU entry point).
    brings_code: bool = False
    findings: tuple[Finding, ...] = ()
    #: Packages that no Python index has.
    conda: CondaWish | None = None


class Format(Protocol):
    """A plugin of entry-point group `mpack.formats`: a class made without arguments."""

    name: str

    def detect(self, tree: Tree) -> list[Candidate]:
        """Models of this format in the tree, by content. Cheap: names and first bytes. Never raises on bad content."""

    def read(self, tree: Tree, candidate: Candidate, trust: Trust) -> Description:
        """Reads one model without running or unpickling anything of it. Raises InputError."""


@dataclass(frozen=True)
class Trust:
    """The user's consent to what a pickle may name (whole top-level modules, or everything), and three wishes:
    `keep_mlflow` leaves mlflow among the requirements, `gpu` leaves packages there that only a GPU needs, `conda`
    takes all packages of a conda environment from conda's channels, whether a Python index has them or not."""

    modules: frozenset[str] = frozenset()
    pickle: bool = False
    keep_mlflow: bool = False
    gpu: bool = False
    conda: bool = False


#: Kinds of models that no Python library in the image loads, but a Triton server's own backends do.
SERVER_KINDS = frozenset({"triton", "savedmodel", "torchscript", "openvino"})


@dataclass(frozen=True)
class Artifact:
    """A trained model as it came. `digest` is over paths and contents, so a zip and its folder have the same."""

    location: str
    digest: str
    files: tuple[ArtifactFile, ...]
    name: str
    version: str
    description: Description
    system_packages: tuple[str, ...] = ()
    trust: Trust = Trust()
    #: The base image that mpack.toml beside the artifact asks for.
    base: str | None = None
    #: Where it was fetched from, if it was.
    origin: Origin | None = None

    def provisional(self) -> tuple[Artifact, Standing]:
        """The artifact with digests that stand for those that are not known yet, and what each stands for."""
        standing: dict[str, Pending] = {}
        files: list[ArtifactFile] = []
        for number, file in enumerate(self.files):
            if not isinstance(file.content, str):
                standing[f"{number:064x}"] = file.content
                file = replace(file, content=f"{number:064x}")
            files.append(file)
        return replace(self, files=tuple(files)), standing

    @property
    def format(self) -> str:
        return self.description.format

    @property
    def python(self) -> str | None:
        """The Python version of training as recorded ("3.11.7"), or None."""
        return self.description.python

    @property
    def needs_triton(self) -> bool:
        """True for a model that only a Triton server can load."""
        return self.description.loader.kind in SERVER_KINDS

    @property
    def signature(self) -> Signature | None:
        return self.description.signature
