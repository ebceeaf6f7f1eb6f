"""A way to a server that stops in the middle of what it carries, for tests that kill a push there."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def pausing(port: int, after: int) -> Iterator[tuple[str, threading.Event]]:
    """A way to the registry that stops, with all connections open, when `after` bytes have gone there."""
    paused, ended, left = threading.Event(), threading.Event(), [after]
    listener = socket.create_server(("127.0.0.1", 0))
    sockets: list[socket.socket] = []

    def carry(source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 14):
                if counted:
                    left[0] -= len(data)
                    if left[0] < 0:
                        sink.sendall(data[: len(data) // 2])
                        paused.set()
                        ended.wait()
                        return
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with suppress(OSError):
            while True:
                pair = (listener.accept()[0], socket.create_connection(("127.0.0.1", port)))
                sockets.extend(pair)
                for source, sink, counted in ((*pair, True), (*pair[::-1], False)):
                    threading.Thread(target=carry, args=(source, sink, counted), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"localhost:{listener.getsockname()[1]}", paused
    finally:
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for end in sockets:
            end.close()
