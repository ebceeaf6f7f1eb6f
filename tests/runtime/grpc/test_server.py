"""gRPC by the real service: worker processes that share a port, limits, deadlines, stops, a token, what is written."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from mpack_runtime.config import GrpcSettings
from mpack_runtime.errors import SettingsError
from mpack_runtime.grpc.port import reserve
from tritonclient.utils import InferenceServerException

Start = Callable[..., Any]
PATH = "/inference.GRPCInferenceService/"


@pytest.fixture
def port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def client(port: int) -> triton.InferenceServerClient:
    """A client with a connection of its own, where gRPC would share one."""
    own = [("grpc.use_local_subchannel_pool", 1)]
    return triton.InferenceServerClient(f"127.0.0.1:{port}", channel_args=own)


def wine(alcohol: float = 12.5, grape: str = "merlot", year: int = 1999, rows: int = 1) -> list[triton.InferInput]:
    """A row, `rows` times."""
    made = []
    for name, datatype, value in (("alcohol", "FP64", alcohol), ("grape", "BYTES", grape), ("year", "INT64", year)):
        item = triton.InferInput(name, [rows], datatype)
        item.set_data_from_numpy(np.array([value] * rows, object if datatype == "BYTES" else None))
        made.append(item)
    return made


def ask(port: int, *row: Any, **options: Any) -> float:
    """The quality of one wine, by a new connection."""
    with client(port) as asked:
        return float(asked.infer("wine", wine(*row), **options).as_numpy("quality").item())


def refusal(port: int, *row: Any, **options: Any) -> tuple[str, str]:
    """The code and the words with which a call is refused."""
    with pytest.raises(InferenceServerException) as caught:
        ask(port, *row, **options)
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def workers(server: Any) -> list[int]:
    """The worker processes."""
    pid = server.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def uses_grpc(pid: int) -> bool:
    return "cygrpc" in Path(f"/proc/{pid}/maps").read_text()


def listening(port: int) -> set[str]:
    """The sockets that listen on a port, as /proc/PID/fd shows them; gRPC's are IPv6's with IPv4's addresses."""
    lines = [line for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    rows = [line.split() for line in lines]
    return {f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"}


def listens(pid: int, port: int) -> bool:
    """Whether a process does."""
    links = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.add(os.readlink(path))
    return bool(listening(port) & links)


def test_two_workers_share_the_port_and_a_killed_one_is_replaced(model_json: Path, start: Start, port: int) -> None:
    """Each listens; while one is dead the other answers; the new one takes part. The master never loads grpc."""
    server = start(model_json, workers=2, grpc_port=port)
    until(lambda: [listens(pid, port) for pid in workers(server)] == [True, True])
    before = workers(server)
    assert [uses_grpc(pid) for pid in (server.process.pid, *before)] == [False, True, True]
    assert [ask(port) for _ in range(20)] == [14.499] * 20
    os.kill(before[0], signal.SIGKILL)
    until(lambda: before[0] not in workers(server))
    assert [ask(port) for _ in range(20)] == [14.499] * 20
    until(lambda: [listens(pid, port) for pid in workers(server)] == [True, True])
    new = next(pid for pid in workers(server) if pid not in before)
    os.kill(before[1], signal.SIGKILL)  # so that only the new one can answer
    until(lambda: before[1] not in workers(server))
    assert uses_grpc(new) and [ask(port) for _ in range(20)] == [14.499] * 20
    assert server.stop()[0] == 0


def test_without_the_setting_nothing_of_it_is_loaded(model_json: Path, start: Start) -> None:
    """Neither in the master nor in a worker."""
    server = start(model_json)
    assert not any(map(uses_grpc, (server.process.pid, *workers(server))))


def test_calls_in_flight_are_finished_and_new_ones_unavailable(model_json: Path, start: Start, port: int) -> None:
    """SIGTERM during a prediction of 1.5 s, with an idle connection open: its answer comes; the end is soon after."""
    server = start(model_json, grpc_port=port)
    with ThreadPoolExecutor(1) as pool, client(port) as idle:
        assert idle.is_server_ready()
        asked = pool.submit(ask, port, 1.0, "slow", 15)
        until(lambda: in_flight(server, 1))
        server.process.send_signal(signal.SIGTERM)
        until(lambda: not idle.is_server_ready())
        for one in (idle, client(port)):
            with pytest.raises(InferenceServerException, match=r"UNAVAILABLE.* The service stops"):
                one.infer("wine", wine())
        assert not asked.done() and asked.result() == 1.015
    assert server.process.wait(5) == 0 and not listening(port)
    assert refusal(port)[0] == "UNAVAILABLE"


def test_interrupt_is_a_quick_stop(model_json: Path, start: Start, port: int) -> None:
    """Ctrl-C cuts a call of four seconds off, though its thread, as one of HTTP's, cannot be stopped."""
    server = start(model_json, grpc_port=port)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(refusal, port, 1.0, "slow", 40)
        until(lambda: in_flight(server, 1))
        server.process.send_signal(signal.SIGINT)
        assert asked.result()[0] in ("UNAVAILABLE", "CANCELLED")
        assert server.process.poll() is None, "it was answered before the model was done"
        assert server.process.wait(10) == 0


@pytest.mark.parametrize("reuse", [False, True])
def test_a_port_that_is_taken_ends_the_container(model_json: Path, start: Start, port: int, reuse: bool) -> None:
    """Code 1 and a sentence, before the model is loaded; also where the other would share the port."""
    with socket.socket() as other:
        if reuse:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        server = start(model_json, wait=False, grpc_port=port)
        assert server.process.wait(30) == 1
    [line] = server.stderr().splitlines()
    assert str(port) in line and "MPACK_GRPC_PORT" in line and "in use" in line


def test_an_image_without_grpc_says_so(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Code 2, and what adds it."""
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(SettingsError, match="argument grpc=true") as caught:
        reserve("127.0.0.1", GrpcSettings(port))
    assert caught.value.exit_code == 2


def test_one_port_cannot_be_both(model_json: Path, start: Start, port: int) -> None:
    """Code 2 and a sentence."""
    server = start(model_json, wait=False, port=port, grpc_port=port)
    assert server.process.wait(30) == 2 and "MPACK_GRPC_PORT" in server.stderr()


def test_a_model_that_hangs_is_late_and_the_worker_is_replaced(model_json: Path, start: Start, port: int) -> None:
    """DEADLINE_EXCEEDED after the timeout, also counted; a client that went away earlier changes nothing."""
    server = start(model_json, timeout=1, grpc_port=port)
    for options in ({}, {"client_timeout": 0.3}):
        before = workers(server)
        code, words = refusal(port, 1.0, "slow", 100, **options)
        assert code == "DEADLINE_EXCEEDED" and ("MPACK_TIMEOUT" in words or options)
        until(lambda before=before: not set(before) & set(workers(server)))  # type: ignore[misc]
        until(lambda: bool(listening(port)))
        assert ask(port) == 14.499
    server.wait()
    text = server.client.get("/metrics").text
    assert 'mpack_errors_total{model="wine",version="1.2",kind="timeout"} 2\n' in text
    assert 'mpack_errors_total{model="wine",version="1.2",kind="lost"} 0\n' in text


def in_flight(server: Any, number: int) -> bool:
    """Whether so many requests and calls are being answered, and the one that asks."""
    return f'in_flight{{model="wine",version="1.2"}} {number + 1}\n' in server.client.get("/metrics").text


def test_more_calls_than_allowed_are_refused_at_once(model_json: Path, start: Start, port: int) -> None:
    """RESOURCE_EXHAUSTED, while health answers; what waited is answered."""
    server = start(model_json, threads=1, grpc_port=port, grpc_calls=2)
    with ThreadPoolExecutor(2) as pool, client(port) as asked:
        slow = [pool.submit(ask, port, 1.0, "slow", 20) for _ in range(2)]
        until(lambda: in_flight(server, 2))
        code, words = refusal(port)
        assert code == "RESOURCE_EXHAUSTED" and "MPACK_GRPC_CALLS" in words
        assert asked.is_server_ready() and asked.is_model_ready("wine")
        assert [call.result() for call in slow] == [1.02, 1.02]
    assert ask(port) == 14.499


def test_calls_wait_in_the_queue_that_http_has(model_json: Path, start: Start, port: int) -> None:
    """While a request over HTTP is answered: UNAVAILABLE for one that waits too long, RESOURCE_EXHAUSTED for more."""
    server = start(model_json, threads=1, grpc_port=port, queue=1, queue_timeout=1)
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(server.invoke, {"data": [[1.0, "slow", 30]]})
        until(lambda: in_flight(server, 1))
        waiting = pool.submit(refusal, port)
        until(lambda: in_flight(server, 2))
        code, words = refusal(port)
        assert code == "RESOURCE_EXHAUSTED" and "MPACK_QUEUE" in words
        code, words = waiting.result()
        assert code == "UNAVAILABLE" and "MPACK_QUEUE_TIMEOUT" in words
        assert slow.result().status_code == 200


def test_no_call_waits_for_a_thread(model_json: Path, start: Start, port: int) -> None:
    """One more than the model and its queue have room for is refused at once, where nothing comes over HTTP either."""
    server = start(model_json, threads=1, queue=1, grpc_port=port)
    with ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(ask, port, 1.0, "slow", 15) for _ in range(2)]
        until(lambda: in_flight(server, 2))
        code, words = refusal(port)
        assert code == "RESOURCE_EXHAUSTED" and "MPACK_QUEUE" in words
        assert [call.result() for call in slow] == [1.015, 1.015]
    assert 'refused_total{model="wine",version="1.2",reason="full"} 1' in server.client.get("/metrics").text


def test_a_message_is_bounded_unpacked_too(model_json: Path, start: Start, port: int) -> None:
    """RESOURCE_EXHAUSTED above MPACK_MAX_BODY, also for what gzip made small; below it, an answer."""
    server = start(model_json, max_body=1 << 20, grpc_port=port)
    with client(port) as asked:
        assert len(asked.infer("wine", wine(rows=20_000)).as_numpy("quality")) == 20_000
        for compression in (None, "gzip"):
            with pytest.raises(InferenceServerException, match="RESOURCE_EXHAUSTED"):
                asked.infer("wine", wine(rows=100_000), compression_algorithm=compression)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        nothing = channel.stream_unary(f"{PATH}ModelInfer").future(iter(()))
        assert nothing.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "there is none" in nothing.details()
    server.stop()
    lines = [json.loads(line) for line in server.stdout().splitlines()]
    assert [line["status"] for line in lines if line["method"] == "gRPC"] == [200, 413, 413, 413]
    assert "Traceback" not in server.stderr()


def test_a_client_that_never_sends_its_message_is_cut_off(model_json: Path, start: Start, port: int) -> None:
    """DEADLINE_EXCEEDED after the timeout; it takes a place, and no thread."""
    server = start(model_json, timeout=1, threads=1, grpc_port=port)
    waiting = threading.Event()

    def nothing() -> Any:
        waiting.wait(30)
        yield from ()

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_unary(f"{PATH}ModelInfer").future(nothing())
        assert ask(port) == 14.499
        assert call.exception(timeout=20).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        waiting.set()
    assert "did not arrive" in call.details() and server.process.poll() is None


def test_a_token_is_wanted(model_json: Path, start: Start, port: int) -> None:
    """UNAUTHENTICATED without it, for reflection too; health is open unless it is closed."""
    for closed in ("false", "true"):
        server = start(model_json, grpc_port=port, auth_token="s3cret", auth_health=closed, wait=False)
        until(lambda: bool(listening(port)))
        for headers in (None, {"authorization": "Bearer nope"}, {"authorization": "s3cret"}):
            code, words = refusal(port, headers=headers)
            assert code == "UNAUTHENTICATED" and "Bearer TOKEN" in words
        assert ask(port, headers={"authorization": "Bearer s3cret"}) == 14.499
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            calls = [channel.unary_unary(f"{PATH}ServerReady"), channel.unary_unary("/grpc.health.v1.Health/Check")]
            codes = [call.future(b"").code() for call in calls]
            wanted = grpc.StatusCode.UNAUTHENTICATED if closed == "true" else grpc.StatusCode.OK
            assert codes == [wanted] * 2
            info = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
            assert info(iter([b""])).code() is grpc.StatusCode.UNAUTHENTICATED
        server.stop()


def test_every_call_is_a_line_of_the_access_log(model_json: Path, start: Start, port: int) -> None:
    """With the code, HTTP's status of the same answer, and the request's id; what a model prints is not in it."""
    server = start(model_json, grpc_port=port)
    assert ask(port, headers={"request-id": "mine"}) == 14.499
    assert refusal(port, 1.0, "boom", 1) == ("INTERNAL", "Exception during prediction: the grapes are off")
    server.stop()
    lines = [json.loads(line) for line in server.stdout().splitlines()]
    lines = [line for line in lines if line["method"] == "gRPC"]
    assert [(line["path"], line["status"], line["code"]) for line in lines] == [
        (f"{PATH}ModelInfer", 200, "OK"),
        (f"{PATH}ModelInfer", 500, "INTERNAL"),
    ]
    assert lines[0]["request_id"] == "mine" and lines[0]["remote"] == "127.0.0.1" and lines[0]["ms"] > 0
    assert lines[0]["agent"].startswith("grpc-python")


def test_the_self_check_loads_all_of_it(model_json: Path, command: Callable[..., Any]) -> None:
    """Where gRPC is served, so that the image has byte code for every module of the road."""
    done = command(model_json, "self-check", "--modules", GRPC_PORT=9000)
    modules = json.loads(done.out)["modules"]
    folder = Path(__file__).parents[3] / "runtime/src/mpack_runtime/grpc"
    lacking = {path.name for path in folder.glob("*.py")} - {Path(path).name for path in modules if "/grpc/" in path}
    assert (done.code, lacking) == (0, set())


def test_both_roads_at_once(model_json: Path, start: Start, port: int) -> None:
    """Sixty calls from twenty clients, and as many requests over HTTP: each gets its own answer."""
    server = start(model_json, workers=2, grpc_port=port)
    one = client(port)

    def by_grpc(number: int) -> None:
        found = one.infer("wine", wine(float(number), rows=number + 1), request_id=str(number))
        assert found.get_response().id == str(number)
        assert found.as_numpy("quality").ravel().tolist() == [number + 1.999] * (number + 1)

    def by_http(number: int) -> None:
        body = {"data": [[float(number), "a", 1999]] * (number + 1)}
        answer = httpx.post(f"{server.url}/api/model/invoke", json=body, trust_env=False, timeout=20)
        assert answer.json()["prediction"] == [number + 1.999] * (number + 1)

    with one, ThreadPoolExecutor(20) as pool:
        for done in [pool.submit(road, number) for number in range(60) for road in (by_grpc, by_http)]:
            done.result()


def test_predictions_are_kept_as_those_over_http(tmp_path: Path, model_json: Path, start: Start, port: int) -> None:
    """Request and answer as V2's JSON, with the call's id; who asks and redacted columns are not in it."""
    kept = tmp_path / "logs"
    server = start(model_json, grpc_port=port, log_dir=kept, log_redact="grape")
    headers = {"request-id": "mine", "authorization": "Bearer x", "x-team": "cellar"}
    assert ask(port, headers=headers) == 14.499
    assert refusal(port, 1.0, "boom", 1)[0] == "INTERNAL"
    assert refusal(port, model_version="9")[0] == "NOT_FOUND"
    server.stop()
    streams = [
        [json.loads(line) for path in sorted((kept / stream).rglob("*.json")) for line in path.open()]
        for stream in ("request_response", "response_body")
    ]
    assert [[record["request_id"] == "mine" for record in stream] for stream in streams] == [[True, False, False]] * 2
    first = streams[0][0]
    asked = json.loads(first["request_content"])
    assert {item["name"]: item["data"] for item in asked["inputs"]} == {
        "alcohol": [12.5],
        "grape": "***",
        "year": [1999],
    }
    told = (first["request_http_method"], first["request_uri"], first["response_status"])
    assert told == ("gRPC", f"{PATH}ModelInfer", "200")
    assert first["request_http_headers"]["x-team"] == "cellar" and "authorization" not in first["request_http_headers"]
    [item] = json.loads(streams[1][0]["response_content"])["outputs"]
    assert item == {"name": "quality", "datatype": "FP64", "shape": [1, 1], "data": [14.499]}
    assert [record["response_status"] for record in streams[0]] == ["200", "500", "404"]
    assert [record["request_content"] for record in streams[0][1:]] == [None, None], "redaction keeps no refusal"
