"""The docker builder against a real engine: secrets, cancelling, failures, templates, a remote engine, exporting."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mpack.builders.docker import DockerBuilder
from mpack.builders.export import export_context
from mpack.dockerfile import beyond_plan
from mpack.engine import Docker
from mpack.env.index import IndexSettings
from mpack.errors import EnvironmentFault, InputError
from mpack.plan import Environment, ImagePlan, LockedPackage
from mpack.spec import ImageSpec
from mpack.testing.builder_contract import Facts, differences, image_of

pytestmark = pytest.mark.docker

PASSWORD = "tr0ub4dor-and-3"
WHEEL = "mpack_probe-1.0-py3-none-any.whl"


def make_wheel() -> bytes:
    """A wheel of one module; new in every run, so that neither uv nor the engine has it in a cache."""
    files = {
        "mpack_probe.py": f"WORD = 'here'\nRUN = '{uuid.uuid4()}'\n",
        "mpack_probe-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: mpack-probe\nVersion: 1.0\n",
        "mpack_probe-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files["mpack_probe-1.0.dist-info/RECORD"] = "".join(f"{name},,\n" for name in files)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return out.getvalue()


@pytest.fixture
def private_index() -> Iterator[tuple[str, bytes, list[str]]]:
    """An index with a password: (URL with credentials, the wheel, paths that were asked for with them)."""
    wheel = make_wheel()
    asked: list[str] = []
    login = "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Authorization") != login:
                self.send_response(401)
                self.send_header("WWW-Authenticate", "Basic")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            asked.append(self.path)
            page = f'<a href="/files/{WHEEL}#sha256={hashlib.sha256(wheel).hexdigest()}">{WHEEL}</a>'.encode()
            body = wheel if self.path.startswith("/files/") else page
            self.send_response(200)
            self.send_header("Content-Type", "application/zip" if body is wheel else "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://me:{PASSWORD}@127.0.0.1:{server.server_port}/simple", wheel, asked
    server.shutdown()


def probe_plan(site: Any, odd: ImageSpec, hashes: tuple[str, ...]) -> ImagePlan:
    """The odd plan with the private index's one package."""
    plan = site.resolve(replace(odd, requirements=()))
    package = LockedPackage("mpack-probe", "1.0", hashes)
    return replace(plan, environment=Environment(plan.base.minor, plan.platform, (package,)))


@contextlib.contextmanager
def watched_command_lines() -> Iterator[set[str]]:
    """Every command line that any process of this machine has while the context is open."""
    seen: set[str] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    seen.add(path.read_bytes().decode("utf-8", "replace"))
            time.sleep(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def test_private_index(
    site: Any, odd: ImageSpec, private_index: tuple[str, bytes, list[str]], clean: list[str]
) -> None:
    """The stage installs with the password; it is in no layer, history, label, log, plan or process list."""
    url, wheel, asked = private_index
    index = IndexSettings(default=url)
    plan = probe_plan(site, odd, (f"sha256:{hashlib.sha256(wheel).hexdigest()}",))
    lines: list[str] = []
    with watched_command_lines() as command_lines:
        built = site.docker_builder(index=index, lines=lines).build(plan, odd.contents)
    clean.append(built.id)
    assert f"/files/{WHEEL}" in asked
    done = site.docker.run(
        built.id,
        ["-c", "import mpack_probe; print(mpack_probe.WORD)"],
        options=["--entrypoint=/opt/mpack/venv/bin/python"],
    )
    assert done.stdout == b"here\n", done.stderr
    assert any("--secret=id=mpack-index" in line for line in command_lines)
    secret = PASSWORD.encode()
    assert not any(PASSWORD in line for line in command_lines)
    assert PASSWORD not in "\n".join(lines)
    assert PASSWORD not in str(plan.to_json()) + repr(index)
    history = subprocess.run([site.docker.client, "history", "--no-trunc", built.id], capture_output=True, check=True)
    assert secret not in history.stdout
    assert secret not in str(site.docker.inspect(built.id)).encode()
    with site.docker.save(built.id) as stream:
        tail = b""
        while block := stream.read(1 << 20):
            assert secret not in tail + block
            tail = block[-64:]


def test_built_image(site: Any, odd: ImageSpec, odd_plan: ImagePlan, clean: list[str]) -> None:
    """The result names the engine's image by id, untagged, with each layer's kind in image order."""
    lines: list[str] = []
    built = site.docker_builder(lines=lines).build(odd_plan, odd.contents)
    clean.append(built.id)
    inspected = site.docker.inspect(built.id)
    assert inspected["RepoTags"] == []
    assert [layer.diff_id for layer in built.layers] == inspected["RootFS"]["Layers"]
    base = len(site.bases.image(odd_plan.base).layers)
    own = [layer.kind for layer in built.layers[base:]]
    assert own == ["dependencies", "dependencies", "runtime", "bytecode", "model", "config"]
    assert (built.location, built.digest, built.size, built.builder) == ("docker", None, None, "docker")
    assert built.size_unpacked == inspected["Size"]
    assert any("COPY" in line for line in lines)
    again = site.docker_builder().build(odd_plan, odd.contents)
    clean.append(again.id)
    assert all(layer.cached for layer in again.layers)
    builder = site.docker_builder()
    draft = builder.build(replace(odd_plan, bytecode=None), odd.contents)
    clean.append(builder.build(odd_plan, odd.contents).id)
    assert not site.docker.exists(draft.id)
    model = next(tree for tree in odd_plan.trees if tree.kind == "model")
    fresh = site.docker_builder().build(replace(odd_plan, trees=(model,), bytecode=None), odd.contents)
    clean.append(fresh.id)
    assert [layer.kind for layer in fresh.layers[base:]] == ["dependencies", "dependencies", "model"]
    assert not any("transferring" in line or "[internal]" in line for line in lines)


def test_wrong_hash(site: Any, odd: ImageSpec, private_index: tuple[str, bytes, list[str]]) -> None:
    """An index that serves another file than the lock names: the user's lock is named, nothing is built."""
    url, _, _ = private_index
    before = set(site.docker.images("dev.mpack.lock.digest"))
    plan = probe_plan(site, odd, ("sha256:" + "0" * 64,))
    with pytest.raises(InputError) as caught:
        site.docker_builder(index=IndexSettings(default=url)).build(plan, odd.contents)
    assert caught.value.code == "lock-mismatch"
    assert PASSWORD not in str(caught.value)
    assert set(site.docker.images("dev.mpack.lock.digest")) == before


def test_index_that_does_not_answer(site: Any, odd: ImageSpec) -> None:
    """The stage's failure to reach the index is the environment's fault."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    index = IndexSettings(default=f"http://me:{PASSWORD}@127.0.0.1:{port}/simple")
    with pytest.raises(EnvironmentFault) as caught:
        site.docker_builder(index=index).build(probe_plan(site, odd, ("sha256:" + "1" * 64,)), odd.contents)
    assert caught.value.code == "index-unreachable"
    assert PASSWORD not in str(caught.value)


def test_own_template(site: Any, odd: ImageSpec, odd_plan: ImagePlan, tmp_path: Path, clean: list[str]) -> None:
    """A user's step runs in the engine, and its layer is told apart from the plan's."""
    template = tmp_path / "Mine.j2"
    step = "RUN [\"{{ python }}\", \"-c\", \"open('/opt/mpack/mine', 'w').write('x')\"]"
    template.write_text('{% extends "base.j2" %}{% block after_files %}\n' + step + "\n{% endblock %}\n")
    assert beyond_plan(odd_plan, template) is not None
    built = site.docker_builder(template=template).build(odd_plan, odd.contents)
    clean.append(built.id)
    done = site.docker.run(
        built.id, ["-c", "print(open('/opt/mpack/mine').read())"], options=["--entrypoint=/opt/mpack/venv/bin/python"]
    )
    assert done.stdout == b"x\n"
    kinds = [layer.kind for layer in built.layers[len(site.bases.image(odd_plan.base).layers) :]]
    assert kinds == ["dependencies", "dependencies", "runtime", "bytecode", "model", "config", "dependencies"]


def test_interrupt_cancels_the_build(site: Any, mpack_home: Path, tmp_path: Path) -> None:
    """Ctrl-C while a step runs ends the step in the engine; no image comes of it."""
    mark = f"{os.getpid()}.5"
    (tmp_path / "Dockerfile").write_text(
        f'FROM scratch\nCOPY sleeper /sleeper\nCOPY lib /lib\nCOPY lib64 /lib64\nRUN ["/sleeper", "{mark}"]\n'
    )
    copy_program("/bin/sleep", tmp_path)
    code = (
        "import pathlib, sys\nfrom mpack.engine import Docker\n"
        "Docker.find().build(pathlib.Path(sys.argv[1]), platform=sys.argv[2])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), site.docker.platform], stderr=subprocess.PIPE
    )
    try:
        wait_until(lambda: running(f"/sleeper\0{mark}"), 60)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert b"KeyboardInterrupt" in stderr
    wait_until(lambda: not running(f"/sleeper\0{mark}"), 30)


def copy_program(program: str, context: Path) -> None:
    """Puts a program and the libraries it needs into a build context."""
    (context / "sleeper").write_bytes(Path(program).read_bytes())
    (context / "sleeper").chmod(0o755)
    listing = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for name in ("lib", "lib64"):
        (context / name).mkdir()
    for word in listing.split():
        if word.startswith(("/lib/", "/lib64/")):
            target = context / word[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(Path(word).read_bytes())
            target.chmod(0o755)


def running(command: str) -> bool:
    """True if some process of this machine has that command line."""
    found = False
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found = found or path.read_bytes().decode("utf-8", "replace").startswith(command)
    return found


def wait_until(condition: Any, seconds: float) -> None:
    """Returns when the condition holds; fails after that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@contextlib.contextmanager
def tcp_engine() -> Iterator[str]:
    """The local engine behind a TCP port, as a remote one is reached: its address as DOCKER_HOST."""
    server = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = server.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect("/var/run/docker.sock")
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.close()


def test_remote_engine(
    site: Any, odd: ImageSpec, odd_plan: ImagePlan, clean: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through DOCKER_HOST over TCP the same builder builds and runs: nothing of this host is mounted."""
    with tcp_engine() as address:
        monkeypatch.setenv("DOCKER_HOST", address)
        docker = Docker.find()
        lines: list[str] = []
        builder = DockerBuilder(docker, site.store, site.bases, site.index, report=lines.append)
        built = builder.build(odd_plan, odd.contents)
        clean.append(built.id)
        done = docker.run(built.id, ["-c", "print(6 * 7)"], options=["--entrypoint=/opt/mpack/venv/bin/python"])
    assert done.stdout == b"42\n"


def test_exported_context(site: Any, odd: ImageSpec, odd_plan: ImagePlan, tmp_path: Path, clean: list[str]) -> None:
    """An exported context builds without a network, by the client alone, to the same files and configuration."""
    export_context(odd_plan, odd.contents, tmp_path, bases=site.bases, store=site.store, index=site.index)
    built = subprocess.run(
        [site.docker.client, "build", "--network=none", "--quiet", "."],
        cwd=tmp_path,
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    exported = built.stdout.strip().splitlines()[-1]
    clean.append(exported)
    direct = site.docker_builder().build(odd_plan, odd.contents)
    clean.append(direct.id)
    with site.store.lease():
        one = Facts.of(image_of(direct, site.store, site.docker))
        other = Facts.of(image_of(replace(direct, id=exported), site.store, site.docker))
    assert differences(one.files, other.files) == []
    assert differences(one.config, other.config) == []
