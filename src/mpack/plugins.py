"""Discovery of packagers and formats by entry points: nothing is imported before it is asked for, and a broken or
doubled plugin is reported by name without harming the others.

A plugin is a class made without arguments, whose `name` is its entry point's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Set
from typing import TYPE_CHECKING, Any

from mpack.errors import MpackError, UsageError
from mpack.installed import EntryPoint, entry_points

if TYPE_CHECKING:
    from mpack.artifact.model import Format
    from mpack.packager import Packager

FORMATS = "mpack.formats"
PACKAGERS = "mpack.packagers"
#: What a plugin of each group must have, so that a wrong one is named when it is loaded and not when it is used.
_MEMBERS = {
    FORMATS: ("name", "detect", "read"),
    PACKAGERS: ("name", "summary", "arguments", "targets", "template", "accepts", "spec"),
}


def load_formats(without: Set[str] = frozenset()) -> tuple[dict[str, Format], list[MpackError]]:
    """Every format by name, and what is wrong with those that cannot be used; `without` some of mpack's own."""
    return _load_all(FORMATS, without)


def load_packagers() -> tuple[dict[str, Packager], list[MpackError]]:
    """Every packager by name, and what is wrong with those that cannot be used."""
    return _load_all(PACKAGERS)


def load_packager(name: str) -> Packager:
    """One packager; no other is imported. Raises UsageError packager-unknown, plugin-broken or plugin-duplicate."""
    found = _by_name(PACKAGERS)
    if name not in found:
        raise UsageError(
            "packager-unknown",
            f"No packager named {name} is installed.",
            f"Installed are: {', '.join(found) or 'none; install mpack-packagers'}.",
        )
    packager: Packager = _load(PACKAGERS, name, found[name])
    return packager


def packager_names() -> tuple[str, ...]:
    """The names of the packagers that are installed; none is imported."""
    return tuple(_by_name(PACKAGERS))


def _load_all(group: str, without: Set[str] = frozenset()) -> tuple[dict[str, Any], list[MpackError]]:
    plugins: dict[str, Any] = {}
    faults: list[MpackError] = []
    for name, points in _by_name(group).items():
        if name in without and all(point.module.startswith("mpack.") for point in points):
            continue
        try:
            plugins[name] = _load(group, name, points)
        except UsageError as error:
            faults.append(error)
    return plugins, faults


def _by_name(group: str) -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for point in sorted(entry_points(group, tuple(sys.path)), key=lambda point: point.name):
        found.setdefault(point.name, []).append(point)
    return found


def origins() -> set[str]:
    """The top-level packages that packagers and formats come from."""
    return {point.module.partition(".")[0] for group in _MEMBERS for point in entry_points(group, tuple(sys.path))}


def _load(group: str, name: str, points: list[EntryPoint]) -> Any:
    kind = group.removeprefix("mpack.").removesuffix("s")
    if len(points) > 1 and len({(point.distribution, point.value) for point in points}) > 1:
        raise UsageError(
            "plugin-duplicate",
            f"The {kind} {name} is offered by {_listed(point.distribution for point in points)}.",
            "Uninstall all but one of them.",
        )
    point = points[0]
    try:
        plugin = point.load()()
        missing = [member for member in _MEMBERS[group] if member not in dir(plugin)]
        if missing:
            raise TypeError(f"{point.value} has no {', '.join(missing)}")
        if plugin.name != name:
            raise TypeError(f"{point.value} calls itself {plugin.name!r}")
    # Importing a plugin may raise anything, even SystemExit; whatever it is, the other plugins must go on working.
    except (Exception, SystemExit) as error:
        raise UsageError(
            "plugin-broken",
            f"The {kind} {name} of the distribution {point.distribution} cannot be loaded: "
            f"{type(error).__name__}: {error}.",
            "Reinstall or upgrade that distribution, or uninstall it.",
        ) from error
    return plugin


def _listed(names: Iterable[str]) -> str:
    return " and by ".join(sorted(set(names)))
