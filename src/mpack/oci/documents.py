"""Documents about images beside the store's blobs, by image id: what is told of an image and is no part of it."""

from __future__ import annotations

import os
import time
from collections.abc import Container
from pathlib import Path

from mpack.errors import EnvironmentFault
from mpack.oci.files import disk_faults, write_whole

#: Ends the name of a document whose image only an engine has, so that the store cannot tell when it goes.
_FOREIGN = ".engine.json"
_OWN = ".json"


class Documents:
    """One file an image below `directory`, whole or absent."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def put(self, image_id: str, data: bytes, *, in_store: bool) -> None:
        """Keeps the document of an image; `in_store` False: until no one asks for it any more."""
        path = self._path(image_id, _OWN if in_store else _FOREIGN)
        with disk_faults("Writing to the image store", self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_bytes() != data:  # writing lasts as long as the disk takes to sync
                write_whole(path, data)

    def get(self, image_id: str) -> bytes | None:
        """The document of an image, or None."""
        for suffix in (_OWN, _FOREIGN):
            path = self._path(image_id, suffix)
            try:
                data = path.read_bytes()
                os.utime(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise EnvironmentFault("store-corrupt", f"{path} cannot be read: {error.strerror}.") from error
            return data
        return None

    def sweep(self, listed: Container[str]) -> int:
        """Removes the documents of images that were in the store and are not `listed` (ids); the bytes freed."""
        return sum(
            _remove(path)
            for path in self._files()
            if not path.name.endswith(_FOREIGN) and f"sha256:{path.name.removesuffix(_OWN)}" not in listed
        )

    def prune(self, older_than: float) -> None:
        """Forgets what nobody asked for in `older_than` seconds, of images that only an engine has."""
        limit = time.time() - older_than
        for path in self._files():
            if path.name.endswith(_FOREIGN) and path.stat().st_mtime <= limit:
                _remove(path)

    def _files(self) -> list[Path]:
        return sorted(self.directory.glob("*.json")) if self.directory.is_dir() else []

    def _path(self, image_id: str, suffix: str) -> Path:
        return self.directory / (image_id.removeprefix("sha256:") + suffix)


def _remove(path: Path) -> int:
    size = path.stat().st_size
    path.unlink(missing_ok=True)
    return size
