"""Load by h2load, which speaks HTTP/1.1 and HTTP/2, so that one tool asks REST and gRPC alike."""

from __future__ import annotations

import re
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import run
from mpack.errors import EnvironmentFault

#: Requests of each connection before it counts; they tell how many make up SECONDS too.
WARM_UP = 200
SECONDS = 4.0


@dataclass(frozen=True)
class Road:
    """One way to ask a server: a POST of always the same body, and the length of its answer."""

    url: str
    headers: tuple[str, ...]
    body: bytes
    answer: int  # bytes
    http2: bool


@dataclass(frozen=True)
class Load:
    """What a load came to."""

    rate: float  # answers a second
    p50: float  # ms from the start of a request to the end of its answer
    p99: float


def program() -> str:
    """h2load. Raises EnvironmentFault tool-missing."""
    found = shutil.which("h2load")
    if found is None:
        raise EnvironmentFault("tool-missing", "h2load is not installed.", "apt-get install nghttp2-client")
    return found


def load(road: Road, connections: int, scratch: Path) -> Load:
    """Asks for about SECONDS, one request at a time on each connection. Raises EnvironmentFault for a wrong answer."""
    warm = _ask(road, connections, WARM_UP * connections, scratch)
    return _ask(road, connections, max(int(warm.rate * SECONDS), 100 * connections), scratch)


def _ask(road: Road, connections: int, requests: int, scratch: Path) -> Load:
    body, log = scratch / "h2load.body", scratch / "h2load.log"
    body.write_bytes(road.body)
    log.unlink(missing_ok=True)
    arguments = ["-t1", "-m1", f"-c{connections}", f"-n{requests}", f"-d{body}", f"--log-file={log}"]
    arguments += [] if road.http2 else ["--h1"]
    arguments += [f"-H{header}" for header in road.headers]
    printed = run([program(), *arguments, road.url])
    rows = [tuple(map(int, line.split("\t")[:3])) for line in log.read_text("ascii").splitlines()]
    found = re.search(r"\((\d+)\) data$", printed, re.MULTILINE)
    received = int(found[1]) if found else 0
    # An error of gRPC is a 200 with nothing in it: only the bytes tell.
    if len(rows) != requests or {status for _, status, _ in rows} != {200} or received != requests * road.answer:
        raise EnvironmentFault(
            "engine-failed",
            f"{road.url}: {requests} answers of {road.answer} bytes were expected, but:\n{printed}",
            "Is the server ended, or do its answers differ?",
        )
    return _figures(rows)


def _figures(rows: Sequence[tuple[int, ...]]) -> Load:
    """Of rows of start, status, time; microseconds."""
    took = max(start + time for start, _, time in rows) - min(start for start, _, _ in rows)
    cuts = statistics.quantiles((time for _, _, time in rows), n=100, method="inclusive")
    return Load(len(rows) / (took / 1e6), cuts[49] / 1e3, cuts[98] / 1e3)
