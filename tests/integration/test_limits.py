"""Workers by the limits that docker really sets, in an image whose model is loaded before the server forks."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.docker, pytest.mark.integration]

CASE = Path(__file__).parents[2] / "fixtures" / "models" / "sklearn-joblib"


@pytest.fixture(scope="module")
def image(mpack: Any, place: Path, engine: str) -> Iterator[str]:
    """A forest whose image asks for as many workers as fit."""
    name = "mpack-test-workers:auto"
    options = ("-a", "workers=auto", "-o", "docker", "-t", name, "--lock", place / "workers.lock", "--no-verify")
    mpack("build", CASE / "forest.joblib", *options)
    yield name
    subprocess.run([engine, "rmi", "-f", name], capture_output=True, check=True)


@pytest.fixture
def told(engine: str, image: str) -> Iterator[Callable[..., tuple[str, str]]]:
    """`told(options…)`: the sentence that a container with these options says, and its container."""
    containers: list[str] = []

    def run(*options: str) -> tuple[str, str]:
        command = [engine, "run", "-d", "--read-only", "--cap-drop", "ALL", *options, image]
        containers.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
        end = time.monotonic() + 60
        while time.monotonic() < end:
            done = subprocess.run([engine, "logs", containers[-1]], capture_output=True, text=True)
            if found := re.search(r"^MPACK_WORKERS=auto: .*$", done.stderr, re.MULTILINE):
                return found[0], containers[-1]
            time.sleep(0.05)
        raise AssertionError(done.stderr)

    yield run
    for container in containers:
        subprocess.run([engine, "rm", "-f", container], capture_output=True, check=True)


def test_workers_by_real_limits(engine: str, told: Callable[..., tuple[str, str]]) -> None:
    """Processors decide where memory is enough, memory where it is not; the forest that all share counts once."""
    said, _ = told("--cpus", "0.5", "--memory", "512m")
    assert "1 worker, one for each processor (the limit has 512 MiB" in said
    said, container = told("--cpuset-cpus", "0-1", "--memory", "512m")
    assert "2 workers, one for each processor" in said
    shared, own = (int(text) for text in re.findall(r"share (\d+) MiB, each takes (\d+) MiB", said)[0])
    assert own < shared / 2, "a worker takes little of its own: the model was loaded before it was forked"
    end = time.monotonic() + 30
    while "".join(_logs(engine, container)).count("is ready on") < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    # Room for what is shared and one worker, not for two.
    tight = int((shared + own + 32 + 20) / 0.9)
    said, _ = told("--cpuset-cpus", "0-1", "--memory", f"{tight}m")
    assert f"1 worker, for memory has no room for 2 (the limit has {tight} MiB" in said


def test_a_wrong_argument_is_told_in_one_sentence(mpack: Any) -> None:
    """Neither of the two forms is a mystery."""
    done = mpack("plan", CASE / "forest.joblib", "-p", "docker-rest", "-a", "workers=Auto", "--spec", code=2)
    assert "it must be a whole number from 1 to 512, or auto" in done.stderr


def _logs(engine: str, container: str) -> tuple[str, str]:
    done = subprocess.run([engine, "logs", container], capture_output=True, text=True, check=True)
    return done.stdout, done.stderr
