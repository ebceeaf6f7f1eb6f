"""The entries of a layer as a table: what each is, and the digest of its content. Nothing is written to disk."""

from __future__ import annotations

import hashlib
import math
import sys
import tarfile
from contextlib import closing
from dataclasses import dataclass
from typing import IO, Any

from mpack.errors import InputError
from mpack.oci.image import OciImage
from mpack.oci.members import layer_members, tar_faults

_XATTR = "SCHILY.xattr."
_KINDS = {
    tarfile.DIRTYPE: "directory",
    tarfile.SYMTYPE: "link",
    tarfile.LNKTYPE: "hard link",
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
    tarfile.FIFOTYPE: "fifo",
}
#: About what Python takes for one entry beside its strings.
_ITEM_BYTES = 400


@dataclass(frozen=True, slots=True)
class Item:
    """One entry: bytes, permission bits, "uid:gid", seconds since 1970; `content` is a file's "sha256:…", a link's
    target or a device's numbers; `xattrs` the digest of its extended attributes, "" without any."""

    kind: str
    size: int
    mode: int
    owner: str
    mtime: float
    content: str
    xattrs: str

    def to_json(self) -> dict[str, Any]:
        return {name: self.field(name) for name in FIELDS}

    def field(self, name: str) -> Any:
        """A field's JSON value; the mode is octal text."""
        value = getattr(self, name)
        return f"{value:04o}" if name == "mode" else value


FIELDS = ("kind", "size", "mode", "owner", "mtime", "content", "xattrs")


class Budget:
    """What one comparison may take over all layers: bytes unpacked, and bytes of memory for the entries."""

    def __init__(self, unpacked: int = 100 << 30, memory: int = 256 << 20) -> None:
        self._unpacked = self._left = unpacked
        self._memory = memory

    def data(self, size: int) -> None:
        """Counts bytes of content. Raises InputError base-unsuitable."""
        self._left -= size
        if self._left < 0:
            raise InputError("base-unsuitable", f"The layers unpack to more than {self._unpacked} bytes.")

    def entry(self, path: str, content: str) -> None:
        """Counts an entry. Raises InputError base-unsuitable."""
        self._memory -= _ITEM_BYTES + sys.getsizeof(path) + sys.getsizeof(content)
        if self._memory < 0:
            raise InputError("base-unsuitable", "The layers have more files than mpack compares.")


def read_items(image: OciImage, number: int, budget: Budget) -> dict[str, Item]:
    """Absolute path -> entry, in the layer's order; of a path that comes twice the last one counts.

    Raises InputError base-unsuitable for what is no tar or over the budget, EnvironmentFault for a damaged blob.
    """
    items: dict[str, Item] = {}
    with tar_faults(image, number):
        for member, stream, parts in layer_members(image, number):
            budget.data(max(member.size, 0))
            item = _item(member, stream)
            path = "/" + "/".join(parts)
            budget.entry(path, item.content)
            items[path] = item
    return items


def _item(member: tarfile.TarInfo, stream: IO[bytes] | None) -> Item:
    if stream is not None:
        content = _digest(stream)
    elif member.issym() or member.islnk():
        content = member.linkname
    else:
        content = f"{member.devmajor}:{member.devminor}" if member.isdev() and not member.isfifo() else ""
    attributes = sorted((key, value) for key, value in member.pax_headers.items() if key.startswith(_XATTR))
    return Item(
        "file" if stream is not None else _KINDS.get(member.type, "other"),
        member.size if stream is not None else 0,
        member.mode & 0o7777,
        sys.intern(f"{member.uid}:{member.gid}"),
        member.mtime if math.isfinite(member.mtime) else 0,
        content,
        _text_digest(repr(attributes)) if attributes else "",
    )


def _digest(stream: IO[bytes]) -> str:
    found = hashlib.sha256()
    while data := stream.read(1 << 20):
        found.update(data)
    return f"sha256:{found.hexdigest()}"


def _text_digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()}"


def require_diff_id(image: OciImage, number: int, budget: Budget) -> None:
    """Raises InputError base-unsuitable for a layer that is not the one its configuration names."""
    found = hashlib.sha256()
    with closing(image.open_layer(number)) as stream:
        while data := stream.read(1 << 20):
            budget.data(len(data))
            found.update(data)
    layer = image.layers[number]
    if f"sha256:{found.hexdigest()}" != layer.diff_id:
        raise InputError(
            "base-unsuitable",
            f"The layer {layer.digest} of {image.id} unpacks to another diff id than {layer.diff_id}.",
        )
