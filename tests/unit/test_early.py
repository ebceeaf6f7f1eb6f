"""Layers that are written while their files are still being hashed: the same as others, or none at all."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from mpack import contents
from mpack.artifact import source
from mpack.artifact.limits import Limits
from mpack.artifact.model import Artifact, Trust
from mpack.artifact.reader import read_artifact
from mpack.builders.early import early_model
from mpack.contents import Contents, Hashing, Pending, Standing, hash_file, sha256_bytes
from mpack.errors import InputError
from mpack.oci.early import EarlyLayer
from mpack.oci.layer import TAR, Entry
from mpack.oci.store import Store
from mpack.spec import BaseWish, FileEntry, FileTree, ImageConfig, ImageSpec
from mpack.testing.trees import wait_for_rest

MODELS = Path(__file__).parents[2] / "fixtures" / "models"
DATA = os.urandom(9 << 20)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A large file at rest."""
    path = tmp_path / "model" / "weights.onnx"
    path.parent.mkdir()
    path.write_bytes(DATA)
    wait_for_rest(path)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


def hashed(path: Path, counted: Callable[[int], None]) -> str:
    """The file's SHA-256."""
    with path.open("rb") as stream:
        return hash_file(stream, counted)[1]


def entry(path: Path) -> Entry:
    """The file as a plan has it."""
    return Entry("/m/weights", size=len(DATA), source=path, sha256=sha256_bytes(DATA))


@contextmanager
def early(store: Store, path: Path, pending: Pending) -> Iterator[EarlyLayer]:
    """A layer of a small file and of the large one, under way."""
    entries = [Entry("/m/a", size=1, source=b"a"), replace(entry(path), sha256=None, pending=pending)]
    with EarlyLayer(store, "model", entries) as layer, Hashing() as hashing:
        hashing.start([pending])
        yield layer


def left(store: Store) -> list[Path]:
    """What stands in the store, whole or not."""
    return [*store.directory.iterdir(), *store.unfinished.iterdir()]


def test_the_same_layer(store: Store, weights: Path, tmp_path: Path) -> None:
    """It is the layer that is written afterwards otherwise, whole in the store."""
    entries = [Entry("/m/a", size=1, source=b"a"), entry(weights)]
    with early(store, weights, Pending(partial(hashed, weights))) as layer:
        taken = layer.take("model", entries)
    assert taken is not None and taken.media_type == TAR
    assert taken == Store(tmp_path / "other").write_layer(entries, kind="model")
    assert store.read(taken.digest, 1 << 30) and left(store) == [store.path(taken.digest)]


@pytest.mark.parametrize(
    "wanted",
    [
        ("config", lambda item: item),
        ("model", lambda item: replace(item, path="/m/other")),
        ("model", lambda item: replace(item, mode=0o755)),
        ("model", lambda item: replace(item, sha256="0" * 64)),
    ],
    ids=["kind", "path", "mode", "content"],
)
def test_another_is_wanted(store: Store, weights: Path, wanted: tuple[str, Callable[[Entry], Entry]]) -> None:
    """One that is not the layer wanted is not given, and nothing is left of it."""
    kind, change = wanted
    with early(store, weights, Pending(partial(hashed, weights))) as layer:
        assert layer.take(kind, [Entry("/m/a", size=1, source=b"a"), change(entry(weights))]) is None
    assert left(store) == []


def test_changed_between(store: Store, weights: Path) -> None:
    """Bytes that were copied before a change and hashed after it make no layer, though the hash is the plan's."""
    other = bytes(len(DATA) // 2) + DATA[len(DATA) // 2 :]
    copied = threading.Event()

    def later(counted: Callable[[int], None]) -> str:
        assert copied.wait(60)
        weights.write_bytes(other)
        wait_for_rest(weights)
        return hashed(weights, counted)

    with early(store, weights, Pending(later)) as layer:
        while not any(path.stat().st_size >= len(DATA) for path in store.unfinished.glob("*")):
            assert layer._thread.is_alive()
        copied.set()
        wanted = replace(entry(weights), sha256=sha256_bytes(other))
        assert layer.take("model", [Entry("/m/a", size=1, source=b"a"), wanted]) is None
    assert left(store) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError], ids=["Ctrl-C", "error"])
def test_given_up(store: Store, weights: Path, error: type[BaseException]) -> None:
    """Whatever ends the block ends hashing and writing; nothing is left, and nobody waits for the rest."""
    blocks: list[int] = []

    def endless(counted: Callable[[int], None]) -> str:
        while True:
            counted(blocks.append(1) or 1)

    with pytest.raises(error), early(store, weights, Pending(endless)) as layer:
        raise error("artifact-unknown", "x")
    assert not layer._thread.is_alive() and left(store) == []


def test_a_disk_that_is_full(store: Store, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the writing runs into is not told: no layer is there, and the one who wants it writes it himself."""
    monkeypatch.setattr("mpack.oci.files.os.fsync", lambda descriptor: os.pwrite(full, b"x", 0))
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with early(store, weights, Pending(partial(hashed, weights))) as layer:
            assert layer.take("model", [Entry("/m/a", size=1, source=b"a"), entry(weights)]) is None
    finally:
        os.close(full)
    assert left(store) == []


def read(model: Path, scratch: Path, meanwhile: Callable[[Artifact, Standing], None] | None = None) -> Artifact:
    """A model of the fixtures beside which large weights stand."""
    return read_artifact(str(model), limits=Limits(), trust=Trust(), scratch=scratch, meanwhile=meanwhile)


@pytest.fixture
def model(tmp_path: Path, weights: Path) -> Path:
    """An artifact whose whole directory goes into the image, with weights in it."""
    shutil.copytree(MODELS / "odahu-invoices" / "invoices", weights.parent, dirs_exist_ok=True)
    weights.rename(weights.parent / "odahuflow_model" / "weights.bin")
    wait_for_rest(weights.parent / "odahuflow_model" / "weights.bin")
    return weights.parent


def test_reading_meanwhile(model: Path, tmp_path: Path) -> None:
    """The artifact is told before its large files are hashed, and is the same in the end as one read without."""
    told: list[tuple[Artifact, Standing]] = []
    found = read(model, tmp_path, lambda artifact, standing: told.append((artifact, standing)))
    contents._hashed.clear()
    assert found == replace(plain := read(model, tmp_path), files=found.files)
    assert [file.sha256 for file in found.files] == [file.sha256 for file in plain.files]
    [(provisional, standing)] = told
    [(digest, pending)] = standing.items()
    assert pending.sha256() == sha256_bytes(DATA)
    assert [file.path for file in provisional.files if file.sha256 == digest] == ["odahuflow_model/weights.bin"]


def test_a_guess_that_fails(model: Path, tmp_path: Path) -> None:
    """What the guess raises is nobody's business: the artifact is read."""

    def fail(artifact: Artifact, standing: Standing) -> None:
        raise InputError("artifact-unknown", "x")

    assert read(model, tmp_path, fail).digest


def test_changed_while_hashed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large file that is written to while a thread hashes it is refused as any other, by the artifact's name."""
    begun, changed = threading.Event(), threading.Event()

    def slow(stream: object, counted: Callable[[int], None]) -> tuple[int, str]:
        begun.set()
        assert changed.wait(60)
        return hash_file(stream, counted)  # type: ignore[arg-type]

    def append(artifact: Artifact, standing: Standing) -> None:
        assert begun.wait(60)
        with (model / "odahuflow_model" / "weights.bin").open("ab") as stream:
            stream.write(b"more")
        changed.set()

    monkeypatch.setattr(
        source, "hash_file", lambda stream, counted: (slow if big(stream) else hash_file)(stream, counted)
    )
    with pytest.raises(InputError, match=r"weights\.bin changed while it was being read") as caught:
        read(model, tmp_path, append)
    assert caught.value.code == "artifact-changed" and caught.value.message.startswith(str(model))
    assert not list(tmp_path.glob("read-*"))


def big(stream: object) -> bool:
    """True for the weights."""
    return str(getattr(stream, "name", "")).endswith("weights.bin")


def test_a_build_takes_it(store: Store, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer that is begun from the spec is the one that the store is asked for; its files are not read again."""
    pending, stands = Pending(partial(hashed, weights)), f"{1:064x}"
    files = (FileEntry("weights", len(DATA), stands),)
    spec = ImageSpec(
        packager="x",
        model_name="m",
        model_version="1",
        python=None,
        requirements=(),
        base=BaseWish(),
        trees=(FileTree("model", "/m", files),),
        config=ImageConfig(),
        contents=Contents({stands: weights}),
    )
    with early_model(store, "auto") as begin, Hashing() as hashing:
        hashing.start([pending])
        assert begin is not None
        begin(spec, {stands: pending})
        monkeypatch.setattr("mpack.oci.store.write_layer", lambda *_, **__: pytest.fail("written again"))
        layer = store.write_layer([entry(weights)], kind="model")
    assert left(store) == [store.path(layer.digest)]
