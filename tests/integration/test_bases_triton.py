"""The Triton base, built from Debian's packages and the real wheel: twice the same, and its server serves a model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mpack.bases import Bases
from mpack.builders import BuiltImage
from mpack.engine import Docker
from mpack.oci.rootfs import read_files
from mpack.oci.store import Store
from mpack.sandbox import Box, pick_sandbox
from mpack.spec import BaseWish

pytestmark = pytest.mark.integration
HERE = "linux/amd64"
SIZE_LIMIT = 165e6
SERVED = "mpack-test-triton:1"

CONFIG = """
backend: "python"
input [{ name: "x" data_type: TYPE_FP32 dims: [-1] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [-1] }]
"""
MODEL = """
import os, sys
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        print("MODEL", os.getuid(), "%d.%d" % sys.version_info[:2], file=sys.stderr, flush=True)
    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", x * 2)]) for x in inputs]
"""
#: Runs in the image: writes the repository into /tmp, starts the server on a unix socket, asks it, stops it.
PROBE = """
import http.client, json, os, pathlib, signal, socket, subprocess, sys, time
files = json.load(sys.stdin)
for name, text in files.items():
    path = pathlib.Path("/tmp/repository/m", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
sys.stdout.flush()
server = subprocess.Popen(
    ["tritonserver", "--model-repository=/tmp/repository", "--http-address=unix:/tmp/http.sock", "--http-port=1",
     "--allow-grpc=false", "--allow-metrics=false"], stdout=sys.stderr)
def ask(method, path, body=None):
    connection = http.client.HTTPConnection("server", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect("/tmp/http.sock")
    connection.request(method, path, body)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()
def ready():
    try:
        return ask("GET", "/v2/health/ready")[0] == 200
    except OSError:
        return False
started = time.monotonic()
while not ready():
    if server.poll() is not None or time.monotonic() - started > 60:
        sys.exit("the server is not ready")
    time.sleep(0.05)
seconds = time.monotonic() - started
body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1.5, 2]}]}
status, answer = ask("POST", "/v2/models/m/infer", json.dumps(body))
server.send_signal(signal.SIGTERM)
code = server.wait(60)
try:
    open("/opt/tritonserver/x", "w")
    writable = True
except OSError:
    writable = False
print(json.dumps({"ready": seconds, "status": status, "answer": json.loads(answer), "exit": code, "uid": os.getuid(),
                  "writable": writable, "left": os.listdir("/dev/shm")}))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def store(home: Path) -> Store:
    return Store(home / "data" / "store")


@pytest.fixture(scope="module")
def command(home: Path) -> Callable[..., str]:
    """`command(*arguments)`: the standard output of mpack with a home of this module's own, and without an engine."""

    def run(*arguments: str) -> str:
        environment = {**os.environ, "MPACK_HOME": str(home), "DOCKER_HOST": f"unix://{home}/no-engine"}
        program = Path(sys.executable).with_name("mpack")
        done = subprocess.run([program, *arguments], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


@pytest.fixture
def box(store: Store) -> Iterator[Callable[[str], Any]]:
    """`box(name)`: a context with the image in a sandbox: runc, or docker where only that is there."""
    docker = None if shutil.which("runc") else Docker.find()
    with pick_sandbox(store, docker, prefer_docker=False) as sandbox:
        assert sandbox is not None

        def open_box(name: str) -> Any:
            image = store.resolve(name)
            return sandbox.open(BuiltImage(image.id, image.platform, "embedded", "store", (), 0, image.digest))

        yield open_box


def serve(box: Box) -> tuple[dict[str, Any], str]:
    """What the probe says, and standard error."""
    files = json.dumps({"config.pbtxt": CONFIG, "1/model.py": MODEL})
    done = box.run(["-c", PROBE], entrypoint=["python3"], stdin=files.encode(), timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.parametrize(
    ("python", "numpy"),
    # With numpy 2 the stub loads a model, but its as_numpy() is wrong: there only loading is looked at.
    [("3.11", "numpy<2"), ("3.13", None)],
)
def test_built_and_serving(
    command: Callable[..., str],
    store: Store,
    box: Callable[[str], Any],
    tmp_path: Path,
    python: str,
    numpy: str | None,
) -> None:
    """Small, the same twice, picked by a wish; as 65532 on a read-only root its server loads a model and answers."""
    name = command("base", "build", "--server", "triton", "--python", python)
    image = store.resolve(name)
    assert name == f"mpack-triton:python{python}"
    assert sum(layer.unpacked_size or 0 for layer in image.layers) < SIZE_LIMIT
    assert image.labels["dev.mpack.base.server"] == "nvidia-pytriton==0.7.0"
    assert command("base", "build", "--server", "triton", "--python", python) == name
    assert store.resolve(name).digest == image.digest
    base = Bases(store, None).pick(python, HERE, BaseWish(kind="triton"))
    assert (base.reference, base.digest, base.minor) == (name, image.digest, python)
    paths = set(read_files(image, lambda path: False))
    assert {path for path in paths if path.startswith(("/usr/bin/", "/usr/sbin/"))} == {
        f"/usr/bin/{program}" for program in ("bash", "sh", "python", "python3", f"python{python}")
    }
    assert {"/usr/share/doc/nvidia-pytriton/LICENSE", "/usr/share/doc/bash/copyright"} <= paths

    (tmp_path / "requirements.txt").write_text(numpy or "numpy")
    command("base", "build", "--deps", str(tmp_path / "requirements.txt"), "--base", name, "-t", SERVED)
    with box(SERVED) as opened:
        found, errors = serve(opened)
    assert f"MODEL 65532 {python}" in errors
    assert found["ready"] < 15 and found["exit"] == 0 and (found["uid"], found["writable"]) == (65532, False)
    assert found["left"] == []
    if numpy:
        assert found["status"] == 200
        [output] = found["answer"]["outputs"]
        assert (output["name"], output["shape"], output["data"]) == ("y", [2], [3.0, 4.0])


def test_dependencies_of_the_server_are_there(
    command: Callable[..., str], store: Store, box: Callable[[str], Any]
) -> None:
    """Every library that the server, the backend and the stub are linked against is found; none is there in vain."""
    name = command("base", "build", "--server", "triton", "--python", "3.11")
    programs = ["bin/tritonserver", "backends/python/libtriton_python.so", "backends/python/triton_python_backend_stub"]
    trace = "import os, sys; os.environ['LD_TRACE_LOADED_OBJECTS'] = '1'; os.execv(sys.argv[1], sys.argv[1:])"
    loader = "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
    used = set()
    with box(name) as opened:
        for program in programs:
            done = opened.run(["-c", trace, loader, f"/opt/tritonserver/{program}"], entrypoint=["python3"])
            text = done.stdout.decode()
            assert "libstdc++.so.6" in text and "not found" not in text, text + done.stderr
            words = [os.path.normpath(word) for word in text.split()]
            used |= {Path(word).name for word in words if word.startswith("/opt/tritonserver/lib/")}
    brought = {
        path.rpartition("/")[2]
        for path in read_files(store.resolve(name), lambda path: False)
        if "/lib/lib" in path and path.startswith("/opt/tritonserver/lib/")
    }
    assert brought == used


def test_list_and_prune(command: Callable[..., str], store: Store) -> None:
    """The Triton bases are listed as recipes' and pruned with the others."""
    rows = {row["image"]: row["kind"] for row in json.loads(command("base", "list", "--json"))}
    assert rows["mpack-triton:python3.11"] == "recipe"
    assert "mpack-triton:python3.11" in command("base", "prune") and store.records() == []
