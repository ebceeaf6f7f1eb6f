"""What every store is to the rest: a list of files with their versions, and a stream of each from any byte on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import field
from typing import Protocol

from mpack.connections import Connection
from mpack.progress import Progress
from mpack.records import dataclass


@dataclass(frozen=True)
class Access:
    """What a fetch is done with: None is the host's own credentials, and nobody to tell of the progress."""

    connection: Connection | None = None
    progress: Progress | None = None


@dataclass(frozen=True)
class Origin:
    """Where an artifact was fetched from. `uri` is public, with aliases resolved; `version` is the store's word for
    the state of a single object ("" for many, or none); `sha256` (hex) a single file's; `facts` what else is told."""

    uri: str
    version: str = ""
    sha256: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """For `--json`."""
        return {"uri": self.uri, "version": self.version or None, "sha256": self.sha256, **self.facts}


@dataclass(frozen=True)
class RemoteFile:
    """One object: `path` in the artifact (not checked), `key` as the store knows it, `size` in bytes.

    `version` changes when the content does; "" where the store has no such word, and then nothing of it is kept.
    `checksums`: algorithm (sha256, md5, crc32, crc32c) -> hex.
    """

    path: str
    key: str = field(repr=False)
    size: int | None
    version: str = ""
    checksums: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Body:
    """What a store answers: bytes from `start` on, which is 0 where it cannot begin later."""

    blocks: Iterator[bytes]
    start: int = 0
    checksums: Mapping[str, str] = field(default_factory=dict)


class Store(Protocol):
    """A store that was reached."""

    def open(self, file: RemoteFile, start: int) -> AbstractContextManager[Body]:
        """The file's bytes from `start` on, of the version that it was listed with.

        Raises Broken for what may go better the next time, InputError artifact-changed for another version.
        """
        ...


@dataclass(frozen=True)
class Remote:
    """An artifact in a store. `identity` tells its store from others, for the cache; `title` is its file name."""

    uri: str
    title: str
    files: tuple[RemoteFile, ...]
    directory: bool
    store: Store = field(repr=False)
    identity: str = field(repr=False)
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Bounds:
    """The most that may be listed: bytes and files."""

    total: int
    entries: int


class Broken(Exception):
    """A fault that may be over the next time: a cut connection, a server that is busy. Its text has no secret."""
