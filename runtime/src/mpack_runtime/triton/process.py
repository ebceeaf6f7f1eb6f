"""A tritonserver of our own: its command, its environment, its processes and their end. Standard library only.

The server and the processes that it starts are one process group; whoever of them loses his parent becomes a child of
ours, so that nobody is left behind. Should we be killed, the server is told to end.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path

from mpack_runtime.errors import LoadFailure
from mpack_runtime.triton.address import flag, health_status, listens
from mpack_runtime.triton.log import Log
from mpack_runtime.triton.regions import Regions

SERVER = Path("/opt/tritonserver/bin/tritonserver")
#: Seconds that requests may take to finish after SIGTERM; docker kills after 10.
EXIT_TIMEOUT = 8
_PARENT_DEATH, _SUBREAPER = 1, 36  # PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER


def find_server() -> Path:
    """The server's program. Raises LoadFailure."""
    found = SERVER if SERVER.exists() else shutil.which("tritonserver")
    if found is None:
        raise LoadFailure(f"There is no Triton server here: neither {SERVER} nor tritonserver on PATH.")
    return Path(found)


class TritonServer:
    """One start of the server. Use it in a `with`: at the end no process, no file and no shared memory is left."""

    def __init__(self, repository: Path, flags: Sequence[str], *, sockets: bool = False) -> None:
        """`sockets`: it listens on unix sockets in `scratch` alone."""
        self._program = find_server()
        self._regions = Regions()
        self.scratch = self._regions.scratch
        backends = self._program.parent.parent / "backends"
        self.flags = (
            f"--model-repository={repository}",
            *((f"--backend-directory={backends}",) if backends.is_dir() else ()),
            "--exit-on-error=true",
            f"--exit-timeout-secs={EXIT_TIMEOUT}",
            f"--backend-config=python,shm-region-prefix-name={self._regions.prefix}",
            *(_socket_flags(self.scratch) if sockets else ()),
            *flags,
        )
        self._ended, self._alone = False, not sockets
        self._dead: frozenset[int] = frozenset()
        self._loss = ""
        self._environments: set[Path] = set()
        self.code: int | None = None
        self.listening = self._was_ready = False
        self._process: subprocess.Popen[bytes] | None = None
        self._log: Log | None = None

    def __enter__(self) -> TritonServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self, extra: Mapping[str, str] | None = None) -> None:
        """Starts the server, with `extra` in its environment. Raises LoadFailure."""
        self._environments = _environments()
        prctl = ctypes.CDLL(None).prctl
        prctl(_SUBREAPER, 1, 0, 0, 0)
        try:
            self._process = subprocess.Popen(
                [str(self._program), *self.flags],
                env={**self._environment(), **(extra or {})},
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
                preexec_fn=lambda: prctl(_PARENT_DEATH, signal.SIGTERM, 0, 0, 0),  # no other thread of ours yet
                pass_fds=(self._regions.lock,),
            )
        except OSError as error:
            raise LoadFailure(f"The server {self._program} cannot be started: {error.strerror}.") from error
        assert self._process.stderr is not None
        self._log = Log(os.dup(self._process.stderr.fileno()))
        self._process.stderr.close()

    def _environment(self) -> dict[str, str]:
        """Ours, with the venv's Python first on PATH, a home, and a place for temporary files, that can be written."""
        env = dict(os.environ)
        env["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), env.get("PATH", os.defpath)))
        for name, usual in (("HOME", "/"), ("TMPDIR", "/tmp")):  # noqa: S108
            place = env.get(name) or usual
            if not (Path(place).is_dir() and os.access(place, os.W_OK | os.X_OK)):
                env[name] = str(self.scratch)
        return env

    def poll(self) -> int | None:
        """The server's exit code (negative: the signal that killed it), None while it runs. Reaps its processes."""
        process = self._process
        assert process is not None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == process.pid:
                self.code = process.returncode = os.waitstatus_to_exitcode(status)
        return self.code

    def ready(self) -> bool:
        """True once the server is ready. `listening` tells that it has loaded, ready or not."""
        web, rpc = listens(self.flags, "http"), listens(self.flags, "grpc")
        try:
            if web is not None:
                status = health_status(web, timeout=1.0)
            elif rpc is not None:
                rpc.connect(1.0).close()  # it listens when all models are loaded
                status = 200
            else:
                status = 0  # nobody can ask it
        except (OSError, HTTPException):
            return False
        self.listening = True
        self._was_ready = self._was_ready or status == 200
        if self._was_ready and self._log is not None:
            self._log.ready()
        return status == 200

    def lost(self) -> bool:
        """True if a model's process was dead at this look and at the one before, at least a second apart. The Python
        backend starts no other in its place, refuses every request, and the server still calls itself ready."""
        if self._process is None or not self.listening:
            return False
        found = frozenset(pid for pid, state in children(self._process.pid) if state == "Z")
        dead, self._dead = found & self._dead, found
        for pid in sorted(dead)[:1]:
            self._loss = f"A model's process in Triton's Python backend {_end_of(pid)}; Triton starts no other."
        return bool(dead)

    def finish(self, seconds: float) -> None:
        """Tells the server to end and waits for it at most so long. It answers all requests, then ends its models'
        processes, and looks only once a second whether they are gone: after that it is not waited for."""
        self.signal(signal.SIGTERM)
        models, until = self._models(), time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < until:
            if models and not self._models():
                time.sleep(0.1)  # the last answer's way through the socket
                self.signal(signal.SIGKILL)
                return
            time.sleep(0.02)

    def _models(self) -> list[int]:
        """The processes of models that live."""
        return [pid for pid, state in children(self._process.pid) if state != "Z"] if self._process else []

    def signal(self, number: int) -> None:
        """Sends a signal to the server alone, if it runs."""
        if self._process is not None and self.poll() is None:
            os.kill(self._process.pid, number)

    def grace(self) -> float:
        """Seconds in which the server ends by itself after SIGTERM."""
        seconds = flag(self.flags, "exit-timeout-secs", str(EXIT_TIMEOUT))
        return (float(seconds) if seconds.isdigit() else EXIT_TIMEOUT) + 2

    def end(self) -> None:
        """Ends whatever still runs, and removes what the server left."""
        if self._ended:
            return
        self._ended = True
        if self._process is not None:
            self._end_group(self._process.pid)
            if self._alone:
                self._end_orphans()
        if self._log is not None:
            self._log.join()
        self._regions.remove()
        for path in _environments() - self._environments:
            with contextlib.suppress(OSError):  # not empty, or another user's
                path.rmdir()

    def _end_group(self, group: int) -> None:
        for number, seconds in ((signal.SIGTERM, 0.5), (signal.SIGKILL, 5.0)):
            until = time.monotonic() + seconds
            try:
                os.killpg(group, number)
                while time.monotonic() < until:
                    self.poll()
                    os.killpg(group, 0)
                    time.sleep(0.01)
            except ProcessLookupError:
                return

    def _end_orphans(self) -> None:
        """Ends those that left the server's process group. All of ours are the server's: only for the launcher."""
        until = time.monotonic() + 5.0
        while time.monotonic() < until:
            self.poll()
            orphans = [pid for pid, _ in children(os.getpid())]
            if not orphans:
                return
            for pid in orphans:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    def failure(self) -> str:
        """Why the server did not become ready or did not go on, in sentences; call it after `end`."""
        if self._loss:
            return self._loss
        code, early = self.code, None if self._was_ready else self._log
        hints = list(early.hints) if early is not None else []
        if early is not None and early.failures:
            sentences = [f"The model {name} does not load: {_sentence(why)}" for name, why in early.failures.items()]
        elif code is not None and code < 0:
            sentences = [] if hints else [f"The Triton server was killed by {_name(-code)}."]
        elif early is not None and early.faults:
            sentences = [f"Triton does not start: {_sentence(early.faults[0])}"]
        else:
            sentences = [] if hints else [f"The Triton server ended with exit code {code}."]
        sentences += hints
        return "\n".join(sentences)


def _environments() -> set[Path]:
    """The Python backend's directories for environments that it would unpack: empty, for ours is there already. A
    server that is killed leaves its own."""
    return set(Path("/tmp").glob("python_env_*"))  # noqa: S108


def children(parent: int) -> Iterator[tuple[int, str]]:
    """A process's children: their ids and states (Z: dead, and not yet asked for by the parent)."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, above = path.read_bytes().rpartition(b")")[2].split()[:2]
        except (OSError, ValueError):  # gone by now
            continue
        if int(above) == parent:
            yield int(path.parent.name), state.decode()


def _end_of(pid: int) -> str:
    """How a dead process ended, as far as the kernel tells (0: it does not)."""
    try:
        status = int(Path(f"/proc/{pid}/stat").read_bytes().split()[-1])
    except (OSError, ValueError):
        status = 0
    if status & 0x7F:
        return f"was killed by {_name(status & 0x7F)}"
    return f"ended with exit code {status >> 8}" if status else "ended"


def _name(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"{name}{_KILLED.get(name, '')}"


def _socket_flags(directory: Path) -> tuple[str, ...]:
    addresses = (f"--{protocol}-address=unix:{directory / protocol}" for protocol in ("http", "grpc"))
    return (*addresses, "--http-port=1", "--grpc-port=1", "--allow-metrics=false")


_KILLED = {"SIGKILL": " (was there too little memory?)", "SIGBUS": " (was there too little shared memory?)"}


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
