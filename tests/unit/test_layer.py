"""Layers: one byte stream for one content, read back by tools that mpack has not written."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import subprocess
import tarfile
import tracemalloc
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpack.contents import Contents, sha256_bytes
from mpack.errors import EnvironmentFault, InputError, InternalError
from mpack.oci import compression, tar
from mpack.oci.compression import BLOCK, GzipWriter, open_gzip
from mpack.oci.layer import TAR, Directory, Entry, Layer, bytes_entries, directory_entries, tree_entries
from mpack.oci.store import Store
from mpack.spec import FileEntry, FileTree


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


def members(store: Store, layer: Layer) -> list[tarfile.TarInfo]:
    """A layer's entries as Python's tarfile reads them."""
    with tarfile.open(store.path(layer.digest), "r:gz") as archive:
        return archive.getmembers()


def squeeze(data: bytes, piece: int = 1 << 16) -> bytes:
    """`data` through GzipWriter in pieces."""
    sink = io.BytesIO()
    writer = GzipWriter(sink)
    for start in range(0, len(data), piece):
        writer.write(data[start : start + piece])
    writer.close()
    return sink.getvalue()


@pytest.mark.parametrize(
    "data",
    [b"", b"a", b"ab" * BLOCK, os.urandom(BLOCK + 12345), b"x" * BLOCK + os.urandom(70000) + b"y" * 99],
    ids=["empty", "one byte", "compressible", "random", "mixed"],
)
def test_gzip_is_read_by_others(data: bytes) -> None:
    """Python's gzip, gzip(1) and mpack's own reader give back what was written; noise grows by a hair only."""
    packed = squeeze(data)
    assert gzip.decompress(packed) == data
    assert subprocess.run(["gzip", "-dc"], input=packed, capture_output=True, check=True).stdout == data
    assert open_gzip(io.BytesIO(packed)).read() == data
    assert len(packed) <= len(data) + len(data) // 1000 + 64


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=5000), st.integers(1, 700))
def test_gzip_is_a_function_of_the_bytes(data: bytes, piece: int) -> None:
    """However the stream is cut into writes, the result is the same."""
    assert squeeze(data * 50, piece) == squeeze(data * 50)


def test_gzip_without_libdeflate(monkeypatch: pytest.MonkeyPatch) -> None:
    """zlib, the stand-in of platforms without libdeflate's wheel, makes sound gzip as well."""
    monkeypatch.setattr(compression, "_libdeflate", None)
    data = b"some text " * 300_000
    assert gzip.decompress(squeeze(data)) == data


def test_everything_that_varies_is_fixed(store: Store, tmp_path: Path) -> None:
    """Times, owners and odd modes of the host are gone: time 0, root, 0755 or 0644, parents first, sorted."""
    source = tmp_path / "tree"
    (source / "b").mkdir(parents=True, mode=0o700)
    (source / "b" / "run").write_text("#!")
    (source / "b" / "run").chmod(0o700)
    (source / "a.txt").write_text("a")
    (source / "a.txt").chmod(0o666)
    (source / "link").symlink_to("b/run")
    (source / "empty").mkdir()
    layer = store.write_layer(directory_entries(source, "/opt/mpack/venv"), kind="dependencies")
    found = members(store, layer)
    assert [(item.name, oct(item.mode), item.type) for item in found] == [
        ("opt", "0o755", tarfile.DIRTYPE),
        ("opt/mpack", "0o755", tarfile.DIRTYPE),
        ("opt/mpack/venv", "0o755", tarfile.DIRTYPE),
        ("opt/mpack/venv/a.txt", "0o644", tarfile.REGTYPE),
        ("opt/mpack/venv/b", "0o755", tarfile.DIRTYPE),
        ("opt/mpack/venv/b/run", "0o755", tarfile.REGTYPE),
        ("opt/mpack/venv/empty", "0o755", tarfile.DIRTYPE),
        ("opt/mpack/venv/link", "0o777", tarfile.SYMTYPE),
    ]
    assert {(item.mtime, item.uid, item.gid, item.uname, item.gname) for item in found} == {(0, 0, 0, "", "")}


def test_digests_and_sizes(store: Store) -> None:
    """The digests and sizes of a layer are those of its blob and of the tar inside."""
    layer = store.write_layer(bytes_entries({"/a/b": b"x" * 700, "/c": b""}), kind="model")
    blob = store.path(layer.digest).read_bytes()
    plain = gzip.decompress(blob)
    assert layer.digest == "sha256:" + hashlib.sha256(blob).hexdigest()
    assert layer.diff_id == "sha256:" + hashlib.sha256(plain).hexdigest()
    assert (layer.size, layer.unpacked_size, layer.tar_size) == (len(blob), 700, len(plain))
    assert Layer.from_json(layer.to_json()) == layer


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=90),
        min_size=1,
        max_size=5,
    ).filter(lambda parts: not {".", ".."} & set(parts)),
    st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1, max_size=150),
)
def test_headers_are_read_by_tarfile(parts: list[str], target: str) -> None:
    """Long and non-ASCII paths and link targets survive; so says Python's tarfile."""
    path = "/".join(parts)
    data = tar.header(path, tar.LINK, mode=0o777, target=target) + tar.END
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        [member] = archive.getmembers()
    assert (member.name, member.linkname, member.mtime) == (path.rstrip("/"), target, 0)


def test_a_header_of_a_huge_file() -> None:
    """Sizes from 8 GiB on are exact, though USTAR has no room for them."""
    size = (9 << 30) + 7
    with tarfile.open(fileobj=io.BytesIO(tar.header("big", tar.FILE, size=size, mode=0o644)), mode="r|") as archive:
        assert archive.next().size == size  # type: ignore[union-attr]


def test_directories_of_the_base_stay_as_they_are(store: Store) -> None:
    """A layer that adds a file to a directory of the base repeats that directory's mode and owner."""
    existing = {"/usr/lib": Directory(0o2775, 0, 50)}
    layer = store.write_layer(bytes_entries({"/usr/lib/x.pyc": b"1"}), kind="bytecode", existing=existing)
    found = {item.name: item for item in members(store, layer)}
    assert (found["usr/lib"].mode, found["usr/lib"].gid) == (0o2775, 50)
    assert (found["usr"].mode, found["usr"].gid) == (0o755, 0)


@pytest.mark.parametrize("change", ["other content", "longer", "shorter", "gone"])
def test_a_file_that_changed_is_refused(store: Store, tmp_path: Path, change: str) -> None:
    """A model file that is not what was hashed ends the build by name, and no blob is left."""
    path = tmp_path / "weights.bin"
    path.write_bytes(b"0123456789")
    entry = FileEntry("weights.bin", 10, sha256_bytes(b"0123456789"))
    tree = FileTree("model", "/opt/mpack/model", (entry,))
    new = {"other content": b"012345678X", "longer": b"0123456789+", "shorter": b"012", "gone": None}[change]
    path.unlink() if new is None else path.write_bytes(new)
    with pytest.raises(InputError, match=r"weights\.bin (changed|went away)") as caught:
        store.write_layer(tree_entries(tree, Contents({entry.sha256: path})), kind="model")
    assert caught.value.code == "artifact-changed"
    assert [*store.directory.iterdir(), *store.unfinished.iterdir()] == []


def test_one_path_twice_is_a_bug(store: Store) -> None:
    """A layer never holds a path twice."""
    with pytest.raises(InternalError, match="/a appears twice"):
        store.write_layer([Entry("/a", source=b""), Entry("/a", source=b"")], kind="model")


def test_a_full_disk_is_told_as_such(store: Store) -> None:
    """ENOSPC while a layer is written is disk-full with what to do, and nothing half stays."""
    with pytest.raises(EnvironmentFault, match="no space is left") as caught, store.writing() as blob:
        blob.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.code == "disk-full"
    assert [*store.directory.iterdir(), *store.unfinished.iterdir()] == []


def test_memory_stays_flat(store: Store, tmp_path: Path) -> None:
    """A 300 MB file is copied with a few megabytes of memory."""
    path = tmp_path / "big"
    with path.open("wb") as stream:
        stream.truncate(300 << 20)
    tracemalloc.start()
    try:
        store.write_layer([Entry("/big", size=300 << 20, source=path)], kind="model")
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("kind", "files", "plain"),
    [
        ("model", {"/a": 2 << 20}, True),
        ("model", {"/a": 2 << 20, "/text": -100_000}, True),
        ("model", {"/a": 2 << 20, "/text": -(1 << 20)}, False),
        ("model", {"/a": 1 << 19}, False),
        ("dependencies", {"/a": 2 << 20}, False),
    ],
)
def test_plain_layers(kind: str, files: dict[str, int], plain: bool, store: Store) -> None:
    """A model's layer of 1 MiB and more whose samples do not shrink is a plain tar; sizes below zero are text."""
    random = Random(1)
    made = {path: b"a" * -size if size < 0 else random.randbytes(size) for path, size in files.items()}
    layer = store.write_layer(bytes_entries(made), kind=kind)
    assert (layer.media_type == TAR) == (layer.digest == layer.diff_id) == plain
    image = store.put_image(b'{"rootfs":{"diff_ids":["%s"]}}' % layer.diff_id.encode(), (layer,))
    with image.open_layer(0) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            content = archive.extractfile(member)
            assert content is not None and content.read() == made["/" + member.name]
