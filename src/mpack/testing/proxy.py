"""An HTTP proxy on loopback that leads some names to ports of this machine: for names that resolve nowhere here."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class LeadingProxy:
    """`asked`: the "host:port" of every CONNECT, in order."""

    port: int
    asked: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def leading_proxy(ports: Mapping[str, int]) -> Iterator[LeadingProxy]:
    """`ports`: "host:port" -> the port of this machine that answers for it; other names mean themselves."""
    listener = socket.create_server(("127.0.0.1", 0))
    proxy = LeadingProxy(listener.getsockname()[1])

    def carry(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def answer(client: socket.socket) -> None:
        with suppress(OSError, IndexError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(1 << 16)
            method, target = head.split(b" ", 2)[:2]
            name = target.decode()
            proxy.asked.append(name)
            host, _, port = name.rpartition(":")
            try:
                assert method == b"CONNECT"
                server = socket.create_connection(("localhost", ports[name]) if name in ports else (host, int(port)))
            except OSError:
                client.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                client.close()
                return
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            threading.Thread(target=carry, args=(client, server), daemon=True).start()
            carry(server, client)

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
