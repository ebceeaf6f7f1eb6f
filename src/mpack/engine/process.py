"""Clients as processes: read as they write, ended in order, their last words without secrets."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable
from typing import IO

LAST_LINES = 12
_USERINFO = re.compile(r"(?<=://)[^/\s@]+@")


class Drain:
    """Reads a pipe in the background, so that the process never waits for it; `text` is what came."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        self._pipe = pipe
        self._data = b""
        self._thread = threading.Thread(target=self._read, daemon=True)

    @property
    def text(self) -> str:
        self._thread.join(timeout=5)
        return self._data.decode("utf-8", "replace")

    def _read(self) -> None:
        if self._pipe is not None:
            self._data = self._pipe.read()

    def __enter__(self) -> Drain:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(timeout=5)


def follow(process: subprocess.Popen[bytes], on_line: Callable[[str], None]) -> list[str]:
    """Passes a process's lines on as they come; returns the last ones."""
    last: list[str] = []
    assert process.stdout is not None
    for raw in process.stdout:
        line = raw.decode("utf-8", "replace").rstrip()
        if line:
            on_line(line)
            last = [*last[-LAST_LINES * 2 :], line]
    return last


def end(process: subprocess.Popen[bytes]) -> None:
    """Interrupts a client (BuildKit cancels the build then), and kills it if it does not go within ten seconds."""
    for signum, patience in ((signal.SIGINT, 10.0), (signal.SIGKILL, 5.0)):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signum)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)


def last_lines(text: str, count: int = LAST_LINES) -> str:
    return "\n".join([line for line in text.strip().splitlines() if line.strip()][-count:])


def redact(text: str) -> str:
    """User names and passwords in URLs as ***."""
    return _USERINFO.sub("***@", text)
