"""What a check is about (Subject) and what it finds (Fault), with file, line and field."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from mpack.signature import Signature

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
        """The backend that Triton takes: `backend`, else what `platform` means, else "" (unknown)."""
        from .backends import PLATFORMS

        platform = self.config.platform
        return "ensemble" if platform == "ensemble" else self.config.backend or PLATFORMS.get(platform, "")

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
