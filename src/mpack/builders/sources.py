"""The sources that byte code is made of: where they come from, their hashes, and their bytes when asked for."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence

from mpack.builders.wheels import WheelLayers
from mpack.contents import Contents
from mpack.errors import InputError
from mpack.oci.image import OciImage, Unzipped
from mpack.oci.layer import Directory, Entry, Layer, tree_entries
from mpack.oci.rootindex import Files, read_files
from mpack.oci.store import Store
from mpack.plan import ImagePlan

_RUNTIME = "runtime"


class Sources:
    """Sources of a plan's image, by absolute path: of the base, of wheels, and of the plan's trees."""

    def __init__(
        self,
        store: Store,
        wheels: WheelLayers,
        plan: ImagePlan,
        base: OciImage,
        paths: Sequence[str],
        contents: Contents,
    ) -> None:
        wanted = set(paths)
        self._store = store
        self._wheels = {path: item for path, item in wheels.hashes(plan, contents).items() if path in wanted}
        trees = [(tree.kind, entry) for tree in plan.trees for entry in tree_entries(tree, contents)]
        self._runtime = {entry.path: entry for kind, entry in trees if kind == _RUNTIME}
        self._trees = {entry.path: entry for _, entry in trees if entry.path in wanted}
        self._base = _base_files(base, wanted.difference(self._wheels, self._trees))
        self.directories: Mapping[str, Directory] = {
            path: Directory(node.mode, node.uid, node.gid)
            for path, node in self._base.items()
            if node.kind == "directory"
        }
        self.hashes = self._hashed(paths)

    def place(self, path: str) -> str:
        """Where a file of that path really stands: links among the base's directories are followed."""
        return self._base.place(path)

    def entries(self, paths: Iterable[str]) -> list[Entry]:
        """The files of these paths that the base does not have, and the whole runtime."""
        found = dict(self._runtime)
        layers: dict[Layer, set[str]] = {}
        for path in paths:
            if path in self._trees:
                found[path] = self._trees[path]
            elif path in self._wheels:
                layers.setdefault(self._wheels[path][1], set()).add(path)
        for layer, wanted in layers.items():
            found.update(self._read(layer, wanted))
        return list(found.values())

    def _hashed(self, paths: Sequence[str]) -> dict[str, str]:
        hashes = {}
        for path in paths:
            if path in self._trees:
                hashes[path] = self._trees[path].sha256 or ""
            elif path in self._wheels:
                hashes[path] = self._wheels[path][0]
            elif (data := self._base.read(path)) is not None:
                hashes[path] = hashlib.sha256(data).hexdigest()
            else:
                raise InputError(
                    "lock-invalid",
                    f"The lock asks for byte code of {path}, which the image does not have.",
                    "Lock again with --update-lock.",
                )
        return hashes

    def _read(self, layer: Layer, wanted: set[str]) -> dict[str, Entry]:
        """Files of a wheel out of its layer or piece."""
        found = {}
        with (
            io.BufferedReader(Unzipped(self._store.open(layer.digest), layer.digest), 1 << 20) as stream,
            tarfile.open(fileobj=stream, mode="r|") as archive,
        ):
            for member in archive:
                path = f"/{member.name}"
                content = archive.extractfile(member) if path in wanted else None
                if content is not None:
                    data = content.read()
                    found[path] = Entry(path, size=len(data), source=data)
        return found


def _base_files(base: OciImage, paths: set[str]) -> Files:
    """The base's files; those of `paths`, which may lead through links, with their content."""
    found = read_files(base, paths.__contains__)
    behind = {place for path in paths if (place := found.resolve(path)) is not None and place != path}
    return read_files(base, (paths | behind).__contains__) if behind else found
