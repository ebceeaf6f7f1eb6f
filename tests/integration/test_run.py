"""`mpack run` with real engines: it serves, passes on, ends in order, and nothing of it is left, however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton

from mpack.builders import BuiltImage
from mpack.images import stored_image
from mpack.oci.store import Store
from mpack.sandbox.runc import RuncSandbox
from mpack.sandbox.spec import Permit
from mpack.sandbox.trees import Trees

pytestmark = [pytest.mark.docker, pytest.mark.integration]

MPACK = str(Path(sys.executable).with_name("mpack"))
CASE = Path(__file__).parents[2] / "fixtures" / "models" / "odahu-invoices"
ENGINES = ("docker", "podman", "runc")


@pytest.fixture(scope="module")
def images(mpack: Any, place: Path) -> Iterator[dict[str, str]]:
    """The smallest fixture as a server, with gRPC, and as a command line, in the store alone: packager -> name."""
    names = {"docker-rest": "run-rest:1", "docker-cli": "run-cli:1"}
    more = {"docker-rest": ("-a", "grpc=true")}
    for packager, name in names.items():
        lock = place / f"run-{packager}.lock"
        words = ("-p", packager, *more.get(packager, ()), "-o", "store", "-t", name, "--lock", lock, "--no-verify")
        mpack("build", CASE / "invoices", *words)
    yield names
    mpack("rm", *names.values())


@pytest.fixture
def started(mpack_home: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str, list[int]]]]:
    """`started(words…)`: `mpack run` in the background, the address that it says is ready, and its other ports."""
    processes: list[subprocess.Popen[str]] = []

    def start(*words: str) -> tuple[subprocess.Popen[str], str, list[int]]:
        process = subprocess.Popen(
            [MPACK, "run", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "MPACK_HOME": str(mpack_home)},
        )
        processes.append(process)
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("ready at "):
                others = [int(port) for port in re.findall(r"and on port (\d+)", line)]
                return process, line.split()[2].rstrip(";,"), others
        raise AssertionError("".join(said))

    yield start
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate()


def left(home: Path, pid: int) -> list[str]:
    """Directories, mounts, containers and processes of a run; `pid` is the command's."""
    found = [str(path) for path in (home / "cache" / "trees").glob("*/run-*")]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if str(home) in line]
    for client in ("docker", "podman"):
        listed = [client, "ps", "--all", "--quiet", "--filter", f"label=dev.mpack.run={pid}"]
        found += subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
    return found


def gone(url: str) -> bool:
    """True if nothing listens there any more."""
    try:
        httpx.get(f"{url}/readyz", trust_env=False, timeout=5)
    except httpx.TransportError:
        return True
    return False


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ids(client: str) -> set[str]:
    """Every image of an engine, named or not."""
    listed = [client, "images", "--all", "--quiet", "--no-trunc"]
    return set(subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split())


def image_id(mpack: Any, name: str) -> str:
    [found] = [item["id"] for item in json.loads(mpack("images", "--json").stdout) if name in item["names"]]
    return str(found).removeprefix("sha256:")


def asked_by_grpc(port: int, rows: list[list[Any]]) -> list[str]:
    """The invoices' names, by Triton's client."""
    given = triton.InferInput("input-0", [len(rows), len(rows[0])], "INT64")
    given.set_data_from_numpy(np.array(rows, np.int64))
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        wanted = [triton.InferRequestedOutput("invoice")]
        names = client.infer("invoices", [given], outputs=wanted).as_numpy("invoice").ravel()
    return [name.decode() for name in names]


@pytest.mark.parametrize("engine_name", ENGINES)
def test_serves_until_it_is_told(
    engine_name: str, images: dict[str, str], started: Any, mpack: Any, mpack_home: Path, assert_same: Any
) -> None:
    """The right answer on loopback, over HTTP and gRPC; the access log on stdout; SIGTERM ends all of it with 143."""
    words = ("--engine", engine_name, "--port", "0", "-e", "MPACK_WORKERS=1")
    process, url, [grpc] = started(images["docker-rest"], *words)
    assert url.startswith("http://127.0.0.1:")
    request = json.loads((CASE / "expect.json").read_text())["requests"][0]
    answer = httpx.post(f"{url}/api/model/invoke", json=request["body"], trust_env=False, timeout=60)
    assert_same(answer.json(), request["answer"])
    assert asked_by_grpc(grpc, request["body"]["data"]) == [row[0] for row in request["answer"]["prediction"]]
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    paths = [json.loads(line)["path"] for line in out.splitlines()[-2:]]
    assert paths == ["/api/model/invoke", "/inference.GRPCInferenceService/ModelInfer"]
    assert gone(url) and left(mpack_home, process.pid) == []
    if engine_name != "runc":
        assert not any(image_id(mpack, images["docker-rest"]) in item for item in ids(engine_name))


@pytest.mark.parametrize("engine_name", ["docker", "runc"])
def test_nothing_outlives_a_killed_run(
    engine_name: str, images: dict[str, str], started: Any, mpack: Any, mpack_home: Path
) -> None:
    """After SIGKILL the server ends by itself, and the next command of the cache takes away what it left."""
    process, url, _ = started(images["docker-rest"], "--engine", engine_name, "--port", "0")
    process.kill()
    process.wait()
    until(lambda: gone(url))
    until(lambda: mpack("cache").returncode == 0 and left(mpack_home, process.pid) == [])
    if engine_name != "runc":
        assert not any(image_id(mpack, images["docker-rest"]) in item for item in ids(engine_name))


@pytest.mark.parametrize(("engine_name", "owner"), [("docker", 1234), ("podman", 0), ("runc", 0), ("runc", 1234)])
def test_words_and_volumes(engine_name: str, owner: int, images: dict[str, str], mpack: Any, place: Path) -> None:
    """`predict` of docker-cli writes into the user's directory, whatever its name, as its owner; a fault ends with the
    image's code."""
    volume = place / f'volume:{engine_name},ro "{owner}"'
    volume.mkdir()
    link = place / f"volume-{engine_name}-{owner}"
    link.symlink_to(volume)
    case = json.loads((CASE / "expect.json").read_text())["requests"][0]
    (volume / "x.json").write_text(json.dumps(case["body"]))
    for path in (volume, volume / "x.json"):
        os.chown(path, owner, owner)
    options = ("--engine", engine_name, "-v", f"{link}:/volume")
    mpack("run", images["docker-cli"], *options, "--", "predict", "/volume/x.json", "/volume")
    result = volume / "results.json"
    assert json.loads(result.read_text()) == case["answer"] and result.stat().st_uid == owner
    mpack("run", images["docker-cli"], *options, "--", "predict", "/volume/none.json", "/volume", code=1)


def test_an_artifact_is_built_first(started: Any, mpack: Any, place: Path, mpack_home: Path) -> None:
    """The image goes to the store under the name that `mpack build` gives it, and is served."""
    artifact = shutil.copytree(CASE / "invoices", place / "invoices")
    process, url, _ = started(str(artifact), "--engine", "runc", "--port", "0")
    assert httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130 and left(mpack_home, process.pid) == []
    names = [name for item in json.loads(mpack("images", "--json").stdout) for name in item["names"]]
    mpack("rm", next(name for name in names if name.startswith("invoices")))


def test_local_is_a_choice(started: Any, mpack: Any, place: Path, mpack_home: Path) -> None:
    """--local says what it means before the model runs; an image has no such way."""
    artifact = place / "local" / "invoices"
    shutil.copytree(CASE / "invoices", artifact)
    process, url, _ = started(str(artifact), "--local", "--port", "0")
    assert httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143 and gone(url) and left(mpack_home, process.pid) == []
    said = mpack("run", artifact, "--local", "--", "info").stderr
    assert "no sandbox is around it" in said
    assert "is none" in mpack("run", "run-rest:1", "--local", code=2).stderr


@pytest.fixture(scope="module")
def base(mpack: Any, mpack_home: Path) -> BuiltImage:
    """An image with a Python and nothing else."""
    store = Store(mpack_home / "data" / "store")
    if store.find_record("mpack-base:python3.11") is None:
        mpack("base", "build", "--python", "3.11")
    return stored_image(store.resolve("mpack-base:python3.11"))


#: By processor: clone; add_key, request_key, keyctl, setns, io_uring_setup; clone3.
CALLS = {"x86_64": (56, (248, 249, 250, 308, 425), 435), "aarch64": (220, (217, 218, 219, 268, 425), 435)}
#: Calls that the kernel would grant, or refuse with another word than EPERM.
DENIED = """
import ctypes, platform
libc = ctypes.CDLL(None, use_errno=True)
def refusal(*call):
    assert libc.syscall(*call) == -1, call
    return ctypes.get_errno()
clone, others, clone3 = CALLS[platform.machine()]
assert refusal(clone, 0x10000000 | 17, 0, 0, 0, 0) == 1
for number in others:
    assert refusal(number, 0, 0, 0, 0, 0) == 1, number
assert refusal(clone3, 0, 0) == 38
assert libc.unshare(0x10000000) == libc.ptrace(0, 0, 0, 0) == -1
assert os.spawnlp(os.P_WAIT, "/usr/bin/python3.11", "python3.11", "-c", "") == 0
""".replace("CALLS", repr(CALLS))


@pytest.mark.parametrize("overlay", [True, False], ids=["overlay", "hard-links"])
def test_a_sandbox_is_confined(overlay: bool, base: BuiltImage, mpack_home: Path, tmp_path: Path) -> None:
    """Nothing can be written but /tmp; no capability, no network, no new namespace, no keys, no rings; more memory than
    allowed ends the program; no other user of the machine reads the settings."""
    runc = shutil.which("runc")
    assert runc is not None
    program = (
        "import os, socket\n"
        "for path in ('/x', '/usr/x', '/proc/sys/kernel/hostname'):\n"
        "    try: open(path, 'w'); raise SystemExit(path)\n"
        "    except OSError: pass\n"
        "open('/tmp/x', 'w').close()\n"
        "assert 'CapEff:\\t0000000000000000' in open('/proc/self/status').read()\n"
        "assert [name for _, name in socket.if_nameindex()] in ([], ['lo']), socket.if_nameindex()\n"
        "assert os.getuid() in (0, 65532)\n"
        f"{DENIED}"
        "print('confined')"
    )
    store = Store(mpack_home / "data" / "store")
    sandbox = RuncSandbox(runc, store, Trees(tmp_path / "trees"), Permit(memory=200 << 20))
    with sandbox.open(base) as box:
        if not overlay:
            box._bundle.without_overlay()
        done = box.run(["-c", program], entrypoint=["/usr/bin/python3.11"])
        assert (done.returncode, done.stdout) == (0, b"confined\n"), done.stderr
        done = box.run(["-c", "x = b'x' * (400 << 20); print(len(x))"], entrypoint=["/usr/bin/python3.11"])
        assert done.returncode == 137 or "MemoryError" in done.stderr
        assert done.stdout == b""
        assert (box._bundle.place / "config.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "trees").glob("run-*")] == []


#: Runs, in runc, a program that handles no signal: the kernel keeps those from process 1 of a container.
DEAF = """
import sys
from pathlib import Path
from mpack.images import stored_image
from mpack.oci.store import Store
from mpack.sandbox.runc import RuncSandbox
from mpack.sandbox.trees import Trees
store = Store(Path(sys.argv[1]))
with RuncSandbox("runc", store, Trees(Path(sys.argv[2]))).open(stored_image(store.image(sys.argv[3]))) as box:
    box.run(["-c", "import time; time.sleep(600)", sys.argv[2]], entrypoint=["/usr/bin/python3.11"])
"""


def test_what_hears_no_signal_ends_too(base: BuiltImage, mpack_home: Path, tmp_path: Path) -> None:
    """After SIGKILL of mpack the container is killed, and nothing of it runs on."""
    words = [str(mpack_home / "data" / "store"), str(tmp_path), str(base.digest)]
    process = subprocess.Popen([sys.executable, "-c", DEAF, *words])
    try:
        until(lambda: any(line.startswith("/usr/bin/python3.11") for line in running(str(tmp_path)).values()))
        process.kill()
        process.wait()
        until(lambda: running(str(tmp_path)) == {})
    finally:
        for number in running(str(tmp_path)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


def running(word: str) -> dict[int, str]:
    """Processes that have the word in their command line."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found[int(path.parent.name)] = path.read_text("utf-8", "replace").replace("\0", " ")
    return {number: line for number, line in found.items() if word in line}
