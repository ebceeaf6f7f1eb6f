"""Refusals of whole, plain requests, written by a worker's loop: a tenth of the work of the long way.

Only what is certain is done here: a request of one Content-Length that is all there. It is taken off the connection,
and the next one may follow. Whatever is not so goes the long way, through gunicorn and `admission`.
"""

from __future__ import annotations

import os
import re
import socket
import time
from typing import Any, Callable

from mpack_runtime.gate import FULL, refusal
from mpack_runtime.rest import roads
from mpack_runtime.rest.metrics import Metrics
from mpack_runtime.rest.routes import ROADS, group

#: Bytes of the largest request that is refused here.
LARGEST = 64 << 10
_LINE = re.compile(rb"POST ([\x21-\x7e]+) HTTP/1\.1\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,6})[ \t]*(?=\r\n)")
#: Headers that make more of a request than these lines understand.
_MORE = re.compile(rb"\r\n(transfer-encoding|expect|connection|upgrade|content-length|x-forwarded-prefix)\b")
#: A line break that is none to some readers.
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)")
_ID = re.compile(rb"\r\n(?:x-)?request-id:[ \t]*([\x21-\x7e]{1,128})[ \t]*(?=\r\n)", re.IGNORECASE)

#: Writes a line of the access log: connection, path, status, bytes of the answer, id of the request.
Log = Callable[[Any, str, int, int, str], None]


class Refusals:
    """Answers 429."""

    def __init__(self, metrics: Metrics, log: Log) -> None:
        self._metrics, self._log = metrics, log
        self._bodies = {of: roads.refusal(of, refusal(FULL, 0)) for of in ROADS}

    def refuse(self, conn: Any) -> bool:
        """True if the connection's request is answered, and the connection is as it was before; False: it is not."""
        if conn.parser is not None and conn.parser.unreader.buf.getvalue():
            return False  # the request begins in what gunicorn has read ahead
        try:
            data = conn.sock.recv(LARGEST, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            path = plain_prediction(data)
            of = group(path)
            if of not in ROADS:
                return False
            found = _ID.search(data.partition(b"\r\n\r\n")[0] + b"\r\n")
            name = found[1].decode() if found else os.urandom(16).hex()
            answer = self._answer(of, name)
            conn.init()
            # A client that takes no answers must not hold the loop.
            if conn.sock.send(answer, socket.MSG_DONTWAIT) < len(answer):
                conn.sock.shutdown(socket.SHUT_RDWR)
            conn.sock.recv(len(data))
        except (OSError, ValueError):
            return False
        self._metrics.start()
        self._metrics.refused(FULL)
        self._metrics.end(path, 429, 0.0)
        self._log(conn, path, 429, len(answer), name)
        return True

    def _answer(self, of: str, name: str) -> bytes:
        reply = self._bodies[of]
        headers = {
            "Date": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()),
            "Connection": "keep-alive",
            "Content-Type": reply.content_type,
            "Content-Length": str(len(reply.body)),
            "Request-Id": name,
            **reply.headers,
        }
        lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
        return f"HTTP/1.1 {reply.status} Too Many Requests\r\n{lines}\r\n".encode() + reply.body


def plain_prediction(data: bytes) -> str:
    """The path of a whole request with a body, the only one in `data`; "": it is not that, or not plain enough."""
    line = _LINE.match(data)
    head, end, body = data.partition(b"\r\n\r\n")
    if line is None or not end:
        return ""
    fields = head.lower() + b"\r\n"
    length = _LENGTH.search(fields)
    plain = [found[1] for found in _MORE.finditer(fields)] == [b"content-length"]
    if not plain or _BARE.search(fields) or length is None or int(length[1]) != len(body):
        return ""
    return line[1].partition(b"?")[0].decode()
