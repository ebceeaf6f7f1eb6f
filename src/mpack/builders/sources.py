"""The sources that byte code is made of: where they come from, their hashes, and their bytes when asked for."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Collection, Mapping, Sequence

from mpack.builders.wheels import WheelLayers
from mpack.contents import Contents, sha256_bytes
from mpack.errors import EnvironmentFault, InputError, MpackError
from mpack.oci.image import OciImage, Unzipped
from mpack.oci.layer import Directory, Layer, tree_entries
from mpack.oci.rootindex import Files, read_files
from mpack.oci.store import Store
from mpack.plan import ImagePlan


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
        self._kept = wheels.sources
        self._contents = contents
        trees = [entry for tree in plan.trees for entry in tree_entries(tree, contents)]
        self._trees = {entry.path: entry for entry in trees if entry.path in wanted}
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

    def read(self, paths: Collection[str]) -> dict[str, bytes]:
        """The bytes of these sources. Raises InputError artifact-changed or EnvironmentFault store-corrupt for others
        than their hashes say.
        """
        found: dict[str, bytes] = {}
        layers: dict[Layer, set[str]] = {}
        for path in paths:
            if path in self._trees:
                with self._contents.open(self.hashes[path]) as stream:
                    found[path] = stream.read()
            elif self.hashes[path] in self._kept:
                found[path] = self._kept[self.hashes[path]]
            elif path in self._wheels:
                layers.setdefault(self._wheels[path][1], set()).add(path)
            else:
                found[path] = self._base.read(path) or b""
        for layer, wanted in layers.items():
            found.update(self._from_layer(layer, wanted))
        for path in paths:
            if sha256_bytes(found.get(path, b"")) != self.hashes[path]:
                raise self._unlike(path)
        return found

    def _unlike(self, path: str) -> MpackError:
        if path in self._trees:
            return InputError(
                "artifact-changed",
                f"{path} changed while the image was built.",
                "Build again when nothing writes to the artifact.",
            )
        return EnvironmentFault(
            "store-corrupt",
            f"The layer that has {path} in the image store holds other bytes than were written.",
            "Remove the store's blobs and layer cache: images are built again from their artifacts.",
        )

    def _hashed(self, paths: Sequence[str]) -> dict[str, str]:
        hashes = {}
        for path in paths:
            if path in self._trees:
                hashes[path] = self._trees[path].sha256 or ""
            elif path in self._wheels:
                hashes[path] = self._wheels[path][0]
            elif (data := self._base.read(path)) is not None:
                hashes[path] = sha256_bytes(data)
            else:
                raise InputError(
                    "lock-invalid",
                    f"The lock asks for byte code of {path}, which the image does not have.",
                    "Lock again with --update-lock.",
                )
        return hashes

    def _from_layer(self, layer: Layer, wanted: set[str]) -> dict[str, bytes]:
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
                    found[path] = content.read()
        return found


def _base_files(base: OciImage, paths: set[str]) -> Files:
    """The base's files; those of `paths`, which may lead through links, with their content."""
    found = read_files(base, paths.__contains__)
    behind = {place for path in paths if (place := found.resolve(path)) is not None and place != path}
    return read_files(base, (paths | behind).__contains__) if behind else found
