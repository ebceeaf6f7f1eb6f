"""`mpack diff` on images as mpack builds them: where they are looked up, the exit code, what is printed and kept."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from mpack.builders.runtimeconfig import runtime_config
from mpack.cli.main import run
from mpack.engine import Docker
from mpack.images import open_image
from mpack.oci.archive import docker_archive, oci_archive, write_oci_directory
from mpack.oci.compose import append_layers
from mpack.oci.image import OciImage
from mpack.oci.layer import tree_entries
from mpack.oci.store import Store
from mpack.testing.tiny import tiny_base, tiny_plan


def built(store: Store, place: Path, weights: str, port: int) -> OciImage:
    """An image of mpack's layers on a tiny base; not listed."""
    (place / "model").mkdir(parents=True)
    (place / "model" / "model.bin").write_text(weights)
    base = tiny_base(store)
    plan, contents = tiny_plan(base, place / "model")
    config = replace(plan.config, ports=(port,))
    layers = [store.write_layer(tree_entries(tree, contents), kind=tree.kind) for tree in plan.trees]
    return append_layers(store, base, layers, runtime=runtime_config(base.runtime, config))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store of an empty home, with images one:1 and two:1; no engine."""
    monkeypatch.setenv("MPACK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    store = Store.default()
    for name, weights, port in (("one", "old", 5000), ("two", "newer", 8080)):
        store.add_image(built(store, tmp_path / name, weights, port), [f"{name}:1"])
    return store


@pytest.fixture
def diff(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`diff(*words)`: exit code, stdout, stderr."""

    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            run(["diff", *words])
        return int(cast("int", caught.value.code)), *capsys.readouterr()

    return call


EXPECTED = """\
different: 2 configuration fields, 1 of 4 layers
  A  one:1  manifest {a}
  B  two:1  manifest {b}

configuration
  - port.5000/tcp
  + port.8080/tcp

layers
  same        base          0.0 MB
  same        runtime       0.0 MB
  changed     model         1 changed
      ~ /opt/mpack/model/model.bin  size 3 → 5, content
  same        config        0.0 MB
"""


def test_different_images(diff: Any, store: Store) -> None:
    """Exit 1, and what differs; the JSON has the same, and names the files' digests."""
    a, b = store.resolve("one:1"), store.resolve("two:1")
    assert diff("one:1", "two:1") == (1, EXPECTED.format(a=a.digest, b=b.digest), "")
    code, out, _ = diff("one:1", b.id, "--json")
    found = json.loads(out)
    assert (code, found["same"], found["b"]) == (1, False, {"reference": b.id, "id": b.id, "digest": b.digest})
    (model,) = (layer for layer in found["layers"] if layer["status"] == "changed")
    (change,) = model["changed"]
    assert change["path"] == "/opt/mpack/model/model.bin" and set(change) == {"path", "size", "content"}
    assert model["a"]["diff_id"] == a.layers[2].diff_id and model["added"] == model["removed"] == []


def test_same_image(diff: Any, store: Store) -> None:
    """Exit 0 by name, id and digest."""
    image = store.resolve("one:1")
    assert diff("one:1", image.id)[:2] == (0, f"same ({image.digest})\n")
    assert json.loads(diff("one:1", image.digest, "--json")[1])["same"] is True


def test_files(diff: Any, store: Store, tmp_path: Path) -> None:
    """Layouts and archives are read; what was copied for that is not kept; a docker archive is compared by its id."""
    image = store.resolve("one:1")
    write_oci_directory(image, tmp_path / "layout", "one:1")
    (tmp_path / "oci.tar").write_bytes(b"".join(oci_archive(image)))
    (tmp_path / "docker.tar").write_bytes(b"".join(docker_archive(image)))
    store.forget(image.digest)
    store.gc()
    before = sorted(store.directory.iterdir())
    layout, archive, saved = (
        f"oci:{tmp_path}/layout",
        f"oci-archive:{tmp_path}/oci.tar",
        f"docker-archive:{tmp_path}/docker.tar",
    )
    assert diff(layout, archive)[:2] == (0, f"same ({image.digest})\n")
    code, out, _ = diff(saved, layout)
    assert code == 0 and out == f"same ({image.digest}, by image id: one of them has no manifest)\n"
    code, out, _ = diff(saved, "two:1")
    assert code == 1 and "  changed     model         1 changed\n" in out and f"no manifest, id {image.id}" in out
    assert sorted(store.directory.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["one:1", "absent:1"], 3, "There is no image absent:1 in the store."),
        (["one:1", "oci:{tmp}/absent"], 3, "is not an image that can be read"),
        (["one:1", "docker-archive:{tmp}/absent"], 3, "cannot be read: No such file"),
        (["one:1", "oci-archive:{tmp}/junk"], 3, "is not an image that can be read"),
        (["one:1", "oci:{tmp}/both"], 3, "holds 2 images, not one"),
        (["one:1", "host.example/UPPER:1"], 3, "is not an image reference"),
        (["one:1"], 2, "Missing argument"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_errors(words: list[str], code: int, told: str, diff: Any, store: Store, tmp_path: Path) -> None:
    """No error has the exit code of a difference, and none prints a result."""
    (tmp_path / "junk").write_bytes(b"junk" * 200)
    for name in ("one:1", "two:1"):
        write_oci_directory(store.resolve(name), tmp_path / "both", name)
    found, out, err = diff(*(word.replace("{tmp}", str(tmp_path)) for word in words))
    assert (found, out) == (code, "") and told in err


class FakeEngine:
    """Has one image, which it saves as docker does."""

    def __init__(self, image: OciImage) -> None:
        self.image = image
        self.saved = 0

    def inspect(self, reference: str) -> dict[str, Any] | None:
        layers = [layer.diff_id for layer in self.image.layers]
        known = {"Id": self.image.id, "Os": "linux", "Architecture": "amd64", "Size": 5, "RootFS": {"Layers": layers}}
        return known if reference == "engine:1" else None

    @contextmanager
    def save(self, reference: str) -> Iterator[BinaryIO]:
        assert reference == self.image.id
        self.saved += 1
        yield io.BytesIO(b"".join(docker_archive(self.image)))


def test_an_image_of_the_engine(store: Store, tmp_path: Path) -> None:
    """It is copied into the store once, unlisted; if the store has it under another name it is not copied at all."""
    other = Store(tmp_path / "other")
    engine = FakeEngine(built(other, tmp_path / "three", "third", 1))
    records = store.records()
    with store.lease():
        opened = open_image("engine:1", store, cast(Docker, engine), "linux/amd64")
    assert (opened.image.id, opened.digest, opened.listed, engine.saved) == (engine.image.id, None, False, 1)
    assert store.records() == records
    store.add_image(opened.image)
    with store.lease():
        assert open_image("engine:1", store, cast(Docker, engine), "linux/amd64").listed
    assert engine.saved == 1
