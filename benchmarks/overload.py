"""The scene `overload`: docker-rest's server asked for twice what its model can do.

Goodput is answers of 200 a second; capacity is the same while as many ask as can be answered. The server is a process
of this machine with its defaults, so that no container's network is measured.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.bench import Bench, say
from benchmarks.figures import OURS, Figures
from benchmarks.open_loop import Answers, closed_loop, open_loop
from mpack.errors import EnvironmentFault

#: What the model does with its ten milliseconds; "fast": nothing.
MODELS = {
    "10 ms, sleeping": "time.sleep(0.01)",
    "10 ms of work without the GIL": "work(lambda: hashlib.sha256(BLOB).digest())",
    "10 ms of work that holds the GIL": "work(lambda: sum(range(500)))",
    "fast": "pass",
}
ENTRY = """
import hashlib, time
BLOB = b"x" * (1 << 18)

def init():
    return "matrix"

def info():
    return [], []

def work(step):
    end = time.perf_counter() + 0.01
    while time.perf_counter() < end:
        step()

def predict_on_matrix(matrix, provided_columns_names=None):
    {work}
    return [sum(row) for row in matrix], ["sum"]
"""
BODY = b'{"data": [[1.0, 2.0, 3.0]]}'
PREDICT = (
    b"POST /api/model/invoke HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)
HEALTH = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
KNOWN = (200, 429, 503)
#: Loads of each kind, seconds of each; connections that saturate without a refusal.
ROUNDS, SECONDS, ENOUGH = 5, 3.0, 16


def overload(bench: Bench, figures: Figures) -> None:
    """Capacity and what is left of it at twice the load, by model; how soon health answers; memory."""
    for number in range(bench.repeat):
        for name, work in MODELS.items():
            say(f"{name}: overload ({number + 1} of {bench.repeat})")
            with _server(bench.scratch, work) as port:
                _measure(figures, name, port)


def _measure(figures: Figures, name: str, port: int) -> None:
    """Capacity and overload take turns, so that both see the same of what else the machine does."""
    capacities, asked, health = list[float](), Answers(), Answers()
    memory, good = 0.0, 0
    for _ in range(ROUNDS):
        capacities.append(asyncio.run(closed_loop(port, PREDICT, ENOUGH, SECONDS)))
        memory = memory or _resident(port)
        end = time.perf_counter() + SECONDS
        both = asyncio.run(_twice(port, 2 * capacities[-1]))
        good += both[0].until(200, end)
        for into, found in zip((asked, health), both, strict=True):
            into.answers += found.answers
    grown = _resident(port) - memory
    capacity, seconds = statistics.mean(capacities), ROUNDS * SECONDS
    times = _percentiles(asked.times(200))
    for row, unit, value in (
        ("capacity", "/s", capacity),
        ("offered", "/s", len(asked.answers) / seconds),
        ("goodput", "/s", good / seconds),
        ("goodput : capacity", "", good / seconds / capacity),
        ("neither answered nor refused", "", sum(status not in KNOWN for status, _, _ in asked.answers)),
        ("p50 of answers", "ms", times[49]),
        ("p99 of answers", "ms", times[98]),
        ("p99 of health", "ms", _percentiles(health.times(200))[98]),
        ("memory grown", "MB", grown / 1e6),
    ):
        figures.into(f"{name}: {row}", unit, OURS).append(value)


async def _twice(port: int, rate: float) -> tuple[Answers, Answers]:
    """The load, and health asked meanwhile."""
    return await asyncio.gather(open_loop(port, PREDICT, rate, SECONDS), open_loop(port, HEALTH, 20, SECONDS))


def _percentiles(times: list[float]) -> list[float]:
    return statistics.quantiles(times, n=100, method="inclusive")


def _resident(port: int) -> float:
    """Bytes of the worker process."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found = re.search(r'^process_resident_memory_bytes\{.*process="1"\} (\d+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


@contextmanager
def _server(scratch: Path, work: str) -> Iterator[int]:
    """A server of a model that does `work` in each call; gives its port."""
    root = scratch / "overload"
    (root / "model").mkdir(parents=True, exist_ok=True)
    (root / "model" / "entry.py").write_text(ENTRY.replace("{work}", work), "utf-8")
    loader = {"kind": "odahu", "path": "", "options": {"entrypoint": "entry"}}
    model = {"schema": 1, "name": "load", "version": "1", "loader": loader, "signature": None, "sample": None}
    (root / "model.json").write_text(json.dumps(model), "utf-8")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    plain = {key: value for key, value in os.environ.items() if not key.startswith("MPACK_")}
    own = {"MPACK_MODEL_JSON": str(root / "model.json"), "MPACK_HOST": "127.0.0.1", "MPACK_PORT": str(port)}
    with (root / "log").open("wb") as log:
        command = [sys.executable, "-m", "mpack_runtime", "serve"]
        process = subprocess.Popen(command, env={**plain, **own}, stdout=subprocess.DEVNULL, stderr=log)
    try:
        _until_ready(process, port, root / "log")
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    raise EnvironmentFault("engine-failed", f"The server is not ready: {log.read_text('utf-8')}", "See its own words.")
