"""One gzip form for every layer, a pure function of the bytes: the same on every machine that has the same `ENCODER`.

The stream is cut into blocks of 1 MiB, each compressed for itself (level 1, ISA-L where its wheel is installed) and
joined into one gzip member without name or time. A block whose first 32 KiB do not shrink is stored as it is: weights
rarely compress. ISA-L writes the same bytes on every x86-64 processor with SSE 4.2.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from collections.abc import Iterator
from importlib import import_module
from typing import IO, Any, BinaryIO, Protocol

_isal: Any
_open_gzip: Any
try:
    _isal = import_module("isal.isal_zlib")
    _open_gzip = import_module("isal.igzip").IGzipFile
    ENCODER = f"isal {import_module('isal').__version__}"
except ImportError:  # a platform without its wheel; the lock names the encoder, so a mixed build fails with a sentence
    _isal = zlib
    _open_gzip = gzip.GzipFile
    ENCODER = f"zlib {zlib.ZLIB_RUNTIME_VERSION}"

BLOCK = 1 << 20
_PROBE = 32 << 10
_STORED_MAX = 0xFFFF
#: Deflate, no name, no time, no extra flags, system unknown.
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
#: An empty final block with fixed codes.
_END = b"\x03\x00"


class Sink(Protocol):
    """Takes bytes, as files do."""

    def write(self, data: Any, /) -> Any: ...


class GzipWriter:
    """Takes an uncompressed stream, writes gzip to `sink`; knows digest ("sha256:…") and size of what it took."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._parts: list[memoryview] = []
        self._held = 0
        self._crc = 0
        self._raw = hashlib.sha256()
        self.raw_size = 0
        sink.write(_HEADER)

    @property
    def raw_digest(self) -> str:
        return "sha256:" + self._raw.hexdigest()

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            part = view[: BLOCK - self._held]
            view = view[len(part) :]
            self._parts.append(part)
            self._held += len(part)
            if self._held == BLOCK:
                self._block()

    def close(self) -> None:
        """Writes the rest and the trailer; the sink stays open."""
        if self._held:
            self._block()
        self._sink.write(_END + struct.pack("<II", self._crc, self.raw_size & 0xFFFFFFFF))

    def _block(self) -> None:
        data = b"".join(self._parts)
        self._parts.clear()
        self._held = 0
        self._raw.update(data)
        self._crc = _isal.crc32(data, self._crc)
        self.raw_size += len(data)
        for piece in _compress(data):
            self._sink.write(piece)


def open_gzip(stream: BinaryIO) -> IO[bytes]:
    """The uncompressed bytes of a gzip stream. Reading damaged data raises OSError, EOFError or zlib.error."""
    opened: IO[bytes] = _open_gzip(fileobj=stream, mode="rb")
    return opened


#: What reading damaged gzip data raises.
GZIP_ERRORS: tuple[type[Exception], ...] = (gzip.BadGzipFile, EOFError, zlib.error, _isal.error)


def _compress(data: bytes) -> Iterator[bytes | memoryview]:
    """One or more whole deflate blocks, none of them final, ending on a byte boundary."""
    if len(data) <= _PROBE or len(_deflate(data[:_PROBE])) < _PROBE * 0.97:
        packed = _deflate(data)
        if len(packed) < len(data):
            yield packed
            return
    view = memoryview(data)
    for start in range(0, len(data), _STORED_MAX):
        part = view[start : start + _STORED_MAX]
        yield struct.pack("<BHH", 0, len(part), len(part) ^ 0xFFFF)
        yield part


def _deflate(data: bytes) -> bytes:
    encoder = _isal.compressobj(1, zlib.DEFLATED, -15)
    packed: bytes = encoder.compress(data) + encoder.flush(zlib.Z_SYNC_FLUSH)
    return packed
