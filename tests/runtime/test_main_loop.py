"""Predictions that a worker's loop answers itself: which, that nobody can tell, and what else goes on."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import resource
import signal
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.parser import RequestParser
from gunicorn.workers.gthread import TConn
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mpack_runtime.errors import Overloaded
from mpack_runtime.frame import Frame
from mpack_runtime.gate import Ask, Gate
from mpack_runtime.rest import quick
from mpack_runtime.rest.deadline import Deadlines
from mpack_runtime.rest.deputy import Deputy
from mpack_runtime.rest.quick import CALLS, FORGIVEN, LARGEST, MOST, QUICK, SLOW, Pace, Quick

Start = Callable[..., Any]
ENTRY = """
import ctypes, decimal, threading, time
decimal.getcontext().prec = 3  # of the thread that loads
def init(): return "matrix"
def info(): return [], []
def predict_on_matrix(matrix, provided_columns_names=None):
    if matrix[0][1] == "slow":
        time.sleep(matrix[0][2] / 10)
    if matrix[0][1] == "c":
        ctypes.CDLL(None).sleep(matrix[0][2])
    if matrix[0][1] == "boom":
        raise ValueError("the grapes are off")
    if matrix[0][1] == "long":
        return ["x" * 16_000_000], ["where"]
    here = threading.current_thread().name == "loop"
    if matrix[0][1] == "third":
        return [f"{here} {decimal.Decimal(1) / 3} {threading.current_thread() is threading.main_thread()}"], ["where"]
    return [("loop" if here else "thread") for row in matrix], ["where"]
"""
OUTPUTS = [{"kind": "column", "name": "where", "type": "string", "required": True}]
LOOP, THREAD = b'{"prediction":["loop"],"columns":["where"]}', b'{"prediction":["thread"],"columns":["where"]}'


def asked(grape: str = "a", year: int = 1, *headers: str, path: str = "/api/model/invoke") -> bytes:
    """A raw request for one row."""
    body = json.dumps({"data": [[1.0, grape, year]]}).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: x", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def body_of(raw: bytes) -> bytes:
    """What follows an answer's head."""
    return raw.partition(b"\r\n\r\n")[2]


@pytest.fixture
def swift(make_model: Callable[..., Path], start: Start) -> Callable[..., Any]:
    """Makes a server whose model has shown that it is quick."""

    def make(**settings: Any) -> Any:
        signature = {"inputs": json.loads(_INPUTS), "outputs": OUTPUTS, "params": []}
        server = start(make_model(ENTRY, sample=None, signature=signature), **settings)
        server.before = server.raw(asked())
        until_quick(server)
        return server

    return make


def until_quick(server: Any) -> None:
    """Returns when the loop answers."""
    for _ in range(200 * CALLS):
        if body_of(server.raw(asked())) == LOOP:
            return
    raise AssertionError("the loop answers nothing")


_INPUTS = json.dumps(
    [{"kind": "column", "name": name, "type": kind} for name, kind in (("a", "double"), ("g", "string"), ("y", "long"))]
)


def test_nobody_can_tell_but_the_model(swift: Callable[..., Any]) -> None:
    """The same bytes but for Date and id, as a thread sends; the same log; counted alike."""
    server = swift()
    assert body_of(server.before) == THREAD

    def plain(raw: bytes) -> bytes:
        return re.sub(rb"\r\n(Date|Request-Id|Content-Length): [^\r]*", rb"\r\n\1:", raw.partition(b"\r\n\r\n")[0])

    now = server.raw(asked())
    assert body_of(now) == LOOP and plain(now) == plain(server.before)
    mine = server.raw(asked("a", 1, "Request-Id: mine", "User-Agent: me"))
    assert body_of(mine) == LOOP and b"\r\nRequest-Id: mine\r\n" in mine
    wrong = server.raw(asked("a", 1).replace(b"data", b"date"))
    assert wrong.startswith(b"HTTP/1.1 400 ") and server.raw(asked("boom")).startswith(b"HTTP/1.1 500 ")
    text = server.client.get("/metrics").text
    server.stop()
    lines = [json.loads(line) for line in server.stdout().splitlines()]
    lines = [line for line in lines if line["path"] == "/api/model/invoke"]
    assert len({tuple(line) for line in lines}) == 1 and {line["status"] for line in lines} == {200, 400, 500}
    named = next(line for line in lines if line["request_id"] == "mine")
    assert (named["agent"], named["bytes"], named["remote"], named["method"]) == ("me", len(LOOP), "127.0.0.1", "POST")
    for status in (200, 400, 500):
        number = sum(line["status"] == status for line in lines)
        assert f'route="/api/model/invoke",status="{status}"}} {number}\n' in text
    assert "mpack_requests_in_flight" in text and re.search(r"mpack_requests_in_flight{[^}]*} 1\n", text)


def test_to_the_model_it_is_a_thread_like_others(swift: Callable[..., Any]) -> None:
    """Settings that belong to the thread that loaded it hold in none that answers."""
    assert f'["True 0.{"3" * 28} False"]'.encode() in swift().raw(asked("third"))


def test_a_signal_interrupts_no_call_of_the_model(swift: Callable[..., Any]) -> None:
    """A sleep in C, which a signal's handler would end in the thread that runs it."""
    server = swift()
    with ThreadPoolExecutor(1) as pool:
        last = pool.submit(server.raw, asked("c", 2))
        time.sleep(0.5)
        assert server.stop(signal.SIGTERM)[1] > 1
        assert body_of(last.result()) == LOOP


def test_while_it_takes_long_there_are_no_more_connections_than_may_be(swift: Callable[..., Any]) -> None:
    """The others wait to be accepted, so that files are left."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (192, limits[1]))  # 64 connections
    try:
        server = swift(workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    (worker,) = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    before = len(os.listdir(f"/proc/{worker}/fd"))
    with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as stack:
        slow = pool.submit(server.raw, asked("slow", 15))
        time.sleep(0.3)
        for _ in range(120):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        time.sleep(0.7)
        assert not slow.done() and len(os.listdir(f"/proc/{worker}/fd")) <= before + 70


def test_an_answer_that_its_client_does_not_wait_for_is_logged(swift: Callable[..., Any]) -> None:
    """As a thread's is."""
    server = swift()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(asked("slow", 3, "Request-Id: gone"))
        time.sleep(0.1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closes by a reset
    server.stop()
    (line,) = [line for line in server.stdout().splitlines() if '"gone"' in line]
    assert json.loads(line)["status"] == 200


def test_what_is_not_plain_or_not_all_there_has_a_thread(swift: Callable[..., Any]) -> None:
    """Whatever comes before and after it on the connection."""
    server = swift()
    whole = asked()
    wide = whole.replace(b"Host: x", b"Host: x\r\nX-Long: " + b"x" * 4000)
    for raw in (asked("a", 1, "Connection: close"), whole.replace(b"HTTP/1.1", b"HTTP/1.0")):
        assert body_of(server.raw(raw)) == THREAD
    assert body_of(server.raw(whole[:-5], whole[-5:], pause=0.1)) == THREAD
    assert body_of(server.raw(wide)) == LOOP
    for rows, where in ((3000, b"loop"), (30_000, b"thread")):  # 60 kB, 600 kB
        body = json.dumps({"data": [[1.0, "a", 1]] * rows}).encode()
        head = whole.partition(b"\r\n\r\n")[0].rpartition(b" ")[0]
        answer = body_of(server.raw(head + b" %d\r\n\r\n" % len(body) + body, timeout=30))
        assert len(json.loads(answer)["prediction"]) == rows and where in answer
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:

        def say(data: bytes, answers: int) -> list[bytes]:
            connection.sendall(data)
            received = b""
            while received.count(b"}") < answers and (part := connection.recv(65536)):
                received += part
            return re.findall(rb"HTTP/1.1 (\d+)|prediction\":\[\"(\w+)", received)

        assert say(whole, 1) == [(b"200", b""), (b"", b"loop")]
        assert say(whole * 3, 3)[::2] == [(b"200", b"")] * 3  # as one
        assert say(whole, 1)[1] == (b"", b"loop")
        assert say(whole[:30], 0) == []
        assert say(whole[30:], 1)[0] == (b"200", b"")
        assert say(whole, 1)[1] == (b"", b"loop")


def test_others_are_answered_while_it_takes_long(swift: Callable[..., Any]) -> None:
    """Health, connections that are there and new ones; predictions have threads meanwhile."""
    server = swift(threads=2)
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=server.url, trust_env=False) as there:
        assert there.get("/livez").status_code == 200
        slow = pool.submit(server.raw, asked("slow", 20))
        time.sleep(0.5)
        begun = time.monotonic()
        assert there.get("/livez").status_code == 200
        assert body_of(server.raw(asked())) == THREAD
        assert time.monotonic() - begun < 1 and not slow.done()
        assert body_of(slow.result()) == LOOP
        assert body_of(server.raw(asked())) == LOOP  # one alone tells nothing


def test_it_ends_as_a_threads_does(swift: Callable[..., Any]) -> None:
    """After MPACK_TIMEOUT a 504 and another worker; before a stop an answer."""
    server = swift(timeout=2)
    raw = server.raw(asked("slow", 100))
    assert raw.startswith(b"HTTP/1.1 504 ") and b"MPACK_TIMEOUT" in raw
    server.wait()
    until_quick(server)
    with ThreadPoolExecutor(1) as pool:
        last = pool.submit(server.raw, asked("slow", 10))
        time.sleep(0.3)
        assert server.stop(signal.SIGTERM)[0] == 0
        assert body_of(last.result()) == LOOP


def test_a_client_that_takes_no_answer_holds_nobody(swift: Callable[..., Any]) -> None:
    """A thread sends what is left, and the connection goes on."""
    server = swift()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(asked("long"))
        time.sleep(0.5)
        assert server.client.get("/livez").status_code == 200
        received = bytearray()
        while not received.endswith(b'"columns":["where"]}') and (part := connection.recv(1 << 20)):
            received += part
        assert len(received) > 16_000_000
        connection.sendall(asked())
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("load", [{"batching": "on"}, {"max_batch_delay": 5}, {"auth_token": "x"}])
def test_what_may_wait_is_left_to_threads(make_model: Callable[..., Path], start: Start, load: Any) -> None:
    """Requests that are joined, or stand behind what operators switch on."""
    server = start(make_model(ENTRY, sample=None), **load)
    token = ["Authorization: Bearer x"] if "auth_token" in load else []
    assert all(b'["thread"]' in server.raw(asked("a", 1, *token)) for _ in range(3 * CALLS))


def test_the_pace() -> None:
    """One quick call of the first ones makes a model quick; answers that are slow end it, for longer each time, but
    not one alone."""
    pace = Pace()

    def calls_until_quick(seconds: float) -> int:
        for number in range(4 * MOST):
            if pace.quick:
                return number
            pace.called(seconds if number % 3 else 1.0)
        return 0

    assert calls_until_quick(QUICK / 2) == CALLS
    for times in (2, 4, 8):
        pace.answered(0.2)
        assert pace.quick
        pace.answered(0.2)
        assert not pace.quick and calls_until_quick(QUICK / 2) == times * CALLS
    for _ in range(FORGIVEN):
        pace.answered(SLOW / 2)
    pace.answered(SLOW * 4)  # another process had the processor
    assert pace.quick
    for _ in range(40):
        if pace.quick:
            pace.answered(SLOW * 1.5)
    assert not pace.quick
    assert calls_until_quick(QUICK / 2) == CALLS
    pace.answered(0.2)
    pace.answered(0.2)
    assert calls_until_quick(QUICK) == 0


def test_a_claimed_place_is_one() -> None:
    """Nobody takes it meanwhile; it is given back where it was not used, and never twice."""
    rows = Frame(None, (np.zeros(1),), 1)
    gate = Gate(1, 1, 1)
    assert gate.claim() and not gate.claim()
    with ThreadPoolExecutor(1) as pool, pytest.raises(Overloaded):
        pool.submit(gate.enter, Ask(rows)).result()
    assert gate.enter(Ask(rows)) and not gate.claim()
    gate.unclaim()
    assert not gate.claim()
    gate.leave()
    assert gate.claim()
    gate.unclaim()
    assert gate._running == 0


# What gunicorn makes of a request, and what Quick does.

_CONFIG = Config()
_WHERE = (("10.0.0.1", 5000), ("10.0.0.2", 8080))
_NAMES = st.sampled_from(["Host", "Content-Type", "X-Thing", "Accept", "x-request-id", "X_Under", "Cookie"])
_VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=12)
_HEADERS = st.lists(st.tuples(_NAMES, _VALUES), max_size=5)
_HOSTILE = [
    b"Transfer-Encoding: chunked", b"Content-Length: 3", b"content-length : 3", b" folded", b"Bad Name: x", b"No colon",
    b"Expect: 100-continue", b"Connection: close", b"Upgrade: h2c", b"X: a\rb", b"X: a\nb", b"X: a\x00b", b": x",
    b"Host: second", b"Content-Type: second", b"Transfer_Encoding: chunked", b"\tX: y", b"Trailer: X",
]  # fmt: skip


def reader() -> tuple[Quick, Any]:
    """One whose reading is looked at, and a connection."""
    worker = SimpleNamespace(cfg=_CONFIG, wsgi=None, tpool=None)
    deputy = Deputy(lambda: None, lambda seconds: None, lambda: None)
    made = Quick(worker, deputy, Gate(1, 1, 1), Pace(), Deadlines(1))
    return made, SimpleNamespace(client=_WHERE[0], server=_WHERE[1], sock=io.BytesIO())


def by_gunicorn(data: bytes) -> tuple[dict[str, Any], bytes, bytes]:
    """Its environ, the body, and what it leaves for a next request. Raises what it raises."""
    parser = RequestParser(_CONFIG, iter([data]), _WHERE[0])
    _, environ = wsgi.create(next(parser), None, *_WHERE, _CONFIG)
    body = environ["wsgi.input"].read()
    return environ, body, parser.unreader.read()


_OWN = ("wsgi.input", "wsgi.errors", "wsgi.early_hints", "gunicorn.socket", "wsgi.multithread")


def comparable(environ: dict[str, Any]) -> dict[str, Any]:
    """All that is not an object of one request."""
    return {key: value for key, value in environ.items() if key not in _OWN}


@settings(max_examples=400, deadline=None)
@given(_HEADERS, st.lists(st.sampled_from(_HOSTILE), max_size=1), st.integers(0, 5), st.lists(st.binary(max_size=9)))
@example([("Host", "x")], [], 0, [b"{}", b"[1, 2]"])
@example([("Host", "x")], [b"Content-Length: 3"], 0, [b"abc"])
def test_what_it_reads_is_what_gunicorn_reads(
    headers: list[tuple[str, str]], more: list[bytes], place: int, bodies: list[bytes]
) -> None:
    """The head read anew, and the one that is known, with bodies of other lengths; nothing is left of the bytes."""
    made, conn = reader()
    lines = [f"{name}: {value}".encode("latin-1") for name, value in headers]
    lines[place:place] = more
    for body in bodies:
        said = [*lines[:2], b"Content-Length: %d" % len(body), *lines[2:]]
        data = b"\r\n".join([b"POST /api/model/invoke?a=%41 HTTP/1.1", *said]) + b"\r\n\r\n" + body
        try:
            environ = made._environ(conn, data)
        except Exception:
            continue  # left to gunicorn, which says so
        if environ is None:
            continue
        wanted, read, left = by_gunicorn(data)
        assert comparable(environ) == comparable(wanted)
        assert environ["wsgi.input"].read() == read == body and left == b""
    if not more and all(name not in ("Host", "Content-Type", "X_Under") for name, _ in headers) and bodies:
        assert environ is not None


def test_heads_that_come_once_are_not_kept() -> None:
    """Nor more than so many, nor long ones; nor are requests read that are too long."""
    made, conn = reader()
    for number in range(3 * quick.HEADS):
        assert made._environ(conn, asked("a", 1, f"X-Thing: {number}")) is not None
        assert 0 < len(made._heads) <= quick.HEADS
    kept = len(made._heads)
    for header in ("Request-Id: 1", "TraceParent: 1", "X-Long: " + "x" * quick.LONGEST):
        assert made._environ(conn, asked("a", 1, header)) is not None
    assert len(made._heads) == kept
    assert made._environ(conn, asked("a" * LARGEST)[:LARGEST]) is None


def test_a_full_round_and_a_busy_model_are_left_to_the_lanes() -> None:
    """The request is untouched then."""
    ours, theirs = socket.socketpair()
    made, _ = reader()
    made._lanes = SimpleNamespace(answered=1)
    made._pace.quick = True
    conn = TConn(_CONFIG, ours, *_WHERE)
    theirs.sendall(asked())
    assert made.answer(conn) is None  # capacity 1
    made._lanes.answered = 0
    made._gate._running = 1
    assert made.answer(conn) is None
    assert ours.recv(65536) == asked() and made._lanes.answered == 0
    ours.close()
    theirs.close()
