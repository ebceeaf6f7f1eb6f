"""`?method=`: what else a model has is asked by name, on every road, and nothing but what it really has."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mpack_runtime.config import ModelConfig
from mpack_runtime.errors import BadRequest
from mpack_runtime.frame import Inputs
from mpack_runtime.grpc.protocol import Protocol
from mpack_runtime.service import Service
from mpack_runtime.signature import Column, Param, Signature
from sklearn.cluster import KMeans
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from tritonclient.grpc import service_pb2
from werkzeug.test import Client

TABLE = pd.DataFrame({"a": [1.5, 1 / 3, -7.25, 4.0], "b": [0.1, 1e-30, 12345.678, 3.0]})
LABELS = ["no", "yes", "no", "maybe"]
ROWS: list[list[float]] = TABLE.to_numpy().tolist()
CLIENTS = Callable[[Service], Client]
INVOKE, INFER = "/api/model/invoke", "/v2/models/m/infer"
X = {"name": "input-0", "datatype": "FP64", "shape": [4, 2], "data": ROWS}


def model(root: Path, estimator: Any, **options: Any) -> Path:
    """An image's model.json around an estimator whose signature tells a column `y`."""
    (root / "model").mkdir()
    (root / "model/m").write_bytes(pickle.dumps(estimator))
    columns = [{"kind": "column", "name": name, "type": "double"} for name in TABLE]
    value = {
        "schema": 1,
        "name": "m",
        "version": "1",
        "loader": {"kind": "sklearn", "path": "m", "options": options},
        "signature": {"inputs": columns, "outputs": [{"kind": "column", "name": "y", "type": "any"}]},
    }
    (root / "model.json").write_text(json.dumps(value))
    return root / "model.json"


def service(root: Path, estimator: Any, **options: Any) -> Service:
    return Service.load(ModelConfig.load(model(root, estimator, **options)))


@pytest.fixture
def classifier() -> Any:
    """A pipeline of three classes, fitted on named columns."""
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(TABLE, LABELS)


@pytest.mark.parametrize("method", ["predict_proba", "predict_log_proba", "decision_function"])
def test_every_road_gives_the_methods_numbers(tmp_path: Path, client_of: CLIENTS, classifier: Any, method: str) -> None:
    """Bit for bit; the classes are the columns, and V2's output has the method's name."""
    client = client_of(service(tmp_path, classifier))
    wanted = getattr(classifier, method)(TABLE).tolist()
    query = f"?method={method}"
    invoked = client.post(INVOKE + query, json={"data": ROWS}).json
    assert invoked == {"prediction": wanted, "columns": ["maybe", "no", "yes"]}
    csv = TABLE.to_csv(index=False)
    assert client.post(INVOKE + query, data=csv, content_type="text/csv").json == invoked
    for path in ("/invocations", "/v1/models/m:predict"):
        assert client.post(path + query, json={"instances": ROWS}).json == {"predictions": wanted}
    output = {"name": method, "datatype": "FP64", "shape": [4, 3], "data": np.ravel(wanted).tolist()}
    body = {"inputs": [X]}
    for asked in (client.post(INFER + query, json=body), client.post(INFER, json=named(body, method))):
        assert asked.json["outputs"] == [output]
    picked = client.post(INFER + query, json={**body, "outputs": [{"name": method}]})
    assert picked.json["outputs"] == [output]
    assert client.post(INFER + query, json={**body, "outputs": [{"name": "y"}]}).status_code == 400


def test_grpc_has_the_parameter_too(tmp_path: Path, classifier: Any) -> None:
    """The same output as over HTTP; an unknown method is the request's fault."""
    protocol = Protocol(service(tmp_path, classifier), lambda: True)
    request = service_pb2.ModelInferRequest(model_name="m")
    request.inputs.add(name="input-0", datatype="FP64", shape=[4, 2]).contents.fp64_contents.extend(np.ravel(ROWS))
    request.parameters["method"].string_param = "predict_proba"
    body = protocol.answer("ModelInfer", request.SerializeToString()).body
    (output,) = service_pb2.ModelInferResponse.FromString(body).outputs
    assert (output.name, list(output.shape)) == ("predict_proba", [4, 3])
    assert list(output.contents.fp64_contents) == np.ravel(classifier.predict_proba(TABLE)).tolist()
    request.parameters["method"].string_param = "fit"
    with pytest.raises(BadRequest, match="it has predict, predict_proba"):
        protocol.answer("ModelInfer", request.SerializeToString())


def named(body: dict[str, Any], method: Any) -> dict[str, Any]:
    return {**body, "parameters": {"method": method}}


def test_the_models_own_method_is_what_the_loader_says(tmp_path: Path, client_of: CLIENTS, classifier: Any) -> None:
    """Named or not it has the signature's outputs; the others do not, predict neither."""
    client = client_of(service(tmp_path, classifier, method="decision_function"))
    own = client.post(INVOKE, json={"data": ROWS}).json
    assert own == client.post(f"{INVOKE}?method=decision_function", json={"data": ROWS}).json
    assert own["prediction"] == classifier.decision_function(TABLE).tolist()
    labels = client.post(f"{INVOKE}?other=1&method=predict", json={"data": ROWS}).json
    assert labels == {"prediction": classifier.predict(TABLE).tolist(), "columns": []}
    (output,) = client.post(INFER, json=named({"inputs": [X]}, "predict")).json["outputs"]
    assert (output["name"], output["datatype"]) == ("predict", "BYTES")
    (output,) = client.post(INFER, json=named({"inputs": [X]}, "decision_function")).json["outputs"]
    assert output["name"] == "y"


@pytest.mark.parametrize(
    ("estimator", "there"),
    [
        (LinearRegression(), ["predict"]),
        (LogisticRegression(), ["predict", "predict_proba", "predict_log_proba", "decision_function"]),
        (SVC(), ["predict", "decision_function"]),
        (KMeans(2), ["predict", "transform"]),
        (make_pipeline(StandardScaler(), SVC()), ["predict", "decision_function"]),
    ],
)
def test_only_what_the_model_has_is_offered(tmp_path: Path, client_of: CLIENTS, estimator: Any, there: Any) -> None:
    """Whatever else is named is a 400 that tells those there are, as are attributes that are no method to ask for."""
    loaded = service(tmp_path, estimator.fit(TABLE, [0, 1, 0, 1]))
    assert list(loaded.model.methods) == there
    client = client_of(loaded)
    for name in ("fit", "__class__", "score", "predict ", "Predict", *({"transform", "predict_proba"} - set(there))):
        for answer in (
            client.post(INVOKE, query_string={"method": name}, json={"data": ROWS}),
            client.post(INFER, json=named({"inputs": [X]}, name)),
        ):
            assert answer.status_code == 400
            assert f"it has {', '.join(there)}." in (answer.json.get("message") or answer.json["error"])


@pytest.mark.parametrize(
    ("query", "parameter", "words"),
    [
        ("?method=predict&method=predict", None, "names 2 methods"),
        ("?method=", None, "an empty method"),
        ("", 3, "parameter method is the number 3"),
        ("?method=predict_proba", "predict", "asks for the method"),
        ("", "", "a method's name"),
    ],
)
def test_one_method_is_asked_for(
    tmp_path: Path, client_of: CLIENTS, classifier: Any, query: str, parameter: Any, words: str
) -> None:
    """Two of them, in the address or in address and body, and what is no name, are a 400."""
    client = client_of(service(tmp_path, classifier))
    body = {"inputs": [X]} if parameter is None else named({"inputs": [X]}, parameter)
    answer = client.post(INFER + query, json=body)
    assert answer.status_code == 400 and words in answer.json["error"]


def test_methods_are_declared_where_there_is_a_choice(tmp_path: Path, client_of: CLIENTS, classifier: Any) -> None:
    """In the Swagger and the OpenAPI document, on every road, and in V2's metadata."""
    client = client_of(service(tmp_path, classifier))
    there = ["predict", "predict_proba", "predict_log_proba", "decision_function"]
    swagger = client.get("/api/model/info").json["paths"]["/api/model/invoke"]["post"]["parameters"]
    assert [item["name"] for item in swagger] == ["PredictionParameters", "method"]
    assert (swagger[1]["in"], swagger[1]["enum"], swagger[1]["default"]) == ("query", there, "predict")
    paths = client.get("/openapi.json").json["paths"]
    declaring = [path for path, operation in paths.items() if "method" in json.dumps(operation.get("post", {}))]
    assert declaring == [INVOKE, *(path for path in paths if path.endswith(("/infer", ":predict", "/invocations")))]
    assert client.get("/v2/models/m").json["parameters"] == {"method": "predict", "methods": there}
    (tmp_path / "single").mkdir()
    single = client_of(service(tmp_path / "single", LinearRegression().fit(TABLE, [1, 2, 3, 4])))
    assert len(single.get("/api/model/info").json["paths"]["/api/model/invoke"]["post"]["parameters"]) == 1
    assert "parameters" not in single.get("/v2/models/m").json
    assert '"in":"query"' not in single.get("/openapi.json").text


def test_a_signatures_own_parameter_keeps_its_name(serve: Callable[..., Client]) -> None:
    """A model with an inference parameter `method` gets it; the address is then the way to name a method."""
    seen: list[Inputs] = []

    def answer(inputs: Inputs) -> Any:
        seen.append(inputs)
        return [1.0]

    client = serve(answer, Signature((Column("a", "double"),), (), (Param("method", "string", "x"),)))
    body = named({"inputs": [{"name": "a", "datatype": "FP64", "shape": [1], "data": [1.0]}]}, "fast")
    assert client.post("/v2/models/sk/infer", json=body).status_code == 200
    assert (seen[0].params, seen[0].method) == ({"method": "fast"}, "")
    assert client.post("/v2/models/sk/infer?method=fast", json=body).status_code == 400


def test_the_command_line_asks_it_too(tmp_path: Path, command: Callable[..., Any], classifier: Any) -> None:
    """`predict --method` gives the same numbers, also as a table; an unknown one leaves no result."""
    where, out = model(tmp_path, classifier), tmp_path / "out"
    out.mkdir()
    (tmp_path / "x.csv").write_text(TABLE.to_csv(index=False))
    ran = command(where, "predict", "--method", "predict_proba", "--format", "json", tmp_path / "x.csv", out)
    assert ran.code == 0, ran.err
    answer = json.loads((out / "results.json").read_text())
    assert answer == {"prediction": classifier.predict_proba(TABLE).tolist(), "columns": ["maybe", "no", "yes"]}
    (out / "results.json").unlink()
    ran = command(where, "predict", "--method", "fit", tmp_path / "x.csv", out)
    assert ran.code == 1 and "it has predict, predict_proba" in ran.err and not list(out.iterdir())
