"""Deadlines of requests in a threaded worker, where gunicorn's own timeout watches only the main loop.

A request passes three phases, each with the whole timeout: *reading* (a client that sends too slowly is cut off and
answered 408), *working* (a model that hangs: the client gets 504 and the worker process is replaced, for a thread
cannot be stopped), *writing* (a client that does not take its answer is cut off). While it is *waiting* for its turn
with the model, the gate watches the time.
"""

from __future__ import annotations

import json
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Union

READING, WAITING, WORKING, WRITING = "reading", "waiting", "working", "writing"


#: A connection of HTTP's; or, for other roads, what tells the client that the model is late, in a second at most.
Client = Union[socket.socket, Callable[[], None]]


@dataclass
class _Request:
    client: Client
    deadline: float
    phase: str = READING
    expired: bool = False


class Deadlines:
    """The requests that this process is busy with, one a thread, and a thread that ends those that are late."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        #: Called, each for a moment at most, before a worker process ends for a model that did not answer.
        self.late: list[Callable[[], None]] = []
        self._requests: dict[int, _Request] = {}
        self._watcher: threading.Thread | None = None

    def begin(self, client: Client, phase: str = READING) -> None:
        """The calling thread starts with a request of `client`, by reading it unless another phase is told."""
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="deadlines", daemon=True)
            self._watcher.start()
        self._requests[threading.get_ident()] = _Request(client, time.monotonic() + self.timeout, phase)

    def enter(self, phase: str) -> bool:
        """The calling thread's request enters `phase`. False if its time ran out before; True outside a worker."""
        request = self._requests.get(threading.get_ident())
        if request is None:
            return True
        # The deadline first: the watcher may look between the two.
        request.deadline = math.inf if phase == WAITING else time.monotonic() + self.timeout
        request.phase = phase
        return not request.expired

    def end(self) -> None:
        """The calling thread is done with its request."""
        self._requests.pop(threading.get_ident(), None)

    @property
    def late_message(self) -> str:
        """What a client is told whose model did not answer in time."""
        return f"The model did not answer within {self.timeout:g} seconds (MPACK_TIMEOUT)."

    def _watch(self) -> None:
        pause = min(1.0, self.timeout / 4)
        while True:
            time.sleep(pause)
            now = time.monotonic()
            for request in list(self._requests.values()):
                if now > request.deadline and not request.expired:
                    request.expired = True
                    self._expire(request)

    def _expire(self, request: _Request) -> None:
        if request.phase == WORKING:
            self._replace_worker(request.client)
        if isinstance(request.client, socket.socket):
            try:
                request.client.shutdown(socket.SHUT_RD if request.phase == READING else socket.SHUT_RDWR)
            except OSError:
                pass

    def _replace_worker(self, client: Client) -> None:
        try:
            if isinstance(client, socket.socket):
                client.settimeout(1)
                client.sendall(json_response(504, "Gateway Timeout", self.late_message))
                client.shutdown(socket.SHUT_WR)
            else:
                client()
        except (OSError, RuntimeError):  # it is gone, or its event loop is
            pass
        try:
            print(f"{self.late_message} Its worker process is replaced.", file=sys.stderr, flush=True)
            for call in self.late:
                call()
        finally:
            os._exit(1)


def json_response(status: int, reason: str, message: str) -> bytes:
    """A whole HTTP/1.1 answer with {"message": …}, for where no application can be asked."""
    body = json.dumps({"message": message}).encode()
    head = (
        f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
