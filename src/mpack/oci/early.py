"""A layer that is written while its files are still being hashed: large bytes are hashed twice, both times at once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from threading import Event, Thread
from types import TracebackType
from typing import TYPE_CHECKING

from mpack.errors import MpackError
from mpack.oci.layer import Entry, Layer, write_layer

if TYPE_CHECKING:
    from mpack.oci.blobs import BlobWriter
    from mpack.oci.store import Store


class EarlyLayer:
    """A layer under way; entries may be `pending`. It is in the store when `take` has found that it is the one wanted.

    Whatever goes wrong ends it in silence: then the layer is written as any other, which tells what is wrong. The
    block's end stops it, and leaves nothing of one that nobody took.
    """

    def __init__(self, store: Store, kind: str, entries: Sequence[Entry]) -> None:
        self._store = store
        self._kind = kind
        self._entries = list(entries)
        self._thread = Thread(target=self._work, daemon=True)
        self._blob: BlobWriter | None = None
        self._decided = Event()
        self._wanted = False
        self._layer: Layer | None = None

    def take(self, kind: str, entries: Sequence[Entry]) -> Layer | None:
        """The layer, whole and synced, if it has this kind and these entries; else None."""
        if self._decided.is_set() or kind != self._kind or self._hashed() != list(entries):
            return None
        self._wanted = True
        self._decided.set()
        self._thread.join()
        return self._layer

    def __enter__(self) -> EarlyLayer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._decided.set()
        if self._blob is not None:
            self._blob.stop()
        self._thread.join()

    def _hashed(self) -> list[Entry] | None:
        """The entries as they are known in the end; None where one could not be hashed."""
        try:
            return [
                replace(entry, sha256=entry.pending.sha256(), pending=None) if entry.pending else entry
                for entry in self._entries
            ]
        except (MpackError, OSError):
            return None

    def _work(self) -> None:
        with suppress(MpackError, OSError):
            self._layer = self._written()

    def _written(self) -> Layer:
        with self._store.lease(), self._store.writing() as self._blob:
            if self._decided.is_set():
                self._blob.stop()
            layer = write_layer(self._entries, self._blob, kind=self._kind)
            self._decided.wait()
            if not self._wanted:
                raise InterruptedError("Nobody took the layer.")
        return layer
