"""What a layer was made from -> the layer, so that a second build makes none of it again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Container, Mapping
from functools import partial
from pathlib import Path

from mpack.oci.blobs import Blobs, sha256_digest
from mpack.oci.files import disk_faults, write_whole
from mpack.oci.layer import Layer
from mpack.pruning import Prunable
from mpack.records import dataclass

#: Kinds of layers that outlive the images that have them; a "wheel" is a piece of layers.
KEPT = ("dependencies", "runtime", "bytecode", "wheel")


@dataclass(frozen=True)
class Kept:
    """What was made from something: layers, in order, and the SHA-256 of each file in them where that is of use."""

    layers: tuple[Layer, ...]
    hashes: Mapping[str, str]


class LayerCache:
    """One small file an entry in `layers/` of the store; its modification time is when it was last of use."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self.directory = blobs.root / "layers"

    def get(self, key: str) -> Layer | None:
        """The layer for a key, or None; an entry whose blob is gone is none."""
        found = self.get_all(key)
        return found.layers[0] if found and found.layers else None

    def get_all(self, key: str) -> Kept | None:
        """As `get`, where a key has several layers or hashes of files."""
        path = self._path(key)
        found = _read(path)
        if found is None or not all(self._blobs.has(layer.digest, layer.size) for layer in found.layers):
            return None
        os.utime(path)
        return found

    def put(self, key: str, *layers: Layer, hashes: Mapping[str, str] | None = None) -> None:
        """Remembers layers that are in the store."""
        value = {"key": key, "layers": [layer.to_json() for layer in layers], "hashes": dict(hashes or {})}
        data = json.dumps(value).encode()
        with disk_faults("Writing to the layer cache", self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            # Each entry has its own check, so one that a power cut took half away is a missing one.
            write_whole(self._path(key), sha256_digest(data).encode() + b"\n" + data, lasting=False)

    def digests(self) -> set[str]:
        """The blobs that the cache keeps alive; a base and a model's files go with the last image that has them."""
        return {layer.digest for layer in self._kept()}

    def size(self) -> int:
        """Bytes of the layers kept alive (images may share them)."""
        return sum({layer.digest: layer.size for layer in self._kept()}.values())

    def entries(self, in_images: Container[str] = ()) -> list[Prunable]:
        """One a layer: its bytes, unless an image needs it (`in_images`) or it goes with the last image anyway.

        With a layer go all entries that name it: what it was made from, and the environments that it is in.
        """
        grouped: dict[str, list[Path]] = {}
        sizes: dict[str, int] = {}
        for path in self._files():
            kept = _read(path)
            for digest in {layer.digest for layer in kept.layers} if kept else {path.name}:
                grouped.setdefault(digest, []).append(path)
            for layer in kept.layers if kept else ():
                sizes[layer.digest] = layer.size if layer.kind in KEPT and layer.digest not in in_images else 0
        return [
            Prunable(sizes.get(digest, 0), max(map(_last_use, paths)), partial(_forget, paths))
            for digest, paths in grouped.items()
        ]

    def _kept(self) -> list[Layer]:
        found = [kept for path in self._files() if (kept := _read(path)) is not None]
        return [layer for kept in found for layer in kept.layers if layer.kind in KEPT]

    def _files(self) -> list[Path]:
        return sorted(self.directory.glob("*.json")) if self.directory.is_dir() else []

    def _path(self, key: str) -> Path:
        return self.directory / (hashlib.sha256(key.encode()).hexdigest() + ".json")


def _last_use(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # it went with another layer
        return 0.0


def _forget(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _read(path: Path) -> Kept | None:
    # A damaged entry is a missing one: the layer is made again.
    try:
        check, _, data = path.read_bytes().partition(b"\n")
        if check != sha256_digest(data).encode():
            return None
        value = json.loads(data)
        return Kept(tuple(map(Layer.from_json, value["layers"])), value["hashes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
