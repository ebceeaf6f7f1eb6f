"""The Store: an OCI layout on this machine that every build lands in.

    <root>/oci-layout, index.json, blobs/sha256/…   a plain OCI image layout; names are annotations "name:tag"; an
                                                    image for several platforms is an image index below one name
    <root>/layers/…                                 layer cache: what a layer was made from -> the layer
    <root>/provenance/…                             how an image was built, by the image's id
    <root>/tmp/…                                    unfinished work
    <root>/index.lock, lease.lock                   held (flock) while the index changes, while blobs are in use

<root> is `store` in the user's data directory (XDG; `MPACK_HOME`/data if that is set). Files appear whole or not at
all, so a killed mpack leaves at most files in tmp/, which the next `gc` removes.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpack.errors import EnvironmentFault, UsageError
from mpack.oci.archive import LAYOUT, REF_NAME, index_entry
from mpack.oci.blobs import Blobs, is_digest
from mpack.oci.documents import Documents
from mpack.oci.files import disk_faults, flock, sync_directory, write_whole
from mpack.oci.image import OciImage, canonical_json, make_manifest
from mpack.oci.imageindex import INDEX, AnyImage, ImageIndex, load_any, put_index
from mpack.oci.layer import Directory, Entry, Layer, write_layer
from mpack.oci.layercache import LayerCache
from mpack.records import dataclass

if TYPE_CHECKING:
    from mpack.oci.early import EarlyLayer

_ID = "dev.mpack.image.id"
_ADDED = "dev.mpack.image.added"
_ROLE = "dev.mpack.image.role"
_SHORTEST_PREFIX = 6


@dataclass(frozen=True)
class Record:
    """One image, or image index, of the store: its names, when it was added (seconds since 1970), and whether it is a
    "base"."""

    digest: str
    id: str
    names: tuple[str, ...]
    added: float
    role: str


class Store(Blobs):
    """The image store below `root`."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.cache = LayerCache(self)
        self.provenance = Documents(root / "provenance")
        #: A layer that is being written already, for `write_layer`.
        self.early: EarlyLayer | None = None

    @classmethod
    def default(cls) -> Store:
        """The user's store."""
        from mpack.paths import data_dir

        return cls(data_dir() / "store")

    # --- locks

    @contextmanager
    def lease(self) -> Iterator[None]:
        """While it is held, by however many processes, `gc` removes nothing. A killed process holds none."""
        with self._flock("lease.lock", fcntl.LOCK_SH):
            yield

    @contextmanager
    def _flock(self, name: str, how: int) -> Iterator[None]:
        self._prepare()
        with disk_faults("Locking the image store", self.root):
            descriptor = os.open(self.root / name, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            hint = "Name a directory on a local disk in MPACK_HOME"
            flock(descriptor, how, f"The image store {self.root}", hint)
            yield
        finally:
            os.close(descriptor)

    # --- layers and images

    def write_layer(
        self,
        entries: Iterable[Entry],
        *,
        kind: str,
        existing: Mapping[str, Directory] | None = None,
        hashes: dict[str, str] | None = None,
    ) -> Layer:
        """Writes a layer straight into the store, or takes the one that `early` has written."""
        if self.early is not None and existing is None and hashes is None:
            entries = list(entries)
            if (layer := self.early.take(kind, entries)) is not None:
                return layer
        with self.writing() as blob:
            return write_layer(entries, blob, kind=kind, existing=existing, hashes=hashes)

    def put_image(self, config: bytes, layers: tuple[Layer, ...]) -> OciImage:
        """Stores configuration and manifest of an image whose layers are here; it is not listed until `add`."""
        self.add(config)
        return self.image(self.add(canonical_json(make_manifest(config, layers))))

    def image(self, digest: str) -> OciImage:
        """The image of a manifest digest. Raises EnvironmentFault store-corrupt."""
        return OciImage.load(self, digest)

    def load(self, digest: str) -> AnyImage:
        """The image or the index of a digest. Raises EnvironmentFault store-corrupt."""
        return load_any(self, digest)

    def add_index(self, images: Sequence[OciImage], *, role: str = "image") -> ImageIndex:
        """Stores and lists the index of some images. Those of them without a name are no longer listed themselves."""
        index = put_index(self, images)
        members = {image.digest for image in images}
        with self._changing() as entries:
            entries[:] = [item for item in entries if item["digest"] not in members or _name(item)]
            if all(item["digest"] != index.digest for item in entries):
                entries.append(_entry(index, "", time.time(), role))
        return index

    def add_image(self, image: AnyImage, names: Iterable[str] = (), *, role: str = "image") -> None:
        """Lists an image under names ("name:tag"; none: by digest). A name leaves its old image, which stays."""
        wanted = set(names)
        with self._changing() as entries:
            known = [item for item in entries if item["digest"] == image.digest]
            added = min((_added(item) for item in known), default=time.time())
            held = {_name(item) for item in known} | wanted
            others = [_without(item, wanted) for item in entries if item["digest"] != image.digest]
            named = {item["digest"] for item in others if _name(item)}
            nameless = {item["digest"]: item for item in others if item["digest"] not in named}
            entries[:] = [*(item for item in others if _name(item)), *nameless.values()]
            for name in sorted(name for name in held if name) or [""]:
                entries.append(_entry(image, name, added, role))

    def records(self) -> list[Record]:
        """Every image, newest first, one record a digest."""
        grouped: dict[str, list[dict[str, Any]]] = {}
        for item in self._entries():
            grouped.setdefault(item["digest"], []).append(item)
        found = [_record(digest, items) for digest, items in grouped.items()]
        return sorted(found, key=lambda record: (-record.added, record.digest))

    def find(self, reference: str, platform: str | None = None) -> OciImage | None:
        """The image of a name ("name" means "name:latest"), digest, id or unique prefix of one; None if there is none.

        `platform` says which image of an index is meant; an image by itself is found whatever it is for. Raises
        UsageError when a prefix fits several images, EnvironmentFault image-unknown for an index without `platform`.
        """
        found = self.find_any(reference)
        if found is None or isinstance(found, OciImage):
            return found
        image = found.image_for(platform) if platform else None
        if image is None:
            raise EnvironmentFault(
                "image-unknown",
                f"The image {reference} is there for {' and '.join(item.platform for item in found.images)}, not for "
                f"{platform or 'one platform alone'}.",
                "Name one of its images by digest, or build it for the platform: --platform takes several.",
            )
        return image

    def find_any(self, reference: str) -> AnyImage | None:
        """As `find`; an index as a whole. A digest or id may also be that of an image inside of a listed index."""
        record = self.find_record(reference)
        if record is not None:
            return self.load(record.digest)
        wanted = reference.rpartition("@")[2]
        if not is_digest(wanted):
            return None
        inside = (image for found in self._indexes() for image in found.images)
        return next((image for image in inside if wanted in (image.digest, image.id)), None)

    def _indexes(self) -> Iterator[ImageIndex]:
        for digest in dict.fromkeys(item["digest"] for item in self._entries() if item.get("mediaType") == INDEX):
            with suppress(EnvironmentFault):  # a damaged index has nothing inside
                found = self.load(digest)
                if isinstance(found, ImageIndex):
                    yield found

    def find_record(self, reference: str) -> Record | None:
        """As `find`, without reading the image."""
        records = self.records()
        name, _, pinned = reference.partition("@")
        if pinned:
            return next((item for item in records if pinned in (item.digest, item.id)), None)
        for item in records:
            if with_tag(name) in item.names or reference in (item.digest, item.id):
                return item
        prefix = reference.removeprefix("sha256:")
        if len(prefix) < _SHORTEST_PREFIX or not set(prefix) <= set("0123456789abcdef"):
            return None
        fitting = [
            item for item in records if prefix in (item.digest[7 : 7 + len(prefix)], item.id[7 : 7 + len(prefix)])
        ]
        if len(fitting) > 1:
            shown = ", ".join(item.digest for item in fitting)
            raise UsageError("usage", f"{reference} is the beginning of several images: {shown}.", "Give more digits.")
        return fitting[0] if fitting else None

    def resolve(self, reference: str, platform: str | None = None) -> OciImage:
        """As `find`. Raises EnvironmentFault image-unknown when the store has no such image."""
        image = self.find(reference, platform)
        if image is None:
            raise unknown(reference)
        return image

    def tag(self, reference: str, name: str) -> None:
        """Gives an image a further name."""
        record = self.find_record(reference)
        if record is None:
            raise unknown(reference)
        self.add_image(self.load(record.digest), [with_tag(name)], role=record.role)

    def forget(self, digest: str, names: Iterable[str] | None = None) -> None:
        """Takes names from an image (None: all); without any name left it is no longer listed. `gc` frees the space."""
        going = None if names is None else set(names)
        with self._changing() as entries:
            entries[:] = [
                item for item in entries if item["digest"] != digest or (going is not None and _name(item) not in going)
            ]

    # --- space

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """True if no other mpack uses the store; none then does until the block ends."""
        with ExitStack() as stack:
            try:
                stack.enter_context(self._flock("lease.lock", fcntl.LOCK_EX | fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            stack.enter_context(self._flock("index.lock", fcntl.LOCK_EX))
            yield True

    def gc(self) -> int | None:
        """Removes every blob that no image and no cached layer needs; the bytes freed, or None: others are at work."""
        with self.alone() as alone:
            return self.sweep() if alone else None

    def in_images(self) -> set[str]:
        """The digests of all blobs that a listed image needs: where a manifest cannot be read, that may be any blob."""
        if self.unreadable():
            return {f"sha256:{path.name}" for path in self.directory.iterdir()}
        return {digest for record in self.records() for digest in self._named_by(record.digest)}

    def unreadable(self) -> list[str]:
        """Listed images of which a manifest is damaged or missing: while there are some, `gc` frees no blob."""
        found = []
        for record in self.records():
            try:
                self._named_by(record.digest)
            except (EnvironmentFault, ValueError, KeyError, TypeError):
                found.append(record.digest)
        return found

    def _named_by(self, digest: str) -> set[str]:
        """A manifest's blobs or, of an index, its images' too. The configurations are not read."""
        value = json.loads(self.read(digest))
        if "manifests" in value:
            return {digest}.union(*(self._named_by(item["digest"]) for item in value["manifests"]))
        return {digest, value["config"]["digest"], *(layer["digest"] for layer in value["layers"])}

    def sweep(self) -> int:
        """As `gc`, by a caller that is `alone`."""
        needed = self.cache.digests() | self.in_images()
        freed = self.provenance.sweep(needed)
        for path in self.directory.iterdir():
            if f"sha256:{path.name}" not in needed:
                freed += path.stat().st_size
                path.unlink()
        for path in self.unfinished.iterdir():
            freed += _remove(path)
        return freed

    def disk_usage(self) -> int:
        """Bytes of all blobs."""
        return sum(path.stat().st_size for path in self.directory.iterdir()) if self.directory.is_dir() else 0

    # --- the index

    def _entries(self) -> list[dict[str, Any]]:
        path = self.root / "index.json"
        try:
            entries = json.loads(path.read_bytes())["manifests"]
            if not all(is_digest(item["digest"]) and isinstance(item["annotations"], dict) for item in entries):
                raise ValueError("an entry without digest")
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EnvironmentFault(
                "store-corrupt",
                f"The index of the image store, {path}, cannot be read: {error}.",
                "Move the file away: the images are built again from their artifacts, layers come from the cache.",
            ) from error
        return list(entries)

    @contextmanager
    def _changing(self) -> Iterator[list[dict[str, Any]]]:
        """The index entries, written back when the block ends without an error; one process at a time."""
        with self._flock("index.lock", fcntl.LOCK_EX), disk_faults("Writing to the image store", self.root):
            entries = self._entries()
            known = [*entries]
            yield entries
            entries.sort(key=lambda item: (_name(item), item["digest"]))
            if entries == known:
                return
            # What the index names lasts as long as the index.
            sync_directory(self.directory)
            if not (self.root / "oci-layout").exists():
                write_whole(self.root / "oci-layout", LAYOUT)
            lines = ",\n".join(map(json.dumps, entries))
            text = f'{{"schemaVersion": 2, "mediaType": "{INDEX}", "manifests": [\n{lines}\n]}}\n'
            write_whole(self.root / "index.json", text.encode())


def with_tag(name: str) -> str:
    """ "name" -> "name:latest"; a name with a tag stays."""
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"


def unknown(reference: str) -> EnvironmentFault:
    """The error for a reference that the store does not know."""
    return EnvironmentFault(
        "image-unknown",
        f"The store has no image {reference}.",
        "`mpack images` lists what it has; a name without a tag means :latest.",
    )


def _entry(image: AnyImage, name: str, added: float, role: str) -> dict[str, Any]:
    notes = {_ID: image.id, _ADDED: f"{added:.0f}", _ROLE: role}
    if name:
        notes[REF_NAME] = name
    return {**index_entry(image), "annotations": notes}


def _record(digest: str, items: list[dict[str, Any]]) -> Record:
    names = tuple(sorted(name for name in map(_name, items) if name))
    notes = items[0]["annotations"]
    return Record(digest, str(notes.get(_ID, "")), names, min(map(_added, items)), str(notes.get(_ROLE, "image")))


def _name(item: Mapping[str, Any]) -> str:
    return str(item["annotations"].get(REF_NAME, ""))


def _without(item: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """The entry, nameless if its name is among `names`."""
    if _name(item) not in names:
        return item
    notes = {key: value for key, value in item["annotations"].items() if key != REF_NAME}
    return {**item, "annotations": notes}


def _added(item: Mapping[str, Any]) -> float:
    try:
        return float(item["annotations"][_ADDED])
    except (KeyError, ValueError):
        return 0.0


def _remove(path: Path) -> int:
    """Removes a file or directory; the bytes of its files."""
    import shutil

    if not path.is_dir() or path.is_symlink():
        size = path.lstat().st_size
        path.unlink()
        return size
    size = sum(item.lstat().st_size for item in path.rglob("*") if item.is_file())
    shutil.rmtree(path, ignore_errors=True)
    return size
