"""The V2 protocol over HTTP: what is answered to the 33 cases that three other servers were asked, and the routes."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mpack_runtime import __version__
from mpack_runtime.frame import Inputs, Tensors
from mpack_runtime.signature import Signature, Tensor
from werkzeug.test import Client

MODEL = Signature(
    (Tensor("X", "float32", (-1, 4)),),
    (Tensor("label", "int64", (-1,)), Tensor("probabilities", "float32", (-1, 3))),
)
DATA = [5.1, 3.5, 1.4, 0.2, 6.7, 3.0, 5.2, 2.3]
ROWS = [DATA[:4], DATA[4:]]
INFER = "/v2/models/sk/infer"
VERSION_1 = "/v2/models/sk/versions/1/infer"
LENGTH = "Inference-Header-Content-Length"
LABELS = {"name": "label", "datatype": "INT64", "shape": [2, 1], "data": [0, 2]}


def model(inputs: Inputs) -> Any:
    """Labels and probabilities of rows; the petal's length decides. It raises at 666."""
    assert isinstance(inputs, Tensors)
    rows = inputs.arrays["X"]
    assert rows.dtype == np.float32
    if (rows == 666).any():
        raise ValueError("the petals are off")
    labels = np.where(rows[:, 2] > 5, 2, 0).astype(np.int64)
    return {"label": labels, "probabilities": np.eye(3, dtype=np.float32)[labels]}


@pytest.fixture
def client(serve: Callable[..., Client]) -> Client:
    """A client of the model `sk`, version 1."""
    return serve(model, MODEL)


def x(data: Any = DATA, shape: Any = (2, 4), datatype: Any = "FP32", name: Any = "X", **more: Any) -> dict[str, Any]:
    """One input."""
    return {"name": name, "shape": list(shape), "datatype": datatype, "data": data, **more}


def infer(*inputs: Any, **more: Any) -> tuple[str, str, Any]:
    return "POST", INFER, {"inputs": list(inputs), **more}


RAW = np.array(DATA, "<f4").tobytes()
HEAD = json.dumps({"inputs": [{**x(), "data": None, "parameters": {"binary_data_size": 32}}]}).replace(
    '"data": null, ', ""
)


def raw(body: bytes, length: object = len(HEAD)) -> tuple[str, str, Any]:
    return "POST", INFER, (body, {LENGTH: str(length)})


def tensor(size: int, data: list[Any]) -> dict[str, Any]:
    return x(data, (size, 4))


EXPECTED: dict[str, tuple[tuple[str, str, Any], int, Any]] = {
    "server live": (("GET", "/v2/health/live", None), 200, {"live": True}),
    "server ready": (("GET", "/v2/health/ready", None), 200, {"ready": True}),
    "server metadata": (("GET", "/v2", None), 200, {"name": "mpack", "version": __version__}),
    "server metadata, with a slash": (("GET", "/v2/", None), 200, {"name": "mpack"}),
    "model ready": (("GET", "/v2/models/sk/ready", None), 200, {"name": "sk", "ready": True}),
    "model metadata": (
        ("GET", "/v2/models/sk", None),
        200,
        {
            "name": "sk",
            "versions": ["1"],
            "platform": "sklearn",
            "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 4]}],
            "outputs": [
                {"name": "label", "datatype": "INT64", "shape": [-1, 1]},
                {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
            ],
        },
    ),
    "model metadata, its own version": (("GET", "/v2/models/sk/versions/1", None), 200, {"name": "sk"}),
    "model metadata, another version": (("GET", "/v2/models/sk/versions/2", None), 404, "no version 2"),
    "model ready, its own version": (("GET", "/v2/models/sk/versions/1/ready", None), 200, {"ready": True}),
    "model config": (("GET", "/v2/models/sk/config", None), 404, "sk/config"),
    "repository index": (
        ("POST", "/v2/repository/index", {}),
        200,
        [{"name": "sk", "version": "1", "state": "READY", "reason": ""}],
    ),
    "unknown model: ready": (("GET", "/v2/models/nope/ready", None), 404, "no model nope"),
    "unknown model: metadata": (("GET", "/v2/models/nope", None), 404, "no model nope"),
    "unknown model: infer": (("POST", "/v2/models/nope/infer", {"inputs": [x()]}), 404, "no model nope"),
    "unknown version: infer": (("POST", "/v2/models/sk/versions/99/infer", {"inputs": [x()]}), 404, "no version 99"),
    "infer, flat data, id": (infer(x(), id="req-1"), 200, {"id": "req-1", "model_name": "sk", "model_version": "1"}),
    "infer, nested data": (infer(x(ROWS)), 200, {"model_name": "sk"}),
    "infer, its own version": (("POST", VERSION_1, {"inputs": [x()]}), 200, {"model_name": "sk"}),
    "one requested output": (infer(x(), outputs=[{"name": "label"}]), 200, {"outputs": [LABELS]}),
    "an unknown requested output": (infer(x(), outputs=[{"name": "zzz"}]), 400, '"zzz"'),
    "dimension differs from the model": (infer(x(DATA[:6], (2, 3))), 400, "[-1, 4]"),
    "rank differs from the model": (infer(x(DATA, (2, 2, 2))), 400, "[-1, 4]"),
    "missing batch dimension": (infer(x(DATA[:4], (4,))), 400, "[-1, 4]"),
    "data count differs from shape": (infer(x(DATA, (3, 4))), 400, "8 values"),
    "batch without a limit": (infer(x([0.0] * 132, (33, 4))), 200, {"model_name": "sk"}),
    "empty batch": (infer(x([], (0, 4))), 400, "empty"),
    "datatype differs, lossless: INT16 for FP32": (infer(x([1] * 8, datatype="INT16")), 200, {"model_name": "sk"}),
    "datatype differs, lossy: FP64 for FP32": (infer(x(datatype="FP64")), 400, "FP64; the model takes FP32"),
    "datatype differs, lossy: INT64 for FP32": (infer(x([1] * 8, datatype="INT64")), 400, "takes FP32"),
    "datatype unknown": (infer(x(datatype="FLOAT")), 400, '"FLOAT"'),
    "string data in an FP32 tensor": (infer(x(["a"] * 8)), 400, '[0, 0]: expected a number (FP32), got the string "a"'),
    "no input": (infer(), 400, "no inputs"),
    "no 'inputs' key": (("POST", INFER, {}), 400, "no inputs"),
    "wrong input name": (infer(x(name="WRONG")), 400, '"X"'),
    "extra input": (infer(x(), x([1.0], (1,), name="EXTRA")), 400, '"EXTRA"'),
    "malformed JSON": (("POST", INFER, b'{"inputs": ['), 400, "JSON"),
    "empty body": (("POST", INFER, b""), 400, "empty"),
    "not UTF-8": (("POST", INFER, b'{"id": "\xff"}'), 400, "UTF-8"),
    "not an object": (("POST", INFER, b"[1]"), 400, "a list"),
    "GET on infer": (("GET", INFER, None), 405, "does not take GET"),
    "unknown path": (("GET", "/v2/zzz", None), 404, "/v2/zzz"),
    "binary tensor extension, lengths right": (raw(HEAD.encode() + RAW), 200, {"model_name": "sk"}),
    "binary, a byte too few": (raw(HEAD.encode() + RAW[:-1]), 400, "31 bytes"),
    "binary, a byte too many": (raw(HEAD.encode() + RAW + b"x"), 400, "1 bytes follow"),
    "binary, JSON's length beyond the body": (raw(HEAD.encode(), 10_000), 400, LENGTH),
    "binary, JSON's length is no number": (raw(HEAD.encode(), "-1"), 400, LENGTH),
    "binary, without the header": (("POST", INFER, HEAD.encode() + RAW), 400, ""),
    "the model itself raises": (infer(x([666.0] * 8)), 500, "the petals are off"),
}  # fmt: skip


def send(client: Client, method: str, path: str, body: Any) -> Any:
    """The answer to a body: an object, bytes, or bytes with headers."""
    headers: dict[str, str] = {}
    if isinstance(body, tuple):
        body, headers = body
    data = body if isinstance(body, bytes) or body is None else json.dumps(body)
    return client.open(path, method=method, data=data, headers=headers, content_type="application/json")


@pytest.mark.parametrize("row", EXPECTED)
def test_the_cases_that_three_servers_were_asked(client: Client, row: str) -> None:
    """The status, and these parts of the answer; every refusal is {"error": …} in words that name what is wrong."""
    asked, status, wanted = EXPECTED[row]
    answer = send(client, *asked)
    found = json.loads(answer.data)
    assert (answer.status_code, answer.content_type) == (status, "application/json"), found
    if status >= 400:
        assert list(found) == ["error"] and wanted in found["error"]
    elif isinstance(wanted, list):
        assert found == wanted
    else:
        assert {key: found[key] for key in wanted} == wanted


@pytest.mark.parametrize("body", [{}, {"ready": True}])
def test_nothing_is_ready_before_the_sample_is_answered(serve: Callable[..., Client], body: dict[str, bool]) -> None:
    """503, and no model in the index of ready ones."""
    client = serve(model, MODEL, ready=False)
    for path in ("/v2/health/ready", "/v2/models/sk/ready", "/v1/models/sk", "/ping", "/health"):
        assert client.get(path).status_code == 503, path
    assert client.get("/v2/health/live").status_code == 200
    states = [item["state"] for item in client.post("/v2/repository/index", json=body).json]
    assert states == ([] if body else ["UNAVAILABLE"])


def test_null_stands_for_what_is_left_out(client: Client) -> None:
    """As clients write it that know every field."""
    whole = {"id": None, "parameters": None, "outputs": None, "inputs": [x(parameters=None)]}
    answer = client.post(INFER, json=whole)
    assert answer.status_code == 200 and "id" not in answer.json
    assert client.post(INFER, json={"inputs": [x(None)]}).status_code == 400


@pytest.mark.parametrize("body", [b"[]", b'{"ready": 1}', b"{", b"\xff"])
def test_a_bad_question_for_the_index(client: Client, body: bytes) -> None:
    """400 with words."""
    answer = client.post("/v2/repository/index", data=body)
    assert answer.status_code == 400 and answer.json["error"]
    assert client.post("/v2/repository/index").status_code == 200, "an empty body asks for all"


def test_head_and_allow(client: Client) -> None:
    """HEAD is GET without a body; 405 tells the method."""
    answer = client.head("/v2/models/sk")
    assert (answer.status_code, answer.data) == (200, b"")
    assert client.get(INFER).headers["Allow"] == "POST"
    assert client.post("/v2").headers["Allow"] == "GET, HEAD"


def test_answers_of_both_forms_say_the_same(client: Client) -> None:
    """Per output, and for all; the sizes are those of the bytes, the header that of the JSON."""
    answer = client.post(
        INFER, json={"inputs": [x()], "outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}]}
    )
    assert answer.content_type == "application/octet-stream"
    length = int(answer.headers[LENGTH])
    head = json.loads(answer.data[:length])
    assert head["outputs"] == [
        {"name": "probabilities", "datatype": "FP32", "shape": [2, 3], "parameters": {"binary_data_size": 24}}
    ]
    assert struct.unpack("<6f", answer.data[length:]) == (1, 0, 0, 0, 0, 1)
    both = {"parameters": {"binary_data_output": True}}
    mixed = [{"name": "label", "parameters": {"binary_data": False}}, {"name": "probabilities"}]
    answer = client.post(INFER, json={"inputs": [x()], "outputs": mixed, **both})
    head = json.loads(answer.data[: int(answer.headers[LENGTH])])
    assert [item.get("data") for item in head["outputs"]] == [[0, 2], None]
    answer = client.post(INFER, json={"inputs": [x()], **both})
    assert len(answer.data) - int(answer.headers[LENGTH]) == 16 + 24


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"inputs": {}}, "must be a list"),
        ({"inputs": [1]}, "the number 1"),
        ({"inputs": [{}]}, "null"),
        ({"inputs": [x(name=1)]}, "the number 1"),
        ({"inputs": [x(datatype=None)]}, "null"),
        ({"inputs": [x(datatype=["FP32"])]}, "a list"),
        ({"inputs": [{**x(), "shape": "2,4"}]}, "a list of whole numbers"),
        ({"inputs": [{**x(), "shape": [2, 4.0]}]}, "a list of whole numbers"),
        ({"inputs": [{**x(), "shape": [True, 8]}]}, "a list of whole numbers"),
        ({"inputs": [{**x(), "shape": [-1, 4]}]}, "a list of whole numbers"),
        ({"inputs": [{**x(), "shape": [10**18, 10**18]}]}, "8 values"),
        ({"inputs": [{**x(), "shape": [1] * 40}]}, "32 is the most"),
        ({"inputs": [{**x(), "shape": []}]}, "8 values"),
        ({"inputs": [{**x(), "data": "abc"}]}, "must be a list"),
        ({"inputs": [{**x(), "data": {"0": 1}}]}, "must be a list"),
        ({"inputs": [{**x(), "data": [DATA[:4], DATA[4:7]]}]}, "ragged"),
        ({"inputs": [{**x(), "data": [*DATA[:7], [1.0]]}]}, "got a list"),
        ({"inputs": [{**x(), "data": [[1.0, 2.0]] * 4}]}, "shape [4, 2]"),
        ({"inputs": [{**x(), "data": [True] * 8}]}, "the boolean true"),
        ({"inputs": [{**x(), "data": [1e39] * 8}]}, "out of range for FP32"),
        ({"inputs": [{**x(), "parameters": []}]}, "must be an object"),
        ({"inputs": [{**x(), "parameters": {"binary_data_size": 32}}]}, "either data or"),
        ({"inputs": [{**x(), "parameters": {"content_type": "jpeg"}}]}, "np, pd, str"),
        ({"inputs": [{**x(), "parameters": {"content_type": 7}}]}, "np, pd, str"),
        ({"inputs": [{**x(), "parameters": {"content_type": "base64"}}]}, "needs BYTES"),
        ({"inputs": [x()], "parameters": {"content_type": "x"}}, "np, pd, str"),
        ({"inputs": [x()], "parameters": 5}, "must be an object"),
        ({"inputs": [x()], "parameters": {"binary_data_output": "yes"}}, "true or false"),
        ({"inputs": [x(), x()]}, "twice"),
        ({"inputs": [x()], "id": 7}, "must be a string"),
        ({"inputs": [x()], "outputs": {}}, "must be a list"),
        ({"inputs": [x()], "outputs": ["label"]}, '"label"'),
        ({"inputs": [x()], "outputs": [{"name": "label"}] * 2}, "twice"),
        ({"inputs": [x()], "outputs": [{"name": "label", "parameters": {"binary_data": 1}}]}, "true or false"),
        ({"inputs": [x()], "outputs": [{"name": "label", "parameters": {"classification": 3}}]}, "classification"),
    ],
)
def test_what_is_not_a_request_is_refused_with_the_reason(client: Client, body: Any, words: str) -> None:
    """400, in words that name the part."""
    answer = client.post(INFER, json=body)
    assert answer.status_code == 400 and words in answer.json["error"], answer.json


def test_a_key_that_stands_twice_is_refused(client: Client) -> None:
    """In an input's parameters too: one of both values would be lost."""
    twice = json.dumps({"inputs": [x(parameters={"content_type": "np"})]})
    assert client.post(INFER, data=twice).status_code == 200
    answer = client.post(INFER, data=twice.replace('"np"', '"np", "content_type": "base64"'))
    assert answer.status_code == 400 and "content_type" in answer.json["error"]


def test_bodies_are_bounded_and_may_be_gzip(serve: Callable[..., Client]) -> None:
    """413 in V2's form; another encoding 415; as everywhere on this server."""
    client = serve(model, MODEL, max_body=100)
    assert client.post(INFER, json={"inputs": [x()]}).status_code == 413
    answer = client.post(INFER, data=b"x", headers={"Content-Encoding": "br"})
    assert answer.status_code == 415 and list(answer.json) == ["error"]


def test_metrics_count_by_patterns(client: Client) -> None:
    """Rows are counted, routes by their patterns; no label is made of what a client sent."""
    client.post(INFER, json={"inputs": [x()]})
    client.get("/v2/models/nope")
    text = client.get("/metrics").text
    for route, status in (("/v2/models/{name}/infer", 200), ("/v2/models/{name}", 404)):
        lines = [line for line in text.splitlines() if f'route="{route}"' in line and f'status="{status}"' in line]
        assert lines and all(line.endswith(" 1") for line in lines)
    assert re.search(r"^mpack_rows_total(\{.*\})? 2$", text, re.MULTILINE) and "nope" not in text


def test_a_name_of_other_characters(serve: Callable[..., Client]) -> None:
    """Slashes, blanks and umlauts, percent-encoded."""
    client = serve(model, MODEL, name="späte lese/2")
    assert client.get("/v2/models/sp%C3%A4te%20lese/2/versions/1/ready").json["name"] == "späte lese/2"
