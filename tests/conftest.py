"""Fixtures of the whole suite: a home of its own for mpack, the command line, the engine, running containers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[1]
MPACK = Path(sys.executable).with_name("mpack")
READY_WITHIN = 60.0


@dataclass(frozen=True)
class Case:
    """One folder of fixtures/models: the artifact and what its model answers."""

    name: str
    artifact: Path
    expect: dict[str, Any]

    def __str__(self) -> str:
        return self.name


def cases() -> list[Case]:
    """Every model fixture."""
    found = []
    for path in sorted((ROOT / "fixtures" / "models").glob("*/expect.json")):
        expect = json.loads(path.read_text("utf-8"))
        found.append(Case(path.parent.name, path.parent / expect["artifact"], expect))
    return found


def pytest_configure(config: pytest.Config) -> None:
    """A suite that a shell runs in the background ignores SIGINT, and so would every program that a test interrupts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with an argument `case` runs once for every model fixture."""
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", cases(), ids=str)


@dataclass(frozen=True)
class Mpack:
    """Runs `mpack` as a user does, with a home of the suite's own."""

    home: Path

    def __call__(self, *args: str | Path, code: int | None = 0, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(MPACK), *map(str, args)],
            capture_output=True,
            text=True,
            env={**os.environ, "MPACK_HOME": str(self.home), **env},
            check=False,
        )
        if code is not None:
            assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *args: str | Path, **env: str) -> dict[str, Any]:
        """The JSON object that a successful command with --json prints."""
        result: dict[str, Any] = json.loads(self(*args, "--json", **env).stdout)
        return result


@pytest.fixture(scope="session")
def mpack_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store and cache for the session; MPACK_TEST_HOME keeps them between sessions."""
    kept = os.environ.get("MPACK_TEST_HOME")
    return Path(kept) if kept else tmp_path_factory.mktemp("mpack-home")


@pytest.fixture(scope="session", autouse=True)
def _yaml_apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests that read artifacts in this process keep nothing in the user's cache."""
    from mpack.artifact import yamlfile

    place = tmp_path_factory.mktemp("yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yamlfile, "yaml_dir", lambda: place)
        yield


@pytest.fixture(scope="session")
def mpack(mpack_home: Path) -> Mpack:
    """The command line."""
    return Mpack(mpack_home)


@pytest.fixture(scope="session")
def engine() -> str:
    """The docker client; a suite without an engine fails here, it does not skip."""
    done = subprocess.run(["docker", "info", "--format", "{{.ServerVersion}}"], capture_output=True, text=True)
    assert done.returncode == 0, f"no docker engine answers; run the suite by `make test`: {done.stderr}"
    return "docker"


Runner = Callable[..., Any]


@pytest.fixture(scope="session")
def serve(engine: str) -> Runner:
    """`with serve(image, *docker_options) as client:` runs a REST image until it is ready."""

    @contextmanager
    def run(image: str, *options: str) -> Iterator[httpx.Client]:
        command = [engine, "run", "-d", "-p", "127.0.0.1::5000", *options, image]
        container = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        try:
            port = subprocess.run(
                [engine, "port", container, "5000"], capture_output=True, text=True, check=True
            ).stdout.split()[0]
            with httpx.Client(base_url=f"http://{port}", trust_env=False, timeout=60) as client:
                wait_ready(engine, container, client)
                yield client
        finally:
            subprocess.run([engine, "rm", "-f", container], capture_output=True, check=True)

    return run


def wait_ready(engine: str, container: str, client: httpx.Client) -> None:
    """Returns when /readyz is 200; fails with the container's log when it ends or takes too long."""
    started = time.perf_counter()
    while time.perf_counter() - started < READY_WITHIN:
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        state = subprocess.run(
            [engine, "inspect", "-f", "{{.State.Running}}", container], capture_output=True, text=True
        )
        if state.stdout.strip() != "true":
            break
        time.sleep(0.05)
    logs = subprocess.run([engine, "logs", container], capture_output=True, text=True)
    pytest.fail(f"the container was not ready:\n{logs.stdout[-3000:]}\n{logs.stderr[-3000:]}")


def _assert_same(answer: Any, expected: Any, where: str = "answer", tolerance: float = 1e-6) -> None:
    """Equal JSON: numbers within a relative tolerance, all else exactly."""
    if isinstance(expected, dict):
        assert isinstance(answer, dict) and list(answer) == list(expected), where
        for key in expected:
            _assert_same(answer[key], expected[key], f"{where}.{key}", tolerance)
    elif isinstance(expected, list):
        assert isinstance(answer, list) and len(answer) == len(expected), f"{where}: {answer} != {expected}"
        for index, item in enumerate(expected):
            _assert_same(answer[index], item, f"{where}[{index}]", tolerance)
    elif isinstance(expected, float):
        assert isinstance(answer, (int, float)) and not isinstance(answer, bool), where
        assert answer == pytest.approx(expected, rel=tolerance, abs=1e-12), where
    else:
        assert answer == expected and type(answer) is type(expected), f"{where}: {answer!r} != {expected!r}"


@pytest.fixture
def remove_image(engine: str) -> Iterator[Callable[[str], None]]:
    """`remove_image(reference)`: the engine forgets the image when the test ends."""
    references: list[str] = []
    yield references.append
    for reference in references:
        subprocess.run([engine, "rmi", "-f", reference], capture_output=True, check=False)


@pytest.fixture(scope="session")
def assert_same() -> Callable[..., None]:
    """`assert_same(answer, expected)`: equal JSON, numbers within 1e-6."""
    return _assert_same


@pytest.fixture
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No credentials of this machine's user; no proxy between the test and loopback."""
    directory = tmp_path / "docker"
    directory.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(directory))
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    return directory
