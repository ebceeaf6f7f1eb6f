"""Reading zip with nothing taken on trust: sizes, offsets, names are checked against local headers and real bytes."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from mpack.artifact.archive import Member, Readable, shown, unsafe
from mpack.artifact.limits import Limits, Meter
from mpack.artifact.tar import truncated
from mpack.errors import InputError

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
#: What `zipfile` raises on damaged data. OSError is bzip2's.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, OverflowError, struct.error)
_MAX_TARGET = 4096


def open_zip(stream: BinaryIO, limits: Limits) -> zipfile.ZipFile:
    """The archive's directory, counted before it is taken into memory, its entries known not to overlap."""
    start = _check_directory(stream, limits)
    try:
        archive = zipfile.ZipFile(stream)
    except _DAMAGE as error:
        raise _corrupt(str(error)) from error
    if archive.start_dir != start:
        raise _corrupt("it has two directories")
    _check_layout(stream, archive, start)
    return archive


def zip_members(archive: zipfile.ZipFile, meter: Meter) -> Iterator[tuple[Member, Readable]]:
    """Every entry in the directory's order, each with its data. Raises InputError."""
    for info in archive.infolist():
        # `filename` ends at a NUL, which would hide the rest of the name from the checks.
        name = info.orig_filename
        mode = info.external_attr >> 16
        if info.flag_bits & 0x2041:
            raise unsafe(f"The entry {shown(name)} is encrypted.", "Make the archive again without a password.")
        if info.compress_type not in _METHODS:
            raise InputError(
                "artifact-corrupt",
                f"The entry {shown(name)} is compressed by method {info.compress_type}, which is not read here.",
                "Make the archive again with deflate, the method that every tool has.",
            )
        kind = stat.S_IFMT(mode)
        if name.endswith(("/", "\\")) or kind == stat.S_IFDIR:
            yield Member(name, "directory"), Content(archive, info, meter)
        elif kind == stat.S_IFLNK:
            target = _target(Content(archive, info, meter), name)
            yield Member(name, "symlink", target=target), Content(archive, info, meter)
        elif kind in (0, stat.S_IFREG):
            yield Member(name, "file", bool(mode & 0o100)), Content(archive, info, meter)
        else:
            raise unsafe(f"The entry {shown(name)} is a device, a FIFO or a socket.")


class Content:
    """One entry's data, opened at the first read, metered, and checked to be as long as its header says."""

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, meter: Meter) -> None:
        self._archive = archive
        self._info = info
        self._meter = meter
        self._left = info.file_size
        self._stream: Readable | None = None

    def read(self, size: int, /) -> bytes:
        name = shown(self._info.orig_filename)
        try:
            if self._stream is None:
                self._stream = self._archive.open(self._info)
            block = self._stream.read(size)
        except EOFError as error:
            raise truncated() from error
        except _DAMAGE as error:
            raise _corrupt(f"{name}: {error}") from error
        self._left -= len(block)
        self._meter.data(len(block))
        if not block and self._left:
            raise _corrupt(f"{name} is shorter than its header says")
        return block


def _corrupt(reason: str) -> InputError:
    return InputError("artifact-corrupt", f"The zip is damaged: {reason}.", "Copy or download the artifact again.")


def _target(content: Content, name: str) -> str:
    target = b""
    while block := content.read(_MAX_TARGET):
        target += block
        if len(target) > _MAX_TARGET:
            raise unsafe(f"The link {shown(name)} has a target of more than {_MAX_TARGET} bytes.")
    return target.decode("utf-8", "surrogateescape")


def _check_directory(stream: BinaryIO, limits: Limits) -> int:
    """Counts the directory's entries within `limits` and returns where it starts. Raises InputError."""
    start, size = _directory(stream)
    meter = Meter(limits)
    position = start
    while position < start + size:
        stream.seek(position)
        record = stream.read(_CENTRAL.size)
        if len(record) < _CENTRAL.size or record[:4] != b"PK\x01\x02":
            raise _corrupt("its directory cannot be read")
        meter.entry()
        lengths: tuple[int, ...] = _CENTRAL.unpack(record)[10:13]
        position += _CENTRAL.size + sum(lengths)
    return start


def _directory(stream: BinaryIO) -> tuple[int, int]:
    """Start and size in bytes of the central directory. Raises InputError artifact-truncated without an end record."""
    end = stream.seek(0, 2)
    tail_start = max(0, end - _END.size - 0xFFFF)
    stream.seek(tail_start)
    tail = stream.read()
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or len(tail) - found < _END.size:
        raise truncated()
    position = tail_start + found
    size: int = _END.unpack_from(tail, found)[5]
    locator = position - _END64_LOCATOR.size
    if locator >= _END64.size:
        stream.seek(locator - _END64.size)
        record = stream.read(_END64.size + _END64_LOCATOR.size)
        if record[:4] == b"PK\x06\x06" and record[_END64.size :][:4] == b"PK\x06\x07":
            position = locator - _END64.size
            size = _END64.unpack_from(record)[8]
    if size > position:
        raise _corrupt("its directory is larger than the file")
    return position - size, size


def _check_layout(stream: BinaryIO, archive: zipfile.ZipFile, directory: int) -> None:
    """No two entries may share bytes: that is how a small file claims to hold petabytes."""
    free = 0
    for info in sorted(archive.infolist(), key=lambda item: item.header_offset):
        if info.header_offset < free:
            raise unsafe(f"The entry {shown(info.orig_filename)} overlaps another one.")
        stream.seek(info.header_offset)
        record = stream.read(_LOCAL.size)
        if len(record) < _LOCAL.size or record[:4] != b"PK\x03\x04":
            raise _corrupt(f"{shown(info.orig_filename)} has no local header")
        name, extra = _LOCAL.unpack(record)[9:11]
        free = info.header_offset + _LOCAL.size + name + extra + info.compress_size
        if free > directory:
            raise unsafe(f"The entry {shown(info.orig_filename)} overlaps the directory.")
