"""Documents attached to images at a registry in memory: a fake, because Debian's has no referrers API.

What the fallback does at a real registry is tested in tests/integration/test_supply.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpack.errors import EnvironmentFault
from mpack.oci.blobs import sha256_digest
from mpack.oci.image import OciImage
from mpack.oci.referrer import Attachment
from mpack.oci.store import Store
from mpack.registry import Reference, parse_reference, referrers
from mpack.registry.push import push
from mpack.registry.referrers import fetch, tag_of
from mpack.testing.fakeregistry import FakeRegistry, Fault
from mpack.testing.tiny import tiny_base

pytestmark = pytest.mark.usefixtures("docker_config")

SBOM = Attachment("sbom", "application/vnd.cyclonedx+json", b'{"a":1}')
NOTE = Attachment(
    "provenance", "application/vnd.in-toto+json", b'{"b":2}', (("kind", "note"),), (("text/plain", b"part"),)
)


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    """A registry without faults yet."""
    with FakeRegistry().serving() as registry:
        yield registry


@pytest.fixture
def pushed(fake: FakeRegistry, tmp_path: Path) -> tuple[OciImage, Store, Reference]:
    """An image that the registry has."""
    store = Store(tmp_path / "store")
    image, reference = tiny_base(store), parse_reference(f"{fake.host}/team/wine:1")
    push(image, reference, store)
    return image, store, reference


@pytest.mark.parametrize("api", [True, False], ids=["API", "tag"])
def test_attached_and_found(fake: FakeRegistry, pushed: tuple[OciImage, Store, Reference], api: bool) -> None:
    """Each document comes back by its type, attached once however often; the tag is written only without the API."""
    fake.lists_referrers = api
    image, store, reference = pushed
    for _ in range(2):
        push(image, reference, store, documents=lambda _: [SBOM, NOTE])
    for document in (SBOM, NOTE):
        parts = [data for _, data in document.parts]
        assert list(fetch(reference, image.digest, document.media_type, "text/plain")) == [[document.data, *parts]]
        assert list(fetch(reference, image.digest, document.media_type, "text/html")) == [[document.data]]
    assert list(fetch(reference, image.digest, "text/plain")) == []
    tag = ("team/wine", tag_of(image.digest))
    assert (tag in fake.manifests) is not api
    if not api:
        listed = json.loads(fake.manifests[tag])["manifests"]
        assert sorted(item["artifactType"] for item in listed) == sorted([SBOM.media_type, NOTE.media_type])
        assert len(fake.asked("PUT", tag[1])) == 1, "the second time nothing was missing"
    assert fake.manifests["team/wine", "1"] == image.blobs.read(image.digest), "the image is as it was"


def test_what_others_attached_stays(fake: FakeRegistry, pushed: tuple[OciImage, Store, Reference]) -> None:
    """The tag's index keeps entries that mpack did not write, and a document of another image is not taken."""
    image, store, reference = pushed
    push(image, reference, store, documents=lambda _: [NOTE])
    tag = ("team/wine", tag_of(image.digest))
    theirs = {"mediaType": "x", "digest": "sha256:" + "0" * 64, "size": 1, "artifactType": "theirs"}
    fake.manifests["team/wine", str(theirs["digest"])] = b"{}"
    index = json.loads(fake.manifests[tag])
    fake.manifests[tag] = json.dumps({**index, "manifests": [*index["manifests"], theirs]}).encode()
    push(image, reference, store, documents=lambda _: [SBOM])
    assert theirs in json.loads(fake.manifests[tag])["manifests"]
    other = "sha256:" + "1" * 64
    fake.manifests["team/wine", tag_of(other)] = fake.manifests[tag]
    assert list(fetch(reference, other, SBOM.media_type)) == []


def test_listed_and_gone(
    fake: FakeRegistry, pushed: tuple[OciImage, Store, Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A referrer whose manifest or document is gone, or too large, hides no other, nor does the API what is listed by
    the tag."""
    image, store, reference = pushed
    gone, broken = (Attachment("sbom", SBOM.media_type, text) for text in (b"1", b"2"))
    push(image, reference, store, documents=lambda _: [gone, SBOM, broken])
    tag = json.loads(fake.manifests["team/wine", tag_of(image.digest)])["manifests"]
    held = {item["digest"]: fake.manifests["team/wine", item["digest"]] for item in tag}
    for digest, raw in held.items():
        [layer] = json.loads(raw)["layers"]
        if layer["digest"] == sha256_digest(gone.data):
            del fake.manifests["team/wine", digest]
        if layer["digest"] == sha256_digest(broken.data):
            del fake.blobs["team/wine", layer["digest"]]
    assert list(fetch(reference, image.digest, SBOM.media_type)) == [[SBOM.data]]
    fake.lists_referrers = True
    later = Attachment("sbom", SBOM.media_type, b"3")
    push(image, reference, store, documents=lambda _: [later])
    assert sorted(fetch(reference, image.digest, SBOM.media_type)) == sorted([[SBOM.data], [later.data]])
    monkeypatch.setattr(referrers, "DOCUMENT_LIMIT", len(SBOM.data) - 1)
    assert list(fetch(reference, image.digest, SBOM.media_type)) == [[later.data]]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("PUT", "/manifests/sha256:", status=400), "HTTP 400"),
        (Fault("PUT", "/manifests/sha256-", status=403), "refuses a push"),
        (Fault("GET", "/manifests/sha256-", status=200, body=b"[]"), "no index"),
    ],
    ids=["manifest", "tag", "nonsense"],
)
def test_refusals(fake: FakeRegistry, pushed: tuple[OciImage, Store, Reference], fault: Fault, said: str) -> None:
    """A registry that takes no documents is told with what it said; refusals say that the image itself is there."""
    image, store, reference = pushed
    assert {"there": 2, "sent": 0}.items() <= vars(push(image, reference, store)).items(), "only documents are new"
    fake.faults = [fault]
    with pytest.raises(EnvironmentFault, match=said) as caught:
        push(image, reference, store, documents=lambda _: [SBOM])
    assert caught.value.code == "registry-failed"
    assert fault.method == "GET" or ("image is pushed" in caught.value.message and "--no-attest" in caught.value.hint)
