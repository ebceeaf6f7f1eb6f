"""One file that is being fetched: appended to, hashed on the way, and streamed anew from where it broke off."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import BinaryIO

from mpack.stores import faults
from mpack.stores.model import Body, Broken, RemoteFile, Store
from mpack.stores.sums import Sums

_BLOCK = 1 << 20
Came = Callable[[str, int, int], None]


class Damaged(Exception):
    """The content is not what the store says of it."""


class Part:
    """The file `name` of a store as far as `output` has it. `came` is told: name, bytes more, bytes now."""

    def __init__(self, file: RemoteFile, name: str, output: BinaryIO, came: Came) -> None:
        self._file = file
        self._name = name
        self._output = output
        self._came = came
        self._told: Mapping[str, str] = file.checksums
        self._sums = Sums(self._told)
        self._have = os.fstat(output.fileno()).st_size
        if not file.version or (file.size is not None and self._have > file.size):
            self._restart({})
        elif self._have:
            while block := output.read(_BLOCK):
                self._sums.update(block)
            came(name, self._have, self._have)

    def complete(self, store: Store) -> str:
        """Fetches the rest, if any; the whole file's SHA-256 (hex).

        Raises Damaged, OSError of the disk, EnvironmentFault download-failed after attempts that brought nothing, and
        what the store and `came` raise.
        """
        size, idle, furthest = self._file.size, 0, self._have
        while size is None or self._have < size:
            try:
                with store.open(self._file, self._have) as body:
                    self._take(body)
                break
            except Broken as error:
                idle = 0 if self._have > furthest else idle + 1
                furthest = max(furthest, self._have)
                if idle >= faults.ATTEMPTS:
                    raise faults.failed(self._name, str(error)) from None
                faults.pause(idle)
        self._output.flush()
        if (reason := self._sums.mismatch(self._told)) is not None:
            raise Damaged(reason)
        return self._sums.sha256()

    def close(self) -> None:
        """Ends the hashing."""
        self._sums.close()

    def _take(self, body: Body) -> None:
        if body.start != self._have or not self._have:
            self._restart(body.checksums)
        size = self._file.size
        for block in body.blocks:
            now = self._have + len(block)
            if size is not None and now > size:
                raise faults.changed(self._name)
            self._came(self._name, len(block), now)
            self._output.write(block)
            self._sums.update(block)
            self._have = now
        if size is not None and self._have < size:
            raise Broken(f"it ended after {self._have} of {size} bytes")

    def _restart(self, checksums: Mapping[str, str]) -> None:
        if self._have:
            self._came(self._name, -self._have, 0)
        self._output.seek(0)
        self._output.truncate()
        self._have = 0
        self._sums.close()
        self._told = {**checksums, **self._file.checksums}
        self._sums = Sums(self._told)
