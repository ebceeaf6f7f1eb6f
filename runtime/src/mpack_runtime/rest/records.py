"""What is kept of a prediction and of feedback: the reference's three streams with its fields."""

from __future__ import annotations

import time
import zlib
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import orjson

from mpack_runtime.rest.journal import Line
from mpack_runtime.rest.redact import Redactor

REQUESTS, ANSWERS, FEEDBACK = "request_response", "response_body", "feedback"
#: Bytes of a body that are kept, as in the reference.
BODY_LIMIT = 1 << 20
#: Headers that tell who asks; the reference drops the first four.
DROPPED = frozenset(
    ("authorization", "x-jwt", "x-user", "x-email", "proxy-authorization", "cookie", "set-cookie", "x-api-key")
)


@dataclass(frozen=True)
class Exchange:
    """One prediction as it was. `environ` is a part of WSGI's, bodies are cut at BODY_LIMIT, `when` is in seconds since
    the epoch."""

    environ: Mapping[str, str]
    request: bytes
    request_whole: bool
    status: int
    headers: tuple[tuple[str, str], ...]
    answer: bytes
    answer_whole: bool
    when: float

    @property
    def size(self) -> int:
        """Bytes in memory, about."""
        return len(self.request) + len(self.answer) + sum(map(len, self.environ.values())) + 4096


def exchange_lines(exchange: Exchange, name: str, version: str, redactor: Redactor) -> Iterator[Line]:
    """The lines of one prediction for request_response and response_body."""
    environ = exchange.environ
    answered = _clean(exchange.headers)
    model = {"model_name": name, "model_version": version, "model_endpoint": "default"}
    common = {"request_id": answered.get("request-id"), **model, "time": moment(exchange.when)}
    request, whole = _unpacked(exchange, environ)
    body, plain = _text(request)
    sure = plain and whole and exchange.status == 200
    kept = redactor.request(body, environ.get("CONTENT_TYPE", "")) if sure else _unless(redactor, body)
    record = {
        **common,
        "request_host": environ.get("HTTP_HOST"),
        "request_uri": (environ.get("RAW_URI") or environ.get("PATH_INFO", "")).partition("?")[0],
        "request_http_method": environ.get("REQUEST_METHOD"),
        "request_http_headers": _clean(_headers(environ)),
        "request_get_args": redactor.value(dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))),
        "request_post_args": {},
        "request_content": kept,
        "response_status": str(exchange.status),
        "response_http_headers": answered,
    }
    yield REQUESTS, version, exchange.when, orjson.dumps({**record, **_marks("request", plain, whole, kept)})
    body, plain = _text(exchange.answer)
    whole = exchange.answer_whole
    sure = plain and whole and exchange.status == 200
    kept = redactor.answer(body) if sure else _unless(redactor, body)
    record = {**common, "response_content": kept, **_marks("response", plain, whole, kept)}
    yield ANSWERS, version, exchange.when, orjson.dumps(record)


def feedback_line(request_id: str, name: str, version: str, payload: Mapping[str, Any], when: float) -> Line:
    """The line of one feedback."""
    record = {
        "request_id": request_id,
        "model_name": name,
        "model_version": version,
        "payload": payload,
        "time": moment(when),
    }
    return FEEDBACK, version, when, orjson.dumps(record)


def moment(when: float) -> str:
    """A time as the reference writes it."""
    return time.strftime("%Y-%m-%d %H:%M:%S +0000", time.gmtime(when))


def _headers(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            yield key[5:].replace("_", "-"), value
        elif key in ("CONTENT_TYPE", "CONTENT_LENGTH") and value:
            yield key.replace("_", "-"), value


def _clean(headers: Any) -> dict[str, str]:
    # Header values are Latin-1 of any bytes; orjson takes them as they are.
    return {name.lower(): str(value) for name, value in headers if name.lower() not in DROPPED}


def _unpacked(exchange: Exchange, environ: Mapping[str, str]) -> tuple[bytes, bool]:
    """The body without gzip, and whether that is all of it."""
    if not environ.get("HTTP_CONTENT_ENCODING", "").strip().lower().endswith("gzip"):
        return exchange.request, exchange.request_whole
    member = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        body = member.decompress(exchange.request, BODY_LIMIT)
    except zlib.error:
        return b"", False
    return body, member.eof and not member.unused_data and exchange.request_whole


def _text(body: bytes) -> tuple[str, bool]:
    """The body as text, else in base64; a character that was cut off at the limit is no reason for that."""
    try:
        return body.decode("utf-8"), True
    except UnicodeDecodeError as error:
        if len(body) == BODY_LIMIT and error.start >= len(body) - 3:
            return body[: error.start].decode("utf-8"), True
        return b64encode(body).decode("ascii"), False


def _unless(redactor: Redactor, body: str) -> str | None:
    """What no column can be taken out of is kept only where none must be; so are refusals and what was refused."""
    return None if redactor.active else body


def _marks(side: str, plain: bool, whole: bool, kept: str | None) -> dict[str, Any]:
    marks: dict[str, Any] = {}
    if kept is not None and not plain:
        marks[f"{side}_content_encoding"] = "base64"
    if not whole:
        marks[f"{side}_truncated"] = True
    return marks
