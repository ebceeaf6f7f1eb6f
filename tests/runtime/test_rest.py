"""The Flask application, asked in this process: routes, headers, bodies good and bad, metrics."""

from __future__ import annotations

import gzip
import io
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mpack_runtime.config import ModelConfig, Settings
from mpack_runtime.errors import BadRequest
from mpack_runtime.rest.app import RestApp
from mpack_runtime.rest.body import read_body
from mpack_runtime.service import Service
from werkzeug.test import Client, TestResponse

REQUEST = {"columns": ["alcohol", "grape", "year"], "data": [[12.5, "merlot", 1999], [11.0, None, 2001]]}
INVOKE = "/api/model/invoke"


@pytest.fixture
def app(model_json: Path) -> RestApp:
    """The application around the plain wine model, with a small body limit."""
    return RestApp(Service.load(ModelConfig.load(model_json)), Settings(max_body=20_000))


@pytest.fixture
def client(app: RestApp) -> Client:
    """A client of it."""
    return app.flask().test_client()


def post(client: Client, body: bytes | str, content_type: str = "application/json", **headers: str) -> TestResponse:
    """POST to invoke; header names with _ for -."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(INVOKE, data=body, content_type=content_type, headers=named)


def message(response: TestResponse) -> str:
    """The message of a refusal, which has nothing beside it."""
    assert response.content_type == "application/json"
    answer = json.loads(response.data)
    assert list(answer) == ["message"]
    return str(answer["message"])


def test_a_prediction_has_the_references_body_and_headers(client: Client) -> None:
    """prediction before columns; the model's name and version; a request id is made."""
    response = post(client, json.dumps(REQUEST))
    assert response.status_code == 200
    assert response.data == b'{"prediction":[14.499,13.001],"columns":["quality"]}'
    assert response.headers["Model-Name"] == "wine"
    assert response.headers["Model-Version"] == "1.2"
    assert len(response.headers["Request-Id"]) == 32
    assert "Mpack-Warning" not in response.headers


def test_columns_are_matched_by_name_and_extra_ones_named_in_a_warning(client: Client) -> None:
    """Another order of columns gives the same answer; a dropped column is in Mpack-Warning, in ASCII."""
    body = {"columns": ["year", "späte\nLese", "alcohol"], "data": [[1999, 1, 12.5]]}
    response = post(client, json.dumps(body))
    assert json.loads(response.data)["prediction"] == [14.499]
    assert "Lese" in response.headers["Mpack-Warning"] and response.headers["Mpack-Warning"].isascii()


@pytest.mark.parametrize(("given", "kept"), [("abc-1", True), ("a b", False), ("x" * 129, False), ("ä", False)])
def test_a_sane_request_id_is_taken_over(client: Client, given: str, kept: bool) -> None:
    """Printable ASCII without blanks up to 128 characters; everything else gets an id of our own."""
    answered = client.get("/livez", headers={"Request-Id": given}).headers["Request-Id"]
    assert (answered == given) is kept
    assert client.get("/livez", headers={"X-Request-Id": "proxy-7"}).headers["Request-Id"] == "proxy-7"


@pytest.mark.parametrize(
    ("body", "content_type", "status", "words"),
    [
        (b"", "application/json", 400, "Please provide data with this POST request"),
        (b"  \n", "application/json", 400, "Please provide data with this POST request"),
        (b"", "application/x-www-form-urlencoded", 400, "Please provide data with this POST request"),
        (b'{"data":[[1]]}', "application/x-www-form-urlencoded", 415, "application/json"),
        (b"\xff\xfe", "application/json", 400, "utf-8"),
        (b"{", "application/json", 400, "Can not parse input as JSON"),
        (b'{"data": [[NaN, "a", 1]]}', "application/json", 400, "Can not parse input as JSON"),
        (b"[]", "application/json", 400, "object"),
        (b"{}", "application/json", 400, "Matrix is not provided"),
        (b'{"data": []}', "application/json", 400, "Matrix is not provided"),
        (b'{"columns": ["alcohol"], "data": [[1.0]]}', "application/json", 400, '"year"'),
        (b'{"data": [[1.0, "a", 1], [1.0, "a"]]}', "application/json", 400, "Row 2"),
        (b'{"data": [[1.0, "a", "x"]]}', "application/json", 400, "year"),
        (b'{"data": [[null, "a", 1.5]]}', "application/json", 400, "year"),
        (b"<x/>", "application/xml", 415, "application/xml"),
    ],
)
def test_every_bad_request_is_a_4xx_with_a_sentence(
    client: Client, body: bytes, content_type: str, status: int, words: str
) -> None:
    """The status, JSON with a message alone, and the word that tells the user what to mend."""
    response = post(client, body, content_type)
    assert response.status_code == status
    assert words in message(response)


def test_an_exception_of_the_model_is_a_500_with_its_message_and_no_traceback(client: Client) -> None:
    """The client gets the exception's text, not its traceback."""
    response = post(client, '{"data": [[1, "boom", 1]]}')
    assert response.status_code == 500
    assert message(response) == "Exception during prediction: the grapes are off"


def test_csv_and_gzip(client: Client) -> None:
    """CSV bodies, gzip bodies, and gzip of several members."""
    text = "alcohol,year,grape\n12.5,1999,merlot\n"
    expected = b'{"prediction":[14.499],"columns":["quality"]}'
    assert post(client, text, "text/csv").data == expected
    assert post(client, gzip.compress(text.encode()), "text/csv", Content_Encoding="gzip").data == expected
    members = gzip.compress(text[:10].encode()) + gzip.compress(text[10:].encode())
    assert post(client, members, "text/csv", Content_Encoding="gzip").data == expected


def test_gzip_takes_time_by_its_size_alone() -> None:
    """A large body that cannot be packed is read in pieces, and there is an end to members that hold nothing."""
    data = random.Random(0).randbytes(8 << 20)
    start = time.process_time()
    environ = {"HTTP_CONTENT_ENCODING": "gzip", "wsgi.input_terminated": True}
    assert read_body({**environ, "wsgi.input": io.BytesIO(gzip.compress(data, 1))}, 10 << 20) == data
    with pytest.raises(BadRequest, match="more than 10000 members"):
        read_body({**environ, "wsgi.input": io.BytesIO(gzip.compress(b"") * 100_000)}, 10 << 20)
    assert time.process_time() - start < 3


@pytest.mark.parametrize("cut", [1, 9, 12, -1, -9])
def test_broken_gzip_is_refused(client: Client, cut: int) -> None:
    """A gzip body cut anywhere, or no gzip at all, is a 400."""
    packed = gzip.compress(json.dumps(REQUEST).encode())
    response = post(client, packed[:cut], Content_Encoding="gzip")
    assert response.status_code == 400 and "gzip" in message(response)
    assert post(client, b"plain", Content_Encoding="gzip").status_code == 400
    assert post(client, b"x", Content_Encoding="br").status_code == 415


def test_too_much_is_a_413_before_and_after_gzip(client: Client) -> None:
    """A declared length, a chunked body and what a small gzip body unpacks to are all held to the limit."""
    assert "20000" in message(post(client, b" " * 20_001))
    response = post(client, gzip.compress(b" " * 50_000_000), Content_Encoding="gzip")
    assert response.status_code == 413 and "20000" in message(response)
    chunked = client.post(
        INVOKE,
        input_stream=io.BytesIO(b" " * 30_000),
        content_type="application/json",
        environ_overrides={"wsgi.input_terminated": True, "CONTENT_LENGTH": ""},
    )
    assert chunked.status_code == 413


def test_wrong_path_and_wrong_method_answer_json(client: Client) -> None:
    """404 and 405 have the same form as every refusal; 405 names what is allowed."""
    assert "/nope" in message(client.get("/nope"))
    response = client.get(INVOKE)
    assert response.status_code == 405 and "POST" in response.headers["Allow"]
    assert "GET" in message(response)
    assert client.post("/healthcheck").status_code == 405


def test_health_and_readiness(app: RestApp, client: Client) -> None:
    """Health is {"status": true} at once; readiness waits for the sample's answer."""
    assert client.get("/healthcheck").data == b'{"status":true}'
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 503
    app.ready = True
    assert client.get("/readyz").status_code == 200


def test_documents_name_the_model(client: Client) -> None:
    """info and openapi.json are JSON documents of this model."""
    info = json.loads(client.get("/api/model/info").data)
    assert (info["info"]["title"], info["info"]["version"]) == ("wine", "1.2")
    openapi = json.loads(client.get("/openapi.json", headers={"X-Forwarded-Prefix": "/m/"}).data)
    assert openapi["servers"] == [{"url": "/m"}]


@pytest.mark.parametrize("prefix", ["//evil.example", "javascript:x", '/a"b', "/a/../../b c", "http://x/"])
def test_a_strange_prefix_is_ignored(client: Client, prefix: str) -> None:
    """What is not a plain absolute path never reaches a document or the page."""
    openapi = json.loads(client.get("/openapi.json", headers={"X-Forwarded-Prefix": prefix}).data)
    assert openapi["servers"] == [{"url": "/"}]
    assert b"<base" not in client.get("/", headers={"X-Forwarded-Prefix": prefix}).data


def test_a_prefix_that_the_proxy_leaves_in_the_path(client: Client) -> None:
    """Both kinds of proxy work: the one that takes the prefix off and the one that does not."""
    headers = {"X-Forwarded-Prefix": "/models/wine"}
    assert client.get("/models/wine/livez", headers=headers).status_code == 200
    assert client.get("/livez", headers=headers).status_code == 200
    assert client.get("/models/winery/livez", headers=headers).status_code == 404


def test_a_bug_of_ours_tells_the_client_nothing(app: RestApp, capsys: pytest.CaptureFixture[str]) -> None:
    """An unforeseen error is a 500 with a fixed sentence; the traceback goes to the log."""

    def broken(prediction: Any) -> bytes:
        raise RuntimeError("secret detail")

    app.service.encode = broken  # type: ignore[method-assign]
    response = post(app.flask().test_client(), json.dumps(REQUEST))
    assert response.status_code == 500 and "secret" not in message(response)
    assert "secret detail" in capsys.readouterr().err


def test_metrics_count_requests_rows_and_time(client: Client) -> None:
    """Routes and statuses, rows, a histogram whose buckets add up, and nothing in flight but the asker."""
    post(client, json.dumps(REQUEST))
    post(client, b"{")
    client.get("/nope")
    text = client.get("/metrics").text
    model = 'model="wine",version="1.2"'
    for group, route, status in (
        ("odahu", "/api/model/invoke", 200),
        ("odahu", "/api/model/invoke", 400),
        ("other", "other", 404),
    ):
        assert f'mpack_requests_total{{{model},group="{group}",route="{route}",status="{status}"}} 1\n' in text
    assert f"mpack_rows_total{{{model}}} 2\n" in text
    assert f"mpack_requests_in_flight{{{model}}} 1\n" in text
    assert f'mpack_request_seconds_bucket{{{model},group="odahu",le="+Inf"}} 2\n' in text
    assert f'mpack_request_seconds_count{{{model},group="odahu"}} 2\n' in text
    assert f"mpack_model_info{{{model}}} 1\n" in text


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(["data", "columns", "instances", "inputs", "params", "x"]), inner, max_size=3
                )
            ),
            max_leaves=12,
        ).map(lambda value: json.dumps(value).encode()),
    ),
    content_type=st.sampled_from(
        ["application/json", "text/csv", "", "text/csv; header=absent", "application/json; charset=x"]
    ),
    encoding=st.sampled_from(["", "gzip", "identity"]),
)
def test_any_body_is_answered_and_never_with_a_bug(
    client: Client, body: bytes, content_type: str, encoding: str
) -> None:
    """Whatever comes is a prediction, a refusal with a sentence, or the model's own failure."""
    response = post(client, body, content_type, Content_Encoding=encoding)
    assert response.status_code in (200, 400, 413, 415, 500)
    if response.status_code == 500:
        assert message(response).startswith("Exception during prediction")
    elif response.status_code != 200:
        assert message(response)


def test_strict_refuses_what_is_dropped_otherwise(make_model: Callable[..., Path]) -> None:
    """With strict in model.json a column too many is a 400."""
    service = Service.load(ModelConfig.load(make_model(serving={"strict": True})))
    response = post(
        RestApp(service, Settings()).flask().test_client(),
        '{"columns": ["alcohol","grape","year","z"], "data": [[1,"a",1,1]]}',
    )
    assert response.status_code == 400 and '"z"' in message(response)
