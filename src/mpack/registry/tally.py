"""How far a push came, for whoever is told that it broke off."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mpack.errors import MpackError
from mpack.registry.reference import Reference
from mpack.registry.upload import Blob


class Tally:
    """The blobs of a push, and which of them the registry has said to have. Threads may share it."""

    def __init__(self, reference: Reference, blobs: Sequence[Blob]) -> None:
        self._reference = reference
        self._sizes = {blob.digest: blob.size for blob in blobs}
        self._there: set[str] = set()
        #: True once the tag means this image.
        self.visible = False

    def came(self, blob: Blob) -> None:
        """The registry has this blob."""
        self._there.add(blob.digest)

    def __str__(self) -> str:
        if self.visible:
            return f"{self._reference} is pushed; its documents are perhaps not."
        if not self._there:
            return "Nothing was pushed."
        there = sum(self._sizes[digest] for digest in tuple(self._there))
        return (
            f"At least {len(self._there)} of {len(self._sizes)} blobs are there, {there / 1e6:.1f} of "
            f"{sum(self._sizes.values()) / 1e6:.1f} MB; the manifest was not written, so nothing is visible as "
            f"{self._reference}. The same push again sends only the rest."
        )

    @contextmanager
    def told(self) -> Iterator[None]:
        """Adds it to an error; an interrupt has it on stderr."""
        try:
            yield
        except MpackError as error:
            if self.visible:
                raise
            raise type(error)(error.code, f"{error.message} {self}", error.hint) from error
        except (KeyboardInterrupt, SystemExit):
            sys.stderr.write(f"\n{self}\n")
            raise
