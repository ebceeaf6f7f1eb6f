"""Predictions and feedback kept, and a token wanted, by the real server."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

Start = Callable[..., Any]
GOOD = {"data": [[1.0, "a", 1000]]}
GRAPE = {"columns": ["alcohol", "grape", "year"], "data": [[12.5, "secret grape", 1999]]}
NAME = re.compile(r"year=(\d{4})/month=(\d\d)/day=(\d\d)/\1\2\3\d\d_\d+\.json")
PLACES = ("/feedback/model/", "/feedback/model", "/api/model/feedback")


def records(root: Path, stream: str, version: str = "1.2") -> list[dict[str, Any]]:
    """All records of a stream; each line of each file is one, and each file where it should be."""
    folder = root / stream / "wine" / version
    files = sorted(folder.rglob("*.json"))
    assert all(NAME.fullmatch(str(path.relative_to(folder))) for path in files)
    return [json.loads(line) for path in files for line in path.read_text("utf-8").splitlines()]


def feedback(server: Any, body: Any, place: str = PLACES[0], **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.client.post(place, json=body, headers=named)  # type: ignore[no-any-return]


def outcomes(server: Any) -> dict[str, int]:
    """mpack_log_records_total by outcome."""
    text = httpx.get(f"{server.url}/metrics", trust_env=False).text
    found = re.findall(r'^mpack_log_records_total\{.*outcome="(\w+)"\} (\d+)$', text, re.MULTILINE)
    return {outcome: int(count) for outcome, count in found}


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_predictions_and_feedback_are_kept_with_the_references_fields(
    tmp_path: Path, model_json: Path, start: Start
) -> None:
    """Three streams; who asks is not in them; a day is a DataFrame in one line, and feedback joins by request id."""
    logs = tmp_path / "logs"
    server = start(model_json, workers=2, log_dir=logs)
    for number in range(4):
        headers = {"Request-Id": f"id-{number}", "Authorization": "Bearer x", "Cookie": "x", "X-User": "x"}
        server.client.post("/api/model/invoke?a=1&b=", json=GOOD, headers=headers)
    server.client.post("/api/model/invoke", content=b"{", headers={"Request-Id": "bad"})
    for number, place in enumerate(PLACES):
        given = {"Request_Id": f"id-{number}", "X_Model_Name": "wine", "X_Model_Version": "1.2"}
        answer = feedback(server, {"truthful": number}, place, **given)
        assert (answer.status_code, answer.headers["Request-Id"]) == (200, f"id-{number}")
        assert answer.json() == {
            "message": {
                "RequestID": f"id-{number}",
                "ModelVersion": "1.2",
                "ModelName": "wine",
                "Payload": {"json": {"truthful": number}},
            },
            "error": False,
            "registered": True,
        }
    assert len(records(logs, "feedback")) == 3, "feedback that is answered is in the file"
    assert server.stop()[0] == 0

    requests, answers = records(logs, "request_response"), records(logs, "response_body")
    assert len(requests) == len(answers) == 5
    first = next(record for record in requests if record["request_id"] == "id-0")
    assert set(first) == {
        *("request_id", "request_get_args", "response_status", "request_host", "model_endpoint", "model_version"),
        *("request_http_method", "request_http_headers", "request_post_args", "request_uri", "request_content"),
        *("response_http_headers", "model_name", "time"),
    }
    assert first["request_get_args"] == {"a": "1", "b": ""} and first["request_uri"] == "/api/model/invoke"
    assert json.loads(first["request_content"]) == GOOD and first["response_status"] == "200"
    assert first["response_http_headers"]["model-version"] == "1.2"
    assert not {"authorization", "cookie", "x-user"} & set(first["request_http_headers"])
    assert "content-type" in first["request_http_headers"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+0000", first["time"])
    assert {record["response_status"] for record in requests if record["request_id"] == "bad"} == {"400"}

    def day(stream: str) -> pd.DataFrame:
        where = next((logs / stream / "wine/1.2").glob("year=*/month=*/day=*"))
        return pd.concat(pd.read_json(path, lines=True, dtype=False) for path in where.glob("*.json"))

    joined = day("response_body").merge(day("feedback"), on="request_id", suffixes=("", "_feedback"))
    assert sorted(joined["request_id"]) == ["id-0", "id-1", "id-2"]
    assert list(joined.sort_values("request_id")["payload"].map(lambda said: said["json"]["truthful"])) == [0, 1, 2]
    assert [json.loads(text)["prediction"] for text in joined["response_content"]] == [[2.0]] * 3


def test_nothing_is_lost_in_a_stop_under_load(tmp_path: Path, model_json: Path, start: Start) -> None:
    """SIGTERM while eight clients ask: every prediction that was answered is in both streams, each once."""
    server = start(model_json, workers=2, log_dir=tmp_path / "logs", log_rotate=2048)
    answered: list[str] = []

    def ask(number: int) -> None:
        try:
            response = server.invoke(GOOD, **{"Request-Id": f"id-{number}"})
        except httpx.TransportError:
            return
        if response.status_code == 200:
            answered.append(response.headers["Request-Id"])

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, number) for number in range(400)]
        wait_for(lambda: len(answered) > 100)
        code, _ = server.stop()
        for one in asked:
            one.result()
    assert code == 0 and len(answered) > 100
    for stream in ("request_response", "response_body"):
        kept = [record["request_id"] for record in records(tmp_path / "logs", stream)]
        assert len(kept) == len(set(kept)) and set(answered) <= set(kept)
    assert len(list((tmp_path / "logs/response_body").rglob("*.json"))) > 10, "files are rotated"


def test_a_worker_that_is_replaced_writes_what_it_has(tmp_path: Path, model_json: Path, start: Start) -> None:
    """A model that hangs costs its own record only."""
    server = start(model_json, timeout=1, log_dir=tmp_path / "logs")
    for number in range(20):
        server.invoke(GOOD, **{"Request-Id": f"id-{number}"})
    assert server.invoke({"data": [[1.0, "slow", 100]]}).status_code == 504
    server.wait()
    assert len(records(tmp_path / "logs", "request_response")) == 20


def test_redact_sample_and_odd_bodies(tmp_path: Path, model_json: Path, start: Start) -> None:
    """No redacted value is anywhere in the files; gzip is unpacked; what is no text or too long is marked; no way to
    write an address leads past the journal."""
    logs = tmp_path / "logs"
    server = start(model_json, log_dir=logs, log_redact="grape, other")
    body = json.dumps(GRAPE).encode()
    head = (
        b"POST //api/model/invoke HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    assert b" 200 " in server.raw(head % len(body) + body)
    server.client.post("/api/model/invoke", content=gzip.compress(json.dumps(GRAPE).encode()), headers=GZIP)
    server.client.post("/api/model/invoke", content="alcohol,grape,year\n1,secret grape,x\n", headers=CSV)
    feedback(server, {"grape": "secret grape", "right": True}, Request_Id="a")
    server.stop()
    kept = [record["request_content"] for record in records(logs, "request_response")]
    assert len(kept) == 3 and kept[2] is None, "a refused request may hold anything anywhere"
    assert [record["payload"] for record in records(logs, "feedback")] == [{"json": {"grape": "***", "right": True}}]
    assert not [path for path in logs.rglob("*.json") if b"secret" in path.read_bytes()]
    assert '"***",1999' in kept[0] and '"***",1999' in kept[1]

    plain = tmp_path / "plain"
    server = start(model_json, log_dir=plain)
    server.client.post("/api/model/invoke", content=gzip.compress(json.dumps(GRAPE).encode()), headers=GZIP)
    server.client.post("/api/model/invoke", content=b"\xff\x00", headers={"Content-Type": "application/json"})
    server.client.post("/api/model/invoke", content=b" " * (3 << 20) + json.dumps(GOOD).encode(), headers=JSON)
    server.stop()
    zipped, odd, long = records(plain, "request_response")
    assert json.loads(zipped["request_content"]) == GRAPE
    assert (odd["request_content"], odd["request_content_encoding"]) == ("/wA=", "base64")
    assert long["response_status"] == "200" and long["request_truncated"] is True
    assert len(long["request_content"]) == 1 << 20

    none = tmp_path / "none"
    server = start(model_json, log_dir=none, log_sample="0")
    server.invoke(GOOD)
    feedback(server, {"right": True}, Request_Id="a")
    server.stop()
    assert records(none, "request_response") == [] and len(records(none, "feedback")) == 1


JSON = {"Content-Type": "application/json"}
GZIP = {**JSON, "Content-Encoding": "gzip"}
CSV = {"Content-Type": "text/csv"}


def test_a_disk_that_fails_costs_no_prediction(tmp_path: Path, model_json: Path, start: Start) -> None:
    """Predictions are answered and the loss is counted; feedback is told, and taken again once the disk is well."""
    logs = tmp_path / "logs"
    server = start(model_json, log_dir=logs)
    shutil.rmtree(logs)
    logs.write_text("in the way")
    assert [server.invoke(GOOD).status_code for _ in range(5)] == [200] * 5
    answer = feedback(server, {"right": True}, Request_Id="a")
    assert answer.status_code == 502 and answer.json()["error"].startswith("Cannot deliver message")
    wait_for(lambda: outcomes(server) == {"written": 0, "dropped": 0, "failed": 6})
    assert server.stderr().count("a record cannot be written: [Errno 20] Not a directory") == 1
    logs.unlink()
    assert feedback(server, {"right": True}, Request_Id="a").status_code == 200
    assert len(records(logs, "feedback")) == 1
    metrics = server.client.get("/metrics").text
    assert re.search(r'mpack_requests_total\{.*group="feedback",route="/feedback/model",status="502"\} 1', metrics)


def test_bad_feedback_is_refused(tmp_path: Path, model_json: Path, start: Start) -> None:
    """A sentence for each fault, none of it 5xx, and nothing is kept."""
    server = start(model_json, log_dir=tmp_path / "logs")
    ask = server.client.post
    own = {"Request-Id": "a"}
    for answer, status, words in (
        (ask(PLACES[0], json={}), 400, "request-id header is missed"),
        (ask(PLACES[0], content=b"{", headers=own), 400, "Cannot parse data"),
        (ask(PLACES[0], content=b"\xff", headers=own), 400, "Cannot parse data"),
        (ask(PLACES[0], headers=own), 400, "feedback is empty"),
        (ask(PLACES[0], content=b"[" * 500 + b"]" * 500, headers=own), 400, "Cannot parse data"),
        (ask(PLACES[0], json={}, headers={**own, "x-model-name": "beer"}), 400, "'beer'"),
        (ask(PLACES[0], json={}, headers={**own, "x-model-version": "a b"}), 400, "x-model-version"),
        (ask(PLACES[0], json={}, headers={"Request-Id": "a" * 129}), 400, "request-id"),
        (ask(PLACES[0], content=b" " * (2 << 20), headers=own), 413, "1048576"),
        (server.client.get(PLACES[0]), 405, "POST"),
    ):
        assert (answer.status_code, list(answer.json())) == (status, ["error"]), answer.text
        assert words in answer.json()["error"]
    assert not list((tmp_path / "logs").iterdir())
    assert ask(f"{PLACES[0]}?truthful=1", headers={**own, "X-Model-Version": "1.1"}).json()["message"]["Payload"] == {
        "uri": {"truthful": "1"}
    }
    assert len(records(tmp_path / "logs", "feedback", "1.1")) == 1
    prefix = {**own, "X-Forwarded-Prefix": "/models/wine"}
    assert ask("/models/wine/feedback/model/", json={"a": 1}, headers=prefix).status_code == 200


def test_without_a_directory_nothing_is_kept(model_json: Path, start: Start) -> None:
    """The routes of feedback are not there."""
    assert feedback(start(model_json), {}, Request_Id="a").status_code == 404


def test_a_directory_that_cannot_be_written_ends_the_container(tmp_path: Path, model_json: Path, start: Start) -> None:
    """With the reason as the last line."""
    (tmp_path / "file").write_text("")
    server = start(model_json, wait=False, log_dir=tmp_path / "file" / "logs")
    assert server.process.wait(30) == 1
    assert server.stderr().splitlines()[-1].startswith("MPACK_LOG_DIR is ")


TOKEN = "s3cret-token"
KNOWN = {"Authorization": f"Bearer {TOKEN}"}


def test_a_token_is_wanted(model_json: Path, start: Start, command: Callable[..., Any]) -> None:
    """Everything but health answers 401 without it, in the road's own form; the token is in no log."""
    server = start(model_json, auth_token=TOKEN)
    get, post = server.client.get, server.client.post
    for path in ("/", "/metrics", "/api/model/info", "/openapi.json", "/nope", "/readyz/x"):
        answer = get(path)
        assert (answer.status_code, list(answer.json())) == (401, ["message"]), path
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert get(path, headers=KNOWN).status_code in (200, 404)
    for wrong in ("Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN, "Bearer", "Bearer \xff"):
        headers = {"Authorization": wrong.encode("latin-1")}
        assert post("/api/model/invoke", json=GOOD, headers=headers).status_code == 401, wrong
    assert post("/api/model/invoke", json=GOOD, headers={"Authorization": f"bearer  {TOKEN}"}).status_code == 200
    assert list(post("/v2/models/wine/infer", json={}).json()) == ["error"]
    for path in ("/healthcheck", "/livez", "/readyz"):
        assert get(path).status_code == 200
        # A prefix cannot make another path look like one of these, nor one of these like another.
        assert get("/x", headers={"X-Forwarded-Prefix": path}).status_code == 401
        assert get(path, headers={"X-Forwarded-Prefix": path}).status_code == 401
        assert get(f"/m{path}", headers={"X-Forwarded-Prefix": "/m"}).status_code == 200
    # A refused body is not read as the next request.
    inner = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    assert b" 401 " in server.raw(
        b"POST /refused HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner
    )
    assert re.search(r'errors_total\{.*kind="auth"\} [1-9]', get("/metrics", headers=KNOWN).text)
    server.stop()
    assert TOKEN not in server.stderr() + server.stdout()
    assert "/refused" in server.stdout() and "/smuggled" not in server.stdout()


def test_health_and_metrics_are_switched_apart(
    tmp_path: Path, model_json: Path, start: Start, command: Callable[..., Any]
) -> None:
    """Metrics open and health closed, with a token from a file; the image's own health check knows it."""
    secret = tmp_path / "token"
    secret.write_text(f"{TOKEN}\n")
    given = {"auth_token_file": secret, "auth_metrics": "false", "auth_health": "true"}
    server = start(model_json, wait=False, **given)
    wait_for(lambda: "is ready" in server.stderr())
    assert server.client.get("/metrics").status_code == 200
    assert server.client.get("/readyz").status_code == 401
    assert server.client.get("/readyz", headers=KNOWN).status_code == 200
    upper = {key.upper(): value for key, value in given.items()}
    assert command(model_json, "health", PORT=server.port, HOST="127.0.0.1", **upper).code == 0
    assert command(model_json, "health", PORT=server.port, HOST="127.0.0.1").code == 1
    server.stop(signal.SIGTERM)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"AUTH_TOKEN": "a b"}, "MPACK_AUTH_TOKEN holds no token"),
        ({"AUTH_TOKEN": "a", "AUTH_TOKEN_FILE": "/dev/null"}, "both set"),
        ({"AUTH_TOKEN_FILE": "/dev/null"}, "is empty"),
        ({"AUTH_TOKEN_FILE": "/nowhere/x"}, "No such file"),
        ({"AUTH_HEALTH": "maybe"}, "MPACK_AUTH_HEALTH is 'maybe'; it must be true or false"),
        ({"LOG_SAMPLE": "1.5"}, "MPACK_LOG_SAMPLE is '1.5'"),
        ({"LOG_SAMPLE": "nan"}, "MPACK_LOG_SAMPLE"),
        ({"LOG_ROTATE": "5"}, "MPACK_LOG_ROTATE"),
        ({"LOG_DIR": "s3://key:secret@bucket"}, "an object store's address"),
    ],
)
def test_wrong_settings_end_the_container(
    model_json: Path, command: Callable[..., Any], settings: dict[str, str], words: str
) -> None:
    """Exit code 2 and a sentence, in which no token stands."""
    ran = command(model_json, "serve", **settings)
    assert ran.code == 2 and words in ran.err and not re.search("a b|secret", ran.err)


def test_what_operators_switch_on_has_byte_code(model_json: Path, command: Callable[..., Any]) -> None:
    """The self-check names its sources among the modules to be compiled."""
    modules = json.loads(command(model_json, "self-check", "--modules").out)["modules"]
    names = {Path(path).name for path in modules if "/mpack_runtime/rest/" in path}
    assert {"recorder.py", "journal.py", "redact.py", "guard.py", "exposition.py", "processes.py"} <= names
