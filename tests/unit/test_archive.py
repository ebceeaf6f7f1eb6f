"""Images as files: written for docker and for OCI tools, read back whole, and refused when they are not sound."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mpack.errors import EnvironmentFault, InputError
from mpack.oci.archive import Pieces, docker_archive, oci_archive, write_oci_directory
from mpack.oci.blobs import Blobs
from mpack.oci.compose import append_layers
from mpack.oci.image import OciImage
from mpack.oci.layer import bytes_entries
from mpack.oci.load import read_archive, read_oci_directory
from mpack.oci.rootfs import read_files
from mpack.oci.store import Store
from mpack.testing.tiny import tiny_base


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


@pytest.fixture
def image(store: Store) -> OciImage:
    """An image of a base and one layer."""
    layer = store.write_layer(bytes_entries({"/opt/model": b"weights" * 1000}), kind="model")
    return append_layers(store, tiny_base(store), [layer])


def files(image: OciImage) -> dict[str, bytes | None]:
    """Every file and its content."""
    found = read_files(image, lambda path: True)
    return {path: node.content for path, node in found.items() if node.kind == "file"}


def read(store: Store, data: bytes) -> list[Any]:
    """`read_archive` of bytes."""
    return read_archive(store, io.BytesIO(data), "the archive")


def rewrite(data: bytes, change: Callable[[str, bytes], tuple[str, bytes] | None]) -> bytes:
    """A tar with each member changed, or left out where `change` gives None."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=sink, mode="w") as new:
        for member in old:
            content = old.extractfile(member).read() if member.isreg() else b""  # type: ignore[union-attr]
            changed = change(member.name, content)
            if changed is not None and member.isreg():
                info = tarfile.TarInfo(changed[0])
                info.size = len(changed[1])
                new.addfile(info, io.BytesIO(changed[1]))
    return sink.getvalue()


def test_docker_archive(image: OciImage) -> None:
    """manifest.json names configuration, tags and uncompressed layers, each with its diff id."""
    data = b"".join(docker_archive(image, ["model:1"]))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = archive.getnames()
        [manifest] = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        config = archive.extractfile(manifest["Config"]).read()  # type: ignore[union-attr]
        layers = [archive.extractfile(path).read() for path in manifest["Layers"]]  # type: ignore[union-attr]
    assert names[0] == "manifest.json" and manifest["RepoTags"] == ["model:1"]
    assert "sha256:" + hashlib.sha256(config).hexdigest() == image.id
    assert ["sha256:" + hashlib.sha256(data).hexdigest() for data in layers] == [
        layer.diff_id for layer in image.layers
    ]


def test_thin_docker_archive(image: OciImage) -> None:
    """Layers left out are named and not there; without names there are no tags."""
    with tarfile.open(fileobj=io.BytesIO(b"".join(docker_archive(image, leave_out=1)))) as archive:
        [manifest] = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        present = [path in archive.getnames() for path in manifest["Layers"]]
    assert (present, manifest["RepoTags"]) == ([False, True], None)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzipped"])
def test_docker_archive_round_trip(image: OciImage, tmp_path: Path, packed: bool) -> None:
    """Read into another store the image has the same id, files and names, and its sizes are known."""
    data = b"".join(docker_archive(image, ["model:1", "model:2"]))
    [loaded] = read(Store(tmp_path / "other"), gzip.compress(data) if packed else data)
    assert (loaded.image.id, loaded.names) == (image.id, ("model:1", "model:2"))
    assert files(loaded.image) == files(image)
    assert [layer.unpacked_size for layer in loaded.image.layers] == [8, 7000]


def test_what_docker_save_wrote_of_old(image: OciImage, tmp_path: Path) -> None:
    """Docker's own details are understood: layers as links to others, ./ before paths, files nobody names."""
    sink = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(b"".join(docker_archive(image, ["m:1"])))) as old,
        tarfile.open(fileobj=sink, mode="w") as new,
    ):
        manifest = json.load(old.extractfile("manifest.json"))  # type: ignore[arg-type]
        path = manifest[0]["Layers"][0]
        manifest[0]["Layers"][0] = "link/layer.tar"
        for member in old:
            data = old.extractfile(member).read() if member.isreg() else b""  # type: ignore[union-attr]
            data = json.dumps(manifest).encode() if member.name == "manifest.json" else data
            member.name, member.size = f"./{member.name}", len(data)
            new.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("link/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, f"../{path}"
        new.addfile(link)
        new.addfile(tarfile.TarInfo("repositories"), io.BytesIO())
    [loaded] = read(Store(tmp_path / "other"), sink.getvalue())
    assert files(loaded.image) == files(image)


def test_oci_archive_round_trip(image: OciImage, tmp_path: Path) -> None:
    """An OCI archive keeps manifest digest, id and name."""
    [loaded] = read(Store(tmp_path / "other"), b"".join(oci_archive(image, "model:1")))
    assert (loaded.image.digest, loaded.image.id, loaded.names) == (image.digest, image.id, ("model:1",))


def test_oci_directory(store: Store, image: OciImage, tmp_path: Path) -> None:
    """A directory takes several images; a name given again moves; every one is read back."""
    directory = tmp_path / "layout"
    other = append_layers(store, image, [store.write_layer(bytes_entries({"/x": b"1"}), kind="model")])
    write_oci_directory(image, directory, "model:1")
    write_oci_directory(image, directory, "model:2")
    write_oci_directory(other, directory, "model:1")
    write_oci_directory(other, directory, "model:1")
    loaded = read_oci_directory(Store(tmp_path / "other"), directory)
    assert sorted((item.names, item.image.digest) for item in loaded) == [
        (("model:1",), other.digest),
        (("model:2",), image.digest),
    ]
    assert sorted(path.name for path in directory.iterdir()) == ["blobs", "index.json", "oci-layout"]


def test_writers_of_one_directory_lose_no_image(store: Store, tmp_path: Path) -> None:
    """Whoever adds an image to a layout waits for the others: each name is there in the end."""
    images = [tiny_base(store, {"/n": str(number).encode()}) for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: write_oci_directory(images[n], tmp_path / "layout", f"model:{n}"), range(24)))
    found = {loaded.names[0]: loaded.image.digest for loaded in read_oci_directory(store, tmp_path / "layout")}
    assert found == {f"model:{number}": image.digest for number, image in enumerate(images)}


def test_an_index_within_an_index(image: OciImage, tmp_path: Path) -> None:
    """What docker 25+ and buildx write: an index that names an index; attestations are no images."""
    directory = tmp_path / "layout"
    write_oci_directory(image, directory)
    index = json.loads((directory / "index.json").read_text())
    index["manifests"].append({**index["manifests"][0], "platform": {"os": "unknown", "architecture": "unknown"}})
    inner = json.dumps(index).encode()
    digest = Blobs(directory).add(inner)
    kind = "application/vnd.oci.image.index.v1+json"
    notes = {"org.opencontainers.image.ref.name": "model:1"}
    outer = {"manifests": [{"mediaType": kind, "digest": digest, "size": len(inner), "annotations": notes}]}
    (directory / "index.json").write_text(json.dumps(outer))
    [loaded] = read_oci_directory(Store(tmp_path / "other"), directory)
    assert (loaded.image.digest, loaded.names) == (image.digest, ("model:1",))


BREAKS: dict[str, Callable[[str, bytes], tuple[str, bytes] | None]] = {
    "layer changed": lambda name, data: (
        name,
        data[:-1500] + b"!" + data[-1499:] if name.endswith("layer.tar") else data,
    ),
    "layer missing": lambda name, data: None if name.endswith("layer.tar") else (name, data),
    "configuration changed": lambda name, data: (
        name,
        data.replace(b"amd64", b"arm64") if name not in ("manifest.json",) and name.endswith(".json") else data,
    ),
    "manifest no list": lambda name, data: (name, b"{}" if name == "manifest.json" else data),
    "manifest no JSON": lambda name, data: (name, b"[{" if name == "manifest.json" else data),
    "manifest of strings": lambda name, data: (name, b'["x"]' if name == "manifest.json" else data),
    "no manifest": lambda name, data: None if name == "manifest.json" else (name, data),
}


@pytest.mark.parametrize("fault", BREAKS)
def test_unsound_docker_archives(image: OciImage, tmp_path: Path, fault: str) -> None:
    """Whatever is wrong with an archive is one kind of error that names the file; nothing gets listed."""
    other = Store(tmp_path / "other")
    with pytest.raises(InputError, match="the archive is not an image that can be read") as caught:
        read(other, rewrite(b"".join(docker_archive(image, ["model:1"])), BREAKS[fault]))
    assert caught.value.code == "base-unsuitable" and other.records() == []


@pytest.mark.parametrize("data", [b"", b"text" * 500, b"\x1f\x8b" + b"x" * 100], ids=["empty", "text", "bad gzip"])
def test_no_archive_at_all(store: Store, data: bytes) -> None:
    """A file of another kind is refused likewise."""
    with pytest.raises(InputError, match="the archive is not an image"):
        read(store, data)


def test_a_cut_archive(store: Store, image: OciImage, tmp_path: Path) -> None:
    """An archive that ends early is refused, wherever it was cut."""
    data = b"".join(oci_archive(image, "model:1"))
    for size in (700, 2000, len(data) // 2, len(data) - 3000):
        with pytest.raises(InputError, match="the archive is not an image"):
            read(Store(tmp_path / "other"), data[:size])


@pytest.mark.parametrize("part", ["layer", "manifest"])
def test_damaged_oci_directory(image: OciImage, tmp_path: Path, part: str) -> None:
    """A blob that is not what its name says is refused, naming directory and blob."""
    directory = tmp_path / "layout"
    write_oci_directory(image, directory, "model:1")
    digest = image.layers[1].digest if part == "layer" else image.digest
    path = directory / "blobs" / digest.replace(":", "/")
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(InputError, match=f"{directory} .*{digest}"):
        read_oci_directory(Store(tmp_path / "other"), directory)


def test_an_index_that_points_elsewhere(image: OciImage, tmp_path: Path) -> None:
    """A digest with a path in it reads no file outside the layout."""
    directory = tmp_path / "layout"
    write_oci_directory(image, directory, "model:1")
    index = json.loads((directory / "index.json").read_text())
    index["manifests"][0]["digest"] = "sha256:../../../../etc/passwd"
    (directory / "index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="is not a SHA-256 digest"):
        read_oci_directory(Store(tmp_path / "other"), directory)


@pytest.mark.parametrize("kind", ["pipe", "endless", "larger", "link"])
def test_blobs_of_a_directory_are_files(image: OciImage, tmp_path: Path, kind: str) -> None:
    """What never ends, never begins, has another size or is a link is not read at all."""
    directory, other = tmp_path / "layout", Store(tmp_path / "other")
    write_oci_directory(image, directory, "model:1")
    path = directory / "blobs" / image.layers[1].digest.replace(":", "/")
    moved = path.rename(tmp_path / "moved")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "larger":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    else:
        path.symlink_to("/dev/zero" if kind == "endless" else moved)
    with pytest.raises(InputError, match=f"{directory} is not an image"):
        read_oci_directory(other, directory)
    assert not other.has(image.layers[1].digest) and list(other.unfinished.iterdir()) == []


def test_an_archive_of_large_headers(store: Store) -> None:
    """Names and attributes of many megabytes are refused before they are in memory."""
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
        info = tarfile.TarInfo("x")
        info.type, info.size = kind, 200 << 20
        packed = gzip.compress(info.tobuf() + bytes(info.size), 1)
        tracemalloc.start()
        with pytest.raises(InputError, match="an extended header has"):
            read(store, packed)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
        tracemalloc.stop()


def test_writing_a_damaged_image(store: Store, image: OciImage) -> None:
    """A layer whose blob was changed ends the archive with store-corrupt, not with a wrong archive."""
    path = store.path(image.layers[1].digest)
    path.write_bytes(path.read_bytes()[:-9] + b"123456789")
    for pieces in (docker_archive(image), oci_archive(image)):
        with pytest.raises(EnvironmentFault) as caught:
            b"".join(pieces)
        assert caught.value.code == "store-corrupt"


def test_pieces_as_a_file() -> None:
    """An iterator of bytes reads like a file, in any block size."""
    stream = io.BufferedReader(Pieces(iter([b"abc", b"", b"defgh", b"i"])), 4)
    assert [stream.read(2), stream.read(5), stream.read()] == [b"ab", b"cdefg", b"hi"]
