"""What lasts through a power cut: nothing is listed before it is on the disk, and nothing is synced for nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mpack.oci.image import OciImage
from mpack.oci.layer import bytes_entries
from mpack.oci.store import Store
from mpack.testing.tiny import tiny_base


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """("synced" or "named", path) in the order in which they happen."""
    seen: list[tuple[str, str]] = []
    sync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        sync(descriptor)
        seen.append(("synced", os.readlink(f"/proc/self/fd/{descriptor}")))

    def named(path: Path, target: Path) -> Path:
        seen.append(("named", str(target)))
        assert str(path) in {name for step, name in seen if step == "synced"} or target.parent.name == "layers"
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", named)
    return seen


def build(store: Store, text: str) -> OciImage:
    """An image of one new layer, listed."""
    return tiny_base(store, {"/text": text.encode()})


def test_blobs_before_the_index(tmp_path: Path, steps: list[tuple[str, str]]) -> None:
    """Each blob is synced before it has its name, all their names before the index, and that too in the end."""
    store = Store(tmp_path / "store")
    build(store, "a")
    blobs, index = str(store.directory), str(store.root / "index.json")
    listed = steps.index(("named", index))
    last = max(number for number, (step, path) in enumerate(steps[:listed]) if step == "named" and blobs in path)
    assert ("synced", blobs) in steps[last:listed]
    assert steps[-1] == ("synced", str(store.root))
    assert sum(step == ("synced", blobs) for step in steps[:listed]) == 1


def test_a_name_that_is_there_costs_nothing(tmp_path: Path, steps: list[tuple[str, str]]) -> None:
    """Listing an image as it is listed writes no index; another name does."""
    store = Store(tmp_path / "store")
    image = build(store, "a")
    store.add_image(image, ["model:1"])
    steps.clear()
    store.add_image(image, ["model:1"])
    assert not steps
    store.add_image(image, ["model:2"])
    assert ("named", str(store.root / "index.json")) in steps


HARM: dict[str, Callable[[bytes], bytes]] = {
    "zeros": lambda data: bytes(len(data)),
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "another kind": lambda data: data.replace(b'"kind": "model"', b'"kind": "other"'),
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_a_cache_entry_that_a_power_cut_took(harm: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """Entries of the layer cache are not synced: a damaged one is no entry."""
    store = Store(tmp_path / "store")
    layer = store.write_layer(bytes_entries({"/a": b"a"}), kind="model")
    store.cache.put("key", layer)
    assert store.cache.get("key") == layer
    entry = next(store.cache.directory.iterdir())
    data = entry.read_bytes()
    assert harm(data) != data
    entry.write_bytes(harm(data))
    assert store.cache.get("key") is None
