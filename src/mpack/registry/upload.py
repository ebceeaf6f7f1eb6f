"""Blobs into a repository of a registry: what is there is not sent, what can be mounted is not sent either."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal
from urllib.parse import quote, urlencode

from mpack.errors import EnvironmentFault
from mpack.oci.blobs import damaged, missing, sha256_digest
from mpack.registry.connection import Connection
from mpack.registry.transport import ATTEMPTS, RETRIED_STATUS, is_transient, pause, unreachable

if TYPE_CHECKING:
    import httpx

#: Bytes: a smaller blob goes in one request, a larger one in pieces of this size.
PIECE = 32 << 20
_BLOCK = 1 << 18
#: Seconds that a registry may take to check and move a blob that it has got whole.
COMMIT_TIMEOUT = 600.0
#: How many repositories are asked to lend a blob.
LENDERS = 3
#: What registries answer that do not take a blob in pieces.
_NO_PIECES = frozenset({400, 404, 405, 411, 415, 501})
_TAKEN = frozenset({201, 202, 204})
_PASSING = RETRIED_STATUS | {416}
_BINARY = {"Content-Type": "application/octet-stream"}
_RANGE = re.compile(r"(?:bytes=)?0-(\d+)")


@dataclass(frozen=True)
class Blob:
    """A file of the store and what it must be, or a document in memory (`data`); `size` is bytes."""

    digest: str
    size: int
    path: Path | None = None
    data: bytes = b""

    @classmethod
    def of(cls, data: bytes) -> Blob:
        """A document as a blob."""
        return cls(sha256_digest(data), len(data), data=data)

    def open(self) -> BinaryIO:
        return io.BytesIO(self.data) if self.path is None else self.path.open("rb")


@dataclass
class _Way:
    """How far an upload came: where it goes ("" before it begins), the bytes there, failures since it got further."""

    blob: Blob
    what: str
    place: str = ""
    offset: int = 0
    furthest: int = 0
    failures: int = 0
    wait: float = 0.0

    def failed(self) -> int:
        """Counts a failure; how many there were."""
        self.failures = 1 if self.offset > self.furthest else self.failures + 1
        self.furthest = max(self.furthest, self.offset)
        return self.failures


class Stopped(Exception):
    """The push was given up while this blob was under way."""


class Uploader:
    """Puts blobs into the connection's repository. Threads may share it; `stop` ends them."""

    def __init__(self, connection: Connection, stop: threading.Event, piece: int = PIECE) -> None:
        self._connection = connection
        self._reference = connection.reference
        self._path = f"/v2/{connection.reference.repository}/blobs"
        self._stop = stop
        self._piece = piece
        #: False once the registry has refused a piece.
        self._pieces = True

    def has(self, blob: Blob) -> bool:
        """True if the repository has the blob."""
        what = f"Asking {self._reference.registry} for {blob.digest}"
        response = self._connection.request("HEAD", f"{self._path}/{blob.digest}", what)
        if response.status_code not in (200, 404):
            raise self._connection.push_refused(response, what)
        return response.status_code == 200

    def mount(self, blob: Blob, repositories: Sequence[str]) -> bool:
        """True if the registry took the blob from another of its repositories; a refusal is no error."""
        for repository in repositories[:LENDERS]:
            query = urlencode({"mount": blob.digest, "from": repository})
            try:
                response = self._connection.request("POST", f"{self._path}/uploads/?{query}", "Mounting a blob")
            except EnvironmentFault:
                return False  # a token for that repository may be refused; the upload says what else is wrong
            if response.status_code == 201:
                return True
            if response.status_code == 202:
                self._cancel(response.headers.get("location", ""))
        return False

    def send(self, blob: Blob) -> None:
        """Sends a blob; goes on where it broke off if the registry kept that, else begins again.

        Raises EnvironmentFault registry-failed or store-corrupt, and Stopped.
        """
        self._check(blob)
        way = _Way(blob, f"Sending {blob.digest} ({blob.size / 1e6:.1f} MB) to {self._reference.registry}")
        while not self._arrived(way):
            self._connection.sleep(way.wait)
            if self.has(blob):
                return  # it had arrived; only the answer was lost
            way.place, way.offset = self._where(way) if self._in_pieces(blob) else ("", 0)

    def _arrived(self, way: _Way) -> bool:
        """Sends what is left; False where it broke off and is worth another attempt after `way.wait` seconds."""
        import httpx

        blob = way.blob
        try:
            while True:
                if not way.place:
                    way.place, way.offset = self._begin(way.what), 0
                if not self._in_pieces(blob) or way.offset == blob.size:
                    break
                response = self._patch(way)
                if response.status_code not in _TAKEN | _NO_PIECES:
                    return self._later(way, response)
                received = _received(response, self._end(way))
                if response.status_code in _NO_PIECES or not way.offset < received <= blob.size:
                    self._pieces, way.place = False, ""
                else:
                    way.place, way.offset = _location(response, way.place), received
            response = self._put(way)
            if response.status_code not in _TAKEN:
                return self._later(way, response)
            return True
        except httpx.TransportError as error:
            if way.failed() >= ATTEMPTS or not is_transient(error):
                raise unreachable(way.what, error, way.failures) from error
            way.wait = pause(way.failures)
            return False

    def _later(self, way: _Way, response: httpx.Response) -> Literal[False]:
        """Notes a refusal that may pass; raises for one that will not."""
        if way.failed() < ATTEMPTS and response.status_code in _PASSING:
            way.wait = pause(way.failures, response.headers)
            return False
        fault = self._connection.push_refused(response, way.what)
        if "DIGEST_INVALID" in fault.message:
            self._check(way.blob, whole=True)
        raise fault

    def _in_pieces(self, blob: Blob) -> bool:
        return self._pieces and blob.size > self._piece

    def _end(self, way: _Way) -> int:
        return min(way.offset + self._piece, way.blob.size)

    def _begin(self, what: str) -> str:
        """Where a new upload goes."""
        response = self._connection.request("POST", f"{self._path}/uploads/", what)
        if response.status_code != 202 or "location" not in response.headers:
            raise self._connection.push_refused(response, what)
        return _location(response, "")

    def _patch(self, way: _Way) -> httpx.Response:
        """Sends the next piece."""
        start, end = way.offset, self._end(way)
        headers = {"Content-Length": str(end - start), "Content-Range": f"{start}-{end - 1}", **_BINARY}
        content = _Body(way.blob, start, end, self._stop)
        return self._connection.once("PATCH", way.place, headers, content=content, timeout=COMMIT_TIMEOUT)

    def _put(self, way: _Way) -> httpx.Response:
        """Sends the rest, perhaps nothing, and says that this was all."""
        blob, start = way.blob, way.offset
        target = f"{way.place}{'&' if '?' in way.place else '?'}digest={quote(blob.digest, safe='')}"
        headers = {"Content-Length": str(blob.size - start), **_BINARY}
        content = _Body(blob, start, blob.size, self._stop) if start < blob.size else b""
        return self._connection.once("PUT", target, headers, content=content, timeout=COMMIT_TIMEOUT)

    def _where(self, way: _Way) -> tuple[str, int]:
        """Where an upload that broke off goes on, and from which byte; ("", 0) if the registry has given it up."""
        if not way.place:
            return "", 0
        response = self._connection.request("GET", way.place, "Asking how far an upload came")
        received = _received(response, 0)
        if response.status_code not in (200, 204) or received > way.blob.size:
            return "", 0
        return _location(response, way.place), received

    def _cancel(self, place: str) -> None:
        """Gives up an upload that is not needed. A registry that does not do so forgets it in time."""
        import httpx

        try:
            self._connection.once("DELETE", place)
        except (httpx.TransportError, EnvironmentFault):
            pass

    def _check(self, blob: Blob, *, whole: bool = False) -> None:
        """Raises EnvironmentFault store-corrupt where the file is not the blob: by its size, or by all of it."""
        if blob.path is None:
            return
        try:
            if blob.path.stat().st_size != blob.size or (whole and _digest(blob.path) != blob.digest):
                raise damaged(blob.digest, blob.path)
        except FileNotFoundError:
            raise missing(blob.digest, blob.path) from None


class _Body:
    """A part of a blob's file in blocks; it can be read again, for a request that is repeated."""

    def __init__(self, blob: Blob, start: int, end: int, stop: threading.Event) -> None:
        self._blob, self._start, self._end, self._stop = blob, start, end, stop

    def __iter__(self) -> Iterator[bytes]:
        left = self._end - self._start
        with self._blob.open() as stream:
            stream.seek(self._start)
            while left:
                block = stream.read(min(_BLOCK, left))
                if not block:
                    assert self._blob.path is not None
                    raise damaged(self._blob.digest, self._blob.path)
                if self._stop.is_set():
                    raise Stopped
                left -= len(block)
                yield block


def _location(response: httpx.Response, before: str) -> str:
    """Where an upload goes on; what is no URL is left for the connection to refuse."""
    import httpx

    named = str(response.headers.get("location", before))
    try:
        return str(response.url.join(named))
    except httpx.InvalidURL:
        return named


def _received(response: httpx.Response, otherwise: int) -> int:
    """How many bytes the registry has, by its Range header; "0-0" is what registries say of none."""
    found = _RANGE.fullmatch(response.headers.get("range", "").strip())
    if not found:
        return otherwise
    return int(found[1]) + 1 if int(found[1]) else 0


def _digest(path: Path) -> str:
    import hashlib

    with path.open("rb") as stream:
        hasher = hashlib.sha256()
        while block := stream.read(1 << 20):
            hasher.update(block)
    return "sha256:" + hasher.hexdigest()
