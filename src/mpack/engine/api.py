"""The engine's HTTP API over its unix socket: what a build asks of an engine, without starting a program for it.

A request is a connection of its own. The standard library's http.client is not used: importing it, with email and
ssl, takes longer than the requests do.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from mpack.records import dataclass

DEFAULT_SOCKET = "/var/run/docker.sock"
_SCHEME = "unix://"
#: Seconds that an engine may take to say who it is.
_PATIENCE = 20.0


def local_socket() -> str | None:
    """The unix socket that a docker client's settings (DOCKER_HOST, context) lead to; None for any other road."""
    host = os.environ.get("DOCKER_HOST")
    if host:
        return host.removeprefix(_SCHEME) if host.startswith(_SCHEME) else None
    context = os.environ.get("DOCKER_CONTEXT") or _current_context()
    return DEFAULT_SOCKET if context in ("", "default") else None


def _current_context() -> str:
    """The context that the client's configuration names; "?" where it cannot be read: the client can tell why."""
    directory = os.environ.get("DOCKER_CONFIG") or Path("~/.docker").expanduser()
    try:
        return str(json.loads((Path(directory) / "config.json").read_bytes()).get("currentContext") or "")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, AttributeError):
        return "?"


@dataclass(frozen=True)
class Answer:
    """A response: its status, and the whole body (JSON, or one JSON object a line)."""

    status: int
    body: bytes

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        """The engine's own words for what went wrong."""
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return str(self.json()["message"])
        return self.body.decode("utf-8", "replace") or f"status {self.status}"


@dataclass(frozen=True)
class Api:
    """An engine behind a unix socket. Every request raises OSError where the engine does not answer, or not in HTTP."""

    path: str

    def version(self) -> tuple[str, str]:
        """The engine's version and its platform ("linux/amd64"). Raises OSError, and ValueError if it is none."""
        return self.told(self.ask_version())

    def ask_version(self) -> socket.socket:
        """Asks who the engine is, which takes it 10 ms; `told` has the answer. Raises OSError."""
        return self._sent("GET", "/version", None, _PATIENCE)

    def told(self, connection: socket.socket) -> tuple[str, str]:
        """What `ask_version` asked for, as `version`."""
        answer = _received(connection)
        try:
            found = answer.json()
            return str(found["Version"]), f"{found['Os']}/{found['Arch']}"
        except (KeyError, TypeError) as error:
            raise ValueError(f"no version of an engine: {answer.message}") from error

    def image(self, reference: str, rest: str = "") -> str:
        """The path of an image, by name or id."""
        return f"/images/{quote(reference, safe='/:@')}{rest}"

    def ask(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        *,
        body: Iterable[bytes] | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """One request. `body` is sent piece by piece, as a tar; `timeout` is seconds without a byte."""
        return _received(self._sent(method, f"{path}?{urlencode(query)}" if query else path, body, timeout))

    def _sent(self, method: str, target: str, body: Iterable[bytes] | None, timeout: float | None) -> socket.socket:
        """The connection, once the whole request is on it."""
        head = [f"{method} {target} HTTP/1.1", "Host: docker", "Connection: close"]
        head += (
            ["Content-Length: 0"] if body is None else ["Content-Type: application/x-tar", "Transfer-Encoding: chunked"]
        )
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            connection.connect(self.path)
            # An engine that refuses a body answers, and reads no further.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(("\r\n".join(head) + "\r\n\r\n").encode())
                for piece in body or ():
                    if piece:
                        connection.sendall(b"%x\r\n" % len(piece))
                        connection.sendall(piece)
                        connection.sendall(b"\r\n")
                if body is not None:
                    connection.sendall(b"0\r\n\r\n")
        except BaseException:
            connection.close()
            raise
        return connection


def _received(connection: socket.socket) -> Answer:
    """The answer to the request on a connection, which is closed."""
    with connection:
        received = bytearray()
        while block := connection.recv(1 << 16):
            received += block
    return _answer(bytes(received))


def _answer(received: bytes) -> Answer:
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    words = lines[0].split()
    if len(words) < 2 or not words[0].startswith(b"http/1.") or not words[1].isdigit():
        raise ConnectionError("the engine broke off")
    if b"transfer-encoding: chunked" in lines[1:]:
        body = _unchunked(body)
    for name, _, value in (line.partition(b":") for line in lines[1:]):
        if name == b"content-length" and value.strip() != b"%d" % len(body):
            raise ConnectionError("the engine broke off")
    return Answer(int(words[1]), body)


def _unchunked(body: bytes) -> bytes:
    """The content of a chunked body. Raises ConnectionError if it broke off."""
    pieces: list[bytes] = []
    while True:
        size, line_end, body = body.partition(b"\r\n")
        try:
            count = int(size.split(b";")[0], 16)
        except ValueError:
            count = -1
        if not line_end or count < 0 or len(body) < count:
            raise ConnectionError("the engine broke off")
        if count == 0:
            return b"".join(pieces)
        pieces.append(body[:count])
        body = body[count + 2 :]
