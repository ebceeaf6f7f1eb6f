"""A way to a server of this machine, for tests that count, cut or hold what it carries."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

#: Gets each piece that came, and gives what is passed on; None closes the connection.
Carry = Callable[[bytes], "bytes | None"]


@contextmanager
def relay(port: int, carrier: Callable[[bool], Carry]) -> Iterator[int]:
    """The way's port. `carrier` is asked for each connection twice: with True for what goes to the server, with False
    for what comes back."""
    listener = socket.create_server(("127.0.0.1", 0))
    sockets: list[socket.socket] = []

    def run(source: socket.socket, sink: socket.socket, carry: Carry) -> None:
        with suppress(OSError):
            while (data := source.recv(1 << 14)) and (passed := carry(data)) is not None:
                sink.sendall(passed)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with suppress(OSError):
            while True:
                client = listener.accept()[0]
                sockets.append(client)
                server = socket.create_connection(("localhost", port))
                sockets.append(server)
                for source, sink, there in ((client, server, True), (server, client, False)):
                    threading.Thread(target=run, args=(source, sink, carrier(there)), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for end in sockets:
            end.close()
