"""A read client of the OCI distribution API for one registry: resolve a reference, read manifests and blobs."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mpack.errors import EnvironmentFault, InputError
from mpack.registry.connection import Connection
from mpack.registry.credentials import Login
from mpack.registry.faults import Missing, refused
from mpack.registry.reference import Reference
from mpack.registry.transport import ATTEMPTS, is_transient, pause, unreachable

if TYPE_CHECKING:
    import httpx

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
ACCEPT = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST))
#: Bytes: larger manifests are refused, as registries refuse them.
MANIFEST_LIMIT = 4 << 20


@dataclass(frozen=True)
class Descriptor:
    """A blob by media type, digest ("sha256:…") and size in bytes."""

    media_type: str
    digest: str
    size: int

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Descriptor:
        return cls(str(data["mediaType"]), str(data["digest"]), int(data["size"]))


@dataclass(frozen=True)
class Resolved:
    """One platform's manifest: its digest, its exact bytes, and what it names."""

    reference: Reference
    digest: str
    media_type: str
    raw: bytes = field(repr=False)
    config: Descriptor
    layers: tuple[Descriptor, ...]


class RegistryClient:
    """Reads from the registry of one reference. A context manager; use one client for one pull."""

    def __init__(
        self,
        reference: Reference,
        *,
        login: Login | None = None,
        http: httpx.Client | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._reference = reference
        self._connection = Connection(reference, login=login, http=http, sleep=sleep)
        self._sleep = sleep

    def __enter__(self) -> RegistryClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def resolve(self, platform: str) -> Resolved:
        """The manifest for `platform` ("linux/amd64", "linux/arm64/v8").

        Raises EnvironmentFault (registry-failed; image-unknown where the registry has no such image) and InputError
        base-unsuitable where it has the image for other platforms only.
        """
        media_type, digest, raw = self._manifest(self._reference.target)
        if media_type in (OCI_INDEX, DOCKER_LIST):
            digest = choose_platform(_parse(raw, self._reference), platform, self._reference)
            media_type, digest, raw = self._manifest(digest)
        manifest = _parse(raw, self._reference)
        if media_type not in (OCI_MANIFEST, DOCKER_MANIFEST):
            raise refused(self._reference, f"it answers with a manifest of type {media_type}, which is not supported")
        try:
            config = Descriptor.from_json(manifest["config"])
            layers = tuple(Descriptor.from_json(item) for item in manifest["layers"])
        except (KeyError, TypeError, ValueError) as error:
            raise refused(self._reference, f"its manifest {digest} is not an image's") from error
        return Resolved(self._reference, digest, media_type, raw, config, layers)

    def manifest(self) -> dict[str, Any]:
        """The manifest or index that the reference names, as it stands. Raises EnvironmentFault as `resolve`."""
        return _parse(self._manifest(self._reference.target)[2], self._reference)

    def digest(self) -> str:
        """The digest of the manifest or index that the reference names. Raises EnvironmentFault as `resolve`."""
        return self._manifest(self._reference.target)[1]

    def platforms(self) -> list[str]:
        """The platforms of the index that the reference names, sorted; none where it names an image. Raises as
        `resolve`."""
        return sorted({name for name, _ in _members(self.manifest())})

    def blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        """The bytes of a blob in blocks, resumed where the connection broke; size and digest are checked at the end.

        ATTEMPTS in a row that bring nothing are too many. Raises EnvironmentFault registry-failed; a reader that has
        used the blocks must then forget them.
        """
        import httpx

        what = f"Reading {descriptor.digest} of {self._reference.name}"
        hasher, done = hashlib.sha256(), 0
        number, before = 0, -1
        while number < ATTEMPTS:
            number, before = (1 if done > before else number + 1), done
            try:
                for block in self._stream(descriptor, done, what):
                    hasher.update(block)
                    done += len(block)
                    if done > descriptor.size:
                        raise refused(self._reference, f"{descriptor.digest} is longer than {descriptor.size} bytes")
                    yield block
            except httpx.TransportError as error:
                if number == ATTEMPTS or not is_transient(error):
                    raise unreachable(what, error, number) from error
                self._sleep(pause(number))
                continue
            if done >= descriptor.size:
                break
            self._sleep(pause(number))  # a short body without an error: ask for the rest
        if done != descriptor.size or f"sha256:{hasher.hexdigest()}" != descriptor.digest:
            raise refused(self._reference, f"what it sends for {descriptor.digest} is damaged ({done} bytes)")

    def read(self, descriptor: Descriptor, limit: int = MANIFEST_LIMIT) -> bytes:
        """A whole small blob: the image configuration, a document. Raises as `blob`, and above `limit` bytes."""
        if descriptor.size > limit:
            raise refused(self._reference, f"{descriptor.digest} in it has {descriptor.size} bytes")
        return b"".join(self.blob(descriptor))

    def _stream(self, descriptor: Descriptor, offset: int, what: str) -> Iterator[bytes]:
        path = f"/v2/{self._reference.repository}/blobs/{descriptor.digest}"
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        response = self._connection.request("GET", path, what, headers, stream=True)
        try:
            if response.status_code not in (200, 206):
                response.read()
                fault = self._refused(response, what)
                raise Missing(fault.code, fault.message, fault.hint) if response.status_code == 404 else fault
            skip = offset if response.status_code == 200 else 0  # a server without ranges begins again
            for block in response.iter_bytes():
                if skip >= len(block):
                    skip -= len(block)
                    continue
                yield block[skip:]
                skip = 0
        finally:
            response.close()

    def _manifest(self, target: str) -> tuple[str, str, bytes]:
        what = f"Asking {self._reference.registry} for {self._reference.repository} ({target})"
        path = f"/v2/{self._reference.repository}/manifests/{target}"
        response, raw = self._connection.request_whole(path, what, {"Accept": ACCEPT}, MANIFEST_LIMIT)
        if len(raw) > MANIFEST_LIMIT:
            raise refused(self._reference, f"its manifest is larger than {MANIFEST_LIMIT} bytes")
        if response.status_code == 404:
            raise Missing("image-unknown", f"The registry has no image {self._reference}.", "Check its name and tag.")
        if response.status_code != 200:
            raise self._refused(response, what)
        digest = "sha256:" + hashlib.sha256(raw).hexdigest()
        if target.startswith("sha256:") and digest != target:
            raise refused(self._reference, f"it sends {digest} when asked for {target}")
        media_type = _parse(raw, self._reference).get("mediaType") or response.headers.get("content-type", "")
        return str(media_type).partition(";")[0].strip(), digest, raw

    def _refused(self, response: httpx.Response, what: str) -> EnvironmentFault:
        """The error for an answer without what was asked for."""
        status = response.status_code
        if status in (401, 403):
            why = f"it refuses access to the repository {self._connection.identity} (HTTP {status})"
            return refused(self._reference, why, f"{self._connection.remedy}.")
        reason = "" if status == 404 else re.sub(r"[^ -~]", "", response.reason_phrase)
        return refused(self._reference, f"{what} ended with HTTP {status} {reason}".rstrip())


def choose_platform(index: dict[str, Any], platform: str, reference: Reference) -> str:
    """The digest of the manifest for `platform` in an image index. Raises InputError base-unsuitable."""
    system, architecture, variant = (*platform.split("/"), "", "")[:3]
    available, fitting = [], []
    for name, item in _members(index):
        found = item["platform"]
        available.append(name)
        if (found["os"], found.get("architecture")) != (system, architecture):
            continue
        if variant and found.get("variant") not in (None, variant):
            continue
        fitting.append((found.get("variant") != (variant or None), str(item["digest"])))
    if not fitting:
        raise InputError(
            "base-unsuitable",
            f"{reference} is not there for {platform}; it has {', '.join(sorted(available)) or 'no platform'}.",
            "Choose another base, or one of these with --platform.",
        )
    # arm64 without a variant means v8 and amd64 the plain one: the exact entry first, else the first that fits.
    return min(fitting, key=lambda item: item[0])[1]


def _members(index: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """An index's images: platform and entry."""
    for item in index.get("manifests", []):
        found = item.get("platform") or {}
        if found.get("os") not in (None, "unknown"):  # attestations stand in an index as platform unknown/unknown
            yield "/".join(filter(None, (found["os"], found.get("architecture"), found.get("variant")))), item


def _parse(raw: bytes, reference: Reference) -> dict[str, Any]:
    try:
        manifest = json.loads(raw)
    except ValueError as error:
        raise refused(reference, "its manifest is not JSON") from error
    if not isinstance(manifest, dict):
        raise refused(reference, "its manifest is not a JSON object")
    return manifest
