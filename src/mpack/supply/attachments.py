"""The documents of an image of the store, and the files that they are where there is no registry to hold them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from mpack.errors import InputError, UsageError
from mpack.oci.files import disk_faults, write_whole
from mpack.oci.image import OciImage, canonical_json
from mpack.oci.referrer import Attachment
from mpack.oci.store import Store
from mpack.paths import cache_dir
from mpack.records import dataclass
from mpack.supply.provenance import BUILD_TYPE, Provenance

#: The kinds of documents that go with an image.
KINDS = ("sbom", "provenance")
#: Bytes: larger documents are nobody's.
LIMIT = 64 << 20


@dataclass(frozen=True)
class Kept:
    """How an image was built: its provenance, and where the artifact was on this machine ("": built elsewhere)."""

    provenance: Provenance
    location: str

    @property
    def own(self) -> bool:
        """True for a record that this machine made, and nobody else."""
        return self.location != ""


def keep(store: Store, image_id: str, made: Kept, *, in_store: bool) -> None:
    """Remembers how an image was built; `in_store` False for one that only an engine has."""
    value = {"location": made.location, "predicate": made.provenance.predicate()}
    store.provenance.put(image_id, canonical_json(value), in_store=in_store)


def kept(store: Store, image_id: str) -> Kept | None:
    """How an image was built, or None. Raises InputError provenance-invalid for what another version kept."""
    data = store.provenance.get(image_id)
    if data is None:
        return None
    try:
        value = json.loads(data)
        location, predicate = str(value["location"]), value["predicate"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            "provenance-invalid",
            f"What the store remembers of {image_id} is damaged.",
            "Build the image again from its artifact.",
        ) from error
    return Kept(Provenance.from_predicate(predicate), location)


def sbom_of(image: OciImage, provenance: Provenance | None, *, apart: bool = False) -> Attachment:
    """The SBOM of an image whose blobs are at hand; without provenance the model's files are read for it.

    `apart`: without what the subject of a referrer and the provenance beside it say, see `make_sbom`.
    """
    from mpack.supply.facts import model_files, read_facts
    from mpack.supply.sbom import make_sbom

    models = provenance.model_files() if provenance else model_files(image)
    facts = read_facts(image, facts_dir(), by_kind=provenance is not None)
    return make_sbom(image, facts, models, provenance, facts_dir(), apart=apart)


def attachments(image: OciImage, store: Store, *, apart: bool) -> tuple[Attachment, ...]:
    """The SBOM and the provenance of an image of the store; none for one that mpack did not build here.

    `apart`, for a registry: what does not change when a model is trained again is a blob by itself, and sent once.
    """
    found = kept(store, image.id)
    if found is None:
        return ()
    return sbom_of(image, found.provenance, apart=apart), found.provenance.attachment(image, apart=apart)


def facts_dir() -> Path:
    """Where earlier readings of layers, and what was made of them, are kept."""
    return cache_dir() / "sbom"


def beside(path: Path, kind: str, image_digest: str, *, several: bool = False) -> Path:
    """Where a document of an image in a file is: inside an OCI layout; beside an archive, which may hold `several`."""
    own = f"{image_digest.replace(':', '-')}.{kind}.json"
    if path.is_dir():
        return path / own
    return path.with_name(f"{path.name}.{own if several else f'{kind}.json'}")


def write_beside(path: Path, image_digest: str, documents: Iterable[Attachment], *, several: bool = False) -> None:
    """Writes an image's documents beside its archive or into its layout; removes mpack's of another image there.

    Raises UsageError for a file of that name that is not mpack's, EnvironmentFault disk-full or disk-unwritable.
    """
    found = {document.kind: document.data for document in documents}
    for kind in KINDS:
        place = beside(path, kind, image_digest, several=several)
        with disk_faults(f"Writing {place}", place.parent):
            own = not place.exists() or _is_own(place, kind)
            if kind in found and not own:
                raise UsageError(
                    "usage",
                    f"{place} is there and is no {kind} of mpack's, so it is not replaced; {path} is written.",
                    "Move it away, or write none with --no-attest.",
                )
            if kind in found:
                write_whole(place, found[kind])
            elif own:
                place.unlink(missing_ok=True)


def _is_own(path: Path, kind: str) -> bool:
    """True for a file that `write_beside` wrote, by what it says."""
    try:
        with path.open("rb") as stream:
            value = json.loads(stream.read(LIMIT))
        if kind == "sbom":
            return any(item["name"] == "mpack" for item in value["metadata"]["tools"]["components"])
        return bool(value["predicate"]["buildDefinition"]["buildType"] == BUILD_TYPE)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def read_beside(path: Path, kind: str, image_digest: str) -> bytes | None:
    """A document that `write_beside` wrote, or None. Raises InputError provenance-invalid for one that is too large."""
    for several in (True, False):
        place = beside(path, kind, image_digest, several=several)
        try:
            with place.open("rb") as stream:
                data = stream.read(LIMIT + 1)
        except OSError:
            continue
        if len(data) > LIMIT:
            raise InputError("provenance-invalid", f"{place} has more than {LIMIT >> 20} MB.")
        return data
    return None
