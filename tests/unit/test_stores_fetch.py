"""Many objects into the cache: several at a time, stopped as one, shared by processes, pruned, on a full disk."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import pytest

from mpack.errors import EnvironmentFault, MpackError
from mpack.progress import Progress
from mpack.pruning import prune
from mpack.stores import faults
from mpack.stores.cache import ArtifactCache, Blob
from mpack.stores.fetch import PARALLEL, Fetch
from mpack.stores.model import Body, Bounds, Broken, Remote, RemoteFile

BLOCK = 1000


class Memory:
    """A store in memory; some of its files are away, or break off."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.opened: list[tuple[str, int]] = []
        self.away: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()

    @contextmanager
    def open(self, file: RemoteFile, start: int) -> Iterator[Body]:
        self.opened.append((file.key, start))
        if file.key in self.away:
            raise faults.failed(file.key, "it is away")
        yield Body(self._blocks(file.key, start), start)

    def _blocks(self, key: str, start: int) -> Iterator[bytes]:
        data = self.files[key]
        for at in range(start, len(data), BLOCK):
            assert self.gate.wait(20)
            yield data[at : at + BLOCK]

    def remote(self, version: str = "1") -> Remote:
        files = tuple(RemoteFile(key, key, len(data), version) for key, data in self.files.items())
        return Remote("s3://b/m", "m", files, True, self, "memory")


def fetch(cache: ArtifactCache, remote: Remote, total: int = 1 << 30) -> list[Blob]:
    with cache.held(), Progress(1, StringIO()).transfer("fetching", None) as transfer:
        return Fetch(remote, Bounds(total, 1 << 20), cache, transfer).all(remote.files)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactCache:
    """An empty cache; nobody waits."""
    monkeypatch.setattr(faults, "FIRST", 0.001)
    return ArtifactCache(tmp_path / "artifacts")


def test_many(cache: ArtifactCache) -> None:
    """All files in order, each once; another version of one is fetched, and what is alike is kept once."""
    store = Memory({f"f{number:03}": os.urandom(number * 37) for number in range(200)} | {"same": b"", "f999": b""})
    blobs = fetch(cache, store.remote())
    assert [blob.path.read_bytes() for blob in blobs] == list(store.files.values())
    assert [blob.sha256 for blob in blobs] == [hashlib.sha256(data).hexdigest() for data in store.files.values()]
    store.opened.clear()
    assert fetch(cache, store.remote()) == blobs and not store.opened
    assert fetch(cache, store.remote("2")) == blobs and len(store.opened) == 199


def test_one_fails(cache: ArtifactCache) -> None:
    """The first error is the artifact's; no other file is begun after it, and what was fetched is not fetched again."""
    store = Memory({f"f{number:03}": b"x" * number for number in range(1, 300)})
    store.away = {"f020"}
    with pytest.raises(EnvironmentFault, match="f020 cannot be fetched: it is away"):
        fetch(cache, store.remote())
    assert len(store.opened) <= 20 + 2 * PARALLEL
    store.away.clear()
    fetch(cache, store.remote())
    assert len(store.opened) <= 300 + 2 * PARALLEL


def test_breaks_off(cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that breaks off goes on where it was; one that brings nothing more is given up, and nothing is lost."""
    store = Memory({"f": os.urandom(30 * BLOCK)})
    whole = store._blocks

    def broken(key: str, start: int) -> Iterator[bytes]:
        yield next(iter(whole(key, start)))
        raise Broken("it broke off")

    monkeypatch.setattr(store, "_blocks", broken)
    assert fetch(cache, store.remote())[0].path.read_bytes() == store.files["f"]
    assert [start for _, start in store.opened] == list(range(0, 30 * BLOCK, BLOCK))


def test_two_at_once(cache: ArtifactCache) -> None:
    """Who wants what somebody fetches waits for it; meanwhile nobody is alone, so nothing is pruned."""
    store = Memory({"f": os.urandom(30 * BLOCK)})
    store.gate.clear()
    found: list[list[Blob]] = []
    threads = [threading.Thread(target=lambda: found.append(fetch(cache, store.remote()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 20
    while not store.opened:
        assert time.monotonic() < end
        time.sleep(0.01)
    with cache.alone() as alone:
        assert not alone
    store.gate.set()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(blobs == found[0] for blobs in found) and len(store.opened) == 1


def test_pruned(cache: ArtifactCache) -> None:
    """The object that was longest of no use goes first, and is fetched again; downloads that broke off go too."""
    store = Memory({"a": b"a" * 5000, "b": b"b" * 5000})
    fetch(cache, store.remote())
    (cache.directory / "partial" / "left").write_bytes(b"x" * 5000)
    old = next(
        path
        for path in (cache.directory / "seen").iterdir()
        if hashlib.sha256(b"a" * 5000).hexdigest() in path.read_text()
    )
    os.utime(old, (1000, 1000))
    os.utime(cache.directory / "partial" / "left", (2000, 2000))
    with cache.alone() as alone:
        assert alone
        prune(cache.entries(), keep_size=6000)
    store.opened.clear()
    fetch(cache, store.remote())
    assert store.opened == [("a", 0)] and not (cache.directory / "partial" / "left").exists()


def test_stale(cache: ArtifactCache) -> None:
    """What broke off a week ago is no longer gone on with; what cannot be is forgotten at once."""
    folder = cache.directory / "partial"
    folder.mkdir(parents=True)
    for name, age in (("new", 0), ("old", 8 * 86400), ("new.123", 0)):
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (time.time() - age, time.time() - age))
    cache.forget_stale()
    assert [path.name for path in folder.iterdir()] == ["new"]


def test_full_disk(tmp_path: Path) -> None:
    """disk-full with what to do, and nothing half stays; too large is said before the disk is full."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        assert os.getuid() != 0, mounted.stderr
        return
    try:
        cache, store = ArtifactCache(place / "artifacts"), Memory({"f": os.urandom(3_000_000)})
        with pytest.raises(MpackError) as caught:
            fetch(cache, store.remote())
        assert caught.value.code == "disk-full" and "mpack cache prune" in caught.value.hint
        assert not [path for path in (cache.directory / "partial").iterdir() if path.suffix != ".lock"]
        with pytest.raises(MpackError) as caught:
            fetch(cache, store.remote(), total=500_000)
        assert caught.value.code == "artifact-too-large"
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_progress() -> None:
    """On a terminal a bar, else lines, each only so often; nothing where it is quiet."""

    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    for stream, every in ((Terminal(), "_DRAW"), (StringIO(), "_LINE")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"mpack.progress.{every}", 0.0)
            with Progress(1, stream).transfer("fetching s3://b/m", 4_000_000) as transfer:
                transfer.add(1_000_000)
                transfer.add(1_000_000)
        assert "[##########..........] fetching s3://b/m: 2.0 MB of 4.0 MB" in stream.getvalue()
        assert stream.getvalue().count("\n") == (0 if stream.isatty() else 2)
