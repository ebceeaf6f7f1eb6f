"""Where a Triton server listens, read from its own flags: a TCP port or a unix socket. Standard library only."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mpack_runtime.config import Settings

#: Flag prefix -> Triton's default port.
PORTS = {"http": 8000, "grpc": 8001}
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1", "[::]": "::1"}  # noqa: S104


@dataclass(frozen=True)
class Address:
    """A host and a port, or the path of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"

    def connect(self, timeout: float) -> socket.socket:
        """A connected socket. Raises OSError."""
        if not self.path:
            return socket.create_connection((_ANYWHERE.get(self.host, self.host).strip("[]"), self.port), timeout)
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout)
            connection.connect(self.path)
        except BaseException:
            connection.close()
            raise
        return connection


class HttpConnection(http.client.HTTPConnection):
    """http.client over an Address."""

    def __init__(self, address: Address, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._address = address

    def connect(self) -> None:
        self.sock = self._address.connect(self.timeout or 60.0)


def flag(flags: Sequence[str], name: str, default: str) -> str:
    """The last value of a flag, in either of its forms (--name=value, --name value)."""
    found = default
    for index, word in enumerate(flags):
        if word.startswith(f"--{name}="):
            found = word.partition("=")[2]
        elif word == f"--{name}" and index + 1 < len(flags):
            found = flags[index + 1]
    return found


def listens(flags: Sequence[str], protocol: str) -> Address | None:
    """Where the server listens for "http" or "grpc"; None: not at all, or the flags have a port that is no number."""
    if flag(flags, f"allow-{protocol}", "true").lower() in ("false", "0"):
        return None
    host, port = flag(flags, f"{protocol}-address", "0.0.0.0"), flag(flags, f"{protocol}-port", str(PORTS[protocol]))  # noqa: S104
    if host.startswith("unix:"):
        path = host[len("unix:") :]
        return Address(path=path if protocol == "http" else f"{path}:{port}")
    return Address(host, int(port)) if port.isascii() and port.isdigit() else None


def default_flags(settings: Settings, env: Mapping[str, str]) -> tuple[str, ...]:
    """The flags that MPACK_HOST and MPACK_PORT mean (without MPACK_PORT: Triton's own port)."""
    port = settings.port if env.get("MPACK_PORT", "").strip() else PORTS["http"]
    return (f"--http-address={settings.host}", f"--grpc-address={settings.host}", f"--http-port={port}")


def health_status(address: Address, timeout: float = 3.0) -> int:
    """The status of /v2/health/ready: 200 if ready. Raises OSError or HTTPException where nothing answers."""
    connection = HttpConnection(address, timeout)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status
    finally:
        connection.close()
