"""More predictions than the model has time for: what waits, what is refused and how, what is not kept waiting."""

from __future__ import annotations

import json
import re
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from mpack_runtime.errors import Overloaded
from mpack_runtime.frame import Frame
from mpack_runtime.gate import Ask, Gate, Watch
from mpack_runtime.rest.lanes import asks_model
from mpack_runtime.rest.lingering import MOST, Lingering
from mpack_runtime.rest.refusals import plain_prediction

Start = Callable[..., Any]
ROWS = Frame(None, (np.zeros(1),), 1)
BODY = b'{"data": [[1.0, "a", 1000]]}'
ROADS = {
    "/api/model/invoke": ("message", BODY),
    "/v1/models/wine:predict": ("error", b'{"instances": [[1.0, "a", 1000]]}'),
    "/v2/models/wine/infer": ("error", b'{"inputs": []}'),
    "/invocations": ("error_code", b'{"inputs": [[1.0, "a", 1000]]}'),
}


def post(path: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    """A raw request; with `length` more is promised than is sent."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *headers]
    if "Transfer-Encoding: chunked" not in headers:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def until(condition: Callable[[], bool]) -> None:
    """Returns when the condition holds."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def metric(server: Any, name: str, **labels: str) -> float:
    """One number of /metrics."""
    text = server.client.get("/metrics").text
    ends = ",".join(f'{key}="{value}"' for key, value in labels.items())
    found = re.search(
        rf'^{name}\{{model="wine",version="1.2"{"," + ends if ends else ""}\}} (\S+)$', text, re.MULTILINE
    )
    return float(found[1]) if found else 0.0


@pytest.fixture
def make_busy(make_model: Callable[..., Path], start: Start, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes a server of one thread whose model is busy until `release()`, with room for one more prediction to wait."""
    flag = tmp_path / "release"
    entry = f"""
import os, time
def init(): return "matrix"
def info(): return [], []
def predict_on_matrix(matrix, provided_columns_names=None):
    while matrix[0][1] == "hold" and not os.path.exists({str(flag)!r}):
        time.sleep(0.01)
    if any(row[1] == "boom" for row in matrix):
        raise ValueError("the grapes are off")
    return [row[0] for row in matrix], ["quality"]
"""

    def make(headers: dict[str, str] | None = None, **settings: Any) -> Any:
        server = start(make_model(entry, sample=None), **{"threads": 1, "queue": 1, "queue_timeout": 20, **settings})
        server.client.headers.update(headers or {})
        lines = [f"{key}: {value}" for key, value in (headers or {}).items()]
        hold = post("/api/model/invoke", b'{"data": [[7.0, "hold", 1]]}', *lines)
        server.held = [pool.submit(server.raw, hold)]
        until(lambda: metric(server, "mpack_requests_in_flight") == 2)  # it, and the one that asks
        server.held.append(pool.submit(server.raw, post("/api/model/invoke", BODY, *lines)))
        until(lambda: metric(server, "mpack_queue_length") == 1)
        server.release = flag.touch
        return server

    with ThreadPoolExecutor(2) as pool:
        yield make
        flag.touch()


@pytest.fixture
def busy(make_busy: Callable[..., Any]) -> Any:
    """One without further settings."""
    return make_busy()


def test_one_too_many_is_429_at_once_on_every_road(busy: Any) -> None:
    """In the protocol's own form, with Retry-After and an id; the connection goes on; those before get answers."""
    for path, (word, body) in ROADS.items():
        asked = post(path, body, "Request-Id: mine")
        raw = busy.raw(asked)
        head, _, answer = raw.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\n"), raw
        assert b"\r\nRetry-After: 1\r\n" in head + b"\r\n" and b"\r\nRequest-Id: mine\r\n" in head + b"\r\n"
        assert word in json.loads(answer) and b"MPACK_QUEUE" in answer
        assert b"\r\nConnection: keep-alive" in head
    refused = httpx.Client(base_url=busy.url, trust_env=False)
    for _ in range(3):
        assert refused.post("/api/model/invoke", content=BODY).status_code == 429
        assert refused.get("/livez").status_code == 200
    assert metric(busy, "mpack_refused_total", reason="full") == 7
    assert metric(busy, "mpack_errors_total", kind="overload") == 7
    busy.release()
    assert [b" 200 " in held.result() for held in busy.held] == [True, True]
    assert refused.post("/api/model/invoke", content=BODY).status_code == 200
    refused.close()
    until(lambda: busy.stdout().count('"status":429') == 7)


@pytest.mark.parametrize(
    "request_",
    [
        post("/api/model/invoke", b"", length=1 << 20),
        post("/api/model/invoke", b"", "Transfer-Encoding: chunked"),
        post("/api/model/invoke", BODY, "Connection: close"),
        post("/some/prefix/api/model/invoke", BODY, "X-Forwarded-Prefix: /some/prefix"),
    ],
)
def test_what_is_not_plain_is_refused_too(busy: Any, request_: bytes) -> None:
    """Before a body is read that has not come yet: the answer does not wait for it."""
    begun = time.monotonic()
    raw = busy.raw(request_)
    assert raw.startswith(b"HTTP/1.1 429 ") and b"\r\nRetry-After: 1\r\n" in raw, raw
    assert time.monotonic() - begun < 4


def test_what_waits_is_asked_as_one_and_a_bad_row_fails_alone(make_busy: Callable[..., Any]) -> None:
    """Of a model of the user's own, which says that it answers row by row; by two protocols."""
    busy = make_busy(queue=8, batching="on")
    asked = [
        post("/api/model/invoke", b'{"data": [[2.0, "a", 1], [3.0, "a", 1]]}'),
        post("/v1/models/wine:predict", b'{"instances": [[4.0, "boom", 1]]}'),
        post("/v1/models/wine:predict", b'{"instances": [[5.0, "a", 1]]}'),
    ]
    with ThreadPoolExecutor(3) as pool:
        answers = []
        for number, request in enumerate(asked):
            answers.append(pool.submit(busy.raw, request))
            until(lambda number=number: metric(busy, "mpack_queue_length") == number + 2)  # type: ignore[misc]
        busy.release()
        heads = [answer.result().partition(b"\r\n\r\n") for answer in answers]
    assert [head[9:12] for head, _, _ in heads] == [b"200", b"500", b"200"]
    good, bad, last = (json.loads(body) for _, _, body in heads)
    assert (good["prediction"], last) == ([2.0, 3.0], {"predictions": [5.0]}) and "grapes" in bad["error"]
    assert metric(busy, "mpack_batch_rows_count") == 6  # the one that was held, all four as one, each of the four
    assert metric(busy, "mpack_batch_rows_sum") == 1 + 5 + 5
    assert metric(busy, "mpack_errors_total", kind="model") == 1


def test_a_refusal_is_for_the_request_that_is_refused(busy: Any) -> None:
    """gunicorn reads 8 kB at once, here a request and the head of another one; what follows is that one's body."""
    inner = post("/invocations", BODY)
    head = post("/api/model/invoke", inner, "Connection: close").removesuffix(inner)
    first = b"GET /livez HTTP/1.1\r\nHost: x\r\nA: %s\r\nB: %s\r\n\r\n"
    size = 8192 - len(head) - len(first % (b"", b""))
    raw = b""
    with socket.create_connection(("127.0.0.1", busy.port), timeout=5) as connection:
        connection.sendall(first % (b"a" * 4000, b"b" * (size - 4000)) + head + inner)
        while part := connection.recv(65536):
            raw += part
    assert re.findall(rb"HTTP/1.1 (\d+)", raw) == [b"200", b"429"] and b"error_code" not in raw


def test_a_client_that_sends_slowly_waits_as_long_as_others(model_json: Path, start: Start) -> None:
    """The seconds that its body takes are none of MPACK_QUEUE_TIMEOUT."""
    server = start(model_json, threads=1, queue_timeout=3)
    body = b'{"data": [[2.0, "a", 1000]]}'
    asked = post("/api/model/invoke", body)
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(server.raw, asked[:-1], asked[-1:], pause=3.2)
        first = pool.submit(server.invoke, {"data": [[1.0, "slow", 45]]})
        assert slow.result().startswith(b"HTTP/1.1 200 ") and first.result().status_code == 200


def test_few_that_do_not_close_are_waited_for() -> None:
    """Each costs a file that gunicorn does not count."""
    lingering, pairs = Lingering(), [socket.socketpair() for _ in range(MOST + 10)]
    for ours, _ in pairs:
        lingering.close(ours)
    assert sum(ours.fileno() >= 0 for ours, _ in pairs) == MOST
    for _, theirs in pairs:
        theirs.close()
    until(lambda: all(ours.fileno() < 0 for ours, _ in pairs))
    ours, theirs = socket.socketpair()
    lingering.close(ours)
    assert ours.fileno() >= 0
    theirs.close()


def test_without_files_for_connections_the_worker_lives(model_json: Path, start: Start) -> None:
    """Those that wait for a file get it when others end."""
    server = start(model_json)
    pid = server.process.pid
    worker = int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
    files, limits = len(list(Path(f"/proc/{worker}/fd").iterdir())), resource.prlimit(worker, resource.RLIMIT_NOFILE)
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (files + 4, limits[1]))
    held = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
    time.sleep(0.5)
    for connection in held:
        connection.close()
    assert httpx.get(server.url + "/livez", trust_env=False, timeout=20).status_code == 200
    assert int(Path(f"/proc/{pid}/task/{pid}/children").read_text()) == worker


def test_who_does_not_close_holds_nobody(model_json: Path, start: Start) -> None:
    """gunicorn's main thread would wait two seconds for this client; health answers meanwhile."""
    server = start(model_json)
    with socket.create_connection(("127.0.0.1", server.port)) as unclosed:
        unclosed.sendall(b"nonsense\r\n\r\n")
        assert unclosed.recv(65536).startswith(b"HTTP/1.1 400 ")
        begun = time.monotonic()
        assert server.client.get("/livez").status_code == 200
        assert time.monotonic() - begun < 1.5


def test_who_has_no_token_is_not_told_that_it_is_busy(make_busy: Callable[..., Any], tmp_path: Path) -> None:
    """401 without it, 429 with it; refusals are not recorded."""
    token = {"Authorization": "Bearer secret"}
    busy = make_busy(auth_token="secret", log_dir=tmp_path / "logs", headers=token)
    with httpx.Client(base_url=busy.url, trust_env=False) as client:
        assert client.post("/api/model/invoke", content=BODY).status_code == 401
        refused = client.post("/api/model/invoke", content=BODY, headers=token)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    busy.release()
    assert [b" 200 " in held.result() for held in busy.held] == [True, True]
    busy.stop()
    lines = [line for file in (tmp_path / "logs" / "request_response").rglob("*.json") for line in file.open()]
    assert len(lines) == 2


def test_nothing_else_waits_behind_predictions(busy: Any) -> None:
    """Health, metrics and documents answer while the model is busy, whatever else hangs; so do new connections."""
    slow = (post("/api/model/invoke", b"")[:-30], b"GET /livez HTTP/1.1\r\nHost: x\r\n")
    with ThreadPoolExecutor(20) as pool:
        hung = [pool.submit(busy.raw, slow[number % 2], timeout=4) for number in range(20)]
        time.sleep(0.3)
        for path in ("/livez", "/readyz", "/metrics", "/api/model/info", "/openapi.json", "/v2/health/ready", "/v2"):
            assert httpx.get(busy.url + path, trust_env=False, timeout=2).status_code == 200, path
        assert [one.result() for one in hung] == [b""] * 20


def test_a_turn_that_does_not_come_in_time_is_503(model_json: Path, start: Start) -> None:
    """After MPACK_QUEUE_TIMEOUT, with Retry-After; the one whose turn it was is answered."""
    server = start(model_json, threads=1, queue_timeout=1)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.invoke, {"data": [[1.0, "slow", 25]]})
        until(lambda: metric(server, "mpack_requests_in_flight") == 2)
        with httpx.Client(base_url=server.url, trust_env=False) as client:
            late = client.post("/api/model/invoke", content=BODY)
        assert (late.status_code, late.headers["Retry-After"]) == (503, "1")
        assert "MPACK_QUEUE_TIMEOUT" in late.json()["message"] and not first.done()
        assert first.result().status_code == 200
    assert metric(server, "mpack_refused_total", reason="late") == 1
    assert metric(server, "mpack_queue_length") == 0


def test_waiting_is_no_hanging(model_json: Path, start: Start) -> None:
    """A request that waits and is answered in longer than MPACK_TIMEOUT altogether costs no worker its life."""
    server = start(model_json, threads=1, timeout=2)
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(server.raw, post("/api/model/invoke", b'{"data": [[1.0, "slow", 12]]}')) for _ in range(3)]
        assert [b" 200 " in one.result() for one in asked] == [True] * 3


def test_the_gate_keeps_order_and_loses_nobody() -> None:
    """First come, first served, never more at once than its width, and each gets through or is told why not."""
    gate, order, most = Gate(2, 100, 20), list[int](), [0, 0]
    lock, ahead = threading.Lock(), [Ask(ROWS), Ask(ROWS)]
    for ask in ahead:
        gate.enter(ask)

    def ask(number: int) -> None:
        gate.enter(Ask(ROWS))
        with lock:
            order.append(number)
            most[0] += 1
            most[1] = max(most)
        time.sleep(0.001)
        with lock:
            most[0] -= 1
        gate.leave()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(60)]
    for number, thread in enumerate(threads):
        thread.start()
        until(lambda number=number: len(gate._waiting) == number + 1)  # type: ignore[misc]
    gate.leave()  # one of the two: the other keeps its place, so that one at a time comes through
    for thread in threads:
        thread.join(20)
    assert order == list(range(60)) and most[1] == 1
    gate.leave()
    assert gate.enter(Ask(ROWS)) and gate.enter(Ask(ROWS))


def test_the_gate_refuses() -> None:
    """Full: at once, 429; late: 503, also where most of the time went elsewhere; the place of neither is lost."""

    reasons = []

    class Watched(Watch):
        def waits(self) -> float:
            return 30.0

        def refused(self, reason: str) -> None:
            reasons.append(reason)

    gate = Gate(1, 1, 10, Watched())
    assert gate.enter(Ask(ROWS))
    with pytest.raises(Overloaded) as full:
        gate.enter(Ask(ROWS))
    gate.capacity = 2
    with pytest.raises(Overloaded) as late:
        gate.enter(Ask(ROWS))
    assert [(error.value.status, error.value.retry_after) for error in (full, late)] == [(429, 1), (503, 1)]
    assert reasons == ["full", "late"]
    gate.leave()
    assert gate.enter(Ask(ROWS))


@pytest.mark.parametrize(
    ("line", "asks"),
    [
        (b"POST /api/model/invoke HTTP/1.1\r\n", True),
        (b"POST /prefix/api/model/invoke/?x=/livez HTTP/1.1\r\n", True),
        (b"POST /v2/models/a/versions/1/infer HTTP/1.1\r\n", True),
        (b"POST /v1/models/a:predict HTTP/1.0\r\n", True),
        (b"POST /invocations HTTP/1.1\r\n", True),
        (b"POST /api/model/inv", True),
        (b"POST /api/model/invok%65 HTTP/1.1\r\n", True),
        (b"POST /api/model/invoke#x HTTP/1.1\r\n", True),
        (b"\r\nPOST /api/model/invoke HTTP/1.1\r\n", True),
        (b"GET /api/model/invoke HTTP/1.1\r\n", False),
        (b"POST /api/model/feedback HTTP/1.1\r\n", False),
        (b"POST /v2/repository/index HTTP/1.1\r\n", False),
        (b"nonsense\r\n", False),
        (b"", False),
    ],
)
def test_predictions_are_known_by_their_first_line(line: bytes, asks: bool) -> None:
    """What is not whole yet may become one."""
    assert asks_model(line) is asks


WHOLE = post("/invocations?a=b", b"12345")


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (WHOLE, "/invocations"),
        (WHOLE[:-1], ""),
        (WHOLE + b"G", ""),
        (WHOLE.replace(b"\r\n\r\n12345", b""), ""),
        (WHOLE.replace(b"Content-Length: 5", b"Content-Length: 5\r\nContent-Length: 5"), ""),
        (WHOLE.replace(b"Content-Length: 5", b"Content-Length: 5\r\nContent-Length : 9"), ""),
        (WHOLE.replace(b"Content-Length: 5", b"Content-Length: +5"), ""),
        (WHOLE.replace(b"Content-Length: 5", b"Content-Length: 5, 5"), ""),
        (WHOLE.replace(b"Content-Length: 5", b"Content-Length: 5\r\nTRANSFER-ENCODING: chunked"), ""),
        (WHOLE.replace(b"Host: x", b"Host: x\r\nUpgrade: h2c"), ""),
        (WHOLE.replace(b"Host: x", b"Host: x\n\nContent-Length: 9"), ""),
        (WHOLE.replace(b"HTTP/1.1", b"HTTP/1.0"), ""),
        (b"", ""),
    ],
)
def test_only_what_is_certain_is_refused_the_short_way(data: bytes, path: str) -> None:
    """A request whose end is open to doubt is left to gunicorn."""
    assert plain_prediction(data) == path
