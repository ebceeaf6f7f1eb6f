"""Pushing an image or index of the store: blobs in parallel, a manifest when all that it names is there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpack.errors import EnvironmentFault, InputError
from mpack.oci.image import OciImage
from mpack.oci.imageindex import AnyImage, ImageIndex
from mpack.oci.referrer import Attachment
from mpack.oci.store import Store
from mpack.registry.client import ACCEPT
from mpack.registry.connection import Connection
from mpack.registry.credentials import Login
from mpack.registry.faults import refused
from mpack.registry.parallel import in_parallel
from mpack.registry.reference import Reference, names_registry, parse_reference
from mpack.registry.referrers import attach, blobs_of
from mpack.registry.tally import Tally
from mpack.registry.upload import PIECE, Blob, Stopped, Uploader

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True)
class Pushed:
    """What a push did: the manifest's digest, blobs by how they came, and the bytes of those that were sent."""

    digest: str
    there: int
    mounted: int
    sent: int
    sent_bytes: int

    def __str__(self) -> str:
        sent = f"sent {self.sent} blobs, {self.sent_bytes / 1e6:.1f} MB"
        return f"{sent}; {self.there} were there, {self.mounted} were mounted from other repositories"


def push(
    image: AnyImage,
    reference: Reference,
    store: Store,
    *,
    documents: Callable[[OciImage], Sequence[Attachment]] = lambda image: (),
    login: Login | None = None,
    http: httpx.Client | None = None,
    sleep: Callable[[float], None] | None = None,
    piece: int = PIECE,
) -> Pushed:
    """Pushes an image or index of the store under the reference's tag, and attaches the `documents` of each image. The
    caller holds a lease of the store.

    Until the last step the tag means what it meant, so a push that breaks off leaves no broken image; it is told how
    far it came. `login`: whose credentials, None for Docker's; `sleep` takes seconds, `piece` is bytes a request.
    Raises EnvironmentFault registry-failed or store-corrupt.
    """
    stop = threading.Event()

    def nap(seconds: float) -> None:
        if sleep is None:
            stop.wait(seconds)
        else:
            sleep(seconds)
        if stop.is_set():
            raise Stopped

    with Connection(reference, actions="pull,push", login=login, http=http, sleep=nap) as connection:
        uploader = Uploader(connection, stop, piece)
        attached = [documents(member) for member in image.images]
        papers = [blob for papers_of in attached for blob in blobs_of(papers_of)]
        config, *others = blobs = list({blob.digest: blob for blob in (*_blobs(image, store), *papers)}.values())
        tally = Tally(reference, blobs)

        def there(blob: Blob) -> bool:
            found = uploader.has(blob)
            if found:
                tally.came(blob)
            return found

        def bring(blob: Blob) -> bool:
            """True if it was mounted, False if it was sent."""
            mounted = uploader.mount(blob, lenders.get(blob.digest, ()))
            if not mounted:
                uploader.send(blob)
            tally.came(blob)
            return mounted

        with tally.told():
            # The first blob alone: it settles how to log in, before several threads would ask for that.
            lenders: dict[str, list[str]] = {}
            first = there(config)
            if not first:
                bring(config)
            found = in_parallel(there, others, stop)
            wanted = [blob for blob, known in zip(others, found, strict=True) if not known]
            lenders = mount_sources(store, image, reference, {blob.digest for blob in wanted}) if wanted else {}
            mounted = in_parallel(bring, wanted, stop)
            if isinstance(image, ImageIndex):
                for member in image.images:
                    put_manifest(connection, member, member.digest)
            digest = put_manifest(connection, image, reference.target)
            tally.visible = True
            for member, papers_of in zip(image.images, attached, strict=True):
                attach(connection, member, papers_of, stop)
    sent = [blob for blob, lent in zip(wanted, mounted, strict=True) if not lent] + ([] if first else [config])
    return Pushed(digest, sum(found) + first, sum(mounted), len(sent), sum(blob.size for blob in sent))


def put_manifest(connection: Connection, image: AnyImage, target: str) -> str:
    """Sends the manifest under a tag or its digest; returns the digest, which the registry must confirm."""
    reference = connection.reference
    raw = image.blobs.read(image.digest)
    path = f"/v2/{reference.repository}/manifests"
    what = f"Sending the manifest {image.digest} to {reference.registry}"
    headers = {"Content-Type": image.media_type}
    response = connection.request("PUT", f"{path}/{target}", what, headers, content=raw)
    if response.status_code not in (200, 201, 202, 204):
        raise connection.push_refused(response, what)
    answered = response.headers.get("docker-content-digest", "")
    if not answered:
        response = connection.request("HEAD", f"{path}/{image.digest}", what, {"Accept": ACCEPT})
        answered = image.digest if response.status_code == 200 else f"HTTP {response.status_code}"
    if answered != image.digest:
        raise refused(reference, f"it has stored {answered[:80]!r} where {image.digest} was sent")
    return image.digest


def mount_sources(store: Store, image: AnyImage, reference: Reference, digests: Iterable[str]) -> dict[str, list[str]]:
    """Repositories of the same registry that may have a blob: those by whose names the store has images with it.

    An image that was pushed or pulled has its name in the store. The base's repository comes last, for it is known by
    a label only. The registry decides: a name proves nothing.
    """
    found: dict[str, list[str]] = {digest: [] for digest in digests}
    for record in store.records():
        repositories = _repositories(record.names, reference)
        if not repositories:
            continue
        try:
            layers = {layer.digest for held in store.load(record.digest).images for layer in held.layers}
        except EnvironmentFault:
            continue  # a damaged image lends nothing
        for digest in layers & found.keys():
            found[digest] += repositories
    named = [member.labels.get("org.opencontainers.image.base.name", "") for member in image.images]
    base = _repositories(named, reference)
    return {digest: list(dict.fromkeys([*names, *base])) for digest, names in found.items()}


def _blobs(image: AnyImage, store: Store) -> list[Blob]:
    """A configuration, then all other configurations and layers, each once."""
    sizes = {member.id: int(member.manifest["config"]["size"]) for member in image.images}
    sizes.update((layer.digest, layer.size) for member in image.images for layer in member.layers)
    return [Blob(digest, size, store.path(digest)) for digest, size in sizes.items()]


def _repositories(names: Iterable[str], reference: Reference) -> list[str]:
    """The repositories among image names that are of the reference's registry, other than its own."""
    found = []
    for name in names:
        try:
            other = parse_reference(name) if names_registry(name) else None
        except InputError:
            continue  # a label may say anything
        if other and other.registry == reference.registry and other.repository != reference.repository:
            found.append(other.repository)
    return found
