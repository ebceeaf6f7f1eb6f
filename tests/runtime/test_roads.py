"""KServe's first protocol and MLflow's scoring server on the same port."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mpack_runtime import __version__
from mpack_runtime.frame import Frame, Inputs
from mpack_runtime.rest.metrics import Metrics
from mpack_runtime.rest.roads import ROUTES, preload
from mpack_runtime.signature import Column, Param, Signature
from werkzeug.test import Client

SIGNATURE = Signature((Column("a", "double"), Column("b", "string", required=False)), (), (Param("n", "long", 3),))
INVOCATIONS, PREDICT = "/invocations", "/v1/models/sk:predict"


def model(inputs: Inputs) -> Any:
    """Twice the first column, with the parameter n added; it raises at 666."""
    assert isinstance(inputs, Frame)
    if 666 in inputs.data[0]:
        raise ValueError("the petals are off")
    return inputs.data[0] * 2 + inputs.params.get("n", 0)


@pytest.fixture
def client(serve: Callable[..., Client]) -> Client:
    """A client of it."""
    return serve(model, SIGNATURE)


@pytest.mark.parametrize(
    ("path", "body", "predictions"),
    [
        (INVOCATIONS, {"dataframe_split": {"index": [0], "columns": ["b", "a"], "data": [["x", 1.5]]}}, [3.0]),
        (INVOCATIONS, {"dataframe_records": [{"a": 1.5, "b": None}, {"a": 2}]}, [3.0, 4.0]),
        (INVOCATIONS, {"instances": [[1.5, "x"]]}, [3.0]),
        (INVOCATIONS, {"instances": [{"a": 1.5, "b": "x"}]}, [3.0]),
        (INVOCATIONS, {"inputs": {"a": [1.5, 2], "b": ["x", "y"]}}, [3.0, 4.0]),
        (INVOCATIONS, {"dataframe_records": [{"a": 1}], "params": {"n": 5}}, [7.0]),
        (PREDICT, {"instances": [[1.5, "x"], [2, None]]}, [3.0, 4.0]),
        (PREDICT, {"instances": [{"a": 1.5}], "signature_name": "serving_default"}, [3.0]),
        (PREDICT, {"inputs": {"a": [1.5]}}, [3.0]),
    ],
)
def test_the_forms_of_both(client: Client, path: str, body: Any, predictions: Any) -> None:
    """The answer has predictions alone."""
    answer = client.post(path, json=body)
    assert (answer.status_code, answer.json) == (200, {"predictions": predictions})
    assert answer.headers["Model-Name"] == "sk" and answer.headers["Request-Id"]


@pytest.mark.parametrize(
    ("raw", "mlflow", "v1"),
    [
        (pd.DataFrame({"y": [1], "z": [None]}), [{"y": 1, "z": None}], [[1, None]]),
        (pd.Series([1.5], name="y"), [{"y": 1.5}], [1.5]),
        (pd.Series(["a"]), [{"0": "a"}], ["a"]),
        (np.array([[1, 2]]), [[1, 2]], [[1, 2]]),
        ({"y": np.array([1.5])}, {"y": [1.5]}, {"y": [1.5]}),
        ([np.nan], [None], [None]),
    ],
)  # fmt: skip
def test_a_table_is_records_in_mlflows_answers_alone(
    serve: Callable[..., Client], raw: Any, mlflow: Any, v1: Any
) -> None:
    """As MLflow writes DataFrames and Series; V1 has rows."""
    client = serve(lambda _: raw, SIGNATURE)
    assert client.post(INVOCATIONS, json={"instances": [[1, "x"]]}).json == {"predictions": mlflow}
    assert client.post(PREDICT, json={"instances": [[1, "x"]]}).json == {"predictions": v1}


def test_what_was_ignored_is_told(client: Client) -> None:
    """As ODAHU's route tells it."""
    answer = client.post(INVOCATIONS, json={"dataframe_records": [{"a": 1, "z": 2}]})
    assert answer.status_code == 200 and '"z" was ignored' in answer.headers["Mpack-Warning"]


def test_mlflows_other_addresses(client: Client) -> None:
    """CSV in; a line break for health; the version as plain text."""
    answer = client.post(INVOCATIONS, data="a,b\n1.5,x\n", content_type="text/csv; charset=utf-8")
    assert answer.json == {"predictions": [3.0]}
    assert [client.get(path).data for path in ("/ping", "/health", "/version")] == [b"\n", b"\n", __version__.encode()]


def test_v1s_other_addresses(client: Client) -> None:
    """The list, and the one model."""
    assert client.get("/v1/models").json == {"models": ["sk"]}
    assert client.get("/v1/models/sk").json == {"name": "sk", "ready": True}


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/models/nope:predict", b"{}", 404, "no model nope"),
        ("/v1/models/sk:explain", b"{}", 404, "no model sk:explain"),
        ("/v1/zzz", b"{}", 404, "/v1/zzz"),
        ("/v1/models/sk", b"{}", 405, "POST"),
        (PREDICT, b'{"dataframe_records": [{"a": 1}]}', 400, "none of instances, inputs"),
        (PREDICT, b'{"instances": 5}', 400, "the number 5"),
        (PREDICT, b'{"instances": []}', 400, "empty list"),
        (PREDICT, b'{"instances": [[1, "x"]], "inputs": [[1, "x"]]}', 400, "exactly one"),
        (PREDICT, b"{", 400, "JSON"),
        (PREDICT, b"", 400, "empty"),
        (PREDICT, b'{"instances": [[666, "x"]]}', 500, "the petals are off"),
        (INVOCATIONS, b'{"columns": ["a"], "data": [[1]]}', 400, "none of dataframe_split"),
        (INVOCATIONS, b'{"instances": [["x", "x"]]}', 400, 'column "a"'),
        (INVOCATIONS, b'{"dataframe_split": {"columns": ["a"]}}', 400, "no data"),
        (INVOCATIONS, b"[]", 400, "a JSON object"),
        (INVOCATIONS, b"\xff", 400, "utf-8"),
        (INVOCATIONS, b'{"instances": [[666, "x"]]}', 500, "the petals are off"),
    ],
)
def test_refusals_have_the_protocols_form(client: Client, path: str, body: bytes, status: int, words: str) -> None:
    """{"error"} for V1; {"error_code", "message"} for MLflow's."""
    answer = client.post(path, data=body, content_type="application/json")
    assert answer.status_code == status, answer.json
    if path == INVOCATIONS:
        code = "INTERNAL_ERROR" if status == 500 else "BAD_REQUEST"
        assert answer.json["error_code"] == code and words in answer.json["message"] and len(answer.json) == 2
    else:
        assert list(answer.json) == ["error"] and words in answer.json["error"]


def test_what_is_not_json_or_csv_is_415(client: Client) -> None:
    """As MLflow has it, in its form."""
    answer = client.post(INVOCATIONS, data=b"<x/>", content_type="application/xml")
    assert answer.status_code == 415 and answer.json["error_code"] == "BAD_REQUEST"


def test_a_bug_of_ours_tells_nothing(client: Client, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """500 without the exception's words, which are in the log."""

    def broken(*_: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("mpack_runtime.service.Service.predict", broken)
    answer = client.post(PREDICT, json={"instances": [[1, "x"]]})
    assert answer.status_code == 500 and "secret" not in answer.text
    assert "secret detail" in capsys.readouterr().err


def test_their_modules_get_byte_code(model_json: Path, command: Callable[..., Any]) -> None:
    """The self-check tells what the first request of each protocol imports."""
    modules = json.loads(command(model_json, "self-check", "--modules").out)["modules"]
    for name in ("rest/v2.py", "rest/v1.py", "rest/mlflow.py", "v2/decode.py", "v2/answers.py"):
        assert any(path.endswith(f"/mpack_runtime/{name}") for path in modules), name


def test_the_version_is_the_distributions() -> None:
    """What runs in images has no metadata to read it from."""
    project = Path(__file__).parents[2] / "runtime" / "pyproject.toml"
    assert f'\nversion = "{__version__}"\n' in project.read_text("utf-8")


def test_the_table_of_routes_is_whole() -> None:
    """Each has a function of its protocol, and is counted."""
    import mpack_runtime.rest as rest

    preload()
    for route, (method, protocol, view) in ROUTES.items():
        assert method in ("GET", "POST") and callable(getattr(getattr(rest, protocol).Protocol, view))
        metrics = Metrics()
        metrics.start()
        metrics.end(route, 200, 0.0)
        assert f'route="{route}"' in metrics.render("m", "1")
