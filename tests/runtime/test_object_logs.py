"""Predictions and feedback in an object store: moto's server, which speaks S3's protocol, stands for S3 itself."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mpack_runtime.rest.object_journal import ObjectJournal

ROOT = Path(__file__).parents[2]
GOOD = {"data": [[1.0, "a", 1000]]}
NAME = re.compile(r"(\w+)/wine/1\.2/year=(\d{4})/month=(\d\d)/day=(\d\d)/\2\3\4\d\d_\d+\.json")
#: 2026-11-21 17:00 UTC
WHEN = 1795280400.0


def wait_for(condition: Callable[[], Any], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


class Store:
    """A store in memory that can be made to fail."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.well = threading.Event()
        self.well.set()
        self.asked = 0

    def put(self, path: str, data: bytes) -> None:
        self.asked += 1
        if not self.well.is_set():
            raise OSError("the store is away")
        assert path not in self.objects, "no object is written twice"
        self.objects[path] = data


def journal(store: Store, **changes: Any) -> tuple[ObjectJournal, Counter[str]]:
    outcomes: Counter[str] = Counter()
    options = {"rotate": 1 << 20, "every": 0.05, **changes}
    return ObjectJournal(store.put, "wi/ne", lambda outcome: outcomes.update([outcome]), **options), outcomes


def record(number: int, version: str = "1", when: float = WHEN) -> Any:
    return lambda: [("feedback", version, when, b'{"n": %d}' % number)]


def test_objects_have_the_names_and_lines_of_files() -> None:
    """One object for each stream, version and hour of what came together, counted up; whole lines."""
    store = Store()
    kept, outcomes = journal(store, every=1000)
    for number in range(3):
        kept.put(record(number), 10)
    kept.put(record(3, "2"), 10)
    kept.put(record(4, when=WHEN + 3600), 10)
    kept.put(lambda: 1 / 0, 10)  # type: ignore[arg-type, return-value]
    assert not store.objects, "they wait for others"
    kept.close(5)
    assert outcomes == {"written": 5, "failed": 1}
    found = sorted(store.objects.items())
    folder = "feedback/wi-ne/{}/year=2026/month=11/day=21/20261121{}_"
    starts = [folder.format(*of) for of in (("1", 17), ("1", 18), ("2", 17))]
    assert [path.rpartition("_")[0] + "_" for path, _ in found] == starts
    assert [data for _, data in found] == [b'{"n": 0}\n{"n": 1}\n{"n": 2}\n', b'{"n": 4}\n', b'{"n": 3}\n']
    numbers = sorted(int(re.search(r"_(\d+)\.json", path)[1]) for path in store.objects)  # type: ignore[index]
    assert numbers == list(range(numbers[0], numbers[0] + 3))


def test_objects_are_of_bounded_age_and_size() -> None:
    """What waits is written after `every` seconds; much at once is several objects; feedback does not wait."""
    store = Store()
    kept, _ = journal(store)
    kept.put(record(1), 10)
    wait_for(lambda: len(store.objects) == 1)
    kept.close(5)
    kept, _ = journal(store, every=1000, rotate=100)
    for number in range(20):
        kept.put(record(number), 50)
    assert kept.deliver(record(20), 50, 5), "answered when it is in the store"
    assert len(store.objects) >= 1 + 10
    kept.close(5)


def test_a_store_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records wait up to a limit, what is beyond is dropped and counted; feedback is told; all that waited arrives."""
    monkeypatch.setattr("mpack_runtime.rest.object_journal._FIRST", 0.01)
    store = Store()
    kept, outcomes = journal(store, capacity=1000)
    store.well.clear()
    assert sum(kept.put(record(number), 100) for number in range(30)) == 10
    wait_for(lambda: store.asked >= 3)
    assert not kept.deliver(record(30), 100, 0.1)
    assert outcomes == {"dropped": 21}
    store.well.set()
    wait_for(lambda: outcomes["written"] == 10)
    assert b"".join(store.objects.values()).count(b"\n") == 10
    assert kept.deliver(record(31), 100, 5)
    store.well.clear()
    kept.put(record(32), 100)
    begun = time.monotonic()
    kept.close(0.3)
    assert time.monotonic() - begun < 1 and outcomes["failed"] == 1, "a stop has its bound, and counts what is lost"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An environment of requirements/s3.txt; MPACK_TEST_HOME keeps it between sessions."""
    kept = os.environ.get("MPACK_TEST_HOME")
    venv = (Path(kept) if kept else tmp_path_factory.mktemp("s3")) / "s3-venv"
    uv = str(Path(sys.executable).with_name("uv"))
    lock = str(ROOT / "requirements" / "s3.txt")
    if not venv.exists():
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(venv)], check=True)
    found = str(venv / "bin" / "python")
    subprocess.run([uv, "pip", "install", "-q", "--python", found, "--require-hashes", "-r", lock], check=True)
    return found


class S3:
    """moto's server with a bucket `logs`."""

    def __init__(self, python: str, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._command = [python, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """A new server, without the objects of the one before."""
        quiet = subprocess.DEVNULL
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.process = subprocess.Popen(self._command, stdout=quiet, stderr=quiet, env=environment)

        def made() -> bool:
            try:
                return self._ask("PUT", "/logs").status_code == 200
            except httpx.TransportError:
                return False

        wait_for(made, 60)
        return self.process

    def _ask(self, method: str, path: str) -> httpx.Response:
        # It looks for a signature, and does not check it.
        signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=x/20261121/us-east-1/s3/aws4_request"}
        return httpx.request(method, f"{self.url}{path}", headers=signed, trust_env=False, timeout=20)

    def records(self, folder: str = "") -> dict[str, list[dict[str, Any]]]:
        """Stream -> its records below a folder; every object is where it should be."""
        found: dict[str, list[dict[str, Any]]] = {}
        for key in re.findall("<Key>([^<]*)</Key>", self._ask("GET", f"/logs?list-type=2&prefix={folder}").text):
            match = NAME.fullmatch(key.removeprefix(folder))
            assert match, key
            lines = self._ask("GET", f"/logs/{key}").text.splitlines()
            found.setdefault(match[1], []).extend(map(json.loads, lines))
        return found

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def server_of_s3(python: str) -> Iterator[S3]:
    """Started once, for it takes its time."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    server = S3(python, port)
    yield server
    server.stop()


@pytest.fixture
def s3(server_of_s3: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """The server; the runtime gets what it must know of it."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "runtime" / "src"))
    for name, value in {
        "AWS_ENDPOINT_URL": server_of_s3.url,
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    return server_of_s3


def feedback(server: Any, request_id: str) -> int:
    sent = server.client.post("/api/model/feedback", json={"right": True}, headers={"Request-Id": request_id})
    return int(sent.status_code)


def outcomes(server: Any) -> dict[str, int]:
    text = server.client.get("/metrics").text
    found = re.findall(r'^mpack_log_records_total\{.*outcome="(\w+)"\} (\d+)$', text, re.MULTILINE)
    return {outcome: int(count) for outcome, count in found}


def test_predictions_and_feedback_in_a_bucket(s3: S3, python: str, model_json: Path, start: Callable[..., Any]) -> None:
    """Two workers; feedback is there when it is answered; a graceful stop loses nothing; no secret is in a log."""
    server = start(model_json, python=python, workers=2, log_dir="s3://logs/deep/", log_every=3600)
    for number in range(40):
        assert server.invoke(GOOD, **{"Request-Id": f"id-{number}"}).status_code == 200
    assert feedback(server, "id-0") == 200
    assert [record["request_id"] for record in s3.records("deep/")["feedback"]] == ["id-0"]
    code, seconds = server.stop()
    assert code == 0 and seconds < 7
    found = s3.records("deep/")
    for stream in ("request_response", "response_body"):
        assert sorted(record["request_id"] for record in found[stream]) == sorted(f"id-{n}" for n in range(40))
    assert "s3cret" not in server.stderr() + server.stdout()


def test_an_outage_costs_no_prediction(s3: S3, python: str, model_json: Path, start: Callable[..., Any]) -> None:
    """Predictions go on, feedback is told; what waited arrives later; a store that hangs does not hold up a stop."""
    server = start(model_json, python=python, log_dir="s3://logs", log_every=1)
    server.invoke(GOOD)
    wait_for(lambda: outcomes(server)["written"] == 1)
    s3.stop()
    assert [server.invoke(GOOD).status_code for _ in range(20)] == [200] * 20
    assert feedback(server, "a") == 502
    wait_for(lambda: "a record cannot be written" in server.stderr(), 60)
    s3.start()
    wait_for(lambda: outcomes(server) == {"written": 22, "dropped": 0, "failed": 0}, 60)
    assert len(s3.records()["request_response"]) == 20
    s3.process.send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    assert [server.invoke(GOOD).status_code for _ in range(20)] == [200] * 20
    assert time.monotonic() - begun < 5
    code, seconds = server.stop()
    assert code == 0 and 4 < seconds < 9
    assert "not all records were written within 5 seconds" in server.stderr()


def test_an_image_without_the_package_says_what_to_do(model_json: Path, start: Callable[..., Any]) -> None:
    """The container ends, with the argument that adds it as its last line."""
    server = start(model_json, wait=False, log_dir="s3://logs")
    assert server.process.wait(30) == 1
    assert "build it with -a logStorage=s3" in server.stderr().splitlines()[-1]
