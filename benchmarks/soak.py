"""`python -m benchmarks.soak [--minutes 30]`: a service at 80 % of what it can do, its workers killed at random.

Prints what came of it, and ends with 1 where an answer was wrong, a request failed that no kill explains, memory grew
by more than 5 %, or the service's own count is not the client's.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import select
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.bench import ROOT, Bench, run, say
from benchmarks.scenes import running, until_ready
from benchmarks.subjects import COLD, Mpack
from mpack.errors import MpackError

CASE, INVOKE = "lightgbm-text", "/api/model/invoke"
CONNECTIONS, BODIES = 8, 500
#: The share of the capacity that is asked for, and seconds in which the capacity is found.
LOAD, CALIBRATION = 0.8, 10.0
#: Seconds between two kills: from, to.
KILLS = (5.0, 25.0)
GROWTH = 1.05

Body = tuple[bytes, bytes]


@dataclass
class Tally:
    """What one client saw."""

    answered: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)
    #: (start, end) of requests that got no answer, by the monotonic clock.
    failed: list[tuple[float, float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


class Client(threading.Thread):
    """Asks at a steady rate (None: as fast as it can) until told to stop, on one connection that it keeps."""

    def __init__(self, port: int, bodies: Sequence[Body], rate: float | None, seed: int) -> None:
        super().__init__(daemon=True)
        self._address, self._bodies, self._rate = port, bodies, rate
        self._random = random.Random(seed)
        self._connection: http.client.HTTPConnection | None = None
        self.stop = threading.Event()
        self.tally = Tally()

    def run(self) -> None:
        due = time.monotonic() + self._random.random() / (self._rate or 1)
        while not self.stop.is_set():
            if self._rate is not None:
                due = max(due + 1 / self._rate, time.monotonic() - 1)  # a second's backlog is made up for
                self.stop.wait(max(0.0, due - time.monotonic()))
            self._ask(*self._random.choice(self._bodies))

    def _ask(self, body: bytes, expected: bytes) -> None:
        started = time.monotonic()
        try:
            connection = self._connected()
            connection.request("POST", INVOKE, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            self._connection = None
            self.tally.failed.append((started, time.monotonic()))
            return
        if answer.status in (429, 503):
            self.tally.refused += 1
        elif (answer.status, content) != (200, expected):
            self.tally.wrong.append(f"{answer.status} {content[:200]!r} for {body[:200]!r}")
        else:
            self.tally.answered += 1
            self.tally.seconds.append(time.monotonic() - started)

    def _connected(self) -> http.client.HTTPConnection:
        """The kept connection, or a new one where the server has closed it."""
        kept = self._connection
        if kept is not None and kept.sock is not None and not select.select([kept.sock], [], [], 0)[0]:
            return kept
        if kept is not None:
            kept.close()
        self._connection = http.client.HTTPConnection("127.0.0.1", self._address, timeout=30)
        return self._connection


@contextmanager
def clients(port: int, bodies: Sequence[Body], rate: float | None) -> Iterator[list[Client]]:
    """CONNECTIONS clients that together ask at `rate`, for as long as the context lasts."""
    each = None if rate is None else rate / CONNECTIONS
    found = [Client(port, bodies, each, seed) for seed in range(CONNECTIONS)]
    for client in found:
        client.start()
    try:
        yield found
    finally:
        for client in found:
            client.stop.set()
        for client in found:
            client.join(60)


def bodies_of(port: int) -> list[Body]:
    """Requests of one to five rows, each with the answer that the idle service gives twice."""
    draw = random.Random(7)
    found = []
    for _ in range(BODIES):
        rows = [[draw.uniform(-3, 8) for _ in range(4)] for _ in range(draw.randint(1, 5))]
        body = json.dumps({"data": rows}).encode()
        first, second = (asked(port, INVOKE, body) for _ in range(2))
        if first != second:
            raise SystemExit(f"The idle service gives two answers to {body!r}: {first!r}, {second!r}.")
        found.append((body, first))
    return found


def asked(port: int, path: str, body: bytes | None = None) -> bytes:
    """The body of a 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST" if body else "GET", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise SystemExit(f"{path} answered {answer.status}: {content[:500]!r}")
    return content


def counted(port: int) -> int:
    """Predictions that the service itself says it answered with 200."""
    text = asked(port, "/metrics").decode()
    found = re.findall(rf'^mpack_requests_total\{{[^}}]*route="{INVOKE}"[^}}]*status="200"[^}}]*\}} (\d+)', text, re.M)
    return sum(map(int, found))


def workers(master: int) -> list[int]:
    """Process ids of the workers."""
    return [int(pid) for pid in Path(f"/proc/{master}/task/{master}/children").read_text("ascii").split()]


def memory(master: int) -> int:
    """Proportional bytes of the master and its workers."""
    total = 0
    for pid in [master, *workers(master)]:
        with suppress(OSError):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")
            total += 1024 * int(re.findall(r"^Pss:\s+(\d+) kB", rollup, re.M)[0])
    return total


def soak(port: int, master: int, minutes: float, rate: float, bodies: Sequence[Body]) -> tuple[list[str], bool]:
    """Lines of what came of it, and whether all held."""
    draw, kills, samples = random.Random(3), [], []
    before, count = counted(port), len(workers(master))
    end = time.monotonic() + minutes * 60
    with clients(port, bodies, rate) as asking:
        next_kill = time.monotonic() + draw.uniform(*KILLS)
        while (now := time.monotonic()) < end:
            time.sleep(0.5)
            there = workers(master)
            if len(there) == count:
                samples.append((now, memory(master)))
            if now > next_kill and len(there) == count:
                with suppress(ProcessLookupError):
                    os.kill(draw.choice(there), signal.SIGKILL)
                    kills.append(time.monotonic())
                next_kill = now + draw.uniform(*KILLS)
    tallies = [client.tally for client in asking]
    return _verdict(tallies, kills, samples, counted(port) - before, rate)


def _verdict(
    tallies: Sequence[Tally], kills: Sequence[float], samples: Sequence[tuple[float, int]], counted_: int, rate: float
) -> tuple[list[str], bool]:
    answered = sum(tally.answered for tally in tallies)
    failed = [span for tally in tallies for span in tally.failed]
    stray = [span for span in failed if not any(span[0] - 0.1 <= kill <= span[1] + 0.1 for kill in kills)]
    wrong = [text for tally in tallies for text in tally.wrong]
    seconds = sorted(second for tally in tallies for second in tally.seconds)
    quarter = max(len(samples) // 4, 1)
    first, last = (
        statistics.median(size for _, size in part) for part in (samples[quarter : 2 * quarter], samples[-quarter:])
    )
    lines = [
        f"asked for {rate:.0f} requests/s; answered {answered}, refused {sum(tally.refused for tally in tallies)}",
        f"p50 {seconds[len(seconds) // 2] * 1e3:.1f} ms, p99 {seconds[len(seconds) * 99 // 100] * 1e3:.1f} ms",
        f"workers killed {len(kills)}; requests without an answer {len(failed)}, of these not at a kill {len(stray)}",
        f"wrong answers {len(wrong)} {wrong[:2] or ''}",
        f"memory (Pss): second quarter {first / 1e6:.1f} MB, last {last / 1e6:.1f} MB, {last / first:.3f} times",
        f"the service counted {counted_}, the client {answered} and {len(failed)} without an answer",
    ]
    # A killed worker may have counted an answer that did not reach the client.
    held = not wrong and not stray and last <= first * GROWTH and 0 <= counted_ - answered <= len(failed)
    return lines, held


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="[30]")
    parser.add_argument("--bases", type=Path, metavar="DIR", help="an MPACK_HOME with base images")
    chosen = parser.parse_args()
    try:
        with Bench.opened(1, chosen.bases) as bench:
            subject = Mpack(bench, "docker-rest", ("-a", "workers=2"))
            subject.take_bases()
            folder = ROOT / "fixtures" / "models" / CASE
            model = folder / json.loads((folder / "expect.json").read_text("utf-8"))["artifact"]
            image = subject.build(model, CASE, COLD)
            bench.built(image)
            serving = replace(subject.serving, options=("--env=OMP_NUM_THREADS=1",))
            with running(bench, serving, image) as (container, port):
                until_ready(bench, serving, container, port)
                master = int(run([bench.docker.client, "inspect", "-f", "{{.State.Pid}}", container]))
                bodies = bodies_of(port)
                with clients(port, bodies, None) as asking:
                    time.sleep(CALIBRATION)
                rate = LOAD * sum(client.tally.answered for client in asking) / CALIBRATION
                say(f"{chosen.minutes:g} minutes at {rate:.0f} requests/s")
                lines, held = soak(port, master, chosen.minutes, rate, bodies)
    except MpackError as error:
        say(f"{error.message}\n{error.hint}")
        return error.exit_code
    print("\n".join(lines))
    print("all held" if held else "NOT all held")
    return 0 if held else 1


if __name__ == "__main__":
    os.environ.pop("MPACK_HOME", None)
    sys.exit(main())
