"""What a check is about (Subject) and what it finds (Fault), with file, line and field."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from mpack.signature import Signature

from .backends import FILES, PLATFORMS
from .positions import Path, Positions, field_name
from .schema import Message


@dataclass(frozen=True)
class Subject:
    """One model of a repository.

    `name` is its directory; `path` and `text` are its config.pbtxt as it came (lines are told from them), `config` what
    is to be served; `versions` are the numbers of its version directories; `files` all its files, relative to its
    directory. `signature` is what the model's file says of itself. `completes`: its model.py has auto_complete_config.
    """

    name: str
    path: str
    config: Message
    text: str = ""
    versions: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    signature: Signature | None = None
    completes: bool = False

    @cached_property
    def positions(self) -> Positions:
        return Positions(self.text)

    @cached_property
    def backend(self) -> str:
        """The backend: `backend`, else what `platform` means, else the only one whose files are there, else ""."""
        platform = self.config.platform
        if platform == "ensemble" or self.config.HasField("ensemble_scheduling"):
            return "ensemble"
        if self.config.backend or platform:
            return str(self.config.backend or PLATFORMS.get(platform, ""))
        kinds = self.kinds
        return kinds[0] if len(kinds) == 1 else ""

    @cached_property
    def kinds(self) -> list[str]:
        """The backends whose model files are among the files."""
        return sorted(kind for kind, names in FILES.items() if any(self.has(name) for name in names))

    def has(self, name: str, version: int | None = None) -> bool:
        """True if a file or directory of that name is in the version directory (None: in any)."""
        places = [f"{item}/{name}" for item in (self.versions if version is None else (version,))]
        return any(path == place or path.startswith(f"{place}/") for path in self.files for place in places)

    @cached_property
    def loaded(self) -> tuple[int, ...]:
        """The versions that the version policy loads, of those that are there; default: the largest."""
        found = sorted((int(version) for version in self.versions), reverse=True)
        policy = self.config.version_policy
        choice = policy.WhichOneof("policy_choice")
        if choice == "all":
            return tuple(found)
        if choice == "specific":
            return tuple(version for version in found if version in policy.specific.versions)
        return tuple(found[: policy.latest.num_versions if choice == "latest" else 1])


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: `level` "fault" ends the build, "warning" and "note" are shown."""

    path: str
    line: int
    field: str
    reason: str
    hint: str = ""
    level: str = "fault"

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.field}: {self.reason}"


@dataclass
class Report:
    """Collects the faults of one subject."""

    subject: Subject
    found: list[Fault] = field(default_factory=list)

    def add(self, where: Path, reason: str, hint: str = "", level: str = "fault") -> None:
        """A fault at a field's path; the line is the field's, or that of the field around it."""
        line = self.subject.positions.line(where)
        self.found.append(Fault(self.subject.path, line, field_name(where), reason, hint, level))

    def said(self, *names: str) -> bool:
        """True if the text names the field at all (protobuf cannot tell 0 from nothing)."""
        return any(True for _ in self.subject.positions.all(*names))

    def __iter__(self) -> Iterator[Fault]:
        return iter(self.found)
