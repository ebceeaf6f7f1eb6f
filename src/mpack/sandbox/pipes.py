"""Talking to a process whose output nobody vouches for: bounded in bytes and in time."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

#: Bytes of stdout that a sandbox may write: byte code of the largest environments is a third of it. The last bytes
#: of stderr that are kept.
STDOUT_LIMIT = 256 << 20
STDERR_KEPT = 1 << 20
#: Exit codes for what ended a process here: its time was up; it wrote too much.
TIMED_OUT, FLOODED = 124, 125
_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
#: A shell that waits for the end of its input, gives two seconds, and runs a command if a directory is there still.
_AFTER_DEATH = 'read -r _; sleep 2; [ ! -d "$0" ] || exec "$@"'


def die_with_parent() -> None:
    """In a child before exec: SIGTERM when the parent ends, however it ends."""
    _LIBC.prctl(_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def after_death(directory: Path, command: Sequence[str]) -> Iterator[None]:
    """While it lasts a watcher runs the command when this process has ended, however it ends, and `directory` is there.

    For what a signal to a child does not end: process 1 of a container ignores those that it does not handle.
    """
    nothing = subprocess.DEVNULL
    watcher = subprocess.Popen(
        ["/bin/sh", "-c", _AFTER_DEATH, str(directory), *command],
        stdin=subprocess.PIPE,
        stdout=nothing,
        stderr=nothing,
        start_new_session=True,
    )
    try:
        yield
    finally:
        watcher.kill()
        watcher.wait()
        assert watcher.stdin is not None
        watcher.stdin.close()


@dataclass(frozen=True)
class Exchange:
    """How it ended: exit code (or TIMED_OUT, FLOODED), stdout, the end of stderr."""

    returncode: int
    stdout: bytes
    stderr: bytes


def exchange(
    process: subprocess.Popen[bytes],
    kill: Callable[[], None],
    stdin: bytes,
    timeout: float,
    limit: int = STDOUT_LIMIT,
) -> Exchange:
    """Writes stdin, reads stdout and stderr to their ends; `kill` is called when `timeout` seconds or `limit` are over.

    All pipes of the process are closed afterwards. An exception that comes from outside kills it, too.
    """
    out, err = bytearray(), bytearray()
    flooded = threading.Event()

    def read_out(pipe: IO[bytes]) -> None:
        while data := pipe.read(1 << 16):
            out.extend(data[: limit - len(out)])
            if len(out) >= limit and not flooded.is_set():
                flooded.set()
                kill()

    def read_err(pipe: IO[bytes]) -> None:
        while data := pipe.read(1 << 16):
            err.extend(data)
            del err[:-STDERR_KEPT]

    def write(pipe: IO[bytes]) -> None:
        with contextlib.suppress(OSError), pipe:
            pipe.write(stdin)

    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    threads = [
        threading.Thread(target=work, args=(pipe,), daemon=True)
        for work, pipe in ((write, process.stdin), (read_out, process.stdout), (read_err, process.stderr))
    ]
    for thread in threads:
        thread.start()
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        kill()
        code = TIMED_OUT
    except BaseException:
        kill()
        raise
    finally:
        for thread in threads:
            thread.join(10)
        process.stdout.close()
        process.stderr.close()
    if flooded.is_set():
        code = FLOODED
        err.extend(f"\nit wrote more than {limit >> 20} MiB to stdout\n".encode())
    return Exchange(code, bytes(out), bytes(err))
