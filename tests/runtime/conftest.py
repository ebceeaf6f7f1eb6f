"""A model of plain Python text for the servers' tests (no pickle, no framework), and the real server around it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from mpack_runtime import loaders
from mpack_runtime.config import LoaderConfig, ModelConfig, Settings
from mpack_runtime.frame import Inputs
from mpack_runtime.rest.app import RestApp
from mpack_runtime.service import Service
from mpack_runtime.signature import Signature
from werkzeug.test import Client

ENTRY = """
import os, time
print("loading")

def init():
    return "matrix"

def info():
    return [], []

def predict_on_matrix(matrix, provided_columns_names=None):
    for row in matrix:
        if row[1] == "boom":
            raise ValueError("the grapes are off")
        if row[1] == "slow":
            time.sleep(row[2] / 10)
        if row[1] == "die":
            os._exit(9)
    return [row[0] + row[2] / 1000 for row in matrix], ["quality"]
"""

COLUMNS = [
    {"kind": "column", "name": "alcohol", "type": "double", "required": True},
    {"kind": "column", "name": "grape", "type": "string", "required": False},
    {"kind": "column", "name": "year", "type": "long", "required": True},
]
OUTPUTS = [{"kind": "column", "name": "quality", "type": "double", "required": True}]
REQUEST = {"columns": ["alcohol", "grape", "year"], "data": [[12.5, "merlot", 1999], [11.0, None, 2001]]}
ANSWER = {"prediction": [14.499, 13.001], "columns": ["quality"]}


@dataclass
class Server:
    """A running `serve`; `log()` after `stop()` is what it wrote."""

    process: subprocess.Popen[bytes]
    port: int
    files: Path
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=self.url, trust_env=False, timeout=20)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def invoke(self, body: Any, **headers: str) -> httpx.Response:
        """One prediction request with a JSON body."""
        return self.client.post("/api/model/invoke", json=body, headers=headers)

    def wait(self, seconds: float = 30) -> None:
        """Returns when /readyz answers 200."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, self.stderr()
            try:
                if self.client.get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError(f"not ready: {self.stderr()}")

    def stop(self, sign: int = signal.SIGTERM) -> tuple[int, float]:
        """Exit code and seconds of a stop by a signal."""
        start = time.monotonic()
        self.process.send_signal(sign)
        return self.process.wait(30), time.monotonic() - start

    def raw(self, *parts: bytes, pause: float = 0.0, timeout: float = 15) -> bytes:
        """Sends bytes as they are, with pauses between parts; what comes back until the server closes or goes quiet."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            answer = b""
            try:
                for part in parts:
                    connection.sendall(part)
                    time.sleep(pause)
                while not _whole(answer) and (data := connection.recv(65536)):
                    answer += data
            except OSError:
                pass
            return answer

    def stdout(self) -> str:
        return (self.files / "stdout").read_text()

    def stderr(self) -> str:
        return (self.files / "stderr").read_text()


def _whole(answer: bytes) -> bool:
    """True once an HTTP answer has all the bytes that its Content-Length promises."""
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"\r\nContent-Length: (\d+)", head)
    return bool(end and length and len(body) >= int(length[1]))


def write_model(root: Path, entry: str = ENTRY, **changes: Any) -> Path:
    """A model directory with model.json; `changes` replace its top-level keys. Returns the path of model.json."""
    (root / "model/gppi").mkdir(parents=True)
    (root / "model/gppi/entry.py").write_text(entry)
    model = {
        "schema": 1,
        "name": "wine",
        "version": "1.2",
        "loader": {"kind": "odahu", "path": "gppi", "options": {"entrypoint": "entry"}},
        "signature": {"inputs": COLUMNS, "outputs": OUTPUTS, "params": []},
        "sample": {"request": REQUEST, "expected": ANSWER},
        **changes,
    }
    (root / "model.json").write_text(json.dumps(model))
    return root / "model.json"


def environment(model_json: Path, **settings: object) -> dict[str, str]:
    """This process's environment with the model and MPACK_… settings."""
    plain = {key: value for key, value in os.environ.items() if not key.startswith("MPACK_")}
    return {
        **plain,
        "MPACK_MODEL_JSON": str(model_json),
        **{f"MPACK_{key}": str(value) for key, value in settings.items()},
    }


@pytest.fixture
def model_json(tmp_path: Path) -> Path:
    """The plain wine model."""
    return write_model(tmp_path / "wine")


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """Makes a model with an entry point of its own: `make_model(entry, **model_json_keys)`."""
    return lambda entry=ENTRY, **changes: write_model(
        tmp_path / f"model-{len(list(tmp_path.iterdir()))}", entry, **changes
    )


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts `serve` in a process of its own: `start(model_json, workers=2)`; ended with the test."""
    servers: list[Server] = []

    def run(
        model_json: Path, *, wait: bool = True, port: int = 0, python: str = sys.executable, **settings: object
    ) -> Server:
        files = tmp_path / f"server-{len(servers)}"
        files.mkdir()
        port = port or free_port()
        env = environment(
            model_json, PORT=port, HOST="127.0.0.1", **{key.upper(): value for key, value in settings.items()}
        )
        with (files / "stdout").open("wb") as out, (files / "stderr").open("wb") as err:
            process = subprocess.Popen([python, "-m", "mpack_runtime", "serve"], env=env, stdout=out, stderr=err)
        servers.append(Server(process, port, files))
        if wait:
            servers[-1].wait()
        return servers[-1]

    yield run
    for server in servers:
        server.client.close()
        if server.process.poll() is None:
            server.process.terminate()
            try:
                server.process.wait(5)
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.wait()


@dataclass
class Ran:
    """A command that ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., Ran]:
    """Runs `python -m mpack_runtime WORDS…` on a model."""

    def run(model_json: Path, *words: object, **settings: object) -> Ran:
        arguments = [sys.executable, "-m", "mpack_runtime", *map(str, words)]
        done = subprocess.run(
            arguments, env=environment(model_json, **settings), capture_output=True, text=True, timeout=60, cwd=tmp_path
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


class Told(loaders.Model):
    """A model that is a function, and tells a signature of its own."""

    def __init__(self, answer: Callable[[Inputs], Any], signature: Signature | None) -> None:
        self.signature, self._answer = signature, answer

    def predict(self, inputs: Inputs) -> Any:
        return self._answer(inputs)


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., Client]:
    """A client, in this process, of a function as a model: `serve(function, declared_signature, told=…)`."""

    def run(
        answer: Callable[[Inputs], Any],
        declared: Signature | None = None,
        *,
        told: Signature | None = None,
        ready: bool = True,
        name: str = "sk",
        **settings: Any,
    ) -> Client:
        config = ModelConfig(name, "1", LoaderConfig("sklearn", "m"), tmp_path, signature=declared)
        return client_of(Service(config, Told(answer, told)), ready, **settings)

    return run


def client_of(service: Service, ready: bool = True, **settings: Any) -> Client:
    """A client, in this process, of a service."""
    app = RestApp(service, Settings(**settings))
    app.ready = ready
    return Client(app.flask())


@pytest.fixture(name="client_of")
def client_of_fixture() -> Callable[..., Client]:
    """`client_of(service)`."""
    return client_of
