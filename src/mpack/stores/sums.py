"""Checksums of what is fetched: SHA-256 always, and whatever the store tells besides."""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Iterable, Mapping
from typing import Protocol

from mpack.contents import Sha256

#: Bytes of each checksum that stores tell.
SIZES = {"sha256": 32, "md5": 16, "crc32": 4, "crc32c": 4}


class Sums:
    """SHA-256 and others of bytes that are passed on in order; `algorithms` that cannot be had here are left out."""

    def __init__(self, algorithms: Iterable[str] = ()) -> None:
        self._sha256 = Sha256()
        self._others = {name: made for name in algorithms if (made := _made(name)) is not None}

    def update(self, block: bytes) -> None:
        self._sha256.update(block)
        for other in self._others.values():
            other.update(block)

    def close(self) -> None:
        """Ends the hashing's thread."""
        self._sha256.close()

    def sha256(self) -> str:
        """Lower-case hex."""
        return self._sha256.hexdigest()

    def mismatch(self, told: Mapping[str, str]) -> str | None:
        """What differs from what the store tells, in words; None where nothing does."""
        for name, wanted in told.items():
            got = (
                self.sha256() if name == "sha256" else self._others[name].hexdigest() if name in self._others else None
            )
            if got is not None and got != wanted:
                return f"its {name} is {got}, and the store says {wanted}"
        return None


class _Sum(Protocol):
    def update(self, block: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, block: bytes) -> None:
        self._value = zlib.crc32(block, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


def _made(name: str) -> _Sum | None:
    if name == "md5":
        return hashlib.md5(usedforsecurity=False)
    if name == "crc32":
        return _Crc32()
    if name == "crc32c":
        try:
            from google_crc32c import Checksum
        except ImportError:
            return None

        class Crc32c:
            def __init__(self) -> None:
                self._sum = Checksum()

            def update(self, block: bytes) -> None:
                self._sum.update(block)

            def hexdigest(self) -> str:
                return str(self._sum.digest().hex())

        return Crc32c()
    return None


def told(**values: object) -> dict[str, str]:
    """Base64 checksums, as stores write them, in hex; what is none of its kind is left out."""
    found = {}
    for name, value in values.items():
        try:
            raw = bytes(value) if isinstance(value, bytes | bytearray) else base64.b64decode(str(value), validate=True)
        except (binascii.Error, ValueError):
            continue
        if value and len(raw) == SIZES[name]:
            found[name] = raw.hex()
    return found
