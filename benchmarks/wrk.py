"""Load by wrk, over kept-alive connections of HTTP/1.1, and the processor time that the server spends on it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import run
from mpack.errors import EnvironmentFault

#: Seconds before it counts, and of what counts.
WARM_UP, SECONDS = 1, 4
_TICKS = 100.0  # of /proc, a second
_SCRIPT = """wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = io.open({body}):read("*a")
"""
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


@dataclass(frozen=True)
class Load:
    """What a load came to. `cpu` is the server's milliseconds of processor time a request (seconds a thousand)."""

    rate: float  # answers a second
    p50: float  # ms
    p99: float
    cpu: float


def program() -> str:
    """wrk. Raises EnvironmentFault tool-missing."""
    found = shutil.which("wrk")
    if found is None:
        raise EnvironmentFault("tool-missing", "wrk is not installed.", "apt-get install wrk")
    return found


def load(url: str, body: bytes, connections: int, process: int, scratch: Path) -> Load:
    """POSTs `body` for SECONDS, one request at a time on each connection; `process` is the server's first process.

    Raises EnvironmentFault where an answer is not 200 or a connection fails.
    """
    data, script = scratch / "wrk.body", scratch / "wrk.lua"
    data.write_bytes(body)
    script.write_text(_SCRIPT.format(body=json.dumps(str(data))), "utf-8")
    arguments = [program(), "-t1", f"-c{connections}", "--latency", "--timeout=30s", "-s", str(script)]
    run([*arguments, f"-d{WARM_UP}", url])
    before = _cpu(process)
    printed = run([*arguments, f"-d{SECONDS}", url])
    spent = _cpu(process) - before
    if found := re.search(r"^\s*(Non-2xx|Socket errors).*$", printed, re.MULTILINE):
        raise EnvironmentFault("engine-failed", f"{url}: {found[0].strip()}.", "Is the server ended?")
    requests = int(_number(r"(\d+) requests in", printed))
    rate = _number(r"Requests/sec:\s+([\d.]+)", printed)
    return Load(rate, _time("50", printed), _time("99", printed), 1e3 * spent / requests)


def _number(pattern: str, printed: str) -> float:
    found = re.search(pattern, printed)
    if found is None or not float(found[1]):
        raise EnvironmentFault("engine-failed", f"wrk counted no answer:\n{printed}", "Is the server ended?")
    return float(found[1])


def _time(percent: str, printed: str) -> float:
    found = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s|m) *$", printed, re.MULTILINE)
    return float(found[1]) * _UNITS[found[2]] if found else float("nan")


def _cpu(process: int) -> float:
    """Seconds that a process and all below it have spent, those that have ended and were waited for included."""
    parents: dict[int, list[int]] = {}
    spent: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in brackets, may hold blanks.
            fields = path.read_text("ascii", "replace").rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        number = int(path.parent.name)
        parents.setdefault(int(fields[1]), []).append(number)
        spent[number] = sum(map(int, fields[11:15])) / _TICKS
    if process not in spent:
        raise EnvironmentFault(
            "engine-failed", f"There is no process {process} here.", "Is the engine's machine another?"
        )
    total, left = 0.0, [process]
    while left:
        number = left.pop()
        total += spent.get(number, 0.0)
        left += parents.get(number, [])
    return total
