"""Mutated requests of every road against a real server: no 5xx, no hang, no growth.

`make fuzz` sends 100,000; MPACK_TEST_REQUESTS is how many, MPACK_TEST_SEED which.
"""

from __future__ import annotations

import copy
import gzip
import http.client
import json
import os
import random
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.conftest import REQUEST, Server

REQUESTS = int(os.environ.get("MPACK_TEST_REQUESTS", "4000"))
SEED = int(os.environ.get("MPACK_TEST_SEED", "1"))
CLIENTS = 4
#: Refusals that a client can be at fault for; gunicorn's own among them.
ANSWERS = {200, 400, 404, 405, 408, 411, 413, 414, 415, 431}
#: Seconds after which an answer counts as none, and bytes that a worker may grow by.
PATIENCE, GROWTH = 20.0, 32 << 20

Sent = tuple[str, str, dict[str, str], bytes]

ROWS = REQUEST["data"]
RECORDS = [dict(zip(REQUEST["columns"], row, strict=True)) for row in ROWS]
V2 = {
    "id": "7",
    "inputs": [
        {"name": "alcohol", "datatype": "FP64", "shape": [2], "data": [12.5, 11.0]},
        {"name": "grape", "datatype": "BYTES", "shape": [2, 1], "data": [["merlot"], [None]]},
        {"name": "year", "datatype": "INT64", "shape": [2], "data": [1999, 2001], "parameters": {"content_type": "pd"}},
    ],
    "outputs": [{"name": "quality", "parameters": {"binary_data": True}}],
    "parameters": {"binary_data_output": False},
}
INFER, INVOKE = "/v2/models/wine/infer", "/api/model/invoke"
TABLES: list[tuple[str, Any]] = [
    (INVOKE, REQUEST),
    (INVOKE, {"instances": ROWS}),
    ("/invocations", {"dataframe_split": REQUEST}),
    ("/invocations", {"dataframe_records": RECORDS, "params": {}}),
    ("/invocations", {"inputs": {"alcohol": [1.0], "grape": ["x"], "year": [2000]}}),
    ("/v1/models/wine:predict", {"instances": RECORDS}),
    (INFER, V2),
    ("/v2/repository/index", {"ready": True}),
]
#: Values that stand in for others, and bytes that are put in.
VALUES: list[Any] = [None, True, 0, -1, 2**31, 2**53 + 1, 2**63, 2**64, 10**400, 1e308, 5e-324, 0.5, "", "\x00"]
VALUES += ["ä" * 9, "\ud800", [], {}, [[]], [None], [1, "a"], {"a": 1}, "FP32", "2024-01-01", "AAE="]
VALUES += [[[1.5, "x", 1]] * 50]
TOKENS = [b"null", b"NaN", b"-Infinity", b"1e999", b"[" * 999, b"{", b"]", b'"', b",", b":", b"\\u0000", b"\\ud800"]
TOKENS += [b"\xff\xfe", b"\xef\xbb\xbf", b"\x00", b"\r\n", b"9" * 400, b"-0", b"0x1", b"//", b'"a":1,"a":2', b"\xc3"]
TYPES = ["", "text/csv", "text/csv; header=absent", "application/octet-stream", "application/x-www-form-urlencoded"]
TYPES += ["application/json; charset=utf-16", "application/vnd.apache.arrow.stream", "text/plain", "a"]


def seeds() -> list[Sent]:
    """Requests that are answered with 200."""
    json_type = {"Content-Type": "application/json"}
    found: list[Sent] = [("POST", path, json_type, json.dumps(value).encode()) for path, value in TABLES]
    found.append(("POST", INVOKE, {**json_type, "Content-Encoding": "gzip"}, gzip.compress(found[0][3])))
    csv = b"alcohol,grape,year\n12.5,merlot,1999\n11,,2001\n"
    found += [("POST", path, {"Content-Type": "text/csv"}, csv) for path in (INVOKE, "/invocations")]
    raw = {"name": "alcohol", "datatype": "FP64", "shape": [2], "parameters": {"binary_data_size": 16}}
    head = json.dumps({**V2, "inputs": [raw, *V2["inputs"][1:]]}).encode()  # type: ignore[misc]
    length = {"Inference-Header-Content-Length": str(len(head))}
    found.append(("POST", INFER, length, head + struct.pack("<2d", 12.5, 11.0)))
    return found


def nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every value in a JSON value, as what holds it and its place there."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for place, item in items:
        yield value, place
        yield from nodes(item)


class Mutator:
    """Makes a request of a seed's: the JSON tree, bytes, headers, method or address changed, perhaps several."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._seeds = seeds()

    def __call__(self) -> Sent:
        pick = self._random
        method, path, headers, body = pick.choice(self._seeds)
        if pick.random() < 0.5 and body.startswith(b"{") and body.endswith(b"}"):
            body = self._tree(body)
        for _ in range(pick.choice((0, 1, 1, 2, 5))):
            body = self._bytes(body)
        if "Content-Encoding" in headers and pick.random() < 0.5:
            body = gzip.compress(self._bytes(gzip.decompress(self._seeds[8][3])))
        if pick.random() < 0.1:
            headers = {**headers, "Content-Type": pick.choice(TYPES)}
        if pick.random() < 0.05:
            headers = {**headers, "Inference-Header-Content-Length": str(pick.choice((-1, 0, 1, len(body), 2**70)))}
        if pick.random() < 0.02:
            method, path = pick.choice((("PUT", path), ("DELETE", path), ("POST", path + "%00"), ("POST", "/v2/x")))
        return method, path, headers, body

    def _tree(self, body: bytes) -> bytes:
        value = json.loads(body)
        for _ in range(self._random.choice((1, 1, 2, 4))):
            value = self._changed(copy.deepcopy(value))
        return json.dumps(value).encode("utf-8", "surrogatepass")

    def _changed(self, value: Any) -> Any:
        """The value with one node replaced, taken out or doubled."""
        holder, place = self._random.choice(list(nodes(value)) or [([value], 0)])
        kind = self._random.randrange(4)
        if kind == 0:
            del holder[place]
        elif kind == 1 and isinstance(holder, list):
            holder.append(holder[place])
        elif kind == 2:
            holder[place] = [holder[place]]
        else:
            holder[place] = self._random.choice(VALUES)
        return value

    def _bytes(self, body: bytes) -> bytes:
        pick = self._random
        at, end = sorted((pick.randint(0, len(body)), pick.randint(0, len(body))))
        kind = pick.randrange(5)
        if kind == 0:
            return body[:at] + body[end:]
        if kind == 1:
            return body[:at] + pick.choice(TOKENS) + body[at:]
        if kind == 2:
            return body[:at] + body[at:end] * pick.choice((2, 3, 20)) + body[end:]
        if kind == 3:
            return body[:at] + bytes([pick.randrange(256)]) + body[at + 1 :]
        return body[:at] + pick.choice(self._seeds)[3][at:]


class Client(threading.Thread):
    """Sends its share one after another, and keeps what must not be."""

    def __init__(self, port: int, seed: int, requests: int) -> None:
        super().__init__(daemon=True)
        self._make, self._requests = Mutator(seed), requests
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self.statuses: Counter[int] = Counter()
        self.faults: list[tuple[str, Sent]] = []

    def run(self) -> None:
        for _ in range(self._requests):
            sent = self._make()
            fault = self._ask(sent)
            if fault:
                self.faults.append((fault, sent))
        self._connection.close()

    def _ask(self, sent: Sent, again: bool = True) -> str:
        method, path, headers, body = sent
        try:
            self._connection.request(method, path, body, headers)
            answer = self._connection.getresponse()
            content = answer.read()
        except (http.client.HTTPException, OSError) as error:
            self._connection.close()
            # A kept connection that the server closed meanwhile says nothing of this request.
            return self._ask(sent, False) if again and not isinstance(error, TimeoutError) else repr(error)
        self.statuses[answer.status] += 1
        if answer.status not in ANSWERS:
            return f"{answer.status} {content[:300]!r}"
        if answer.getheader("Content-Type") == "application/json":
            try:
                json.loads(content)
            except ValueError:
                return f"no JSON: {content[:300]!r}"
        return ""


def resident(server: Server) -> dict[int, int]:
    """Bytes of each worker, by process id."""
    found = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text("ascii").split()
    return {int(pid): 4096 * int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) for pid in found}


def sent_by(server: Server, seed: int, requests: int) -> list[Client]:
    clients = [Client(server.port, seed + number, requests // CLIENTS) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return clients


@pytest.mark.timeout(60 + REQUESTS // 50)
def test_no_mutated_request_is_a_5xx_hangs_or_leaks(model_json: Path, start: Callable[..., Server]) -> None:
    """The seeds are answered; of what is made of them nothing fails, no worker dies, none grows."""
    server = start(model_json, workers=2, max_body=1 << 16)
    for method, path, headers, body in seeds():
        assert server.client.request(method, path, headers=headers, content=body).status_code == 200, path
    sent_by(server, SEED * 1000, max(REQUESTS // 4, 1000))
    before = resident(server)
    started = time.monotonic()
    clients = sent_by(server, SEED * 1000 + CLIENTS, REQUESTS)
    after = resident(server)
    statuses = sum((client.statuses for client in clients), Counter[int]())
    print(f"{dict(statuses)} in {time.monotonic() - started:.1f} s; bytes {before} -> {after}")
    faults = [fault for client in clients for fault in client.faults]
    assert not faults, faults[:3]
    assert statuses[200] > REQUESTS // 20 and statuses[400] > REQUESTS // 20
    assert before.keys() == after.keys()
    assert all(after[pid] - before[pid] < GROWTH for pid in before), (before, after)
