"""Pulling from a registry in memory, a fake because a real one cannot be made to fail at a chosen byte."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpack.errors import EnvironmentFault
from mpack.oci.compose import append_layers
from mpack.oci.image import OciImage, canonical_json
from mpack.oci.layer import bytes_entries
from mpack.oci.store import Store
from mpack.registry import parse_reference
from mpack.registry.pull import pull
from mpack.registry.push import push
from mpack.testing.fakeregistry import FakeRegistry, Fault
from mpack.testing.tiny import tiny_base

pytestmark = pytest.mark.usefixtures("docker_config")
BIG = 3_000_000


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    """A registry without faults yet."""
    with FakeRegistry().serving() as registry:
        yield registry


@pytest.fixture
def image(fake: FakeRegistry, tmp_path: Path) -> OciImage:
    """An image of two large layers, which the registry has as team/base:1."""
    store = Store(tmp_path / "theirs")
    layers = [store.write_layer(bytes_entries({f"/opt/{n}": os.urandom(BIG)}), kind="base") for n in "ab"]
    made = append_layers(store, tiny_base(store), layers)
    push(made, parse_reference(f"{fake.host}/team/base:1"), store)
    fake.seen.clear()
    fake.given = 0
    return made


def fetch(fake: FakeRegistry, store: Store, naps: list[float] | None = None) -> OciImage:
    """Pulls without waiting."""
    waited = naps if naps is not None else []
    return pull(parse_reference(f"{fake.host}/team/base:1"), "linux/amd64", store, sleep=waited.append)


@pytest.mark.parametrize(
    ("faults", "token_uses"),
    [
        ([], None),
        ([Fault("GET", "/blobs/", status=429, headers={"Retry-After": "3"})], None),
        ([Fault("GET", "/manifests/", status=500, times=4), Fault("GET", "/blobs/", status=502, times=4)], None),
        ([Fault("GET", "/manifests/", after=40, times=4)], None),
        ([Fault("GET", "/blobs/", after=300_000, times=12)], None),
        ([Fault("GET", "/blobs/", after=0, times=4)], None),
        ([], 1),
        ([Fault("GET", "/blobs/", after=300_000, times=12)], 2),
    ],
    ids=["none", "429", "5xx", "manifest-cut", "blob-cut-often", "blob-cut-at-once", "tokens-expire", "all"],
)
def test_a_pull_outlives_faults(
    fake: FakeRegistry, image: OciImage, tmp_path: Path, faults: list[Fault], token_uses: int | None
) -> None:
    """Every byte arrives, checked; of what arrived before a fault at most what was under way is sent again."""
    fake.faults, fake.token_uses = faults, token_uses
    store, naps = Store(tmp_path / "ours"), list[float]()
    found = fetch(fake, store, naps)
    assert found.digest == image.digest and all(fault.times == 0 for fault in faults)
    for layer in found.layers:
        with store.open(layer.digest) as stream:
            assert len(stream.read()) == layer.size
    assert fake.given < image.size + 20_000 and bool(naps) == bool(faults)
    before = len(fake.asked("GET", "/blobs/"))
    assert fetch(fake, store).digest == image.digest and len(fake.asked("GET", "/blobs/")) == before


@pytest.mark.parametrize("how", [{"status": 503}, {"after": 0}], ids=["503", "cut"])
def test_a_failed_pull_leaves_nothing_half(
    fake: FakeRegistry, image: OciImage, tmp_path: Path, how: dict[str, int]
) -> None:
    """A blob that never comes is an error; the next pull takes what had come whole and fetches the rest."""
    store = Store(tmp_path / "ours")
    reference = parse_reference(f"{fake.host}/team/base:1")
    there, missing = image.layers[1], image.layers[2]
    fake.faults = [Fault("GET", missing.digest, times=99, **how)]

    def until_the_other_is_there(_: float) -> None:
        deadline = time.monotonic() + 20
        while not store.has(there.digest) and time.monotonic() < deadline:
            time.sleep(0.01)

    with pytest.raises(EnvironmentFault) as caught:
        pull(reference, "linux/amd64", store, sleep=until_the_other_is_there)
    assert caught.value.code == "registry-failed" and store.has(there.digest) and not store.has(image.digest)
    assert list(store.unfinished.iterdir()) == []
    fake.faults, fake.given = [], 0
    assert fetch(fake, store).digest == image.digest and fake.given < missing.size + 20_000


def test_a_damaged_blob_is_refused(fake: FakeRegistry, image: OciImage, tmp_path: Path) -> None:
    """Other bytes than the digest names never get into the store."""
    digest = image.layers[1].digest
    fake.blobs["team/base", digest] = fake.blobs["team/base", digest][:-1] + b"!"
    store = Store(tmp_path / "ours")
    with pytest.raises(EnvironmentFault, match="damaged"):
        fetch(fake, store)
    assert not store.has(digest) and not store.has(image.digest) and list(store.unfinished.iterdir()) == []


@pytest.mark.parametrize("had", [False, True], ids=["fetched", "there-before"])
def test_a_layer_under_a_false_diff_id_is_refused(
    fake: FakeRegistry, image: OciImage, tmp_path: Path, had: bool
) -> None:
    """Caches are keyed by diff ids: an image that gives its layers those of others is no image, and is not listed."""
    store = Store(tmp_path / "ours")
    if had:
        fetch(fake, store)
    theirs = image.blobs
    assert isinstance(theirs, Store)
    rootfs = {**image.config["rootfs"], "diff_ids": image.config["rootfs"]["diff_ids"][::-1]}
    liar = theirs.put_image(canonical_json({**image.config, "rootfs": rootfs}), image.layers)
    push(liar, parse_reference(f"{fake.host}/team/base:1"), theirs)
    with pytest.raises(EnvironmentFault, match="has the diff id") as caught:
        fetch(fake, store)
    assert caught.value.code == "registry-failed" and not store.has(liar.digest)
