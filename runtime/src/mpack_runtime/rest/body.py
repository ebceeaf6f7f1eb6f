"""Reading a request's body: bounded in size, before and after gzip, and whole."""

from __future__ import annotations

import zlib
from typing import Any

from mpack_runtime.errors import BadRequest

#: Of what is read at once, and of what is unpacked.
_READ, _CHUNK = 1 << 20, 64 * 1024
_MEMBERS = 10_000  # bgzip writes as many in 640 MB; each one costs time


def read_body(environ: dict[str, Any], limit: int) -> bytes:
    """The decoded body, at most `limit` bytes. Raises BadRequest (400, 408, 413, 415)."""
    encoding = environ.get("HTTP_CONTENT_ENCODING", "").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip"):
        raise BadRequest(f"Content-Encoding {encoding!r} is not understood; send gzip or none.", 415)
    raw = _read_raw(environ, limit)
    return _gunzip(raw, limit) if encoding.endswith("gzip") and raw else raw


def _read_raw(environ: dict[str, Any], limit: int) -> bytes:
    declared = environ.get("CONTENT_LENGTH") or None
    if declared is not None and not (declared.isascii() and declared.isdigit()):
        raise BadRequest(f"Content-Length {declared!r} is not a number.")
    length = int(declared) if declared is not None else None
    if length is None and not environ.get("wsgi.input_terminated"):
        return b""
    if length is not None and length > limit:
        raise _too_large(limit)
    # A byte more than allowed, so that a chunked body that is too large shows as such.
    wanted = limit + 1 if length is None else length
    parts, size = [], 0
    stream = environ["wsgi.input"]
    while size < wanted:
        try:
            part = stream.read(min(_READ, wanted - size))
        except Exception as error:
            # gunicorn's own classes for broken chunks, sockets that end, timeouts: all the client's doing.
            raise BadRequest(f"The request body cannot be read to its end: {type(error).__name__}.") from error
        if not part:
            break
        parts.append(part)
        size += len(part)
    if length is not None and size < length:
        raise BadRequest(f"The request body ended after {size} of the {length} bytes that Content-Length promised.")
    if size > limit:
        raise _too_large(limit)
    return b"".join(parts)


def _gunzip(raw: bytes, limit: int) -> bytes:
    """All gzip members of `raw` joined; never holds more than `limit` bytes and one chunk.

    zlib copies what it has not used yet, so it is fed in small pieces: else the time would grow with the square.
    """
    parts, size, position, members = [], 0, 0, 0
    while position < len(raw):
        members += 1
        if members > _MEMBERS:
            raise BadRequest(f"The gzip request body has more than {_MEMBERS} members.")
        member = zlib.decompressobj(16 + zlib.MAX_WBITS)
        rest = b""
        while not member.eof:
            if not rest:
                rest = raw[position : position + _CHUNK]
                position += len(rest)
                if not rest:
                    raise BadRequest("The gzip request body is cut off before its end.")
            try:
                part = member.decompress(rest, _CHUNK)
            except zlib.error as error:
                raise BadRequest(f"The request body is not valid gzip: {error}.") from error
            rest = member.unconsumed_tail
            size += len(part)
            if size > limit:
                raise _too_large(limit)
            parts.append(part)
        position -= len(member.unused_data)
    return b"".join(parts)


def _too_large(limit: int) -> BadRequest:
    return BadRequest(f"The request body is larger than {limit} bytes (MPACK_MAX_BODY).", 413)
