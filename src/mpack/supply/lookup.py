"""The SBOM of an image; its provenance wherever that is: in the store, beside its file, at its registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mpack.errors import InputError
from mpack.images import FILES
from mpack.oci.image import OciImage
from mpack.oci.referrer import Attachment
from mpack.oci.store import Store
from mpack.registry.reference import names_registry, parse_reference
from mpack.registry.referrers import fetch
from mpack.supply.attachments import Kept, facts_dir, kept, read_beside, sbom_of
from mpack.supply.facts import read_facts
from mpack.supply.provenance import IN_TOTO, LOCK, read_statement


def find_sbom(reference: str, image: OciImage, store: Store) -> Attachment:
    """The SBOM of an image whose blobs are at hand, made from its files, and from its lock where it was built here.

    One that goes with it elsewhere is not asked: nobody can tell who wrote that. Raises InputError sbom-unknown, and
    what reading the image raises.
    """
    known = kept(store, image.id)
    if known is not None:
        return sbom_of(image, known.provenance)
    if not read_facts(image, facts_dir()).packages and "dev.mpack.packager" not in image.labels:
        raise InputError(
            "sbom-unknown",
            f"The files of {reference} tell of no Python distribution and no Debian package.",
            "For an image of another distribution ask that one's own tools.",
        )
    return sbom_of(image, None)


def find_provenance(reference: str, image_id: str, digest: str | None, store: Store) -> Kept | None:
    """How an image was built, or None where nothing tells; the location is "" where it was built elsewhere.

    `digest` is the manifest's, None where an engine has the image. Raises InputError provenance-invalid.
    """
    known = kept(store, image_id)
    if known is not None:
        return known
    wrong: InputError | None = None
    for data, *parts in _documents(reference, digest):
        try:
            return Kept(read_statement(data, (digest, image_id), parts), "")
        except InputError as error:
            wrong = error  # another tool's statement, perhaps; the next one may be mpack's
    if wrong is not None:
        raise wrong
    return None


def _documents(reference: str, digest: str | None) -> Iterator[list[bytes]]:
    """What may be the provenance of an image in a file, or at the registry that it names, with its parts."""
    form, _, path = reference.partition(":")
    if form in FILES and path:
        data = read_beside(Path(path), "provenance", digest or "")
        if data is not None:
            yield [data]
    elif digest is not None and names_registry(reference):
        yield from fetch(parse_reference(reference), digest, IN_TOTO, LOCK)
