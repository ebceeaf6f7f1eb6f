"""Archives by their content: zip, and tar, plain or compressed with gzip, bzip2 or xz."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from mpack.artifact.archive import Readable, unpack
from mpack.artifact.limits import Limits, Meter
from mpack.artifact.model import ArtifactFile
from mpack.artifact.tar import RECORD, is_header, tar_members, truncated
from mpack.artifact.zip import open_zip, zip_members
from mpack.errors import InputError

_COMPRESSIONS = ((b"\x1f\x8b\x08", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\x00", "xz"))
_FOREIGN = ((b"7z\xbc\xaf\x27\x1c", "7-Zip"), (b"Rar!\x1a\x07", "RAR"), (b"\x28\xb5\x2f\xfd", "Zstandard"))
#: xz -9 takes 65 MiB to unpack; a header may ask for 4 GiB.
_XZ_MEMORY = 128 << 20


def archive_files(stream: BinaryIO, size: int, limits: Limits, target: Path) -> dict[str, ArtifactFile] | None:
    """The unpacked files, or None if the file is not an archive but a model itself."""
    head = stream.read(RECORD)
    stream.seek(0)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        with open_zip(stream, limits) as archive:
            if _is_model(archive):
                return None
            return unpack(zip_members(archive, Meter(limits, size)), target, Meter(limits))
    for magic, compression in _COMPRESSIONS:
        if head.startswith(magic):
            return _compressed_files(stream, compression, size, limits, target)
    for magic, kind in _FOREIGN:
        if head.startswith(magic):
            raise InputError("artifact-unknown", f"It is a {kind} archive.", "Make it a zip, tar or tar.gz.")
    if is_header(head):
        return unpack(tar_members(Metered(stream, Meter(limits))), target, Meter(limits))
    return None


def _is_model(archive: zipfile.ZipFile) -> bool:
    """True for zips that are one model's file: skops has schema.json, PyTorch data.pkl and version in one folder."""
    names = set(archive.namelist())
    if any(name.endswith("/data.pkl") and name.count("/") == 1 for name in names):
        return any(name.endswith("/version") and name.count("/") == 1 for name in names)
    if "schema.json" not in names:
        return False
    info = archive.getinfo("schema.json")
    if info.file_size > 64 << 20:
        return False
    try:
        return b'"__loader__"' in archive.read(info)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError, ValueError):
        return False


def _compressed_files(
    stream: BinaryIO, compression: str, size: int, limits: Limits, target: Path
) -> dict[str, ArtifactFile] | None:
    plain = Plain(stream, compression)
    head = b""
    while len(head) < RECORD and (block := plain.read(RECORD - len(head))):
        head += block
    stream.seek(0)
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        # joblib compresses a pickle as a whole.
        return None
    if not is_header(head):
        raise InputError(
            "artifact-unknown",
            f"It is a single file compressed with {compression}, not a tar archive.",
            "Decompress it first, or make it a tar.gz or zip.",
        )
    return unpack(tar_members(Metered(Plain(stream, compression), Meter(limits, size))), target, Meter(limits))


class Metered:
    """A stream whose bytes are counted."""

    def __init__(self, stream: Readable, meter: Meter) -> None:
        self._stream = stream
        self._meter = meter

    def read(self, size: int, /) -> bytes:
        block = self._stream.read(size)
        self._meter.data(len(block))
        return block


class Plain:
    """A compressed stream's content. Raises InputError artifact-truncated or artifact-corrupt."""

    def __init__(self, stream: BinaryIO, compression: str) -> None:
        self._compression = compression
        self._stream: Readable
        if compression == "gzip":
            self._stream = gzip.GzipFile(fileobj=stream, mode="rb")
        elif compression == "bzip2":
            self._stream = bz2.BZ2File(stream)
        else:
            self._stream = Xz(stream)

    def read(self, size: int, /) -> bytes:
        try:
            return self._stream.read(size)
        except EOFError as error:
            raise truncated() from error
        except (OSError, zlib.error, lzma.LZMAError, ValueError) as error:
            raise InputError(
                "artifact-corrupt",
                f"The {self._compression} stream is damaged: {error}.",
                "Copy or download the artifact again.",
            ) from error


class Xz:
    """An xz stream's content, unpacked in bounded memory."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)

    def read(self, size: int, /) -> bytes:
        while not self._decoder.eof:
            packed = self._stream.read(1 << 16) if self._decoder.needs_input else b""
            if self._decoder.needs_input and not packed:
                raise EOFError
            if block := self._decoder.decompress(packed, size):
                return block
        return b""
