"""Real servers that artifacts are fetched from: S3's protocol (moto), Google's (an emulator), Azurite, MLflow's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from mpack.testing.moto import moto_server

ROOT = Path(__file__).parents[2]
#: The user's own, by which pip, uv and npm are set up; tests see another.
USERS = dict(os.environ)
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def _npmrc() -> dict[str, str]:
    """The machine's settings of npm, which an npm with a place of its own would not look for."""
    places = (Path(place, "etc", "npmrc") for place in ("/usr", "/usr/local", "/"))
    found = next((path for path in places if path.is_file()), None)
    return {} if found is None else {"NPM_CONFIG_GLOBALCONFIG": str(found)}


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where environments are; MPACK_TEST_HOME keeps them between sessions."""
    home = os.environ.get("MPACK_TEST_HOME")
    return Path(home) if home else tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="session")
def clients(kept: Path) -> Iterator[Path]:
    """The libraries of the extras, which this process and its children find behind their own."""
    place = kept / "store-clients"
    uv, lock = Path(sys.executable).with_name("uv"), ROOT / "requirements" / "stores.txt"
    options = ["--python", sys.executable, "--require-hashes", "--target", place, "-r", lock]
    subprocess.run([uv, "pip", "install", "-q", *options], check=True, env=USERS)
    sys.path.append(str(place))
    yield place
    sys.path.remove(str(place))


@pytest.fixture(scope="session")
def servers(kept: Path) -> Path:
    """The programs of requirements/store-servers.txt."""
    venv, uv = kept / "store-servers", str(Path(sys.executable).with_name("uv"))
    lock = str(ROOT / "requirements" / "store-servers.txt")
    if not venv.exists():
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(venv)], check=True, env=USERS)
    python = str(venv / "bin" / "python")
    subprocess.run(
        [uv, "pip", "install", "-q", "--python", python, "--require-hashes", "-r", lock], check=True, env=USERS
    )
    return venv / "bin"


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(command: list[str], url: str, directory: Path, **environment: str) -> Iterator[str]:
    """A server until it is left; it answers `url` when this begins."""
    kept = {key: value for key, value in USERS.items() if not key.startswith(("PYTHONPATH", "MLFLOW_", "AWS_"))}
    with (directory / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=directory, env={**kept, **environment}, start_new_session=True
        )
        try:
            end = time.monotonic() + 90
            while True:
                with suppress(httpx.TransportError):
                    httpx.get(url, trust_env=False, timeout=5)
                    break
                told = (directory / "server.log").read_text()[-2000:]
                assert process.poll() is None and time.monotonic() < end, told
                time.sleep(0.1)
            yield url
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()


@pytest.fixture(scope="session")
def moto(servers: Path) -> Iterator[str]:
    """The address of a server of S3's protocol."""
    with moto_server(servers / "python") as url:
        yield url


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own; no credentials of this machine's; no proxy between the test and loopback."""
    for name in os.environ:
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "MLFLOW_", "STORAGE_")):
            monkeypatch.delenv(name)
    for name, value in {
        "MPACK_HOME": str(tmp_path / "home"),
        "HOME": str(tmp_path),
        "NO_PROXY": "127.0.0.1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_GCE_CHECK": "true",
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("src", "packagers", "runtime/src")),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("mpack.stores.faults.FIRST", 0.001)
    return tmp_path / "home"


@pytest.fixture
def s3(moto: str, clients: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of S3's with an empty bucket `models`, and the environment for mpack."""
    for name, value in {
        "AWS_ENDPOINT_URL": moto,
        "AWS_ACCESS_KEY_ID": "AKIAPLANTED",
        "AWS_SECRET_ACCESS_KEY": "hunter2-s3cret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    from botocore.session import Session

    client = Session().create_client("s3")
    client.create_bucket(Bucket="models")
    yield client
    httpx.post(f"{moto}/moto-api/reset", trust_env=False)


@pytest.fixture
def mpack_with(clients: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts `mpack` with the extras."""
    code = f"import sys; sys.path.append({str(clients)!r}); from mpack.cli.main import run; run()"
    # A parent's own size would count among what wait4 tells of its child.
    told = "open({!r}, 'w').write(open('/proc/self/status').read())"

    def start(*words: str, status: Path | None = None, **environment: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        env = {**os.environ, **environment}
        first = "" if status is None else f"import atexit; atexit.register(lambda: {told.format(str(status))}); "
        return subprocess.Popen(
            [sys.executable, "-c", first + code, *words], stdout=pipe, stderr=pipe, text=True, env=env
        )

    return start


@pytest.fixture(scope="session")
def google(servers: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An emulator of Google's store, with a bucket `models`."""
    port = free_port()
    command = [
        str(servers / "gcp-storage-emulator"),
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--in-memory",
    ]
    with running(
        [*command, "--default-bucket", "models"], f"http://127.0.0.1:{port}", tmp_path_factory.mktemp("google")
    ) as url:
        yield url


@pytest.fixture(scope="session")
def azurite(kept: Path, servers: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A connection string for Azurite, which npm installs."""
    program = kept / "azurite" / "node_modules" / ".bin" / "azurite-blob"
    if not program.exists():
        place = str(kept / "azurite")
        options = ["--no-audit", "--no-fund", "--silent", "--ignore-scripts", "--prefix", place]
        subprocess.run(
            [str(servers / "npm"), "install", *options, "azurite@3.35.0"],
            check=True,
            timeout=300,
            env={**_npmrc(), **USERS},
        )
    port = free_port()
    options = ["--silent", "--disableTelemetry", "--skipApiVersionCheck", "--inMemoryPersistence"]
    command = [str(servers / "node"), str(program), *options, "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    with running(command, f"http://127.0.0.1:{port}", tmp_path_factory.mktemp("azurite")) as url:
        account = f"AccountName=devstoreaccount1;AccountKey={AZURE_KEY}"
        yield f"DefaultEndpointsProtocol=http;{account};BlobEndpoint={url}/devstoreaccount1;"


@pytest.fixture(scope="session")
def mlflow(servers: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tracking server that hands artifacts out itself."""
    port, place = free_port(), tmp_path_factory.mktemp("mlflow")
    command = [str(servers / "mlflow"), "server", "--backend-store-uri", "sqlite:///runs.db", "--workers", "1"]
    command += ["--artifacts-destination", "./artifacts", "--serve-artifacts"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with running(command, f"http://127.0.0.1:{port}", place, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false") as url:
        yield url


class Relay:
    """Passes connections on to a server, and counts; an answer is cut after `piece` bytes as long as `cuts` are left,
    and once `stall` bytes have passed nothing more does."""

    def __init__(self, target: str) -> None:
        self._target = httpx.URL(target)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.passed = self.cuts = self.cut = 0
        self.piece = self.stall = 1 << 60
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, socket.create_connection((self._target.host, self._target.port or 80)) as far, suppress(OSError):
            threading.Thread(target=self._ask, args=(near, far), daemon=True).start()
            sent = 0
            while block := far.recv(1 << 16):
                while self.passed >= self.stall:
                    time.sleep(0.01)
                near.sendall(block)
                self.passed += len(block)
                sent += len(block)
                if sent >= self.piece and self.cut < self.cuts:
                    self.cut += 1
                    near.shutdown(socket.SHUT_RDWR)
                    far.shutdown(socket.SHUT_RDWR)
                    return

    @staticmethod
    def _ask(near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while block := near.recv(1 << 16):
                far.sendall(block)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def relay(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """A relay before the server of S3's protocol; mpack asks it."""
    made = Relay(os.environ["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
    yield made
    made.close()
