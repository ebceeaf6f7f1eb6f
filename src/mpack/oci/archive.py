"""Images as files: docker-archive, oci-archive and OCI directories are written here and read in `mpack.oci.load`."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO

from mpack.errors import EnvironmentFault
from mpack.oci import tar
from mpack.oci.blobs import Blobs
from mpack.oci.files import alone_in, disk_faults, sync_directory, write_whole
from mpack.oci.image import OciImage
from mpack.oci.imageindex import INDEX, AnyImage, blobs_of, member_entry

LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
REF_NAME = "org.opencontainers.image.ref.name"
#: Where containerd looks for the name. It takes it as it is, so the host that others add stands in it.
_CONTAINERD_NAME = "io.containerd.image.name"
_CHUNK = 1 << 20


def docker_archive(image: OciImage, names: Iterable[str] = (), *, leave_out: int = 0) -> Iterator[bytes]:
    """A docker-archive for `docker load`, in pieces; without names the image is loaded by id alone.

    Layers are uncompressed, which docker loads faster, where their size is known beforehand; else as they are stored.
    `leave_out` is the number of lowest layers that the engine has already: it finds them by their ids.
    """
    config = f"{image.id.removeprefix('sha256:')}.json"
    paths = [f"{layer.diff_id.removeprefix('sha256:')}/layer.tar" for layer in image.layers]
    manifest = [{"Config": config, "RepoTags": list(names) or None, "Layers": paths}]
    yield from _file("manifest.json", json.dumps(manifest).encode())
    yield from _file(config, image.blobs.read(image.id))
    written: set[str] = set()
    for number in range(leave_out, len(image.layers)):
        if paths[number] in written:
            continue
        written.add(paths[number])
        yield tar.header(paths[number].removesuffix("layer.tar"), tar.DIRECTORY, mode=0o755)
        size = image.layers[number].tar_size
        if size is not None and image.gzipped(number):
            yield from _stream(paths[number], image.open_layer(number), size)
        else:
            layer = image.layers[number]
            yield from _stream(paths[number], image.blobs.open(layer.digest), layer.size)
    yield tar.END


def oci_archive(image: AnyImage, name: str = "") -> Iterator[bytes]:
    """A tar of an OCI layout that holds the image, in pieces."""
    yield from _file("oci-layout", LAYOUT)
    yield from _file("index.json", _index([index_entry(image, name)]))
    for directory in ("blobs/", "blobs/sha256/"):
        yield tar.header(directory, tar.DIRECTORY, mode=0o755)
    for digest, size in blobs_of(image):
        yield from _stream(f"blobs/sha256/{digest.removeprefix('sha256:')}", image.blobs.open(digest), size)
    yield tar.END


def write_oci_directory(image: AnyImage, directory: Path, name: str = "") -> None:
    """Adds the image to an OCI layout, which is made if it is absent; an image of the same name gives it up."""
    target = Blobs(directory)
    with disk_faults(f"Writing the OCI layout {directory}", directory), ExitStack() as stack:
        directory.mkdir(parents=True, exist_ok=True)
        stack.enter_context(alone_in(directory, "Choose a directory on a local disk"))
        entries = [item for item in _existing(directory) if not _same(item, image, name)]
        for digest, size in blobs_of(image):
            if not target.has(digest, size):
                with image.blobs.open(digest) as stream, target.writing(expected=digest) as blob:
                    while data := stream.read(_CHUNK):
                        blob.write(data)
        sync_directory(target.directory)
        write_whole(directory / "oci-layout", LAYOUT)
        write_whole(directory / "index.json", _index([*entries, index_entry(image, name)]))
        with suppress(OSError):
            target.unfinished.rmdir()


class Pieces(io.RawIOBase):
    """An iterator of bytes as a file to read from."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def index_entry(image: AnyImage, name: str = "") -> dict[str, Any]:
    """The descriptor of an image, or of an index, in the index of a layout."""
    if isinstance(image, OciImage):
        entry = member_entry(image)
    else:
        entry = {"mediaType": image.media_type, "digest": image.digest, "size": image.manifest_size}
    if name:
        entry["annotations"] = {REF_NAME: name, _CONTAINERD_NAME: full_name(name)}
    return entry


def full_name(name: str) -> str:
    """A name with its host: "wine:1" is "docker.io/library/wine:1" to docker, podman and Kubernetes."""
    first, slash, _ = name.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first):
        return name
    return f"docker.io/{name}" if slash else f"docker.io/library/{name}"


def _index(entries: list[dict[str, Any]]) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}, indent=1).encode()


def _existing(directory: Path) -> list[dict[str, Any]]:
    path = directory / "index.json"
    try:
        entries = json.loads(path.read_bytes())["manifests"]
        if not all(isinstance(item, dict) for item in entries):
            raise TypeError("an entry that is no object")
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise EnvironmentFault(
            "store-corrupt",
            f"{path} is not the index of an OCI layout ({error}); the image was not added.",
            "Choose another directory, or move this one away.",
        ) from error
    return list(entries)


def _same(item: dict[str, Any], image: AnyImage, name: str) -> bool:
    held = (item.get("annotations") or {}).get(REF_NAME, "")
    return bool(name and held == name) or (item.get("digest") == image.digest and held in ("", name))


def _file(path: str, data: bytes) -> Iterator[bytes]:
    yield tar.header(path, tar.FILE, size=len(data), mode=0o644)
    yield data + tar.padding(len(data))


def _stream(path: str, stream: BinaryIO, size: int) -> Iterator[bytes]:
    yield tar.header(path, tar.FILE, size=size, mode=0o644)
    with stream:
        left = size
        while data := stream.read(_CHUNK):
            left -= len(data)
            if left < 0:
                break
            yield data
    if left:
        raise EnvironmentFault(
            "store-corrupt", f"The layer {path} in the image store has not the {size} bytes it should have."
        )
    yield tar.padding(size)
