"""The byte stream under a pickle: exact reads with frames, cheap skips, and joblib's compressed files."""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

from mpack.errors import EnvironmentFault

#: joblib's own table: it takes a file for compressed by these first bytes, in this order.
COMPRESSIONS: tuple[tuple[str, bytes], ...] = (
    ("zlib", b"\x78"),
    ("gzip", b"\x1f\x8b"),
    ("bz2", b"BZ"),
    ("lzma", b"\x5d\x00"),
    ("xz", b"\xfd7zXZ"),
    ("lz4", b'\x04"M\x18'),
)
#: What a compressed pickle may become: beyond any model, and an end for a bomb.
MAX_DECOMPRESSED = 100 << 30
_BLOCK = 1 << 16


class Unfollowable(Exception):
    """The stream does something whose effect the scan cannot know; its text is a clause ("it …")."""


class Truncated(Unfollowable):
    """The stream ends inside an opcode."""


def compression_of(head: bytes) -> str | None:
    """The compression that joblib would see in a file's first bytes, or None."""
    return next((name for name, magic in COMPRESSIONS if head.startswith(magic)), None)


def decompressed(stream: BinaryIO, compression: str) -> BinaryIO:
    """`stream` decompressed, not seekable. Raises EnvironmentFault tool-missing for lz4 without its library."""
    makers: dict[str, Callable[[], Any]] = {
        "zlib": lambda: zlib.decompressobj(zlib.MAX_WBITS),
        "gzip": lambda: zlib.decompressobj(zlib.MAX_WBITS | 16),
        "bz2": bz2.BZ2Decompressor,
        "lzma": lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE),
        "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ),
        "lz4": _lz4,
    }
    return io.BufferedReader(_Decompressing(stream, makers[compression]()), _BLOCK)


def _lz4() -> Any:
    try:
        import lz4.frame  # type: ignore[import-not-found]
    except ImportError:
        raise EnvironmentFault(
            "tool-missing",
            "The model file is compressed with LZ4, and the Python package lz4 that can read it is not installed here.",
            "Install it beside mpack (pip install lz4), or save the model again with joblib.dump(…, compress=3).",
        ) from None
    return lz4.frame.LZ4FrameDecompressor()


class _Decompressing(io.RawIOBase):
    """A raw reader over one incremental decompressor; bytes after the compressed stream's end are an error."""

    def __init__(self, stream: BinaryIO, decompressor: Any) -> None:
        self._stream = stream
        self._decompressor = decompressor
        self._pending = b""
        self._total = 0

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        view = memoryview(target)
        try:
            data = self._produce(len(view))
        except (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError, RuntimeError) as error:
            raise Unfollowable(f"its compressed data is damaged ({error})") from error
        self._total += len(data)
        if self._total > MAX_DECOMPRESSED:
            raise Unfollowable(f"it decompresses to more than {MAX_DECOMPRESSED >> 30} GiB")
        view[: len(data)] = data
        return len(data)

    def _produce(self, size: int) -> bytes:
        while True:
            if self._decompressor.eof:
                if self._decompressor.unused_data or self._stream.read(1):
                    raise Unfollowable("bytes follow the end of its compressed data")
                return b""
            block = self._pending
            if not block and getattr(self._decompressor, "needs_input", True):
                block = self._stream.read(_BLOCK)
                if not block:
                    raise Truncated("its compressed data ends too early")
            data: bytes = self._decompressor.decompress(block, size)
            # zlib hands back what it has not used yet; the others keep it themselves.
            self._pending = getattr(self._decompressor, "unconsumed_tail", b"")
            if data:
                return data


class Source:
    """Exact reading for a pickle. A frame (protocol 4) must be used up exactly: what straddles its end is refused,
    since the C and the Python unpickler would go on at different places."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._seekable = stream.seekable()
        self._buffer = b""
        self._at = 0
        #: Up to here, the buffer can be read without a look at its end or the frame's.
        self._limit = 0
        #: Stream position of the buffer's first byte, and of the running frame's end.
        self._base = 0
        self._frame_end: int | None = None

    @property
    def position(self) -> int:
        """Bytes taken so far."""
        return self._base + self._at

    def byte(self) -> int:
        """The next byte: an opcode, as a rule."""
        at = self._at
        if at >= self._limit:
            return self.read(1)[0]
        self._at = at + 1
        return self._buffer[at]

    def read(self, size: int) -> bytes:
        """The next `size` bytes."""
        end = self._at + size
        if end > self._limit:
            self._check_frame(size)
            self._fill(size)
            end = self._at + size
        data = self._buffer[self._at : end]
        self._at = end
        return data

    def line(self, limit: int = 1 << 16) -> bytes:
        """Up to and without the next newline."""
        size = 0
        while (found := self._buffer.find(b"\n", self._at + size)) < 0:
            size = len(self._buffer) - self._at
            if size >= limit:
                raise Unfollowable("a line in it is too long")
            try:
                self._fill(size + 1)
            except Truncated:
                raise Truncated("a line in it does not end") from None
        if found - self._at >= limit:
            raise Unfollowable("a line in it is too long")
        return self.read(found - self._at + 1)[:-1]

    def skip(self, size: int) -> None:
        """Passes over `size` bytes. A seek beyond the end shows at the next read: STOP has yet to come."""
        self._check_frame(size)
        buffered = len(self._buffer) - self._at
        if size <= buffered:
            self._at += size
            return
        self._base, self._buffer, self._at = self.position + size, b"", 0
        self._set_limit()
        size -= buffered
        if self._seekable:
            self._stream.seek(size, io.SEEK_CUR)
            return
        while size:
            block = self._stream.read(min(size, _BLOCK))
            if not block:
                raise Truncated("it ends inside a value")
            size -= len(block)

    def at_end(self) -> bool:
        """True if nothing follows."""
        try:
            self._fill(1)
        except Truncated:
            return True
        return False

    def start_frame(self, size: int) -> None:
        """FRAME: its `size` bytes begin here."""
        if self._frame_end is not None and self.position < self._frame_end:
            raise Unfollowable("a frame begins inside another")
        self._frame_end = self.position + size
        self._set_limit()

    def end_frame(self, where: str) -> None:
        """Refuses if the running frame is not used up."""
        if self._frame_end is not None and self.position < self._frame_end:
            raise Unfollowable(f"a frame goes on beyond {where}")

    def _check_frame(self, size: int) -> None:
        if size >= 1 << 50:
            raise Truncated("a value in it is longer than any file")
        left = None if self._frame_end is None else self._frame_end - self.position
        if left and size > left:
            raise Unfollowable("a value straddles the end of a frame")
        if left == 0 and size:
            self._frame_end = None

    def _fill(self, size: int) -> None:
        """Gets at least `size` bytes into the buffer."""
        parts = [self._buffer[self._at :]]
        missing = size - len(parts[0])
        while missing > 0:
            block = self._stream.read(max(_BLOCK, missing))
            if not block:
                raise Truncated("it ends in the middle of an opcode")
            parts.append(block)
            missing -= len(block)
        self._base, self._buffer, self._at = self.position, b"".join(parts), 0
        self._set_limit()

    def _set_limit(self) -> None:
        limit = len(self._buffer)
        if self._frame_end is not None and self._frame_end > self.position:
            limit = min(limit, self._frame_end - self._base)
        self._limit = limit
