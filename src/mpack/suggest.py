"""`mpack base suggest`: many artifacts read, and the dependency cache that would save most of what they install."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mpack.bases.choice import Package, choose, saved
from mpack.bases.deps import Dependencies, resolve_dependencies
from mpack.describe import described
from mpack.env.locations import wheel_sizes
from mpack.env.lockfile import LockFile, lock_path
from mpack.env.lockpath import LOCK_SUFFIX
from mpack.errors import InputError, MpackError, UsageError
from mpack.pipeline import Workshop
from mpack.plan import Environment
from mpack.progress import Progress
from mpack.records import dataclass
from mpack.request import BuildRequest
from mpack.resolve import fitting, resolve
from mpack.spec import BaseWish, Requirement

#: Directories below one that is no artifact are looked through so deep.
_DEEPEST = 4
#: What is not a model at all, in a directory of artifacts, is passed over; anything else is told.
_NO_ARTIFACT = ("artifact-unknown", "artifact-empty")
#: What a directory of artifacts is as an artifact.
_MANY = (*_NO_ARTIFACT, "artifact-ambiguous")
#: What is wrong with one artifact, not with this machine.
_OF_ONE = ("base-unavailable", "base-unsuitable", "lock-mismatch")


@dataclass(frozen=True)
class Member:
    """One artifact: where it is, what its image would have, and what it wishes for as its base."""

    location: str
    environment: Environment
    wish: BaseWish

    @property
    def versions(self) -> dict[str, str]:
        """Name -> version of what is installed from an index: the packages that a base could have instead."""
        return {item.name: item.version for item in self.environment.packages if item.source == "index"}


@dataclass(frozen=True)
class Skipped:
    """What could not be read or resolved, and why. `passed_over`: found in a directory, and no model at all."""

    location: str
    error: MpackError
    passed_over: bool = False


@dataclass(frozen=True)
class Suggestion:
    """One cache for artifacts of one Python and kind of base. `packages` are asked for; `cache` is all that comes."""

    members: tuple[Member, ...]
    packages: tuple[Package, ...]
    cache: Environment
    sizes: dict[Package, int]

    @property
    def has(self) -> frozenset[Package]:
        return frozenset((item.name, item.version) for item in self.cache.packages)

    def count(self, package: Package) -> int:
        """The artifacts that are locked to it."""
        return sum(member.versions.get(package[0]) == package[1] for member in self.members)

    def saved(self, member: Member) -> int:
        """Bytes of wheels that the artifact's image does not install on this cache."""
        return saved(member.versions, self.sizes, self.has)

    @property
    def total(self) -> int:
        return sum(map(self.saved, self.members))

    @property
    def brought(self) -> int:
        """Bytes of what the cache has that no artifact is locked to: the runtime's other packages."""
        used = {item for member in self.members for item in member.versions.items()}
        return sum(self.sizes.get(item, 0) for item in self.has - used)

    def to_json(self) -> dict[str, Any]:
        return {
            "python": self.cache.python,
            "platform": self.cache.platform,
            "base_kind": self.members[0].wish.kind,
            "saved": self.total,
            "installed": sum(self.sizes.get(item, 0) for one in self.members for item in one.versions.items()),
            "cache": sum(self.sizes.get((item.name, item.version), 0) for item in self.cache.to_install),
            "brought": self.brought,
            "packages": [
                {"name": item[0], "version": item[1], "size": self.sizes.get(item), "artifacts": self.count(item)}
                for item in self.packages
            ],
            "artifacts": [{"artifact": one.location, "saved": self.saved(one)} for one in self.members],
        }


def read_members(
    request: BuildRequest, locations: Sequence[str], workshop: Workshop, progress: Progress
) -> tuple[list[Member], list[Skipped]]:
    """Every artifact at or below the locations, by its lock if that has an entry, else resolved; and what is not taken.

    Nothing of an artifact is run, and nothing is written. Raises what the index and this machine are at fault for.
    """
    members: list[Member] = []
    skipped: list[Skipped] = []
    for location in locations:
        for found in _below(request, location, workshop, progress, depth=0):
            if isinstance(found, Member):
                members.append(found)
            else:
                skipped.append(found)
    return members, skipped


def suggest(members: Sequence[Member], base: str | None, workshop: Workshop, progress: Progress) -> list[Suggestion]:
    """Caches that save something, the one that saves most first. Artifacts of another Python or another kind of base
    cannot share one; what of versions the first cache of a kind leaves out, a second one may have."""
    groups: dict[tuple[str, str, str], list[Member]] = {}
    for member in members:
        environment = member.environment
        groups.setdefault((environment.python, environment.platform, member.wish.kind), []).append(member)
    found: list[Suggestion] = []
    for (python, platform, _), group in groups.items():
        packages = [item for member in group for item in member.environment.packages]
        with progress.phase("sizes", f"asking the index for the sizes of Python {python}'s wheels"):
            sizes = wheel_sizes(packages, python=python, platform=platform, index=workshop.index)
        environments = [member.versions for member in group]
        first = choose(environments, sizes)
        for choice in (first, choose(environments, sizes, without=first)):
            if choice:
                found.append(_cache(group, choice, environments, sizes, base, workshop, progress))
    return sorted(found, key=lambda item: -item.total)


def requirements_text(suggestion: Suggestion) -> str:
    """The requirements file for `mpack base build --deps`, with the figures as comments."""
    lines = [f"# A dependency cache for {len(suggestion.members)} artifacts, by `mpack base suggest`."]
    for name, version in suggestion.packages:
        size = suggestion.sizes.get((name, version), 0)
        lines.append(f"{name}=={version}  # {suggestion.count((name, version))} artifacts, {size / 1e6:.1f} MB")
    return "\n".join(lines) + "\n"


def _below(
    request: BuildRequest, location: str, workshop: Workshop, progress: Progress, depth: int
) -> Iterator[Member | Skipped]:
    try:
        yield _member(replace(request, location=location), workshop, progress)
        return
    except (InputError, UsageError) as error:
        fault: MpackError = error
    except MpackError as error:
        if error.code not in _OF_ONE:
            raise
        fault = error
    path = Path(location)
    if fault.code in _MANY and path.is_dir() and depth < _DEEPEST:
        for child in sorted(path.iterdir()):
            if not child.name.startswith(".") and not child.name.endswith((LOCK_SUFFIX, ".mpack.toml")):
                yield from _below(request, str(child), workshop, progress, depth + 1)
    else:
        yield Skipped(location, fault, passed_over=depth > 0 and fault.code in _NO_ARTIFACT)


def _member(request: BuildRequest, workshop: Workshop, progress: Progress) -> Member:
    quiet = Progress(1, quiet=True)
    with described(request, quiet) as found, progress.phase("resolve", f"reading {request.location}"):
        lock = LockFile.read(lock_path(request.location))
        resolution = resolve(
            found.spec, request.options, bases=workshop.bases, index=workshop.index, lock=lock, say=lambda _: None
        )
        spec = fitting(found.spec, resolution.plan.base, workshop.bases)
        return Member(request.location, resolution.plan.environment, spec.base)


def _cache(
    group: Sequence[Member],
    choice: frozenset[Package],
    environments: Sequence[dict[str, str]],
    sizes: dict[Package, int],
    base: str | None,
    workshop: Workshop,
    progress: Progress,
) -> Suggestion:
    """The choice as a cache that uv has resolved; one that it does not allow is cut down to one artifact's share."""
    try:
        cache = _resolved(group[0], choice, base, workshop, progress)
    except InputError as error:
        if error.code not in ("requirements-clash", "requirements-unavailable"):
            raise
        # One artifact's packages go together: they were resolved so.
        shares = [frozenset(choice & environment.items()) for environment in environments]
        choice = max(shares, key=lambda items: sum(sizes.get(item, 0) for item in items))
        cache = _resolved(group[0], choice, base, workshop, progress)
    more = [item for item in cache.packages if (item.name, item.version) not in sizes]
    sizes = {**sizes, **wheel_sizes(more, python=cache.python, platform=cache.platform, index=workshop.index)}
    heaviest = sorted(choice, key=lambda item: (-sizes.get(item, 0), item))
    return Suggestion(tuple(group), tuple(heaviest), cache, sizes)


def _resolved(
    member: Member, choice: frozenset[Package], base: str | None, workshop: Workshop, progress: Progress
) -> Environment:
    lines = tuple(Requirement(f"{name}=={version}", "model", "the suggestion") for name, version in sorted(choice))
    with progress.phase("resolve", f"resolving a cache of {len(lines)} packages"):
        return resolve_dependencies(
            workshop.bases,
            workshop.index,
            Dependencies(None, lines),
            python=member.environment.python,
            platform=member.environment.platform,
            wish=BaseWish(base, kind=member.wish.kind),
            say=lambda _: None,
        )[1]
