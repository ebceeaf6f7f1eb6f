"""A Dockerfile template with steps of its own, on a machine without a docker engine: buildah runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpack.oci.rootfs import unpack
from mpack.oci.store import Store
from mpack.sandbox import this_platform

pytestmark = pytest.mark.integration

NOWHERE = {"DOCKER_HOST": "unix:///nonexistent/docker.sock", "DOCKER_CONTEXT": ""}
PASSWORD = "tr0ub4dor-and-3"
PROXY = {"HTTP_PROXY": f"http://me:{PASSWORD}@127.0.0.1:9", "NO_PROXY": "localhost"}
STEP = (
    "import os; open('/opt/mpack/mine', 'w').write('x'); print('proxy', os.environ['http_proxy']); "
    # 18: CAP_SYS_CHROOT
    "assert [x for x in open('/proc/self/status') if x.startswith('CapBnd') and not int(x.split()[1], 16) >> 18 & 1]"
)


def template(directory: Path, program: str, *words: str) -> Path:
    """A template that runs a Python program when all files are in the image."""
    path = directory / "Mine.j2"
    step = json.dumps(["{{ python }}", "-B", "-c", program, *words])
    path.write_text('{% extends "base.j2" %}{% block after_files %}\nRUN ' + step + "\n{% endblock %}\n")
    return path


def storage(home: Path) -> Path:
    """Where this user's buildah keeps its images."""
    return home / "cache" / "buildah" / str(os.getuid())


def containers(home: Path) -> list[Any]:
    """buildah's working containers."""
    found: list[Any] = []
    for path in storage(home).glob("storage/*-containers/containers.json"):
        found += json.loads(path.read_bytes())
    return found


def running(mark: str) -> bool:
    """True if some process of this machine has that word on its command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark in path.read_bytes().decode("utf-8", "replace").split("\0"):
                return True
        except OSError:
            continue
    return False


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Returns when the condition holds; fails after that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_steps_without_an_engine(
    mpack: Any, base_home: Callable[..., Path], model: Path, echo: dict[str, str], tmp_path: Path
) -> None:
    """The step, which cannot leave its root, has its file in a verified image, which a second build finds made and a
    rebuild makes again; the proxy's password reached the step and nothing else; the storage can be pruned."""
    home = base_home("home-buildah")
    own = template(tmp_path, STEP)
    where = {"MPACK_HOME": str(home), **NOWHERE, **PROXY, **echo}
    command = ["build", model, "-p", "echo", "-t", "mine:1", "--dockerfile-template", own, "--lock", tmp_path / "lock"]
    done = mpack(*command, "--json", **where)
    result = json.loads(done.stdout)
    assert (result["builder"], result["verified"]["status"], result["outputs"]) == ("buildah", "passed", ["mine:1"])
    kinds = [layer["kind"] for layer in result["layers"]]
    assert kinds[:2] == ["base", "dependencies"] and kinds[-1] == "dependencies" and "model" in kinds
    assert "proxy http://***@" in done.stderr

    image = Store(home / "data" / "store").resolve("mine:1")
    (tmp_path / "root").mkdir()
    unpack(image, tmp_path / "root")
    assert (tmp_path / "root/opt/mpack/mine").read_text() == "x"
    told = [done.stdout, done.stderr, json.dumps(image.config), (tmp_path / "lock").read_text()]
    told += [path.read_text("utf-8", "replace") for path in (home / "data/store/provenance").rglob("*.json")]
    assert len(told) > 4 and PASSWORD not in "".join(told)
    assert not any(PASSWORD.encode() in path.read_bytes() for path in storage(home).rglob("*") if path.is_file())

    again = json.loads(mpack(*command, "--json", **where).stdout)
    assert again["digest"] == result["digest"] and all(layer["cached"] for layer in again["layers"])
    made = json.loads(mpack("rebuild", "mine:1", "--dockerfile-template", own, "--json", **where).stdout)
    assert made["same"] and made["digest"] == result["digest"]
    template(tmp_path, f"{STEP}; raise SystemExit(os.environ['http_proxy'])")
    failed = mpack(*command, "--json", code=3, **where)
    assert "http://***@" in failed.stdout and PASSWORD not in failed.stdout + failed.stderr
    template(tmp_path, STEP)
    refused = mpack(*command, "--builder", "embedded", code=1, **where)
    assert "buildah" in refused.stderr
    other = next(name for name in ("linux/amd64", "linux/arm64") if name != this_platform())
    foreign = mpack(*command, "--builder", "buildah", "--platform", other, code=2, **where)
    assert f"buildah cannot build for {other} here" in foreign.stderr

    mpack("cache", "prune", "--keep-size", "0", **where)
    assert not (storage(home) / "storage").exists() and list(storage(home).glob("work/*")) == []


def test_ended_while_a_step_runs(
    base_home: Callable[..., Path],
    model: Path,
    echo: dict[str, str],
    mpack: Any,
    tmp_path: Path,
) -> None:
    """Killed or interrupted, the step ends too, and there is no mount; the next build finds nothing in its way and
    leaves no working container."""
    home = base_home("home-buildah-ended")
    where = {"MPACK_HOME": str(home), **NOWHERE, **echo}
    arguments = ["build", model, "-p", "echo", "-t", "mine:1", "--no-verify", "--lock", tmp_path / "lock"]
    for signum in (signal.SIGKILL, signal.SIGINT):
        mark = f"mark-{uuid.uuid4().hex}"
        slow = [*arguments, "--dockerfile-template", template(tmp_path, "import time; time.sleep(600)", mark)]
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("mpack")), *map(str, slow)],
            env={**os.environ, **where},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda word=mark: running(word), 120)  # type: ignore[misc]
            process.send_signal(signum)
            assert process.wait(30) == (130 if signum == signal.SIGINT else -signum)
        finally:
            process.kill()
            process.wait()
        wait_until(lambda word=mark: not running(word), 15)  # type: ignore[misc]
        assert str(home) not in Path("/proc/mounts").read_text()
        assert Store(home / "data" / "store").find_record("mine:1") is None
    assert containers(home) == [] and list(storage(home).glob("work")) == []
    mpack(*arguments, "--dockerfile-template", template(tmp_path, "print('quick')"), **where)
    assert containers(home) == [] and list(storage(home).glob("work")) == []


def test_failing_step(
    base_home: Callable[..., Path], model: Path, echo: dict[str, str], mpack: Any, tmp_path: Path
) -> None:
    """A step that fails is told by its own last words; there is no image, lock or working container."""
    home = base_home("home-buildah-failing")
    own = template(tmp_path, "raise SystemExit('no such luck')")
    options = ["-p", "echo", "--builder", "buildah", "--dockerfile-template", own, "--lock", tmp_path / "lock"]
    done = mpack("build", model, *options, "--json", code=3, MPACK_HOME=str(home), **NOWHERE, **echo)
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "engine-failed" and "no such luck" in error["message"]
    assert containers(home) == [] and not (tmp_path / "lock").exists()
    assert all(record.role == "base" for record in Store(home / "data" / "store").records())
