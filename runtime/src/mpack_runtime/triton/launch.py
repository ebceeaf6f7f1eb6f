"""`triton [FLAGS]`: process 1 of a Triton image. It starts the server, waits until it is ready, and ends with it.

The server's log goes through as it is. SIGTERM and SIGINT end the server in order, with exit code 0. A server that does
not become ready, or that dies, or that loses a model's process, ends the container with another code, and the reason is
the last of stderr.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence

from mpack_runtime.config import ModelConfig, Settings
from mpack_runtime.errors import LoadFailure, SettingsError
from mpack_runtime.triton.address import default_flags, listens
from mpack_runtime.triton.process import TritonServer
from mpack_runtime.triton.serving import Serving

READY_TIMEOUT = 300
_POLL = 0.05  # seconds between two looks whether the server is ready
_LOOK = 1.0  # and whether it still has its models
_LOST_GRACE = 2.0  # seconds for the requests of other models; a server that lost one waits in vain for its end


def ready_timeout(env: Mapping[str, str]) -> int:
    """MPACK_READY_TIMEOUT: seconds until the models must be loaded. Raises SettingsError."""
    text = env.get("MPACK_READY_TIMEOUT", "").strip()
    if not text:
        return READY_TIMEOUT
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 86400):
        raise SettingsError(f"MPACK_READY_TIMEOUT is {text!r}; it must be a whole number from 1 to 86400.")
    return int(text)


def launch(config: ModelConfig, flags: Sequence[str], settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT (then 0). Raises LoadFailure with the reason for every other end."""
    serving = Serving.of(config)
    timeout = ready_timeout(os.environ)
    with _Signals() as signals, TritonServer(serving.repository, _flags(settings, flags)) as server:
        server.start()
        _watch(server, signals, timeout, f"{config.name} {config.version}")
        stopped = signals.stopped
        if not server.listening:
            server.ready()  # it may listen since the last look
        server.finish(_LOST_GRACE if not stopped else server.grace() if server.listening else 1.0)
    if stopped:
        return 0
    raise LoadFailure(server.failure())


def _flags(settings: Settings, given: Sequence[str]) -> tuple[str, ...]:
    return (*default_flags(settings, os.environ), *given)


def _watch(server: TritonServer, signals: _Signals, timeout: int, what: str) -> None:
    """Returns when the server has ended, is to stop, or has lost a model. Raises LoadFailure after the timeout."""
    until, ready = time.monotonic() + timeout, False
    while not signals.stopped and server.poll() is None and not server.lost():
        if not ready and server.ready():
            ready = True
            where = listens(server.flags, "http") or listens(server.flags, "grpc")
            print(f"{what} is ready on {where}", file=sys.stderr, flush=True)
        if not server.listening and time.monotonic() > until:
            raise LoadFailure(
                f"The models are not loaded after {timeout} seconds. MPACK_READY_TIMEOUT sets how many they may take."
            )
        signals.wait(_LOOK if server.listening else _POLL)


class _Signals:
    """SIGTERM, SIGINT and SIGCHLD as something to wait for."""

    _NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)

    def __init__(self) -> None:
        self.stopped = False

    def __enter__(self) -> _Signals:
        self._reader, writer = os.pipe()
        self._writer = writer
        os.set_blocking(writer, False)
        os.set_blocking(self._reader, False)
        self._old = {number: signal.signal(number, self._note) for number in self._NUMBERS}
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._old.items():
            signal.signal(number, handler)
        os.close(self._reader)
        os.close(self._writer)

    def _note(self, number: int, frame: object) -> None:
        self.stopped = self.stopped or number != signal.SIGCHLD

    def wait(self, seconds: float) -> None:
        """Until a signal comes, at most so long."""
        if select.select([self._reader], [], [], seconds)[0]:
            os.read(self._reader, 4096)
