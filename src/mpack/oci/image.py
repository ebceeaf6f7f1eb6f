"""OciImage: an immutable view of one image's manifest, configuration and layers; bytes are read when asked for."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from contextlib import closing
from typing import Any, BinaryIO

from mpack.errors import EnvironmentFault
from mpack.oci.blobs import BlobSource, sha256_digest
from mpack.oci.compression import GZIP_ERRORS, open_gzip
from mpack.oci.layer import GZIP, TAR, Layer
from mpack.records import dataclass

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
#: Annotations of layer descriptors in manifests that mpack writes.
KIND = "dev.mpack.layer.kind"
UNPACKED = "dev.mpack.layer.unpacked"
TAR_SIZE = "dev.mpack.layer.tar"
_GZIPPED = (GZIP, "application/vnd.docker.image.rootfs.diff.tar.gzip")
_PLAIN = (TAR, "application/vnd.docker.image.rootfs.diff.tar")


@dataclass(frozen=True)
class OciImage:
    """An image in some blob source. `digest` is its manifest's, `id` its configuration's ("sha256:…")."""

    blobs: BlobSource
    digest: str
    id: str
    manifest: Mapping[str, Any]
    config: Mapping[str, Any]
    layers: tuple[Layer, ...]
    manifest_size: int

    @classmethod
    def load(cls, blobs: BlobSource, digest: str) -> OciImage:
        """Reads manifest and configuration. Raises EnvironmentFault store-corrupt when they do not make an image."""
        return cls.parse(blobs, digest, blobs.read(digest))

    @classmethod
    def parse(cls, blobs: BlobSource, digest: str, raw: bytes) -> OciImage:
        """As `load`, of a manifest's bytes: it need not be among the blobs."""
        manifest = _json(raw, digest, "manifest")
        try:
            identifier = str(manifest["config"]["digest"])
            config = _json(blobs.read(identifier), identifier, "configuration")
            diff_ids = config["rootfs"]["diff_ids"]
            described = manifest["layers"]
            if len(diff_ids) != len(described):
                raise ValueError(f"{len(described)} layers and {len(diff_ids)} diff ids")
            layers = tuple(_layer(item, str(diff_id)) for item, diff_id in zip(described, diff_ids, strict=True))
        except (KeyError, TypeError, ValueError) as error:
            raise EnvironmentFault(
                "store-corrupt",
                f"The manifest {digest} is not that of an image ({error}).",
                f"`mpack rm {digest}` removes it; then build or pull the image again.",
            ) from error
        return cls(blobs, digest, identifier, manifest, config, layers, len(raw))

    @property
    def images(self) -> tuple[OciImage, ...]:
        """Itself: what an index has several of."""
        return (self,)

    @property
    def media_type(self) -> str:
        """The manifest's."""
        return str(self.manifest.get("mediaType", MANIFEST))

    @property
    def platform(self) -> str:
        """For example "linux/amd64" or "linux/arm64/v8"."""
        parts = (self.config.get("os", "linux"), self.config.get("architecture", ""), self.config.get("variant"))
        return "/".join(part for part in parts if part)

    @property
    def runtime(self) -> Mapping[str, Any]:
        """The configuration's `config` object: Env, Entrypoint, Labels and so on."""
        return self.config.get("config") or {}

    @property
    def labels(self) -> Mapping[str, str]:
        found = self.runtime.get("Labels")
        return {key: value for key, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}

    @property
    def size(self) -> int:
        """Bytes of the manifest, the configuration and the layers as they are stored."""
        return self.manifest_size + int(self.manifest["config"]["size"]) + sum(layer.size for layer in self.layers)

    def gzipped(self, number: int) -> bool:
        """True if a layer's blob is gzip, False if it is a plain tar."""
        return self.layers[number].media_type in _GZIPPED

    def open_layer(self, number: int) -> BinaryIO:
        """The uncompressed tar of a layer. Reading damaged content raises EnvironmentFault store-corrupt."""
        layer = self.layers[number]
        stream = self.blobs.open(layer.digest)
        if not self.gzipped(number):
            return stream
        return io.BufferedReader(Unzipped(stream, layer.digest), 1 << 20)


def measure_layer(image: OciImage, number: int) -> tuple[str, int]:
    """What a layer's diff id must be, and its bytes uncompressed: read from its blob, not believed.

    Raises EnvironmentFault store-corrupt as `open_layer`.
    """
    digest, size = hashlib.sha256(), 0
    with closing(image.open_layer(number)) as stream:
        while data := stream.read(1 << 20):
            digest.update(data)
            size += len(data)
    return f"sha256:{digest.hexdigest()}", size


class Unzipped(io.RawIOBase):
    """A gzip stream whose damage is told in mpack's words."""

    def __init__(self, stream: BinaryIO, digest: str) -> None:
        self._stream = stream
        self._digest = digest
        self._plain = open_gzip(stream)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        try:
            data = self._plain.read(len(buffer))
        except GZIP_ERRORS as error:
            raise EnvironmentFault(
                "store-corrupt", f"The layer {self._digest} is not whole gzip data: {error}."
            ) from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._plain.close()
        self._stream.close()
        super().close()


def canonical_json(value: Any) -> bytes:
    """JSON in one form: sorted keys, no spaces, UTF-8; half a surrogate pair is written as JSON escapes it."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace")


def descriptor(layer: Layer) -> dict[str, Any]:
    """A layer's descriptor as mpack writes it into manifests."""
    annotations = {KIND: layer.kind}
    for key, value in ((UNPACKED, layer.unpacked_size), (TAR_SIZE, layer.tar_size)):
        if value is not None:
            annotations[key] = str(value)
    return {"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size, "annotations": annotations}


def make_manifest(config: bytes, layers: tuple[Layer, ...]) -> dict[str, Any]:
    """The OCI manifest for a configuration and its layers."""
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": sha256_digest(config), "size": len(config)},
        "layers": [descriptor(layer) for layer in layers],
    }


def _layer(item: Mapping[str, Any], diff_id: str) -> Layer:
    media_type = str(item["mediaType"])
    if media_type not in (*_GZIPPED, *_PLAIN):
        raise ValueError(f"a layer of type {media_type}, which mpack cannot read")
    notes = item.get("annotations") or {}
    sizes = {key: int(notes[key]) for key in (UNPACKED, TAR_SIZE) if key in notes}
    return Layer(
        diff_id,
        str(item["digest"]),
        int(item["size"]),
        media_type,
        sizes.get(UNPACKED),
        str(notes.get(KIND, "base")),
        sizes.get(TAR_SIZE),
    )


def _json(data: bytes, digest: str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
        if not isinstance(value, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise EnvironmentFault("store-corrupt", f"The {what} {digest} is not JSON: {error}.") from error
    return value
