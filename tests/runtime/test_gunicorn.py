"""`serve` as it runs in a container: real processes, real sockets, slow and broken clients, stops and failures."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from mpack_runtime.rest.deadline import Deadlines

Start = Callable[..., Any]
GOOD = b'{"data": [[1.0, "a", 1000]]}'
HEAD = b"POST /api/model/invoke HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def answer(raw: bytes) -> tuple[int, dict[str, Any]]:
    """Status and JSON body of one raw HTTP answer."""
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"\r\nContent-Type: application/json\r\n" in head + b"\r\n", raw
    return int(head.split()[1]), json.loads(body)


def test_it_serves_logs_json_and_stops_at_once(model_json: Path, start: Start) -> None:
    """Two workers answer; stdout has JSON lines alone, not what the model prints; SIGTERM ends it in 2 s with 0."""
    server = start(model_json, workers=2)
    assert server.invoke({"data": [[1.0, "a", 1000]]}).json() == {"prediction": [2.0], "columns": ["quality"]}
    assert server.client.get("/healthcheck").json() == {"status": True}  # and its connection stays open
    code, seconds = server.stop()
    assert code == 0 and seconds < 2.0
    lines = [json.loads(line) for line in server.stdout().splitlines()]
    invoked = [line for line in lines if line["path"] == "/api/model/invoke"]
    assert invoked[0]["status"] == 200 and invoked[0]["method"] == "POST" and len(invoked[0]["request_id"]) == 32
    assert "loading" in server.stderr()


def test_metrics_are_merged_over_workers(model_json: Path, start: Start) -> None:
    """Forty requests over three workers are forty in /metrics, whichever worker is asked."""
    server = start(model_json, workers=3)
    for _ in range(40):
        httpx.post(
            f"{server.url}/api/model/invoke",
            content=GOOD,
            headers={"Content-Type": "application/json"},
            trust_env=False,
        )
    for _ in range(6):
        text = httpx.get(f"{server.url}/metrics", trust_env=False).text
        assert 'route="/api/model/invoke",status="200"} 40\n' in text


def test_twenty_clients_at_once_get_their_own_answers(model_json: Path, start: Start) -> None:
    """Concurrent requests do not mix; each gets the answer and the id of its own."""
    server = start(model_json, workers=2, threads=4)

    def ask(number: int) -> None:
        response = server.invoke({"data": [[float(number), "a", 0]] * (number + 1)}, **{"Request-Id": f"id-{number}"})
        assert response.json()["prediction"] == [float(number)] * (number + 1)
        assert response.headers["Request-Id"] == f"id-{number}"

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(ask, range(60)))


def test_a_request_in_flight_is_finished_before_the_stop(model_json: Path, start: Start) -> None:
    """SIGTERM during a prediction of 1.5 s: the client gets its answer, then the server ends with 0."""
    server = start(model_json)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.invoke, {"data": [[1.0, "slow", 15]]})
        time.sleep(0.5)
        code, seconds = server.stop()
        assert asked.result().status_code == 200
    assert code == 0 and 0.5 < seconds < 4


def test_interrupt_stops_it_too(model_json: Path, start: Start) -> None:
    """Ctrl-C on a terminal is a quick stop."""
    code, seconds = start(model_json).stop(signal.SIGINT)
    assert code == 0 and seconds < 3


def test_a_slow_body_is_cut_off_with_408_and_blocks_nobody(model_json: Path, start: Start) -> None:
    """A client that stops in the middle of its body gets 408 after the timeout; others are answered meanwhile."""
    server = start(model_json, threads=2, timeout=1)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(server.raw, HEAD + b"Content-Length: 100\r\n\r\n{")
        time.sleep(0.3)
        assert server.client.get("/livez").status_code == 200
        status, body = answer(slow.result())
    assert status == 408 and "1 seconds" in body["message"]
    # A client that trickles keeps no thread longer than one that says nothing.
    begun = time.monotonic()
    server.raw(HEAD + b"Content-Length: 100\r\n\r\n", *([b" "] * 12), pause=0.25)
    assert time.monotonic() - begun < 6
    assert server.invoke({"data": [[1.0, "a", 0]]}).status_code == 200


def test_slow_headers_are_cut_off(model_json: Path, start: Start) -> None:
    """More clients that never end their headers than there are threads do not take the service away for good."""
    server = start(model_json, threads=2, timeout=1)
    with ThreadPoolExecutor(4) as pool:
        hung = [pool.submit(server.raw, b"GET /livez HTTP/1.1\r\nHost:") for _ in range(4)]
        assert server.client.get("/livez", timeout=10).status_code == 200
        for client in hung:
            assert client.result() == b""


def test_a_model_that_hangs_is_a_504_and_the_worker_is_replaced(model_json: Path, start: Start) -> None:
    """After the timeout the client gets 504 in JSON, and a new worker answers the next request."""
    server = start(model_json, timeout=1)
    status, body = answer(server.raw(HEAD + b'Content-Length: 30\r\n\r\n{"data": [[1.0, "slow", 100]]}'))
    assert status == 504 and "MPACK_TIMEOUT" in body["message"]
    server.wait()
    assert server.invoke({"data": [[1.0, "a", 0]]}).status_code == 200


def test_a_worker_that_hangs_ends_whatever_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a client that cannot be told nor what is written at the end keeps it."""

    class Ended(BaseException):
        pass

    def end(code: int) -> None:
        raise Ended

    def gone() -> None:
        raise RuntimeError("Event loop is closed")

    monkeypatch.setattr(os, "_exit", end)
    for late in ([], [gone]):
        deadlines = Deadlines(1)
        deadlines.late = late
        with pytest.raises(Ended):
            deadlines._replace_worker(gone)


def test_a_worker_that_dies_in_the_model_is_replaced(model_json: Path, start: Start) -> None:
    """A crash of the process in a prediction costs that request only."""
    server = start(model_json)
    with pytest.raises(httpx.TransportError):
        server.invoke({"data": [[1.0, "die", 0]]})
    server.wait()
    assert server.invoke({"data": [[1.0, "a", 0]]}).status_code == 200


BROKEN = [
    (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", 400),
    (HEAD + b"Content-Length: -1\r\n\r\n", 400),
    (HEAD + b"Content-Length: 1_0\r\n\r\n" + b"a" * 10, 400),
    (HEAD + b"Content-Length: 99999999999999\r\n\r\n", 413),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab\r\n0\r\n\r\n", 400),
    (HEAD + b"X: " + b"a" * 20_000 + b"\r\n\r\n", 431),
    (HEAD + b"".join(b"X%d: a\r\n" % number for number in range(200)) + b"\r\n", 431),
    (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", 414),
    (b"nonsense\r\n\r\n", 400),
    (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd", 400),
]


def test_broken_http_is_refused_in_json(model_json: Path, start: Start) -> None:
    """Whether gunicorn refuses it or we do: a 4xx with a message, and the service goes on."""
    server = start(model_json)
    for request, status in BROKEN:
        got, body = answer(server.raw(request, timeout=5))
        assert (got, bool(body["message"])) == (status, True), request[:200]
        assert server.client.get("/livez").status_code == 200


def test_chunked_bodies_and_pipelined_requests(model_json: Path, start: Start) -> None:
    """A chunked body is read whole; after a refused body the connection does not read it as the next request."""
    server = start(model_json)

    def pieces() -> Any:
        for position in range(0, len(GOOD), 7):
            yield GOOD[position : position + 7]

    chunked = server.client.post("/api/model/invoke", content=pieces(), headers={"Content-Type": "application/json"})
    assert chunked.json()["prediction"] == [2.0]
    smuggled = b"GET /nope HTTP/1.1\r\nHost: x\r\n\r\n"
    raw = server.raw(
        HEAD.replace(b"json", b"xml") + b"Content-Length: %d\r\n\r\n" % len(smuggled) + smuggled, timeout=3
    )
    assert raw.count(b"HTTP/1.1") == 1 and b" 415 " in raw


def test_a_model_that_cannot_load_ends_the_container(make_model: Callable[..., Path], start: Start) -> None:
    """Exit code 1, the reason as the last line on stderr, no restarts."""
    server = start(make_model("import no_such_module\n"), wait=False, workers=2)
    assert server.process.wait(30) == 1
    last = server.stderr().splitlines()[-1]
    assert "no_such_module" in last


def test_a_model_that_cannot_answer_its_sample_ends_the_container(
    make_model: Callable[..., Path], start: Start
) -> None:
    """Loaded but failing on its own sample is not ready, and says why in its last line."""
    model = make_model(sample={"request": {"data": [[1.0, "boom", 1]]}})
    server = start(model, wait=False, workers=2)
    assert server.process.wait(30) == 1
    assert "the grapes are off" in server.stderr().splitlines()[-1]


def test_a_worker_killed_while_it_loads_ends_the_container(make_model: Callable[..., Path], start: Start) -> None:
    """A process that vanishes while loading (out of memory) is not tried again for ever."""
    server = start(make_model("import os\ndef init():\n    os._exit(9)\n"), wait=False)
    assert server.process.wait(30) != 0
    assert server.stderr().strip()


def test_sigterm_while_the_model_loads(make_model: Callable[..., Path], start: Start) -> None:
    """A container stopped during a long load ends at once."""
    server = start(make_model("import time\ntime.sleep(30)\n"), wait=False)
    time.sleep(1.5)
    _, seconds = server.stop()
    assert seconds < 2


def test_a_wrong_setting_is_a_sentence(model_json: Path, start: Start) -> None:
    """MPACK_WORKERS=many: exit 2 and one line."""
    server = start(model_json, wait=False, workers="many")
    assert server.process.wait(30) == 2
    assert re.fullmatch(r".*MPACK_WORKERS.*\n", server.stderr())


def test_a_port_in_use_ends_the_container(model_json: Path, start: Start) -> None:
    """The reason names the address."""
    first = start(model_json)
    second = start(model_json, wait=False, port=first.port)
    assert second.process.wait(30) != 0
    assert str(first.port) in second.stderr()


def test_health_command(model_json: Path, start: Start, command: Callable[..., Any]) -> None:
    """`health` exits 0 while the service is ready and 1 with a sentence when there is none."""
    server = start(model_json)
    assert command(model_json, "health", PORT=server.port, HOST="0.0.0.0").code == 0
    server.stop()
    gone = command(model_json, "health", PORT=server.port)
    assert gone.code == 1 and gone.err.count("\n") == 1


def test_threads_do_not_block_each_other(model_json: Path, start: Start) -> None:
    """One slow prediction leaves the other threads of the worker free."""
    server = start(model_json, threads=4)
    slow = threading.Thread(target=server.invoke, args=({"data": [[1.0, "slow", 10]]},))
    slow.start()
    begun = time.monotonic()
    assert server.client.get("/livez").status_code == 200
    assert time.monotonic() - begun < 0.8
    slow.join()
