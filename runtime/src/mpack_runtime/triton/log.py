"""The server's log: passed on as it is, and read until the server is ready for why it may not become so."""

from __future__ import annotations

import os
import re
import threading

_FAILED = re.compile(r"failed to load '(?P<model>[^']+)' version (?P<version>\d+): (?P<reason>.*)")
_STATUS = re.compile(r"^(Internal|Invalid argument|Unavailable|Not found|Unsupported|Unknown|Already exists)(: | - )")
_FAULT = re.compile(r"^(?:E\d{4} .*?\] |\S+ E .*?\] |error: |\S*tritonserver: |(?=The server cannot listen ))(.*)")
#: What a line of the log asks of whoever starts the container.
_HINTS = (
    (
        re.compile(r"\bshared memory (pool|region|key)|shm_open", re.IGNORECASE),
        "Triton's Python backend has too little shared memory: start it with --shm-size=256m or more.",
    ),
    (
        re.compile(r"Failed to create temporary directory for Python environments"),
        "Triton's Python backend needs a /tmp that it can write: start it with --tmpfs /tmp, or without --read-only.",
    ),
)
#: Errors that say nothing, or say again what an earlier line said.
_NOISE = re.compile(r"CudaDriverHelper|failed to load all models|CUDA|Failed to initialize NUMA|^usage", re.IGNORECASE)
_INFORMATION = re.compile(r"^(?:I\d{4}|\S+ I) ")
_CHUNK = 1 << 16
_LINE = 1 << 16  # bytes of a line that are read
_REASON = 2000  # characters of a reason: those of Kubernetes's last words


class Log:
    """Copies a pipe to stderr in a thread of its own; `failures` are the models that do not load, with the reason."""

    def __init__(self, pipe: int, out: int = 2) -> None:
        self._pipe, self._out = pipe, out
        self._rest = b""
        self._reading = True
        self.failures: dict[str, str] = {}
        self.faults: list[str] = []
        self.hints: dict[str, None] = {}
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def ready(self) -> None:
        """From now on nothing is read for reasons."""
        self._reading = False

    def join(self, seconds: float = 2.0) -> None:
        """Waits until all of it is out."""
        self._thread.join(seconds)

    def _copy(self) -> None:
        broken = False
        while data := os.read(self._pipe, _CHUNK):
            try:
                while data and not broken:
                    written = os.write(self._out, data)
                    self._read(data[:written])
                    data = data[written:]
            except OSError:  # nobody reads our stderr: the server must go on
                broken = True
        os.close(self._pipe)

    def _read(self, data: bytes) -> None:
        if not self._reading:
            return
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:_LINE]
        for line in lines:
            self.line(line[:_LINE].decode(errors="replace"))

    def line(self, line: str) -> None:
        """Reads one line of the log."""
        found = _FAILED.search(line)
        if found:
            self.failures[f"{found['model']} {found['version']}"] = _reason(found["reason"])
        elif not self.faults and (fault := _FAULT.match(line)) and not _NOISE.search(fault[1]):
            self.faults.append(_reason(fault[1]))
        if not _INFORMATION.match(line):
            self.hints.update((hint, None) for pattern, hint in _HINTS if pattern.search(line))


def _reason(text: str) -> str:
    """The sentence in front of the stack trace, without the status that the server puts before it."""
    text = text.strip().removesuffix('"').removeprefix('"').replace("\\n", "\n").replace('\\"', '"')
    text = text.split("\n\nAt:")[0]
    text = _STATUS.sub("", " ".join(text.split()))
    if text.rstrip(".").endswith("is not healthy"):
        text = text.rstrip(".") + ": the model's process ended while it loaded (was there too little memory?)"
    text = re.sub(r"^LoadFailure: ", "", text)
    return text if len(text) <= _REASON else f"{text[:_REASON]}…"
