"""Records in an object store, which cannot append: whole objects, under the names that files have.

An object is written when its records have waited for `every` seconds, or are many. Those that the store does not take
wait and are tried again, less and less often; what comes when their room is full is dropped. So memory has a bound, and
no prediction waits.
"""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from mpack_runtime.errors import SettingsError
from mpack_runtime.rest.journal import Entry, Journal
from mpack_runtime.rest.journal_files import segment

#: Bytes of entries that become objects at once; an entry's lines are a little larger than the entry.
_PART = 4 << 20
#: Seconds before a store is tried again, the first time and at most.
_FIRST, _LAST = 0.5, 30.0
#: Packages that know a kind of address, by the name that the packager's argument has for it.
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "abfs": "adlfs"}

Put = Callable[[str, bytes], None]


class ObjectJournal(Journal):
    """`put` makes an object of a path and its bytes, or raises. `rotate` is bytes, `every` seconds."""

    def __init__(
        self,
        put: Put,
        name: str,
        count: Callable[[str], None],
        rotate: int,
        every: float,
        capacity: int = 32 << 20,
    ) -> None:
        self._put = put
        self._name = segment(name)
        self._part = min(rotate, _PART)
        #: Objects are counted from a number of this worker's own: stores do not tell two writers of one name apart.
        self._number = secrets.randbelow(10**9) * 10**6
        super().__init__(None, count, capacity, every)

    def close(self, timeout: float) -> None:
        """Takes no more, and writes what waits; gives up after `timeout` seconds."""
        super().close(timeout)
        with self._changed:
            lost = self._left
        for _ in range(lost):
            self._count("failed")

    def _keep(self, batch: list[Entry]) -> None:
        for part in self._parts(batch):
            objects: dict[tuple[str, str, str], list[bytes]] = defaultdict(list)
            for entry in part:
                entry.well = self._render(entry, objects)
            for key, lines in objects.items():
                self._number += 1
                self._send(self._path(key), b"\n".join(lines) + b"\n")
            for entry in part:
                self._done(entry)

    def _render(self, entry: Entry, objects: dict[tuple[str, str, str], list[bytes]]) -> bool:
        try:
            lines = list(entry.lines())
        except Exception as error:  # a record that cannot be made spoils no other
            self._complain(error)
            return False
        for stream, version, when, line in lines:
            objects[stream, segment(version), time.strftime("%Y%m%d%H", time.gmtime(when))].append(line)
        return True

    def _parts(self, batch: list[Entry]) -> Iterator[list[Entry]]:
        part: list[Entry] = []
        size = 0
        for entry in batch:
            part.append(entry)
            size += entry.size
            if size >= self._part:
                yield part
                part, size = [], 0
        if part:
            yield part

    def _send(self, path: str, data: bytes) -> None:
        """Returns once the store has the object."""
        pause = _FIRST
        while True:
            try:
                self._put(path, data)
                return
            except Exception as error:  # whatever a network, a store or a library raises
                self._complain(error)
            with self._changed:
                # A stop does not wait for the pause: it has a few seconds for all.
                self._changed.wait_for(lambda: self._closing, pause)
                closing = self._closing
            if closing:
                time.sleep(min(pause, _FIRST))
            pause = _FIRST if closing else min(_LAST, pause * 2)

    def _path(self, key: tuple[str, str, str]) -> str:
        stream, version, hour = key
        day = f"year={hour[:4]}/month={hour[4:6]}/day={hour[6:8]}"
        return f"{stream}/{self._name}/{version}/{day}/{hour}_{self._number}.json"


def store(url: str) -> Put:
    """What makes objects below an address that fsspec knows. Raises SettingsError where this image knows it not."""
    kind = url.partition("://")[0]
    try:
        import fsspec

        # Of a kind that is known; whether the store answers is seen when there is something to write.
        fsspec.get_filesystem_class(kind)
    except (ImportError, ValueError) as error:
        known = "; build it with -a logStorage=" + kind if kind in PACKAGES else ""
        raise SettingsError(f"MPACK_LOG_DIR is {url!r}, an address that this image does not know{known}.") from error
    made: list[Any] = []

    def put(path: str, data: bytes) -> None:
        if not made:
            # Not before, in the thread that writes: it may ask the network for credentials.
            made[:] = fsspec.core.url_to_fs(url)
        made[0].pipe_file(f"{made[1].rstrip('/')}/{path}", data)

    return put
