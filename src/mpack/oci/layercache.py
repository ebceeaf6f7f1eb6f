"""What a layer was made from -> the layer, so that a second build makes none of it again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Container
from functools import partial
from pathlib import Path

from mpack.oci.blobs import Blobs
from mpack.oci.files import disk_faults, write_whole
from mpack.oci.layer import Layer
from mpack.pruning import Prunable

#: Kinds of layers that outlive the images that have them.
KEPT = ("dependencies", "runtime", "bytecode")


class LayerCache:
    """One small file an entry in `layers/` of the store; its modification time is when it was last of use."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self.directory = blobs.root / "layers"

    def get(self, key: str) -> Layer | None:
        """The layer for a key, or None; an entry whose blob is gone is none."""
        path = self._path(key)
        layer = _read(path)
        if layer is None or not self._blobs.has(layer.digest, layer.size):
            return None
        os.utime(path)
        return layer

    def put(self, key: str, layer: Layer) -> None:
        """Remembers a layer that is in the store."""
        with disk_faults("Writing to the layer cache", self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            write_whole(self._path(key), json.dumps({"key": key, "layer": layer.to_json()}).encode())

    def digests(self) -> set[str]:
        """The blobs that the cache keeps alive; a base and a model's files go with the last image that has them."""
        return {layer.digest for layer in self._kept()}

    def size(self) -> int:
        """Bytes of the layers kept alive (images may share them)."""
        return sum({layer.digest: layer.size for layer in self._kept()}.values())

    def entries(self, in_images: Container[str] = ()) -> list[Prunable]:
        """One a layer: its bytes, unless an image needs it (`in_images`) or it goes with the last image anyway."""
        grouped: dict[str, list[Path]] = {}
        sizes: dict[str, int] = {}
        for path in self._files():
            layer = _read(path)
            digest = layer.digest if layer else path.name
            grouped.setdefault(digest, []).append(path)
            if layer is not None:
                sizes[digest] = layer.size if layer.kind in KEPT and digest not in in_images else 0
        return [
            Prunable(sizes.get(digest, 0), max(path.stat().st_mtime for path in paths), partial(_forget, paths))
            for digest, paths in grouped.items()
        ]

    def _kept(self) -> list[Layer]:
        layers = [layer for path in self._files() if (layer := _read(path)) is not None]
        return [layer for layer in layers if layer.kind in KEPT]

    def _files(self) -> list[Path]:
        return sorted(self.directory.glob("*.json")) if self.directory.is_dir() else []

    def _path(self, key: str) -> Path:
        return self.directory / (hashlib.sha256(key.encode()).hexdigest() + ".json")


def _forget(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _read(path: Path) -> Layer | None:
    # A damaged entry is a missing one: the layer is made again.
    try:
        return Layer.from_json(json.loads(path.read_bytes())["layer"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
