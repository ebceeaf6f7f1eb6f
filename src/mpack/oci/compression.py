"""One gzip form for layers, a pure function of the bytes: the same on every machine that has the same `ENCODER`.

The stream is cut into blocks of 1 MiB, each a gzip member of its own, without name or time. A block whose first 32 KiB
do not shrink is stored as it is: weights rarely compress. libdeflate writes the same bytes on every processor (measured
on x86-64 with and without SSE 4.2 and AVX2, and on arm64; ISA-L, which is faster, does not); the platform's own zlib
is another one on every system, and serves only where libdeflate's wheel is missing.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from collections.abc import Iterator
from importlib import import_module
from typing import Any, BinaryIO, Protocol

#: Counts the rules by which layers are written (what is stored as it is, which layers are plain tars).
_FORM = "form 2"

_libdeflate: Any
try:
    _libdeflate = import_module("deflate")
    ENCODER = f"deflate {_libdeflate.__version__} {_FORM}"
except ImportError:  # the lock names the encoder, so that a build with another one fails with a sentence
    _libdeflate = None
    ENCODER = f"zlib {zlib.ZLIB_RUNTIME_VERSION} {_FORM}"

BLOCK = 1 << 20
PROBE = 32 << 10
_STORED_MAX = 0xFFFF
#: What zlib calls the gzip format.
_GZIP = 31
#: Deflate, no name, no time, no extra flags, system unknown.
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"


class Sink(Protocol):
    """Takes bytes, as files do."""

    def write(self, data: Any, /) -> Any: ...


class GzipWriter:
    """Takes an uncompressed stream, writes gzip to `sink`; knows digest ("sha256:…") and size of what it took."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._parts: list[memoryview] = []
        self._held = 0
        self._raw = hashlib.sha256()
        self.raw_size = 0

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

    def join(self, members: BinaryIO) -> None:
        """Takes a stream of whole gzip members as they are, without compressing their content again."""
        if self._held:
            self._block()
        plain = zlib.decompressobj(_GZIP)
        while data := members.read(BLOCK):
            self._sink.write(data)
            while data:
                piece = plain.decompress(data)
                self._raw.update(piece)
                self.raw_size += len(piece)
                data = plain.unused_data
                if plain.eof:
                    plain = zlib.decompressobj(_GZIP)

    def close(self) -> None:
        """Writes the rest; the sink stays open. An empty stream is one empty member."""
        if self._held or not self.raw_size:
            self._block()

    def _block(self) -> None:
        data = b"".join(self._parts)
        self._parts.clear()
        self._held = 0
        self._raw.update(data)
        self.raw_size += len(data)
        self._sink.write(_HEADER)
        for piece in _compress(data):
            self._sink.write(piece)
        self._sink.write(struct.pack("<II", zlib.crc32(data), len(data)))


def open_gzip(stream: BinaryIO) -> gzip.GzipFile:
    """The uncompressed bytes of a gzip stream. Reading damaged data raises one of GZIP_ERRORS."""
    return gzip.GzipFile(fileobj=stream, mode="rb")


#: What reading damaged gzip data raises.
GZIP_ERRORS: tuple[type[Exception], ...] = (gzip.BadGzipFile, EOFError, zlib.error)


def _compress(data: bytes) -> Iterator[bytes | memoryview]:
    """A whole deflate stream."""
    if len(data) <= PROBE or shrunk(data[:PROBE]) < PROBE * 0.97:
        packed = _deflate(data)
        if len(packed) < len(data) or not data:
            yield packed
            return
    view = memoryview(data)
    for start in range(0, len(data), _STORED_MAX):
        part = view[start : start + _STORED_MAX]
        last = start + _STORED_MAX >= len(data)
        yield struct.pack("<BHH", last, len(part), len(part) ^ 0xFFFF)
        yield part


def shrunk(data: bytes) -> int:
    """How many bytes are left of `data`."""
    return len(_deflate(data))


def _deflate(data: bytes) -> bytes:
    if _libdeflate is not None:
        packed: bytes = _libdeflate.deflate_compress(data, 1)
        return packed
    encoder = zlib.compressobj(1, zlib.DEFLATED, -15)
    return encoder.compress(data) + encoder.flush()
