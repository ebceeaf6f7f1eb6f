"""Where the wheels of a locked environment are on the host's index, and how large: what the lock itself leaves out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from mpack.contents import sha256_file
from mpack.env.index import IndexSettings
from mpack.env.resolution import Resolver, Unsatisfiable, wheel_file
from mpack.env.unsatisfied import unavailable, unavailable_error
from mpack.env.wheels import pip_download
from mpack.errors import InputError
from mpack.plan import LockedPackage
from mpack.records import dataclass
from mpack.spec import Requirement


@dataclass(frozen=True)
class Wheel:
    """One wheel of an index: file name, URL without credentials, SHA-256 (hex), bytes if the index says how many."""

    file: str
    url: str
    sha256: str
    size: int | None


def wheel_sizes(
    packages: Iterable[LockedPackage], *, python: str, platform: str, index: IndexSettings
) -> dict[tuple[str, str], int]:
    """(name, version) -> bytes of the wheel, of all packages that the index still has. A wheel that it says no size of
    is downloaded. Raises EnvironmentFault index-unreachable."""
    wanted = {(item.name, item.version): item for item in packages if item.source == "index"}
    found: dict[tuple[str, str], int] = {}
    with tempfile.TemporaryDirectory(prefix="mpack-wheels-") as scratch:
        resolver = Resolver(python, platform, index, Path(scratch))
        for batch in _batches(wanted):
            wheels = _located(batch, resolver)
            found |= {key: wheel.size for key, wheel in wheels.items() if wheel.size is not None}
            unknown = [wanted[key] for key, wheel in wheels.items() if wheel.size is None]
            if unknown:
                with tempfile.TemporaryDirectory(dir=scratch) as place:
                    paths = pip_download(unknown, resolver.minor, platform, Path(place), index)
                    sizes = {f"sha256:{sha256_file(path)}": path.stat().st_size for path in paths}
                for item in unknown:
                    found[item.name, item.version] = next(sizes[digest] for digest in item.hashes if digest in sizes)
    return found


def _located(batch: Mapping[str, LockedPackage], resolver: Resolver) -> dict[tuple[str, str], Wheel]:
    """The wheels of a batch; one package that the index has no longer does not keep the others."""
    lines = {name: _line(package) for name, package in batch.items()}
    try:
        entries = resolver.entries(list(lines.values()))
    except Unsatisfiable:
        entries = []
        for line in lines.values():
            with suppress(Unsatisfiable):
                entries += resolver.entries([line])
    made: dict[tuple[str, str], Wheel] = {}
    for entry in entries:
        package = batch.get(entry["name"])
        wheel = resolver.wheel_of(entry, package.hashes) if package is not None else None
        if package is not None and wheel is not None:
            made[package.name, package.version] = _wheel(*wheel)
    return made


def locate_wheels(
    packages: Iterable[LockedPackage], *, python: str, platform: str, index: IndexSettings
) -> dict[tuple[str, str], Wheel]:
    """(name, version) -> wheel, of all packages of an index, a URL or the base. One name may have several versions.

    Raises InputError lock-mismatch naming the packages of which the index has no wheel with the locked hash,
    requirements-unavailable, and EnvironmentFault index-unreachable.
    """
    wanted = {(item.name, item.version): item for item in packages if item.source in ("index", "url", "base")}
    found: dict[tuple[str, str], Wheel] = {}
    missing: list[str] = []
    with tempfile.TemporaryDirectory(prefix="mpack-wheels-") as scratch:
        resolver = Resolver(python, platform, index, Path(scratch))
        for batch in _batches(wanted):
            entries = {entry["name"]: entry for entry in _entries(list(batch.values()), resolver)}
            for name, package in batch.items():
                entry = entries.get(name)
                wheel = resolver.wheel_of(entry, package.hashes) if entry is not None else None
                if wheel is None:
                    missing.append(f"{name}=={package.version}")
                else:
                    found[name, package.version] = _wheel(*wheel)
    if missing:
        raise InputError(
            "lock-mismatch",
            f"The index has no wheel with the locked hash of {', '.join(missing)}.",
            "Use the index that the lock was made with, or lock again with --update-lock.",
        )
    return found


def _batches(wanted: Mapping[tuple[str, str], LockedPackage]) -> list[dict[str, LockedPackage]]:
    """The packages in as few groups as have each name once: uv resolves one version of a name at a time."""
    groups: list[dict[str, LockedPackage]] = []
    for (name, _), package in sorted(wanted.items()):
        group = next((item for item in groups if name not in item), None)
        if group is None:
            groups.append(group := {})
        group[name] = package
    return groups


def _entries(packages: Sequence[LockedPackage], resolver: Resolver) -> list[dict[str, Any]]:
    lines = [_line(item) for item in packages]
    try:
        return resolver.entries(lines)
    except Unsatisfiable:
        raise unavailable_error(
            unavailable([Requirement(line, "model") for line in lines], resolver), resolver
        ) from None


def _line(package: LockedPackage) -> str:
    return f"{package.name} @ {package.url}" if package.url else f"{package.name}=={package.version}"


def _wheel(entry: Mapping[str, Any], sha256: str) -> Wheel:
    url = entry.get("url") or Path(entry["path"]).absolute().as_uri()
    parts = urlsplit(url)
    size = entry.get("size")
    if size is None and parts.scheme == "file":
        size = Path(unquote(parts.path)).stat().st_size
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
    return Wheel(wheel_file(entry), bare, sha256, size)
