"""The access log: one JSON object a request on the true stdout."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from functools import lru_cache
from typing import Any

import orjson
from gunicorn.glogging import Logger

#: Bytes that reach a pipe in one piece, whoever else writes to it.
_PIECE = 4096


class JsonAccessLog(Logger):  # type: ignore[misc]
    """gunicorn's logger; see `keep_stdout`."""

    stdout = 1

    @classmethod
    def keep_stdout(cls) -> None:
        """Keeps stdout for the access log: what a model prints goes to stderr from now on."""
        cls.stdout = os.dup(1)
        os.dup2(2, 1)

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: timedelta) -> None:
        sent = getattr(resp, "sent", None)
        self.put(answered(environ, str(resp.status), resp.headers, sent, request_time.total_seconds()))

    @classmethod
    def write(cls, **fields: Any) -> None:
        """One line."""
        cls.put(line(**fields))

    @classmethod
    def put(cls, *lines: bytes) -> None:
        """Writes lines, so that those of several threads and workers never mix."""
        pieces, size = [b""], 0
        for line in lines:
            if size + len(line) > _PIECE:
                pieces.append(b"")
                size = 0
            pieces[-1] += line
            size += len(line)
        try:
            for piece in pieces:
                os.write(cls.stdout, piece)
        except OSError:
            pass


def answered(
    environ: dict[str, Any], status: str, headers: list[tuple[str, str]], sent: int | None, seconds: float
) -> bytes:
    """The line of a request; `sent` are the bytes of the answer's body."""
    trace_id = environ.get("mpack.trace_id")
    return line(
        method=environ.get("REQUEST_METHOD"),
        path=environ.get("RAW_URI"),
        status=int(status.split(None, 1)[0]),
        bytes=sent,
        ms=round(seconds * 1000, 3),
        remote=environ.get("REMOTE_ADDR"),
        agent=environ.get("HTTP_USER_AGENT"),
        request_id=dict(headers).get("Request-Id"),
        **({} if trace_id is None else {"trace_id": trace_id}),
    )


def line(**fields: Any) -> bytes:
    """One line; b"" for what is no JSON."""
    try:
        return orjson.dumps({"time": _moment(int(time.time())), **fields}, default=str) + b"\n"
    except TypeError:
        return b""


@lru_cache(1)
def _moment(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))
