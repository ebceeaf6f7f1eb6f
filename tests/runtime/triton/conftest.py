"""The real tritonserver (of the wheel nvidia-pytriton, Python backend only) around small models."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from mpack_runtime.triton.address import Address
from mpack_runtime.triton.client import GrpcClient, HttpClient

SOURCES = Path(__file__).parents[3] / "runtime" / "src"
WHEEL = "nvidia-pytriton==0.7.0"
PYTHON = Path("/usr/bin/python3.11")
UV = Path(sys.executable).with_name("uv")
#: What a generated model.py is.
WRAPPER = f"import sys\nsys.path.append({str(SOURCES)!r})\nfrom mpack_runtime.triton.model import TritonPythonModel\n"


def _unpacked() -> Path:
    """The wheel's server and libraries: MPACK_TEST_TRITON, else downloaded once into the user's cache."""
    given = os.environ.get("MPACK_TEST_TRITON")
    if given:
        return Path(given)
    home = os.environ.get("MPACK_TEST_HOME") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    place = Path(home) / "mpack-tests" / WHEEL
    if not place.is_dir():
        with tempfile.TemporaryDirectory(dir=_made(place.parent)) as directory:
            options = ["--no-deps", "--only-binary=:all:", "--platform=manylinux_2_35_x86_64", "-d", directory]
            subprocess.run([sys.executable, "-m", "pip", "download", "-q", *options, WHEEL], check=True)
            new = Path(directory) / "new"
            with zipfile.ZipFile(next(Path(directory).glob("*.whl"))) as wheel:
                for name in wheel.namelist():
                    if name.startswith(("pytriton/tritonserver/", "nvidia_pytriton.libs/")):
                        Path(wheel.extract(name, new)).chmod(0o755)
            new.rename(place)
    return place


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@dataclass(frozen=True)
class Triton:
    """An installed server, and a venv of the stub's Python."""

    tree: Path
    libraries: Path
    venv: Path

    def command(self, *words: str) -> list[str]:
        return [str(self.venv / "bin" / "python"), "-m", "mpack_runtime", *words]

    def environment(self, image: Path, **settings: str) -> dict[str, str]:
        """As in an image: nothing of this process's."""
        return {
            "HOME": "/",
            "LD_LIBRARY_PATH": str(self.libraries),
            "PATH": f"{self.tree / 'bin'}:/usr/bin:/bin",
            "PYTHONPATH": str(SOURCES),
            "PYTHONDONTWRITEBYTECODE": "1",
            "MPACK_MODEL_JSON": str(image / "model.json"),
            **settings,
        }

    def run(self, image: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """A command until it ends."""
        return subprocess.run(
            self.command(*words), env=self.environment(image, **settings), capture_output=True, text=True, timeout=60
        )

    def with_numpy(self, version: str) -> Triton:
        """The same server with another numpy in its venv."""
        venv = self.tree / f"venv-numpy{version}"
        if not venv.is_dir():
            _make_venv(venv, f"numpy{version}")
        return replace(self, venv=venv)


def _make_venv(venv: Path, *packages: str) -> None:
    subprocess.run([UV, "venv", "-q", "--python", PYTHON, venv], check=True)
    python = venv / "bin" / "python"
    subprocess.run([UV, "pip", "install", "-q", "--python", python, "h2>=4.1,<5", "orjson>=3.8", *packages], check=True)


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Triton:
    """The server's files where an image has them, its stub for Python 3.11, and a venv with numpy 2."""
    wheel, tree = _unpacked(), tmp_path_factory.mktemp("tritonserver")
    server = wheel / "pytriton" / "tritonserver"
    (tree / "bin").mkdir()
    (tree / "bin" / "tritonserver").symlink_to(server / "bin" / "tritonserver")
    shutil.copytree(server / "backends" / "python", tree / "backends" / "python")
    stub = "triton_python_backend_stub"
    shutil.copy(server / "python_backend_stubs" / "3.11" / stub, tree / "backends" / "python" / stub)
    venv = tree / "venv"
    _make_venv(venv, "numpy>=2", "scikit-learn")
    return Triton(tree, wheel / "nvidia_pytriton.libs", venv)


Image = Callable[..., Path]


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """`image(entry=…, config=…, **model_json)`: model.json, a GPPI model and its repository, as an image has them."""

    def make(*, entry: str = "", config: str, model_py: str = WRAPPER, **model: Any) -> Path:
        root = tmp_path / f"image-{len(list(tmp_path.iterdir()))}"
        version = root / "repository" / "m" / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(model_py)
        (version.parent / "config.pbtxt").write_text(f'backend: "python"\n{config}')
        (root / "model").mkdir()
        (root / "model" / "entry.py").write_text(entry)
        native = model_py is not WRAPPER
        serving = {
            "server": "triton", "repository": str(root / "repository"), "model": "m", "version": "1",
            "native": native, "models": ["m"], "declared": model.pop("declared", {}),
        }  # fmt: skip
        loader = None if native else {"kind": "odahu", "path": "", "options": {"entrypoint": "entry"}}
        data = {"schema": 1, "name": "m", "version": "1", "loader": loader, "serving": serving, **model}
        (root / "model.json").write_text(json.dumps(data))
        return root

    return make


class Running:
    """`triton` in a process of its own, on unix sockets; `stderr()` is what it wrote."""

    def __init__(
        self, triton: Triton, image: Path, directory: Path, flags: tuple[str, ...] = (), **settings: str
    ) -> None:
        self.directory = directory
        flags = (*(f"--{name}-address=unix:{directory / name}" for name in ("http", "grpc")), *flags)
        words = triton.command("triton", *flags, "--http-port=1", "--grpc-port=1", "--allow-metrics=false")
        self._log = directory / "stderr"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                words, env=triton.environment(image, **settings), stdout=log, stderr=log, cwd=directory
            )
        self.http = HttpClient(Address(path=str(directory / "http")), 30)

    def grpc(self) -> GrpcClient:
        return GrpcClient(Address(path=str(directory_socket(self.directory))), 30)

    def wait_ready(self, seconds: float = 60) -> None:
        """Returns when the container has said that it is ready."""
        until = time.monotonic() + seconds
        while " is ready on " not in self.stderr():
            assert self.process.poll() is None and time.monotonic() < until, self.stderr()
            time.sleep(0.02)

    def stderr(self) -> str:
        return self._log.read_text(errors="replace")

    def descendants(self) -> list[int]:
        """The processes below this one."""
        found, level = [], [self.process.pid]
        while level:
            level = [int(child) for pid in level for child in children(pid)]
            found += level
        return found


def directory_socket(directory: Path) -> Path:
    """The gRPC socket's name is the address and the port."""
    return directory / "grpc:1"


def children(pid: int) -> list[str]:
    """The child processes of one."""
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []


@pytest.fixture
def start(triton: Triton) -> Iterator[Callable[..., Running]]:
    """`start(image)` runs its server until it is ready (`ready=False`: at once); ended with the test."""
    running: list[Running] = []

    def run(
        image: Path, *, ready: bool = True, numpy: str = "", flags: tuple[str, ...] = (), **settings: str
    ) -> Running:
        server = triton.with_numpy(numpy) if numpy else triton
        # Not tmp_path: the path of a unix socket has at most 107 bytes.
        running.append(Running(server, image, Path(tempfile.mkdtemp(prefix="mpack-test-")), flags, **settings))
        if ready:
            running[-1].wait_ready()
        return running[-1]

    yield run
    for item in running:
        if item.process.poll() is None:
            item.process.terminate()
            item.process.wait(30)
        shutil.rmtree(item.directory, ignore_errors=True)
