"""Tar headers with everything that varies fixed: USTAR, with a PAX record only for what does not fit."""

from __future__ import annotations

FILE = b"0"
LINK = b"2"
DIRECTORY = b"5"
RECORD = 512
#: Two empty records end an archive; no padding to a larger block, so that one byte stream has one form.
END = b"\0" * (2 * RECORD)

_NAME, _PREFIX, _LINKNAME = 100, 155, 100
_MAX_SIZE = 8 << 30


def padding(size: int) -> bytes:
    """What follows `size` bytes of content."""
    return b"\0" * (-size % RECORD)


def header(path: str, kind: bytes, *, size: int = 0, mode: int, target: str = "", uid: int = 0, gid: int = 0) -> bytes:
    """The header of one entry: `path` relative, directories with a final slash; time 0, no user or group names."""
    name, link = path.encode("utf-8", "surrogateescape"), target.encode("utf-8", "surrogateescape")
    records: list[tuple[bytes, bytes]] = []
    prefix, base = _split(name)
    if base is None or not name.isascii():
        records.append((b"path", name))
        prefix, base = b"", name[:_NAME]
    if len(link) > _LINKNAME or not link.isascii():
        records.append((b"linkpath", link))
        link = link[:_LINKNAME]
    stated = size
    if size >= _MAX_SIZE:
        records.append((b"size", str(size).encode()))
        stated = 0
    block = _block(base, prefix, kind, stated, mode, link, uid, gid)
    if not records:
        return block
    body = b"".join(_record(key, value) for key, value in sorted(records))
    return _block(b"PaxHeader", b"", b"x", len(body), 0o644, b"", 0, 0) + body + padding(len(body)) + block


def _split(name: bytes) -> tuple[bytes, bytes | None]:
    """(prefix, name) of USTAR, or (…, None) where the path fits no cut."""
    if len(name) <= _NAME:
        return b"", name
    cut = name.find(b"/", len(name) - _NAME - 1)
    if 0 < cut <= _PREFIX and cut < len(name) - 1:
        return name[:cut], name[cut + 1 :]
    return b"", None


def _block(name: bytes, prefix: bytes, kind: bytes, size: int, mode: int, link: bytes, uid: int, gid: int) -> bytes:
    fields = [
        name.ljust(_NAME, b"\0"),
        b"%07o\0" % mode,
        b"%07o\0" % uid,
        b"%07o\0" % gid,
        b"%011o\0" % size,
        b"%011o\0" % 0,
        b" " * 8,
        kind,
        link.ljust(_LINKNAME, b"\0"),
        b"ustar\x0000",
        b"\0" * 64,
        b"%07o\0" % 0,
        b"%07o\0" % 0,
        prefix.ljust(_PREFIX, b"\0"),
        b"\0" * 12,
    ]
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _record(key: bytes, value: bytes) -> bytes:
    """ "LENGTH KEY=VALUE\\n", the length counting its own digits."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + len(str(len(rest)))
    if len(str(length)) + len(rest) != length:
        length += 1
    return str(length).encode() + rest
