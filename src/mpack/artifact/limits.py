"""Limits on what an artifact may unpack to, and the meter that holds them against real bytes, not against headers."""

from __future__ import annotations

import re
from dataclasses import fields

from mpack.errors import InputError, UsageError
from mpack.records import dataclass

GB = 1000**3
MB = 1000**2


@dataclass(frozen=True)
class Limits:
    """`total` bytes over all files, `entries` (files, directories and links), and `ratio`: unpacked bytes a byte of
    archive, counted beyond the first `ratio_free` bytes, which any small text may reach."""

    total: int = 100 * GB
    entries: int = 200_000
    ratio: int = 200
    ratio_free: int = 100 * MB

    def over(self, base: Limits) -> Limits:
        """These limits, with those that stand at their default taken from `base`."""
        default = Limits()
        chosen = {
            item.name: getattr(base if getattr(self, item.name) == getattr(default, item.name) else self, item.name)
            for item in fields(self)
        }
        return Limits(**chosen)


def parse_size(text: str) -> int:
    """A size as people write it in bytes: "500", "64k", "1.5 GB", "2GiB". Raises UsageError on anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", text.strip(), re.IGNORECASE | re.ASCII)
    if match is None:
        raise UsageError("usage", f"{text!r} is not a size.", "Write it like 500MB, 2GB or 2GiB.")
    number, prefix, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " kmgt".index(prefix.lower() or " "))


class Meter:
    """Counts one artifact's entries and bytes. `archive_size` is the archive's own size, None without compression."""

    def __init__(self, limits: Limits, archive_size: int | None = None) -> None:
        self._limits = limits
        self._expanded = None if archive_size is None else limits.ratio_free + limits.ratio * archive_size
        self._bytes = 0
        self._entries = 0

    def entry(self) -> None:
        """Counts one entry. Raises InputError artifact-too-large."""
        self._entries += 1
        if self._entries > self._limits.entries:
            raise InputError(
                "artifact-too-large",
                f"It has more than {self._limits.entries} entries.",
                "Raise the limit with --max-entries if that is meant.",
            )

    def data(self, size: int) -> None:
        """Counts `size` unpacked bytes. Raises InputError artifact-too-large."""
        self._bytes += size
        if self._bytes > self._limits.total:
            raise InputError(
                "artifact-too-large",
                f"It is larger than {self._limits.total} bytes unpacked.",
                "Raise the limit with --max-size if that is meant.",
            )
        if self._expanded is not None and self._bytes > self._expanded:
            raise InputError(
                "artifact-too-large",
                f"It unpacks to more than {self._limits.ratio} times its own size.",
                "Raise the limit with --max-ratio if that is meant.",
            )
