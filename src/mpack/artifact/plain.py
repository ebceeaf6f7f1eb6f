"""Requirements and versions that are plain enough to be told without `packaging`, which takes 20 ms to import.

What these read, they read as `packaging` does, a test compares; what is not plain is left to it.
"""

from __future__ import annotations

import re

_CLAUSE = r"(?:==|!=|<=|>=|<|>)[0-9]+(?:\.[0-9]+)*"
_REQUIREMENT = re.compile(rf"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)({_CLAUSE}(?:,{_CLAUSE})*)?")
_EXTRA = re.compile(r"(.*?)\s*;\s*extra\s*==\s*(['\"])([a-z0-9]+)\2")


def plain_name(line: str) -> str | None:
    """The normalised name of NAME, or NAME and clauses of plain releases; None for any other requirement."""
    match = _REQUIREMENT.fullmatch(line)
    return match and normal_name(match[1])


def plain_line(line: str) -> str | None:
    """Such a requirement as `packaging` writes it, clauses sorted; None for any other."""
    match = _REQUIREMENT.fullmatch(line)
    return match and match[1] + ",".join(sorted(set((match[2] or "").split(","))))


def plain_extra(line: str) -> tuple[str, str] | None:
    """(such a requirement, the one extra that it is for); None for any other."""
    match = _EXTRA.fullmatch(line)
    found = match and plain_line(match[1])
    return (found, match[3]) if match and found else None


def normal_name(name: str) -> str:
    """A distribution's name as indexes have it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def older(version: str, bound: str) -> bool:
    """True if a version comes before a plain release. Raises ValueError for what is no version."""
    if re.fullmatch(r"[0-9]+(\.[0-9]+)*", version):
        return _release(version) < _release(bound)
    from packaging.version import Version

    return Version(version) < Version(bound)


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.sub(r"(\.0+)+$", "", version).split("."))
