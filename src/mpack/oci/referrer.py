"""Referrers: small documents about an image, each in a manifest whose `subject` is the image's."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from mpack.oci.blobs import sha256_digest
from mpack.oci.image import MANIFEST, OciImage, canonical_json
from mpack.records import dataclass

EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY = b"{}"


@dataclass(frozen=True)
class Attachment:
    """A document: `kind` is its short name in file names, `media_type` also its referrer's artifactType."""

    kind: str
    media_type: str
    data: bytes = field(repr=False)
    annotations: tuple[tuple[str, str], ...] = ()
    #: (media type, content) of what stands beside the document; several images may have the same, sent once.
    parts: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)


def referrer_manifest(attachment: Attachment, image: OciImage) -> bytes:
    """The manifest that attaches a document to an image; the same bytes whenever it is made."""
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": attachment.media_type,
        "config": {"mediaType": EMPTY_TYPE, "digest": sha256_digest(EMPTY), "size": len(EMPTY)},
        "layers": [
            {"mediaType": media_type, "digest": sha256_digest(data), "size": len(data)}
            for media_type, data in ((attachment.media_type, attachment.data), *attachment.parts)
        ],
        "subject": {
            "mediaType": image.manifest.get("mediaType", MANIFEST),
            "digest": image.digest,
            "size": image.manifest_size,
        },
    }
    if attachment.annotations:
        manifest["annotations"] = dict(attachment.annotations)
    return canonical_json(manifest)


def referrer_descriptor(attachment: Attachment, manifest: bytes) -> dict[str, Any]:
    """A referrer as an index lists it."""
    found: dict[str, Any] = {
        "mediaType": MANIFEST,
        "digest": sha256_digest(manifest),
        "size": len(manifest),
        "artifactType": attachment.media_type,
    }
    if attachment.annotations:
        found["annotations"] = dict(attachment.annotations)
    return found
