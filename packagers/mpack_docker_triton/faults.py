"""What a check is about (Subject) and what it finds (Fault), with file, line and field."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from mpack.artifact.triton_layout import PLATFORMS
from mpack.signature import Signature

from .backends import FILES
from .positions import Node, Path, Positions, field_name
from .schema import Message

#: Faults of one model that are told, and characters of one.
MAX_FAULTS = 100
_MAX_REASON = 1000
_MAX_NAMES = 20


def listed(names: Iterable[object]) -> str:
    """ "a, b", and of many the first few; "none" without any."""
    given = [str(name) for name in names]
    more = f" and {len(given) - _MAX_NAMES} more" if len(given) > _MAX_NAMES else ""
    return (", ".join(given[:_MAX_NAMES]) or "none") + more


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
        versions = self.versions if version is None else (version,)
        return any(f"{item}/{name}" in self._places for item in versions)

    @cached_property
    def _places(self) -> frozenset[str]:
        """The files and the directories that they stand in."""
        found: set[str] = set()
        for path in self.files:
            while path and path not in found:
                found.add(path)
                path = path.rpartition("/")[0]
        return frozenset(found)

    @cached_property
    def loaded(self) -> tuple[int, ...]:
        """The versions that the version policy loads, of those that are there; default: the largest."""
        found = sorted((int(version) for version in self.versions), reverse=True)
        policy = self.config.version_policy
        choice = policy.WhichOneof("policy_choice")
        if choice == "all":
            return tuple(found)
        if choice == "specific":
            wanted = set(policy.specific.versions)
            return tuple(version for version in found if version in wanted)
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
    _counts: Counter[str] = field(default_factory=Counter)

    @cached_property
    def positions(self) -> Positions:
        return Positions(self.subject.text)

    def add(self, where: Path, reason: str, hint: str = "", level: str = "fault") -> None:
        """A fault at a field's path; the line is the field's, or that of the field around it.

        Beyond MAX_FAULTS of a level nothing is added, and a long reason is cut.
        """
        self._counts[level] += 1
        if self._counts[level] > MAX_FAULTS:
            return
        if len(reason) > _MAX_REASON:
            reason = f"{reason[:_MAX_REASON]} …"
        line = self.positions.line(where)
        self.found.append(Fault(self.subject.path, line, field_name(where), reason, hint, level))

    def said(self, *names: str) -> bool:
        """True if the text names the field at all (protobuf cannot tell 0 from nothing)."""
        return any(True for _ in self.positions.all(*names))

    def occurrence(self, index: int, *names: str) -> Node:
        """One occurrence of a field in the text; an empty one where the text has it not."""
        nodes = self._occurrences.get(names)
        if nodes is None:
            nodes = self._occurrences[names] = list(self.positions.all(*names))
        return nodes[index] if index < len(nodes) else Node(1)

    @cached_property
    def _occurrences(self) -> dict[tuple[str, ...], list[Node]]:
        return {}

    def __iter__(self) -> Iterator[Fault]:
        return iter(self.found)
