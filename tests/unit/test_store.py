"""The store: a valid OCI layout at every moment, names that move, space that is given back and never too early."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mpack.errors import EnvironmentFault, UsageError
from mpack.oci.image import OciImage, canonical_json
from mpack.oci.layer import bytes_entries
from mpack.oci.store import Store
from mpack.pruning import Prunable, prune
from mpack.testing.tiny import tiny_base


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


def make(store: Store, text: str, *names: str) -> OciImage:
    """A listed image whose one file says `text`."""
    image = tiny_base(store, {"/text": text.encode()})
    store.forget(image.digest)
    store.add_image(image, names)
    return image


def blobs(store: Store) -> set[str]:
    """Digests of all blobs."""
    return {f"sha256:{path.name}" for path in store.directory.iterdir()}


def test_layout(store: Store) -> None:
    """The files are an OCI image layout: version, index with names and platform, blobs by their digest."""
    image = make(store, "a", "model:1", "model:2")
    assert json.loads((store.root / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    entries = json.loads((store.root / "index.json").read_text())["manifests"]
    assert [item["annotations"]["org.opencontainers.image.ref.name"] for item in entries] == ["model:1", "model:2"]
    assert {item["digest"] for item in entries} == {image.digest}
    assert entries[0]["platform"] == {"architecture": "amd64", "os": "linux"}
    assert entries[0]["size"] == store.path(image.digest).stat().st_size


def test_find_by_everything(store: Store) -> None:
    """An image is found by name, name without latest, digest, id, prefixes of both and name@digest; else not."""
    image = make(store, "a", "host:5000/team/model:latest", "model:1")
    for reference in (
        "model:1",
        "host:5000/team/model",
        image.digest,
        image.id,
        image.digest[7:19],
        image.id[7:19],
        image.id[:20],
        f"model@{image.digest}",
    ):
        found = store.find(reference)
        assert found is not None and found.digest == image.digest, reference
    assert [store.find(text) for text in ("model", "model:2", "abcdef", f"model@sha256:{'0' * 64}")] == [None] * 4
    with pytest.raises(EnvironmentFault, match="no image model:2") as caught:
        store.resolve("model:2")
    assert caught.value.code == "image-unknown"


def test_an_ambiguous_prefix_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prefix of two images is a usage error that names both."""
    from mpack.oci.store import Record

    records = [Record(f"sha256:{'ab' * 31}{end}", f"sha256:{end * 32}", (), 0.0, "image") for end in ("c1", "c2")]
    monkeypatch.setattr(store, "records", lambda: records)
    with pytest.raises(UsageError, match=f"{'ab' * 31}c1.*{'ab' * 31}c2"):
        store.find("abababab")


def test_a_name_moves(store: Store) -> None:
    """A name given again leaves its image, which stays without a name; further names add up."""
    old, new = make(store, "old", "model:1"), make(store, "new", "model:1")
    store.tag("model:1", "model:best")
    assert {record.digest: record.names for record in store.records()} == {
        old.digest: (),
        new.digest: ("model:1", "model:best"),
    }


def test_removal_frees_what_nothing_needs(store: Store) -> None:
    """With its last name an image goes; shared layers stay as long as another image has them."""
    first = make(store, "shared", "a:1")
    layer = store.write_layer(bytes_entries({"/more": b"1"}), kind="model")
    from mpack.oci.compose import append_layers

    second = append_layers(store, first, [layer])
    store.add_image(second, ["b:1"])
    store.forget(first.digest, ["a:1"])
    assert store.gc() is not None
    assert blobs(store) == {second.digest, second.id, *(item.digest for item in second.layers)}
    store.forget(second.digest)
    freed = store.gc()
    assert freed is not None and freed > 0 and blobs(store) == set() and store.records() == []


def test_gc_waits_for_builds(store: Store) -> None:
    """While another process holds a lease nothing is removed; after it was killed with -9 all is."""
    make(store, "a")
    store.forget(store.records()[0].digest)
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom mpack.oci.store import Store\n"
        "with Store(Path(sys.argv[1])).lease():\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(store.root)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        assert store.gc() is None and blobs(store)
    finally:
        holder.kill()
        holder.communicate()
    assert store.gc() and not blobs(store)


def test_killed_while_writing(store: Store) -> None:
    """kill -9 in the middle of a layer leaves a valid store: nothing listed, no blob, rubbish that gc takes."""
    image = make(store, "kept", "kept:1")
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom mpack.oci.store import Store\n"
        "store = Store(Path(sys.argv[1]))\n"
        "with store.lease(), store.scratch(), store.writing() as blob:\n"
        "    blob.write(b'x' * (1 << 20))\n    print('half', flush=True)\n    time.sleep(60)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", program, str(store.root)], stdout=subprocess.PIPE)
    assert writer.stdout is not None and writer.stdout.readline() == b"half\n"
    before = blobs(store)
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate()
    assert blobs(store) == before and store.resolve("kept:1").digest == image.digest
    assert len(list(store.unfinished.iterdir())) == 2
    assert store.gc() is not None
    assert list(store.unfinished.iterdir()) == [] and blobs(store) == before


def test_many_writers_lose_no_name(store: Store) -> None:
    """Eight processes that tag at once leave all their names in the index."""
    image = make(store, "a", "a:0")
    program = (
        "import sys\nfrom pathlib import Path\nfrom mpack.oci.store import Store\n"
        "store = Store(Path(sys.argv[1]))\n"
        "for number in range(5): store.tag(sys.argv[2], f'n{sys.argv[3]}:{number}')\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(store.root), image.digest, str(n)]) for n in range(8)
    ]
    assert [writer.wait() for writer in writers] == [0] * 8
    [record] = store.records()
    assert len(record.names) == 41


def test_damage_is_found_when_read(store: Store) -> None:
    """A flipped byte, a missing blob and a broken index are store-corrupt, naming the blob and what to do."""
    image = make(store, "a", "a:1")
    path = store.path(image.layers[0].digest)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(EnvironmentFault, match=f"{image.layers[0].digest}.*damaged[^$]*Delete {path}") as caught:
        image.blobs.open(image.layers[0].digest).read()
    assert caught.value.code == "store-corrupt"
    path.unlink()
    with pytest.raises(EnvironmentFault, match=f"lacks the blob {image.layers[0].digest}"):
        image.open_layer(0)
    store.path(image.digest).write_text("{}")
    with pytest.raises(EnvironmentFault, match="damaged"):
        store.resolve("a:1")
    (store.root / "index.json").write_text("{")
    with pytest.raises(EnvironmentFault, match=r"index\.json, cannot be read"):
        store.records()


def test_layer_cache(store: Store) -> None:
    """A remembered layer is found again until its blob is gone; dependencies outlive images, models do not."""
    kept = store.write_layer(bytes_entries({"/d": b"1"}), kind="dependencies")
    gone = store.write_layer(bytes_entries({"/m": b"2"}), kind="model")
    for layer in (kept, gone):
        store.cache.put(layer.kind, layer)
    assert (store.cache.get("dependencies"), store.cache.get("model")) == (kept, gone)
    assert store.cache.get("another") is None
    store.gc()
    assert (store.cache.get("dependencies"), store.cache.get("model")) == (kept, None)
    assert prune(store.cache.entries(), older_than=3600) == 0
    assert prune(store.cache.entries(), older_than=0) == 2
    store.gc()
    assert blobs(store) == set()


def test_the_time_of_adding_stays(store: Store) -> None:
    """Tagging again does not make an image younger."""
    make(store, "a", "a:1")
    [before] = store.records()
    time.sleep(1.1)
    store.tag("a:1", "a:2")
    [after] = store.records()
    assert after.added == before.added


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """MPACK_HOME moves the store; without it the XDG data directory holds it."""
    monkeypatch.setenv("MPACK_HOME", str(tmp_path / "home"))
    assert Store.default().root == tmp_path / "home" / "data" / "store"
    monkeypatch.delenv("MPACK_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    if sys.platform == "linux":
        assert Store.default().root == tmp_path / "xdg" / "mpack" / "store"


def test_an_unwritable_place_is_told(tmp_path: Path) -> None:
    """A store below a file cannot be made; the error names the place."""
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="file") as caught:
        Store(tmp_path / "file" / "store").add(b"x")
    assert caught.value.code == "disk-unwritable"


def both(store: Store) -> tuple[OciImage, OciImage]:
    """The same files as images for amd64 and arm64, listed without a name, as builders leave them."""
    first = make(store, "both")
    config = canonical_json({**first.config, "architecture": "arm64"})
    second = store.put_image(config, first.layers)
    store.add_image(second)
    return first, second


def test_an_index_is_one_image(store: Store) -> None:
    """An index stands under one name for all its platforms, whose images are found in it, and live as long as it."""
    amd64, arm64 = both(store)
    index = store.add_index([arm64, amd64])
    assert store.add_index([amd64, arm64]).digest == index.digest and index.images == (amd64, arm64)
    store.add_image(index, ["model:1"])
    [record] = store.records()
    assert (record.digest, record.names) == (index.digest, ("model:1",))
    for platform, image in (("linux/amd64", amd64), ("linux/arm64", arm64), ("linux/arm64/v8", arm64)):
        for reference in ("model:1", index.digest, index.digest[7:19]):
            assert store.resolve(reference, platform).digest == image.digest
    assert store.find_any("model:1") == index
    assert store.resolve(arm64.digest).id == arm64.id and store.resolve(f"x@{arm64.id}").digest == arm64.digest
    for platform, told in (("linux/s390x", "not for linux/s390x"), (None, "not for one platform alone")):
        with pytest.raises(EnvironmentFault, match=f"is there for linux/amd64 and linux/arm64, {told}") as caught:
            store.find("model:1", platform)
        assert caught.value.code == "image-unknown"
    store.gc()
    assert blobs(store) == {index.digest, amd64.digest, arm64.digest, amd64.id, arm64.id, amd64.layers[0].digest}
    store.tag("model:1", "model:2")
    store.forget(index.digest, ["model:1"])
    assert store.find_any("model:2") == index
    store.forget(index.digest)
    store.gc()
    assert blobs(store) == set()


def test_a_named_member_stays(store: Store) -> None:
    """An image that has a name of its own is listed beside an index that holds it; a damaged index is told as such."""
    amd64, arm64 = both(store)
    store.tag(amd64.digest, "own:1")
    index = store.add_index([amd64, arm64])
    assert {record.names for record in store.records()} == {(), ("own:1",)}
    store.path(arm64.digest).unlink()
    with pytest.raises(EnvironmentFault, match=f"lacks the blob {arm64.digest}"):
        store.load(index.digest)
    assert store.resolve("own:1") and store.find(arm64.digest) is None


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({"older_than": 50.0}, [2]),
        ({"older_than": 1000.0}, [0, 1, 2]),
        ({"keep_size": 200}, [1, 2]),
        ({"keep_size": 199}, [2]),
        ({"keep_size": 0}, []),
        ({"keep_size": 300, "older_than": 150.0}, [1, 2]),
    ],
)
def test_what_a_cache_gives_back(limits: dict[str, Any], left: list[int]) -> None:
    """By age what is older; by size the longest unused first, until no more than the limit is left."""
    now, there = time.time(), {0, 1, 2}
    entries = [Prunable(100, now - age, partial(there.discard, n)) for n, age in enumerate((200.0, 100.0, 10.0))]
    assert prune(reversed(entries), **limits) == 3 - len(left)
    assert sorted(there) == left


def test_layers_of_images_are_not_counted(store: Store) -> None:
    """What an image needs is not the cache's to give back: it counts no bytes; two keys of one layer are one entry."""
    image = make(store, "kept", "kept:1")
    held = replace(image.layers[0], kind="dependencies")
    free = store.write_layer(bytes_entries({"/free": b"1"}), kind="runtime")
    for key, layer in (("a", held), ("b", free), ("c", free)):
        store.cache.put(key, layer)
    assert sorted(entry.size for entry in store.cache.entries(store.in_images())) == [0, free.size]
    assert prune(store.cache.entries(store.in_images()), keep_size=0) == 1
    assert store.cache.get("a") == held and store.cache.get("b") is None and store.cache.get("c") is None


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(store: Store, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A share that cannot lock (no such share can be mounted here) is told with what to do; nothing is written."""

    def refuse(descriptor: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("mpack.oci.files.fcntl.flock", refuse)
    with pytest.raises(EnvironmentFault, match="no file locks") as caught, store.lease():
        raise AssertionError("no lease can be had")
    assert caught.value.code == "disk-unwritable" and "MPACK_HOME" in caught.value.hint


@pytest.mark.parametrize("harm", ["missing", "damaged", "no JSON"])
def test_a_damaged_member_costs_no_sound_one(store: Store, harm: str) -> None:
    """While a manifest cannot be read, nobody knows what it needs: no blob goes until its image was removed."""
    first, second = both(store)
    index = store.add_index([first, second])
    store.add_image(index, ["a:1"])
    gone = make(store, "gone", "gone:1")
    path = store.path(second.digest)
    content = path.read_bytes()
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if harm == "damaged" else b"[")
    store.forget(gone.digest)
    before = blobs(store)
    assert store.gc() == 0 and blobs(store) == before and store.unreadable() == [index.digest]
    path.write_bytes(content)
    assert store.gc() and gone.layers[0].digest not in blobs(store)
    assert store.load(index.digest).images == (first, second)
    store.path(first.id).unlink()
    assert store.gc() == 0 and second.id in blobs(store), "a lost configuration takes nothing else with it"
