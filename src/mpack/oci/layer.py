"""Layers: sorted entries in, one deterministic tar+gzip blob out, hashed on the way in constant memory."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mpack.contents import Check, Contents, Pending, Source
from mpack.errors import InputError, InternalError
from mpack.oci import tar
from mpack.oci.blobs import BlobWriter
from mpack.oci.compression import ENCODER, PROBE, GzipWriter, Sink, shrunk
from mpack.records import dataclass

if TYPE_CHECKING:
    from mpack.spec import FileTree

__all__ = [
    "ENCODER",
    "Directory",
    "Entry",
    "Layer",
    "bytes_entries",
    "directory_entries",
    "tree_entries",
    "write_joined",
    "write_layer",
    "write_piece",
    "write_tar",
]

GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
TAR = "application/vnd.oci.image.layer.v1.tar"
_CHUNK = 1 << 20
#: From this size on a model's layer may be a plain tar, and how many samples decide.
_PLAIN_FROM = 1 << 20
_PROBES = 64


@dataclass(frozen=True)
class Layer:
    """A layer as a blob: digests "sha256:…"; in bytes the blob, the sum of its files and the uncompressed tar.

    The last two are None where nobody has looked.
    """

    diff_id: str
    digest: str
    size: int
    media_type: str = GZIP
    unpacked_size: int | None = None
    kind: str = "base"
    tar_size: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "diff_id": self.diff_id,
            "digest": self.digest,
            "size": self.size,
            "media_type": self.media_type,
            "unpacked_size": self.unpacked_size,
            "kind": self.kind,
            "tar_size": self.tar_size,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Layer:
        return cls(**data)


@dataclass(frozen=True)
class Directory:
    """What a directory that the base already has looks like: a layer that adds files to it must not change it."""

    mode: int = 0o755
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True)
class Entry:
    """One file, symbolic link (`target`) or empty directory at an absolute image path. `sha256`, or what is `pending`,
    is checked if given."""

    path: str
    kind: bytes = tar.FILE
    mode: int = 0o644
    size: int = 0
    source: Source | None = None
    sha256: str | None = None
    target: str = ""
    pending: Pending | None = None


def tree_entries(tree: FileTree, contents: Contents) -> list[Entry]:
    """The files of a plan's tree; their bytes are read, and their hashes checked, when the layer is written."""
    target = tree.target.rstrip("/")
    return [
        Entry(f"{target}/{item.path}", mode=item.mode, size=item.size, source=contents[item.sha256], sha256=item.sha256)
        for item in tree.files
    ]


def bytes_entries(files: Mapping[str, bytes]) -> list[Entry]:
    """Files from memory: absolute path -> content."""
    return [Entry(path, size=len(data), source=data) for path, data in files.items()]


def directory_entries(directory: Path, target: str) -> list[Entry]:
    """Everything under a host directory, to stand under `target`: modes 0755 or 0644 by the owner's x bit."""
    return [_host_entry(path, target) for path in _walk(directory, "")]


def _walk(root: Path, inside: str) -> Iterator[tuple[os.DirEntry[str], str]]:
    with os.scandir(root) as items:
        for item in items:
            relative = f"{inside}/{item.name}"
            yield item, relative
            if item.is_dir(follow_symlinks=False):
                yield from _walk(Path(item.path), relative)


def _host_entry(found: tuple[os.DirEntry[str], str], target: str) -> Entry:
    item, relative = found
    path = target.rstrip("/") + relative
    state = item.stat(follow_symlinks=False)
    if stat.S_ISLNK(state.st_mode):
        return Entry(path, tar.LINK, 0o777, target=str(Path(item.path).readlink()))
    if stat.S_ISDIR(state.st_mode):
        return Entry(path, tar.DIRECTORY, 0o755)
    if stat.S_ISREG(state.st_mode):
        mode = 0o755 if state.st_mode & stat.S_IXUSR else 0o644
        return Entry(path, mode=mode, size=state.st_size, source=Path(item.path))
    raise InternalError(
        "internal", f"{item.path} is neither a file, a link nor a directory; it cannot go into a layer."
    )


def write_layer(
    entries: Iterable[Entry],
    blob: BlobWriter,
    *,
    kind: str,
    existing: Mapping[str, Directory] | None = None,
    hashes: dict[str, str] | None = None,
) -> Layer:
    """Writes a layer to a new blob and describes it: gzip, or a plain tar for a model that hardly compresses.

    `existing` are the directories of the images below, `hashes` takes each file's path and SHA-256. Raises InputError
    artifact-changed when a file is not what its hash or size says.
    """
    if kind == "model":
        entries = sorted(entries, key=_order)
        if hardly_compresses(entries):
            unpacked = write_tar(entries, blob, existing or {})
            return Layer(blob.digest, blob.digest, blob.size, TAR, unpacked, kind, blob.size)
    writer = GzipWriter(blob)
    unpacked = write_tar(entries, writer, existing or {}, hashes)
    writer.close()
    return Layer(writer.raw_digest, blob.digest, blob.size, GZIP, unpacked, kind, writer.raw_size)


def write_piece(entries: Iterable[Entry], blob: BlobWriter, *, hashes: dict[str, str]) -> Layer:
    """Writes files and links as gzip members that `write_joined` can put into layers: no directories, no end."""
    writer = GzipWriter(blob)
    unpacked = sum(_write_entry(entry, writer, hashes) for entry in sorted(entries, key=_order))
    writer.close()
    return Layer(writer.raw_digest, blob.digest, blob.size, GZIP, unpacked, "wheel", writer.raw_size)


def write_joined(
    entries: Sequence[Entry],
    pieces: Iterable[tuple[int, BinaryIO]],
    paths: Iterable[str],
    blob: BlobWriter,
    *,
    kind: str,
) -> Layer:
    """A layer of some entries and of pieces, as (sum of file sizes, members), whose files stand at `paths`.

    All directories come first, each once, so that pieces need not know of each other.
    """
    writer = GzipWriter(blob)
    parents = {parent for path in [*paths, *(entry.path for entry in entries)] for parent in _above(path)}
    for parent in sorted(parents, key=_parts):
        writer.write(tar.header(parent.lstrip("/") + "/", tar.DIRECTORY, mode=0o755))
    unpacked = sum(_write_entry(entry, writer, None) for entry in sorted(entries, key=_order))
    for size, members in pieces:
        with members:
            writer.join(members)
        unpacked += size
    writer.write(tar.END)
    writer.close()
    return Layer(writer.raw_digest, blob.digest, blob.size, GZIP, unpacked, kind, writer.raw_size)


def hardly_compresses(entries: Sequence[Entry]) -> bool:
    """True for files of 1 MiB and more in all, samples of which shrink by less than a tenth.

    The samples are pieces of 32 KiB at even distances through all files in their order, at most 64: a pure function of
    the bytes, so that everyone who makes this layer makes the same.
    """
    files = [entry for entry in entries if entry.kind == tar.FILE and entry.size]
    total = sum(entry.size for entry in files)
    if total < _PLAIN_FROM:
        return False
    distance = max(2 * PROBE, total // _PROBES)
    before, after, offset = 0, 0, 0
    for entry in files:
        places = range(-offset % distance, entry.size, distance)
        if places:
            with _open(entry) as stream:
                for place in places:
                    stream.seek(place)
                    piece = stream.read(PROBE)
                    before += len(piece)
                    after += shrunk(piece)
        offset += entry.size
    return after > before * 0.9


def write_tar(
    entries: Iterable[Entry], sink: Sink, existing: Mapping[str, Directory], hashes: dict[str, str] | None = None
) -> int:
    """Writes the entries sorted, each directory once before what it holds; returns the sum of file sizes."""
    unpacked = 0
    written: set[str] = set()
    last = ""
    for entry in sorted(entries, key=_order):
        if entry.path == last:
            raise InternalError("internal", f"{last} appears twice in one layer.")
        last = entry.path
        for parent in _parents(entry):
            if parent not in written:
                written.add(parent)
                known = existing.get(parent, Directory())
                name = parent.lstrip("/") + "/"
                sink.write(tar.header(name, tar.DIRECTORY, mode=known.mode, uid=known.uid, gid=known.gid))
        if entry.kind != tar.DIRECTORY:
            unpacked += _write_entry(entry, sink, hashes)
    sink.write(tar.END)
    return unpacked


def _write_entry(entry: Entry, sink: Sink, hashes: dict[str, str] | None) -> int:
    """Writes a file or link with its header; the file's size in bytes."""
    path = entry.path.lstrip("/")
    sink.write(tar.header(path, entry.kind, size=entry.size, mode=entry.mode, target=entry.target))
    if entry.kind != tar.FILE:
        return 0
    found = _copy(entry, sink, hashed=hashes is not None)
    if hashes is not None:
        hashes[entry.path] = found
    return entry.size


def _order(entry: Entry) -> list[bytes]:
    """Bytes, for a name that is not of the locale's encoding is other text under another locale."""
    return _parts(entry.path)


def _parts(path: str) -> list[bytes]:
    return path.encode("utf-8", "surrogateescape").split(b"/")


def _above(path: str) -> Iterator[str]:
    """The directories above a path."""
    place = path.find("/", 1)
    while place > 0:
        yield path[:place]
        place = path.find("/", place + 1)


def _parents(entry: Entry) -> Iterator[str]:
    """The directories above an entry, outermost first, and the entry itself if it is one."""
    parts = entry.path.strip("/").split("/")
    for count in range(1, len(parts) + (entry.kind == tar.DIRECTORY)):
        yield "/" + "/".join(parts[:count])


def _copy(entry: Entry, sink: Sink, *, hashed: bool) -> str:
    """Copies a file with its padding, checked by the hash it should have; its SHA-256 where that is asked for."""
    digest = hashlib.sha256() if hashed else None
    left = entry.size
    with _open(entry) as stream, ExitStack() as ending:
        wanted = entry.pending or entry.sha256
        check = Check(wanted, stream) if wanted else None
        if check:
            ending.callback(check.close)
        while left and (data := stream.read(min(_CHUNK, left))):
            left -= len(data)
            if check:
                check.update(data)
            sink.write(data)
            if digest:
                digest.update(data)
        changed = left or stream.read(1) or (check and not check.passed())
    if changed:
        raise InputError(
            "artifact-changed",
            f"{_shown(entry)} changed while it was copied into the image.",
            "Build again when nothing writes to the artifact.",
        )
    sink.write(tar.padding(entry.size))
    return digest.hexdigest() if digest else ""


def _open(entry: Entry) -> BinaryIO:
    if isinstance(entry.source, bytes):
        return io.BytesIO(entry.source)
    if entry.source is None:
        raise InternalError("internal", f"The layer entry {entry.path} has no content.")
    try:
        return entry.source.open("rb")
    except FileNotFoundError:
        raise InputError(
            "artifact-changed",
            f"{_shown(entry)} went away before it was copied into the image.",
            "Build again when nothing writes to the artifact.",
        ) from None
    except OSError as error:
        raise InputError(
            "artifact-missing", f"{_shown(entry)} cannot be read for the image ({error.strerror})."
        ) from error


def _shown(entry: Entry) -> str:
    return str(entry.source) if isinstance(entry.source, Path) else entry.path
