"""Locking: the model's and the runtime's requirements in one resolution, every package with the hash of one wheel."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mpack.contents import Contents, sha256_bytes, sha256_file
from mpack.env.index import IndexSettings
from mpack.env.pins import Pins
from mpack.env.resolution import Resolver, Unsatisfiable
from mpack.env.unsatisfied import Unavailable, clash_error, pins_error, unavailable, unavailable_error
from mpack.env.vcs import build_wheel, is_vcs
from mpack.errors import InputError
from mpack.plan import Environment, LockedPackage
from mpack.records import dataclass
from mpack.spec import Requirement

_log = logging.getLogger("mpack.env")
#: "NAME @ path/in/the/artifact.whl#sha256=…", with or without "NAME @".
_LOCAL = re.compile(
    r"(?:(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*\s*(?:\[[^\]]*\])?)\s*@\s*)?"
    r"(?P<path>(?![A-Za-z+]+://)[^#;\s][^#;]*\.whl)\s*#sha256=(?P<sha256>[0-9a-f]{64})\s*(?P<marker>;.*)?"
)


def lock_environment(
    requirements: Sequence[Requirement],
    *,
    python: str,
    platform: str,
    index: IndexSettings,
    provided: Mapping[str, str] | None = None,
    relax: bool = False,
    allow_vcs: bool = False,
    contents: Contents | None = None,
    pins: Pins | None = None,
) -> Environment:
    """The environment that fulfils all requirements, for Python `python` ("3.11" or "3.11.2") on `platform`.

    `provided` maps names to versions of the base: taken where the requirements allow them and then not installed.
    `relax` lets pins that have no wheel move to the nearest version that has one. `pins` decide version and hash of
    what they name. Wheels of the artifact are lines "PATH.whl#sha256=HEX" with their bytes in `contents`.

    Raises InputError (requirements-invalid, -unavailable, -clash; lock-mismatch for `pins` that do not fit) and
    EnvironmentFault (index-unreachable, disk-full, tool-missing). Yanked versions are taken where they are pinned, as
    pip does, with a warning in the log.
    """
    provided = {_key(name): version for name, version in (provided or {}).items()}
    with tempfile.TemporaryDirectory(prefix="mpack-lock-") as name:
        scratch = Path(name)
        resolver = Resolver(python, platform, index, scratch, pins.packages if pins is not None else {})
        if pins is not None:
            pins.require_fitting(requirements)
        local = _local_wheels(requirements, scratch, index, contents or Contents(), allow_vcs)
        for file, package in local.sources.items():
            check_platform(file, package, platform)
        lines = [local.lines.get(item.line, item.line) for item in requirements]
        wanted = [replace(item, line=line) for item, line in zip(requirements, lines, strict=True)]
        packages, warnings, relaxed = _solve(wanted, resolver, provided, relax, set(local.lines.values()))
    for warning in warnings:
        _log.warning("%s", warning)
    packages = [local.sources.get(package.url or "", package) for package in packages]
    packages = [_from_base(package, provided) for package in packages]
    minor = ".".join(python.split(".")[:2])
    return Environment(minor, platform, tuple(packages), relaxed=tuple(relaxed))


def _solve(
    wanted: Sequence[Requirement], resolver: Resolver, prefer: Mapping[str, str], relax: bool, fixed: set[str]
) -> tuple[list[LockedPackage], list[str], list[str]]:
    """(packages, warnings, relaxed pins). First as asked; then, with `relax`, with unavailable pins moved; then, if
    moved pins clash, with these free and the moved versions only preferred."""
    try:
        return *resolver.resolve([item.line for item in wanted], prefer=prefer), []
    except Unsatisfiable as error:
        output = str(error)
    if resolver.pins:
        raise pins_error(output)
    missing = unavailable([item for item in wanted if item.line not in fixed], resolver)
    if not missing:
        raise clash_error(output, wanted)
    if not relax or not all(item.nearest for item in missing):
        raise unavailable_error(missing, resolver)
    moved = {item.requirement.line: item for item in missing}
    softly = {**prefer, **{_name(item.requirement.line): item.nearest[0] for item in missing}}
    for pinned in (True, False):
        lines = [_moved(moved[item.line], pinned) if item.line in moved else item.line for item in wanted]
        try:
            packages, warnings = resolver.resolve(lines, prefer=softly)
        except Unsatisfiable as error:
            output = str(error)
            continue
        versions = {package.name: package.version for package in packages}
        relaxed = [f"{_pin(line)} -> {versions[_name(line)]}" for line in moved if _name(line) in versions]
        return packages, warnings, sorted(set(relaxed))
    raise clash_error(output, wanted)


def _moved(item: Unavailable, pinned: bool) -> str:
    from packaging.requirements import Requirement as Parsed
    from packaging.specifiers import SpecifierSet

    parsed = Parsed(item.requirement.line)
    parsed.specifier = SpecifierSet(f"=={item.nearest[0]}" if pinned else "")
    return str(parsed)


def _pin(line: str) -> str:
    """ "Name[extra]==1.0 ; marker" -> "name==1.0", as `relaxed` lists it."""
    from packaging.requirements import Requirement as Parsed

    return f"{_name(line)}{Parsed(line).specifier}"


def _name(line: str) -> str:
    from packaging.requirements import Requirement as Parsed

    return _key(Parsed(line).name)


def _key(name: str) -> str:
    from packaging.utils import canonicalize_name

    return str(canonicalize_name(name))


def _from_base(package: LockedPackage, provided: Mapping[str, str]) -> LockedPackage:
    """The package marked as the base's if the base has this very version from an index."""
    from packaging.version import InvalidVersion, Version

    try:
        same = Version(provided[package.name]) == Version(package.version)
    except (KeyError, InvalidVersion):
        return package
    return LockedPackage(package.name, package.version, (), "base") if same and package.source == "index" else package


@dataclass(frozen=True)
class _Local:
    """Requirements on wheels that no index has: their line -> the line for uv, and wheel file name -> package."""

    lines: Mapping[str, str]
    sources: Mapping[str, LockedPackage]


def _local_wheels(
    requirements: Iterable[Requirement], scratch: Path, index: IndexSettings, contents: Contents, allow_vcs: bool
) -> _Local:
    lines: dict[str, str] = {}
    sources: dict[str, LockedPackage] = {}
    for item in requirements:
        match = _LOCAL.fullmatch(item.line.strip())
        if match is not None:
            path, url = _write_wheel(match, item, scratch, contents), None
            name, marker = match["name"], match["marker"] or ""
        elif is_vcs(item.line):
            path, url = _built(item, scratch, index, allow_vcs)
            name, marker = item.line.partition("@")[0] if re.match(r"[^+@]+@", item.line) else None, ""
            marker = " ;" + item.line.partition(" ;")[2] if " ;" in item.line else ""
        else:
            continue
        package = _wheel_package(path, url, item)
        lines[item.line] = f"{(name or package.name).strip()} @ {path.as_uri()} {marker}".strip()
        sources[path.name] = package
    return _Local(lines, sources)


def check_platform(file: str, package: LockedPackage, platform: str) -> None:
    """Raises InputError requirements-unavailable for a wheel of the artifact that is for another platform."""
    from packaging.utils import parse_wheel_filename

    from mpack.env.assemble import WHEEL_TAGS

    machine = WHEEL_TAGS[platform][0].split("-")[0]
    places = sorted({tag.platform for tag in parse_wheel_filename(file)[3]})
    if not any(place == "any" or place.endswith(f"_{machine}") for place in places):
        raise InputError(
            "requirements-unavailable",
            f"The wheel {file} is for {', '.join(places)}, not for {platform}.",
            f"Take {package.name} from an index that has it for {platform}, or leave that platform out.",
        )


def _write_wheel(match: re.Match[str], item: Requirement, scratch: Path, contents: Contents) -> Path:
    path = scratch / match["path"].rsplit("/", 1)[-1]
    try:
        with contents.open(match["sha256"]) as stream:
            data = stream.read()
    except KeyError:
        raise InputError(
            "requirements-invalid", f"{match['path']} ({item.source}) is not in the artifact.", "Add the wheel to it."
        ) from None
    if sha256_bytes(data) != match["sha256"]:
        raise InputError("artifact-changed", f"{match['path']} changed while it was being read.", "Try again.")
    path.write_bytes(data)
    return path


def _built(item: Requirement, scratch: Path, index: IndexSettings, allow_vcs: bool) -> tuple[Path, str]:
    if not allow_vcs:
        raise InputError(
            "requirements-invalid",
            f"{item.line} ({item.source}) is a git URL: its build would run code of the repository on this machine.",
            "Consent with --allow-vcs, or put a wheel of it into the artifact.",
        )
    return build_wheel(item.line, scratch, index)


def _wheel_package(path: Path, url: str | None, item: Requirement) -> LockedPackage:
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    try:
        name, version, *_ = parse_wheel_filename(path.name)
    except InvalidWheelFilename:
        raise InputError(
            "requirements-invalid", f"{path.name} ({item.source}) is not a wheel's name.", "Name it as its build did."
        ) from None
    digest = (f"sha256:{sha256_file(path)}",)
    source = "vcs" if url else "artifact"
    return LockedPackage(str(name), str(version), digest, source, url or path.name)
