"""Reading tar in one pass with bounded memory.

The headers are read here and not by `tarfile`, whose reader takes extended headers of any size into memory, expands
sparse files from a few bytes and takes a missing end for an end.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator

from mpack.artifact.archive import Member, Readable, shown, unsafe
from mpack.errors import InputError

RECORD = 512
#: An extended header holds names; 4 bytes a character of the longest path is far below this.
MAX_HEADER = 1 << 20
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_NEVER = {
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a FIFO",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


class Portion:
    """The next `size` bytes of a stream as a stream of its own. Raises InputError artifact-truncated."""

    def __init__(self, stream: Readable, size: int) -> None:
        self._stream = stream
        self._left = size

    def read(self, size: int, /) -> bytes:
        block = self._stream.read(min(size, self._left)) if self._left else b""
        if self._left and not block:
            raise truncated()
        self._left -= len(block)
        return block

    def skip(self) -> None:
        """Reads what is left of it."""
        while self.read(1 << 20):
            pass


def truncated() -> InputError:
    """The error for an archive that ends early."""
    return InputError(
        "artifact-truncated", "The archive ends before its content does.", "Copy or download the artifact again."
    )


def is_header(block: bytes) -> bool:
    """True if `block` begins a tar archive: 512 bytes with a right checksum."""
    try:
        return bool(tarfile.TarInfo.frombuf(block[:RECORD], "utf-8", "surrogateescape"))
    except (tarfile.TarError, ValueError):
        return False


def tar_members(stream: Readable) -> Iterator[tuple[Member, Readable]]:
    """Every entry in order, each with its data, which is to be read before the next. Raises InputError."""
    extended: dict[str, str] = {}
    while block := _record(stream):
        info = _header(block)
        if info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            extended |= _pax(_long(stream, info.size))
        elif info.type == tarfile.XGLTYPE:
            _long(stream, info.size)
        elif info.type == tarfile.GNUTYPE_LONGNAME:
            extended["path"] = _text(_long(stream, info.size))
        elif info.type == tarfile.GNUTYPE_LONGLINK:
            extended["linkpath"] = _text(_long(stream, info.size))
        else:
            member, size = _member(info, extended)
            data = Portion(stream, size)
            yield member, data
            data.skip()
            Portion(stream, -size % RECORD).skip()
            extended = {}
    while block := stream.read(1 << 16):
        if block.strip(b"\0"):
            raise InputError("artifact-corrupt", "The archive has more data after its end.", "Make the archive again.")


def _record(stream: Readable) -> bytes:
    """One header record, or b"" for the zeros that end an archive."""
    data = Portion(stream, RECORD)
    block = b""
    while part := data.read(RECORD):
        block += part
    return block if block.strip(b"\0") else b""


def _header(block: bytes) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError) as error:
        raise _corrupt(str(error)) from error
    if info.size < 0:
        raise _corrupt("negative size")
    return info


def _corrupt(reason: str) -> InputError:
    return InputError(
        "artifact-corrupt", f"A header of the archive is damaged ({reason}).", "Copy or download the artifact again."
    )


def _long(stream: Readable, size: int) -> bytes:
    if size > MAX_HEADER:
        raise unsafe(f"An extended header of the archive has {size} bytes; {MAX_HEADER} are plenty.")
    data = Portion(stream, size)
    parts = []
    while part := data.read(size):
        parts.append(part)
    Portion(stream, -size % RECORD).skip()
    return b"".join(parts)


def _text(data: bytes) -> str:
    return data.removesuffix(b"\0").decode("utf-8", "surrogateescape")


def _pax(data: bytes) -> dict[str, str]:
    """The records "LENGTH KEY=VALUE\\n" of an extended header."""
    records: dict[str, str] = {}
    while data:
        length, _, rest = data.partition(b" ")
        if not length.isdigit() or len(length) > 7 or not 5 <= int(length) <= len(data):
            raise _corrupt("bad extended header")
        record = rest[: int(length) - len(length) - 1]
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise _corrupt("bad extended header")
        records[key.decode("utf-8", "replace")] = value[:-1].decode("utf-8", "surrogateescape")
        data = data[int(length) :]
    return records


def _member(info: tarfile.TarInfo, extended: dict[str, str]) -> tuple[Member, int]:
    name = extended.get("path", info.name)
    size = info.size
    if "size" in extended:
        if not extended["size"].isdecimal() or len(extended["size"]) > 18:
            raise _corrupt("bad size")
        size = int(extended["size"])
    executable = bool(info.mode & 0o100)
    if info.type in _NEVER or any(key.startswith("GNU.sparse") for key in extended):
        raise unsafe(f"The entry {shown(name)} is {_NEVER.get(info.type, 'a sparse file')}.")
    if info.type in _FILES:
        return Member(name, "file", executable), size
    if info.type == tarfile.DIRTYPE:
        return Member(name, "directory"), 0
    target = extended.get("linkpath", info.linkname)
    if info.type == tarfile.SYMTYPE:
        return Member(name, "symlink", target=target), 0
    if info.type == tarfile.LNKTYPE:
        # Some writers repeat the data's size in a hard link's header; no data follows all the same.
        return Member(name, "hardlink", target=target), 0
    raise unsafe(f"The entry {shown(name)} is of the unknown kind {info.type!r}.")
