"""The values that opcodes carry, read from a Source: short ones as they are, long ones passed over."""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Callable
from typing import Any

from mpack.artifact.pickle_source import Source, Unfollowable
from mpack.artifact.pickle_values import NUMBER, Blob

#: Strings and bytes up to this length are remembered, so that a name made of them is known.
KEPT_TEXT = 512
#: Of longer ones, so much of both ends.
BLOB_ENDS = 4096
#: Text that must be decoded whole (protocols 0 to 2) may have so many bytes.
_MAX_LINE = 1 << 24

_DECIMAL = re.compile(rb"0|-?[1-9][0-9]*")
_INDEX = re.compile(rb"[0-9]{1,9}")


def _integer(form: str) -> Callable[[Source], int]:
    size = struct.calcsize(form)
    unpack = struct.Struct(form).unpack
    return lambda source: int(unpack(source.read(size))[0])


u1 = Source.byte
u2, u4, i4, u8 = map(_integer, ("<H", "<I", "<i", "<Q"))


def text(source: Source, size: int) -> Any:
    """UTF-8 text as a str, or a Blob."""
    return decode(source.read(size), "utf-8", "surrogatepass") if size <= KEPT_TEXT else blob(source, "str", size)


def octets(source: Source, size: int) -> Any:
    """Bytes, or a Blob."""
    return source.read(size) if size <= KEPT_TEXT else blob(source, "bytes", size)


def blob(source: Source, kind: str, size: int) -> Blob:
    """A value of which only the ends are kept."""
    if size <= 2 * BLOB_ENDS:
        data = source.read(size)
        return Blob(kind, data, data)
    head = source.read(BLOB_ENDS)
    source.skip(size - 2 * BLOB_ENDS)
    return Blob(kind, head, source.read(BLOB_ENDS))


def ascii_text(source: Source, size: int) -> Any:
    """A byte string of Python 2, which Python 3 reads as ASCII text."""
    if not 0 <= size <= _MAX_LINE:
        raise Unfollowable(f"it holds a Python 2 string of {size} bytes")
    return _shorten(decode(source.read(size), "ascii"))


def decode(data: bytes, encoding: str, errors: str = "strict") -> str:
    """Text. Raises Unfollowable where the unpickler would raise."""
    try:
        return data.decode(encoding, errors)
    except UnicodeDecodeError:
        raise Unfollowable(f"it holds text that is not {encoding}") from None


def _shorten(value: str) -> Any:
    if len(value) <= KEPT_TEXT:
        return value
    data = value.encode("utf-8", "surrogatepass")
    return Blob("str", data[:BLOB_ENDS], data[-BLOB_ENDS:])


def int_line(source: Source) -> Any:
    """INT: a decimal number, or 00 and 01 for the booleans."""
    line = source.line()
    return line == b"01" if line in (b"00", b"01") else _decimal(line)


def long_line(source: Source) -> Any:
    """LONG: a decimal number with an L."""
    return _decimal(source.line().removesuffix(b"L"))


def _decimal(line: bytes) -> Any:
    if not _DECIMAL.fullmatch(line):
        raise Unfollowable("it holds a number that is not plain decimal")
    return NUMBER if len(line) > 40 else int(line)


def float_line(source: Source) -> Any:
    """FLOAT: a number as text."""
    try:
        float(source.line())
    except ValueError:
        raise Unfollowable("it holds a number that is none") from None
    return NUMBER


def string_line(source: Source) -> Any:
    """STRING: quoted, with Python's escapes."""
    line = source.line(_MAX_LINE)
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in b"\"'":
        raise Unfollowable("it holds a string without quotes")
    try:
        data = codecs.escape_decode(line[1:-1])[0]
    except ValueError:
        raise Unfollowable("it holds a string with a wrong escape") from None
    return _shorten(decode(data, "ascii"))


def unicode_line(source: Source) -> Any:
    """UNICODE: text with \\u escapes."""
    return _shorten(decode(source.line(_MAX_LINE), "raw-unicode-escape"))


def long_bytes(source: Source, size: int) -> Any:
    """LONG1 and LONG4: a little-endian number."""
    if size < 0:
        raise Unfollowable("it holds a number of negative length")
    if size > 16:
        source.skip(size)
        return NUMBER
    return int.from_bytes(source.read(size), "little", signed=True)


def float_bytes(source: Source) -> Any:
    """BINFLOAT."""
    source.read(8)
    return NUMBER


def index_line(source: Source) -> int:
    """GET and PUT: an index of the memo as text."""
    line = source.line()
    if not _INDEX.fullmatch(line):
        raise Unfollowable("it holds a memo index that is no number")
    return int(line)
