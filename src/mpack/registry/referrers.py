"""Referrers at a registry: documents attached to an image there, by the referrers API, or a tag where it has none.

The tag is "sha256-HEX", that of OCI distribution 1.1's fallback: an image index of the referrers, which clients keep.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mpack.errors import EnvironmentFault
from mpack.oci.blobs import is_digest
from mpack.oci.image import OciImage, canonical_json
from mpack.oci.referrer import EMPTY, Attachment, referrer_descriptor, referrer_manifest
from mpack.registry.client import ACCEPT, MANIFEST_LIMIT, OCI_INDEX, OCI_MANIFEST, Descriptor, RegistryClient
from mpack.registry.connection import Connection
from mpack.registry.credentials import Login
from mpack.registry.faults import Missing, codes, refused
from mpack.registry.parallel import in_parallel
from mpack.registry.reference import Reference
from mpack.registry.upload import Blob

if TYPE_CHECKING:
    import httpx

#: Bytes: a larger document is not fetched.
DOCUMENT_LIMIT = 64 << 20


def blobs_of(documents: Sequence[Attachment]) -> list[Blob]:
    """The blobs that the documents' manifests name."""
    parts = (data for document in documents for _, data in document.parts)
    return [Blob.of(data) for data in (EMPTY, *(document.data for document in documents), *parts)] if documents else []


def attach(connection: Connection, image: OciImage, documents: Sequence[Attachment], stop: threading.Event) -> None:
    """Attaches documents to an image; the connection's repository has it, and the documents' blobs. The ones of an
    earlier push stay. Raises EnvironmentFault registry-failed."""

    def put(document: Attachment) -> dict[str, Any] | None:
        """The descriptor, where the registry does not list the document by itself."""
        manifest = referrer_manifest(document, image)
        found = referrer_descriptor(document, manifest)
        answer = _put(connection, found["digest"], manifest, OCI_MANIFEST)
        return None if answer.headers.get("oci-subject", "") == image.digest else found

    unlisted = [found for found in in_parallel(put, documents, stop) if found is not None]
    if unlisted:
        _list_by_tag(connection, image.digest, unlisted)


def fetch(
    reference: Reference,
    digest: str,
    media_type: str,
    part_type: str = "",
    *,
    login: Login | None = None,
    http: httpx.Client | None = None,
) -> Iterator[list[bytes]]:
    """The documents of a type that are attached to the manifest `digest` in the reference's repository, each with its
    part of the other type, if it has one; what is listed and gone, or too large, is passed over.

    Raises EnvironmentFault registry-failed for an answer that cannot be used.
    """
    named = Reference(reference.registry, reference.repository, None, digest)
    with Connection(named, login=login, http=http) as connection:
        listed = _listed(connection, digest)
    for item in listed:
        if item.get("artifactType") != media_type or not is_digest(str(item.get("digest"))):
            continue
        place = Reference(reference.registry, reference.repository, None, str(item["digest"]))
        with RegistryClient(place, login=login, http=http) as client, suppress(Missing):
            layers = _layers(client.manifest(), digest, (media_type, part_type))
            documents = [client.read(layer, DOCUMENT_LIMIT) for layer in layers]
            if documents:
                yield documents


def tag_of(digest: str) -> str:
    """The tag under which a manifest's referrers are listed where the registry does not list them."""
    return digest.replace(":", "-")


def _layers(manifest: dict[str, Any], subject: str, types: tuple[str, str]) -> list[Descriptor]:
    """The document in a referrer of `subject`, by its type, and the part of the other type; [] for what is none."""
    try:
        if manifest["subject"]["digest"] != subject:
            return []
        document, *parts = [item for item in manifest["layers"] if item["mediaType"] in types]
        found = [Descriptor.from_json(item) for item in (document, *parts)]
        fitting = [item["mediaType"] for item in (document, *parts)] in ([types[0]], list(types))
        return found if fitting and all(item.size <= DOCUMENT_LIMIT for item in found) else []
    except (KeyError, TypeError, ValueError):
        return []


def _put(connection: Connection, target: str, manifest: bytes, media_type: str) -> httpx.Response:
    reference = connection.reference
    what = f"Attaching to {reference} at {reference.registry}"
    path = f"/v2/{reference.repository}/manifests/{target}"
    answer = connection.request("PUT", path, what, {"Content-Type": media_type}, content=manifest)
    if answer.status_code not in (200, 201, 202, 204):
        fault = connection.push_refused(answer, what)
        raise EnvironmentFault(
            fault.code,
            f"The image is pushed, but its documents are not: {fault.message}",
            f"{fault.hint} Where a registry takes no such manifests, --no-attest pushes the image alone.",
        )
    return answer


def _list_by_tag(connection: Connection, digest: str, new: Sequence[dict[str, Any]]) -> None:
    """Adds referrers to the index under the fallback tag; writes nothing where they are in it."""
    held = _index(connection, f"manifests/{tag_of(digest)}")
    known = {item.get("digest") for item in held}
    missing = [item for item in new if item["digest"] not in known]
    if not missing:
        return
    every = sorted([*held, *missing], key=lambda item: str(item.get("digest")))
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": every}
    _put(connection, tag_of(digest), canonical_json(index), OCI_INDEX)


def _listed(connection: Connection, digest: str) -> list[dict[str, Any]]:
    """The referrers of a manifest: by the API (its first page) where the registry has it, and by the tag, under which
    they stay where a registry came by the API later."""
    listed = [*_index(connection, f"referrers/{digest}"), *_index(connection, f"manifests/{tag_of(digest)}")]
    return list({str(item.get("digest")): item for item in listed}.values())


def _index(connection: Connection, path: str) -> list[dict[str, Any]]:
    """The descriptors of an index at the registry; [] where there is none."""
    reference = connection.reference
    what = f"Asking {reference.registry} what is attached to {reference}"
    target = f"/v2/{reference.repository}/{path}"
    answer, data = connection.request_whole(target, what, {"Accept": ACCEPT}, MANIFEST_LIMIT)
    if len(data) > MANIFEST_LIMIT:
        raise refused(reference, f"{what} was answered with more than {MANIFEST_LIMIT} bytes")
    if answer.status_code in (400, 404, 405) or "UNSUPPORTED" in codes(data.decode("utf-8", "replace")):
        return []
    if answer.status_code != 200:
        raise refused(reference, f"{what} ended with HTTP {answer.status_code}")
    try:
        found = json.loads(data)["manifests"]
        if not all(isinstance(item, dict) for item in found):
            raise TypeError("an entry that is no object")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise refused(reference, f"{what} was answered with no index ({error})") from error
    return list(found)
