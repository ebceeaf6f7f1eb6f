"""Images from files into the store: what `docker save` writes, OCI archives and OCI directories.

All of it is foreign input: paths, sizes and digests are checked, and nothing is listed in the store here.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path
from posixpath import dirname, join, normpath
from typing import IO, Any, BinaryIO, cast

from mpack.errors import EnvironmentFault, InputError, MpackError
from mpack.oci.archive import REF_NAME
from mpack.oci.blobs import JSON_LIMIT, is_digest
from mpack.oci.compression import GZIP_ERRORS, open_gzip
from mpack.oci.image import OciImage, measure_layer
from mpack.oci.layer import GZIP, TAR, Layer
from mpack.oci.members import Header, layer_members
from mpack.oci.store import Store

BYTES_LIMIT = 100 << 30
ENTRIES_LIMIT = 100_000
_INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_HEX_NAME = re.compile(r"(?:blobs/sha256/)?([0-9a-f]{64})(?:\.json)?")
_MAGIC = b"\x1f\x8b"
#: What reading a file of another form runs into.
_ODD: tuple[type[Exception], ...] = (
    *GZIP_ERRORS,
    tarfile.TarError,
    OSError,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
)


@dataclass(frozen=True)
class Loaded:
    """An image that is in the store now, and the names its file gives it."""

    image: OciImage
    names: tuple[str, ...]


def read_archive(store: Store, stream: BinaryIO, source: str) -> list[Loaded]:
    """The images of a docker-archive or oci-archive, gzipped or not; `source` names it in messages.

    The caller holds a lease of the store. Raises InputError base-unsuitable for what is not a sound archive.
    """
    buffered = stream if isinstance(stream, BufferedReader) else BufferedReader(cast("Any", stream))
    gzipped = buffered.peek(2)[:2] == _MAGIC
    plain = cast("IO[bytes]", open_gzip(buffered) if gzipped else buffered)
    try:
        digests = _members(store, plain, source)
        reader = _Reader(store, source, digests)
        if "manifest.json" in digests:
            return [_docker_image(reader, item) for item in reader.json("manifest.json", list)]
        if "index.json" in digests:
            return _oci_images(reader, reader.json("index.json", dict))
    except _ODD as error:
        raise _unsound(source, str(error) or type(error).__name__) from error
    except EnvironmentFault as error:
        raise _not_ours(error, source) from error
    raise _unsound(source, "it has neither manifest.json nor index.json")


def read_oci_directory(store: Store, directory: Path) -> list[Loaded]:
    """The images of an OCI layout. Raises as `read_archive`."""
    try:
        index = json.loads(_small(directory / "index.json"))
        return _oci_images(_Reader(store, str(directory), {}, directory), index)
    except _ODD as error:
        raise _unsound(str(directory), str(error)) from error
    except EnvironmentFault as error:
        raise _not_ours(error, str(directory)) from error


def read_file(store: Store, reference: str) -> list[Loaded]:
    """The images of "oci:DIR", "oci-archive:FILE" or "docker-archive:FILE". Raises as `read_archive`."""
    kind, _, name = reference.partition(":")
    path = Path(name)
    if kind == "oci":
        return read_oci_directory(store, path)
    try:
        stream = path.open("rb")
    except OSError as error:
        raise InputError("base-unsuitable", f"{reference} cannot be read: {error.strerror}.") from error
    with stream:
        return read_archive(store, stream, reference)


class _Reader:
    """What the file holds: paths of an archive's members, or blobs of a directory, all brought into the store."""

    def __init__(self, store: Store, source: str, digests: Mapping[str, str], directory: Path | None = None) -> None:
        self.store = store
        self.source = source
        self._digests = digests
        self._held = set(digests.values())
        self._directory = directory

    def digest(self, path: str) -> str:
        """The digest of a member. Raises KeyError if the archive has none of that path."""
        return self._digests[normpath(path)]

    def json(self, path: str, kind: type) -> Any:
        return _json(self.store.read(self.digest(path)), kind)

    def blob(self, descriptor: Mapping[str, Any]) -> str:
        """Makes sure that a blob is in the store, whole, with the size that its descriptor gives it; its digest."""
        digest, size = descriptor["digest"], descriptor["size"]
        if not is_digest(digest):
            raise ValueError(f"{digest!r} is not a SHA-256 digest")
        if self._directory is None:
            if digest not in self._held:
                raise ValueError(f"the blob {digest} is missing or damaged")
        elif not self.store.has(digest):
            with (
                _regular(self._directory / "blobs" / digest.replace(":", "/"), size) as stream,
                self.store.writing() as blob,
            ):
                left = size
                while data := stream.read(min(left, 1 << 20)):
                    blob.write(data)
                    left -= len(data)
                if blob.digest != digest:
                    raise ValueError(f"the blob {digest} is damaged")
        if not self.store.has(digest, size):
            raise ValueError(f"the blob {digest} has not the {size} bytes it should have")
        return str(digest)


def _regular(path: Path, size: int) -> BinaryIO:
    """A file of `size` bytes, opened: no link, and nothing that never ends. Raises ValueError for anything else."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size != size:
        os.close(descriptor)
        raise ValueError(f"{path.name} is no file of {size} bytes")
    return os.fdopen(descriptor, "rb")


def _members(store: Store, stream: IO[bytes], source: str) -> dict[str, str]:
    """Every regular file of a tar as a blob: path -> digest; links lead to what they name."""
    digests: dict[str, str] = {}
    links: dict[str, str] = {}
    total = 0
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=Header) as archive:
        for number, member in enumerate(archive):
            # tarfile would keep every header
            archive.members = []  # type: ignore[attr-defined]
            total += member.size
            if number > ENTRIES_LIMIT or total > BYTES_LIMIT:
                raise _unsound(source, f"it has more than {ENTRIES_LIMIT} entries or {BYTES_LIMIT} bytes")
            path = normpath(member.name)
            if member.issym():
                links[path] = normpath(join(dirname(path), member.linkname))
            elif member.islnk():
                links[path] = normpath(member.linkname)
            elif member.isreg():
                content = archive.extractfile(member)
                assert content is not None
                digests[path] = store.add_stream(cast("BinaryIO", content))[0]
    for path, target in links.items():
        if target in digests:
            digests[path] = digests[target]
    return digests


def _docker_image(reader: _Reader, item: Mapping[str, Any]) -> Loaded:
    config_digest = reader.digest(item["Config"])
    named = _HEX_NAME.fullmatch(normpath(item["Config"]))
    if named and f"sha256:{named[1]}" != config_digest:
        raise ValueError(f"the configuration {item['Config']} is damaged")
    config = reader.store.read(config_digest)
    diff_ids = _json(config, dict)["rootfs"]["diff_ids"]
    paths = item["Layers"]
    if len(paths) != len(diff_ids):
        raise ValueError(f"{len(paths)} layers and {len(diff_ids)} diff ids")
    layers = tuple(
        _layer(reader.store, reader.digest(path), diff_id) for path, diff_id in zip(paths, diff_ids, strict=True)
    )
    image = reader.store.put_image(config, layers)
    measured = tuple(_measured(image, number) for number in range(len(layers)))
    return Loaded(reader.store.put_image(config, measured), tuple(item.get("RepoTags") or ()))


def _layer(store: Store, digest: str, diff_id: str) -> Layer:
    size = store.path(digest).stat().st_size
    with store.open(digest) as stream:
        gzipped = stream.read(2) == _MAGIC
    return Layer(diff_id, digest, size, GZIP if gzipped else TAR)


def _measured(image: OciImage, number: int) -> Layer:
    """The layer with its sizes, its diff id checked."""
    layer = image.layers[number]
    diff_id, size = measure_layer(image, number)
    if diff_id != layer.diff_id:
        raise ValueError(f"the layer {layer.diff_id} is damaged")
    return replace(layer, unpacked_size=unpacked_size(image, number), tar_size=size)


def unpacked_size(image: OciImage, number: int) -> int:
    """The sum of a layer's file sizes in bytes."""
    return sum(member.size for member, _, _ in layer_members(image, number) if member.isreg())


def _oci_images(reader: _Reader, index: Mapping[str, Any], depth: int = 0) -> list[Loaded]:
    found: list[Loaded] = []
    for item in index["manifests"]:
        digest = reader.blob(item)
        names = (item.get("annotations") or {}).get(REF_NAME)
        manifest = _json(reader.store.read(digest), dict)
        if item.get("mediaType") in _INDEX_TYPES or "manifests" in manifest:
            if depth < 2:
                inner = _oci_images(reader, manifest, depth + 1)
                found += [replace(loaded, names=(names,) if names else loaded.names) for loaded in inner]
        elif (item.get("platform") or {}).get("os") != "unknown":  # an attestation is no image
            found.append(Loaded(_oci_image(reader, digest, manifest), (names,) if names else ()))
    return found


def _oci_image(reader: _Reader, digest: str, manifest: Mapping[str, Any]) -> OciImage:
    for described in (manifest["config"], *manifest["layers"]):
        reader.blob(described)
    image = OciImage.load(reader.store, digest)
    for number in range(len(image.layers)):
        _measured(image, number)
    return image


def _json(data: bytes, kind: type) -> Any:
    value = json.loads(data)
    if not isinstance(value, kind):
        raise TypeError(f"a {kind.__name__} was expected, not {type(value).__name__}")
    return value


def _small(path: Path) -> bytes:
    size = path.lstat().st_size
    if size > JSON_LIMIT:
        raise ValueError(f"{path.name} is larger than {JSON_LIMIT} bytes")
    with _regular(path, size) as stream:
        return stream.read(size)


def _not_ours(error: EnvironmentFault, source: str) -> MpackError:
    """Damage found while reading a foreign file is the file's, not the store's."""
    return _unsound(source, error.message) if error.code == "store-corrupt" else error


def _unsound(source: str, why: str) -> InputError:
    return InputError(
        "base-unsuitable",
        f"{source} is not an image that can be read: {why}.",
        "Write it anew, for example with `docker save`, or `skopeo copy … oci:DIR`.",
    )
