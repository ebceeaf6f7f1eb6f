"""`mpack run` without an engine: ports, options, output that is bounded, ending what runs."""

from __future__ import annotations

import http.server
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mpack.cli.run import is_artifact, is_mpacks, parse_env, parse_volume
from mpack.errors import EnvironmentFault, UsageError
from mpack.run import Started
from mpack.run.follow import follow, is_ready
from mpack.run.ports import container_ports, host_network_env, host_ports, on_the_host
from mpack.sandbox.pipes import FLOODED, TIMED_OUT, exchange
from mpack.sandbox.spec import Mount

REST = {"ExposedPorts": {"5000/tcp": {}, "9000/tcp": {}}, "Env": ["MPACK_PORT=5000", "MPACK_GRPC_PORT=9000"]}
TRITON = {"ExposedPorts": {"8000/tcp": {}, "8001/tcp": {}, "8002/tcp": {}}, "Env": ["MPACK_PORT=8000"]}


@pytest.mark.parametrize(
    ("config", "env", "ports"),
    [
        ({"ExposedPorts": {"5000/tcp": {}}, "Env": ["MPACK_PORT=5000"]}, {}, (5000,)),
        ({"ExposedPorts": {"5000/tcp": {}}, "Env": ["MPACK_PORT=5000"]}, {"MPACK_PORT": "7"}, (7,)),
        (REST, {}, (5000, 9000)),
        (REST, {"MPACK_PORT": "9001", "MPACK_GRPC_PORT": "7"}, (9001, 7)),
        (REST, {"MPACK_GRPC_PORT": ""}, (5000,)),
        (TRITON, {}, (8000, 8001, 8002)),
        ({**TRITON, "Env": ["MPACK_PORT=8001"]}, {}, (8001, 8000, 8002)),
        ({"ExposedPorts": {"53/udp": {}, "80": {}}}, {}, (80,)),
        ({"Env": ["MPACK_PORT=5000"]}, {}, ()),
        ({"ExposedPorts": {"99999/tcp": {}, "²/tcp": {}, "0/tcp": {}, f"{'9' * 5000}": {}, "80/tcp": {}}}, {}, (80,)),
        ({"ExposedPorts": {"80/tcp": {}}, "Env": ["MPACK_PORT=²"]}, {"MPACK_PORT": "81"}, (81, 80)),
        ({"ExposedPorts": {"80/tcp": {}}, "Env": ["MPACK_PORT=80"]}, {"MPACK_PORT": "65536"}, (80,)),
        ({}, {}, ()),
    ],
)
def test_container_ports(config: dict[str, Any], env: dict[str, str], ports: tuple[int, ...]) -> None:
    """HTTP's port first, by the setting that wins; an image that exposes none serves nothing."""
    assert container_ports(config, env) == ports


def test_host_ports() -> None:
    """The same ones, another one for HTTP, or free ones; one in use is an error that says what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EnvironmentFault, match=f"port {port} ") as caught:
            host_ports([5000], port)
        assert caught.value.code == "port-taken" and "--port 0" in caught.value.hint
        free = host_ports([port, 1], 0)
    assert list(free) == [port, 1] and len(set(free.values())) == 2 and min(free.values()) > 1023


def test_port_flags_follow() -> None:
    """In a shared network the command's port flags are this machine's; other words stay."""
    command = ["triton", "--grpc-port=8001", "--metrics-port=8002", "--x=8001", "8001"]
    assert on_the_host(command, {8000: 9, 8001: 10}) == [
        "triton",
        "--grpc-port=10",
        "--metrics-port=8002",
        *command[3:],
    ]


def test_settings_of_a_shared_network() -> None:
    """Loopback, and this machine's ports under the names that the runtime reads."""
    told = {"MPACK_HOST": "127.0.0.1", "MPACK_PORT": "1"}
    assert host_network_env(REST, {5000: 1, 9000: 2}) == {**told, "MPACK_GRPC_PORT": "2"}
    assert host_network_env(TRITON, {8000: 1, 8001: 2}) == told
    assert host_network_env(REST, {}) == {}


def test_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SRC:DST[:ro]; a relative SRC is this directory's."""
    monkeypatch.chdir(tmp_path)
    assert parse_volume(".:/data") == Mount(tmp_path, "/data")
    assert parse_volume(f"{tmp_path}:/data/:ro") == Mount(tmp_path, "/data", True)
    for text in ("", "x", ".:", ":/data", ".:data", ".:/", ".:/../x", ".:/x:rx", "missing:/x"):
        with pytest.raises(UsageError):
            parse_volume(text)


def test_settings() -> None:
    """KEY=VALUE, values with `=`; a line break would be a second setting."""
    assert parse_env(("A=b=c", "D=")) == {"A": "b=c", "D": ""}
    for pairs in (("A",), ("=b",), ("A=1", "A=2"), ("A=1\nB=2",)):
        with pytest.raises(UsageError):
            parse_env(pairs)


def test_image_or_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What exists, looks like a path or is an address is an artifact; the rest are names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    names = ("model", "./gone", "https://h/x.zip", "wine:1", "sha256:abc", "host:5000/a/b:1")
    assert [is_artifact(name) for name in names] == [True, True, True, False, False, False]


def test_images_of_mpack() -> None:
    """By the packager's label; the others are warned of where they get this machine's network."""
    assert is_mpacks({"Labels": {"dev.mpack.packager": "docker-rest"}})
    assert not any(is_mpacks(config) for config in ({}, {"Labels": None}, {"Labels": {"dev.mpack.base": "x"}}))


@contextmanager
def server(answers: dict[str, int]) -> Iterator[int]:
    """An HTTP server with a status a path, else 404; its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answers.get(self.path, 404))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield running.server_port
        finally:
            running.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("answers", "ready"),
    [
        ({"/readyz": 200}, True),
        ({"/readyz": 503}, False),
        ({"/v2/health/ready": 200}, True),
        ({"/v2/health/ready": 400}, False),
        ({}, True),
    ],
)
def test_ready(answers: dict[str, int], ready: bool) -> None:
    """By mpack's path or Triton's; a server that knows neither is ready when it answers, and none is not."""
    with server(answers) as port:
        assert is_ready(port) is ready
    assert not is_ready(port)


def started(script: str) -> tuple[Started, subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE)

    def kill() -> None:
        process.kill()
        process.wait()

    return Started(process, kill, lambda: None), process


@pytest.fixture
def signals() -> Iterator[None]:
    """`follow` ignores signals once it ends; the suite does not."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
def test_the_exit_code_is_the_programs() -> None:
    """Its own, or 128 and the signal's number."""
    assert follow(started("exit 7")[0], None, lambda: None) == 7
    assert follow(started("kill -9 $$")[0], None, lambda: None) == 137


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize(("trap", "code"), [("trap 'exit 3' TERM", 3), ("trap '' TERM", -9)])
def test_an_interrupt_ends_it(trap: str, code: int) -> None:
    """SIGTERM first; a program that does not go is killed. Either way it has ended when the interrupt goes on."""
    with server({"/readyz": 200}) as port:
        running, process = started(f"{trap}; echo on; while :; do sleep 0.05; done")
        assert process.stdout is not None and process.stdout.readline() == b"on\n"

        def interrupt() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            follow(running, port, interrupt, grace=0.5)
        assert process.returncode == code
        process.stdout.close()


@pytest.mark.usefixtures("signals")
def test_what_could_not_start_is_an_error() -> None:
    """The engine's reason is raised, not its exit code."""
    fault = EnvironmentFault("engine-failed", "No.")
    running = started("exit 125")[0]
    with pytest.raises(EnvironmentFault, match="No"):
        follow(Started(running.process, running.kill, lambda: fault), None, lambda: None)


def talk(script: str, timeout: float = 30, limit: int = 1000) -> tuple[int, bytes, str]:
    process = subprocess.Popen(
        ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    done = exchange(process, process.kill, b"input", timeout, limit)
    return done.returncode, done.stdout, done.stderr.decode()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("cat; echo said >&2; exit 3", lambda done: done == (3, b"input", "said\n")),
        ("exec yes", lambda done: done[0] == FLOODED and len(done[1]) == 1000 and "more than" in done[2]),
        ("yes x >&2 & sleep 0.3; kill $!; echo end >&2", lambda done: done[0] == 0 and len(done[2]) <= 1 << 20),
    ],
    ids=["talk", "flood of stdout", "flood of stderr"],
)
def test_output_is_bounded(script: str, expected: Callable[[tuple[int, bytes, str]], bool]) -> None:
    """stdout up to the limit and then an end of it; of stderr the last megabyte."""
    assert expected(talk(script))


def test_time_is_bounded() -> None:
    """A program that stays is killed when its time is up."""
    assert talk("exec sleep 60", timeout=0.2)[0] == TIMED_OUT
