"""Every road to a model gives the same numbers, bit for bit: over HTTP, gRPC and on the command line; tritonclient
asks a real server."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnx
import onnx.helper as oh
import pandas as pd
import pytest
import tritonclient.http as triton
import xgboost
from mpack_runtime.cli.predict import predict
from mpack_runtime.config import ModelConfig
from mpack_runtime.grpc.protocol import Protocol
from mpack_runtime.service import Service
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from werkzeug.test import Client

from tests.roads import (
    FILES,
    Columns,
    Reply,
    beside,
    exactly,
    post_arrow,
    post_csv,
    post_json,
    read_result,
    rows_of,
    spoken,
    tritons,
    v2_binary,
    v2_grpc,
    v2_json,
    write_files,
)  # fmt: skip

TABLE: Columns = {"a": np.array([1.5, 1 / 3, -7.25]), "b": np.array([0.1, 1e-300, 12345.678])}
MIXED: Columns = {
    "plan": np.array(["x", "y", "x"], dtype=object),
    "size": np.array([1, 2**53 + 1, 3]),
    "rate": np.array([0.1, 1 / 3, 2.5]),
}
TYPES = {"O": "string", "i": "long", "f": "double"}
CLIENTS = Callable[[Service], Client]


def columns_of(table: Columns) -> list[dict[str, Any]]:
    return [
        {"kind": "column", "name": name, "type": TYPES[values.dtype.kind], "required": True}
        for name, values in table.items()
    ]


def write(root: Path, kind: str, content: bytes, signature: Any = None, **options: Any) -> Service:
    (root / "model").mkdir()
    (root / "model/m").write_bytes(content)
    loader = {"kind": kind, "path": "m", "options": options}
    serving = {"arrow": True}
    model = {"schema": 1, "name": "m", "version": "1", "loader": loader, "signature": signature, "serving": serving}
    (root / "model.json").write_text(json.dumps(model))
    return Service.load(ModelConfig.load(root / "model.json"))


def linear(root: Path, table: Columns) -> Service:
    model = LinearRegression().fit(pd.DataFrame(table), [1.0, 2.0, 5.0])
    return write(root, "sklearn", pickle.dumps(model), {"inputs": columns_of(table)})


def undeclared(root: Path, table: Columns) -> Service:
    return write(root, "sklearn", pickle.dumps(LinearRegression().fit(pd.DataFrame(table), [1.0, 2.0, 5.0])))


def probabilities(root: Path, table: Columns) -> Service:
    model = LogisticRegression().fit(pd.DataFrame(table), [0, 1, 1])
    return write(root, "sklearn", pickle.dumps(model), {"inputs": columns_of(table)}, method="predict_proba")


def pipeline(root: Path, table: Columns) -> Service:
    encoder = ColumnTransformer([("plan", OneHotEncoder(), ["plan"])], remainder="passthrough")
    model = make_pipeline(encoder, LogisticRegression()).fit(pd.DataFrame(table), ["no", "yes", "no"])
    return write(root, "sklearn", pickle.dumps(model), {"inputs": columns_of(table)})


def graph(root: Path, table: Columns) -> Service:
    """x · w in float64, and its sign; the columns are one tensor."""
    nodes = [oh.make_node("MatMul", ["x", "w"], ["score"]), oh.make_node("Sign", ["score"], ["sign"])]
    weights = oh.make_tensor("w", onnx.TensorProto.DOUBLE, [2, 1], [0.3, -1.7])
    tensors = {name: oh.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, [None, size]) for name, size in SIZES}
    made = oh.make_graph(nodes, "g", [tensors["x"]], [tensors["score"], tensors["sign"]], [weights])
    model = oh.make_model(made, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)
    return write(root, "onnx", model.SerializeToString())


def trees(root: Path, table: Columns) -> Service:
    """XGBoost answers float32."""
    model = xgboost.XGBRegressor(n_estimators=3).fit(pd.DataFrame(table), [0.1, 1 / 3, 5.7])
    content = bytes(model.get_booster().save_raw("json"))
    return write(root, "xgboost", content, {"inputs": columns_of(table)}, **{"class": "XGBRegressor"})


def booster(root: Path, table: Columns) -> Service:
    """As above, for probabilities; it tells its columns itself."""
    model = xgboost.XGBClassifier(n_estimators=3, base_score=0.3).fit(pd.DataFrame(table), [0, 1, 1])
    return write(root, "xgboost", bytes(model.get_booster().save_raw("json")))


LEAVES = {"n_estimators": 3, "min_child_samples": 1, "min_data_in_bin": 1, "verbose": -1}


def leaves(root: Path, table: Columns) -> Service:
    """LightGBM's text file."""
    model = lightgbm.LGBMRegressor(**LEAVES).fit(pd.DataFrame(table), [0.1, 1 / 3, 5.7])
    return write(root, "lightgbm", model.booster_.model_to_string().encode(), {"inputs": columns_of(table)})


def labels(root: Path, table: Columns) -> Service:
    model = lightgbm.LGBMClassifier(**LEAVES).fit(pd.DataFrame(table), ["no", "yes", "no"])
    return write(root, "lightgbm", pickle.dumps(model), {"inputs": columns_of(table)})


SIZES = (("x", 2), ("score", 1), ("sign", 1))
MODELS: dict[str, tuple[Callable[[Path, Columns], Service], Columns]] = {
    "linear": (linear, TABLE),
    "undeclared": (undeclared, TABLE),
    "probabilities": (probabilities, TABLE),
    "pipeline": (pipeline, MIXED),
    "graph": (graph, TABLE),
    "xgboost class": (trees, TABLE),
    "xgboost booster": (booster, TABLE),
    "lightgbm booster": (leaves, TABLE),
    "lightgbm class": (labels, TABLE),
}
#: Input of all columns, where a model may be asked so.
MATRICES = {
    **dict.fromkeys(("linear", "probabilities", "xgboost class", "lightgbm booster", "lightgbm class"), "input-0"),
    **{"undeclared": "any", "xgboost booster": "any", "graph": "x"},
}


def as_tensors(table: Columns, matrix: str | None) -> dict[str, Any]:
    """The table as V2 inputs by name: a column each, or all of them as one."""
    return {matrix: np.stack(list(table.values()), axis=1)} if matrix else table


def by_command(service: Service, root: Path, table: Columns, *, named: bool) -> None:
    """Results in `root`: own/j.results.json and so on, each of its file's format; json/ has all of them as JSON.

    A tensor's name is not its columns', so they are not `named`."""
    write_files(root, table, named=named)
    files = [str(root / name) for name in FILES.values()]
    for form in (None, "json"):
        (root / (form or "own")).mkdir()
        assert predict(lambda: service.config, files, str(root / (form or "own")), io.StringIO(), form=form) == 0


@pytest.mark.parametrize("name", MODELS)
def test_every_road_gives_the_same_numbers(tmp_path: Path, client_of: CLIENTS, name: str) -> None:
    """ODAHU's JSON and CSV, MLflow's four forms and CSV, V1, V2's JSON, binary and gRPC by columns and one tensor,
    Arrow, and the command line's four formats."""
    make, table = MODELS[name]
    service = make(tmp_path, table)
    client, protocol = client_of(service), Protocol(service, lambda: True)

    def ask(path: str, body: bytes, headers: dict[str, str]) -> Reply:
        answer = client.post(path, data=body, headers=headers)
        return Reply(answer.status_code, answer.data, answer.headers)

    def call(message: bytes) -> Reply:
        return Reply("OK", protocol.answer("ModelInfer", message).body)

    rows = spoken(table)
    frame = {"columns": list(table), "data": rows}
    expected = post_json(ask, "/api/model/invoke", frame)
    forms: dict[str, Any] = {"dataframe_split": frame, "instances": rows, "inputs": rows}
    if name != "graph":  # whose one tensor is no table
        forms["dataframe_records"] = [dict(zip(table, row, strict=True)) for row in rows]
    for form, value in forms.items():
        assert post_json(ask, "/invocations", {form: value}) == expected, form
    assert post_json(ask, "/v1/models/m:predict", {"instances": rows}) == expected
    exact = exactly(rows_of(expected))
    for path in ("/api/model/invoke", "/invocations"):
        assert post_csv(ask, path, table) == expected
        assert exactly(post_arrow(ask, path, table)) == exact
    for matrix in {MATRICES.get(name), "x" if name == "graph" else None}:
        tensors = as_tensors(table, matrix)
        outputs = v2_json(ask, "m", tensors)
        others = [v2_binary(ask, "m", tensors, list(outputs)), v2_grpc(call, "m", tensors, raw=False)]
        for found in (outputs, *others, v2_grpc(call, "m", tensors, raw=True)):
            assert exactly(beside(found)) == exact
            assert {key: array.shape for key, array in found.items()} == {key: outputs[key].shape for key in outputs}
    by_command(service, tmp_path, table, named=name != "graph")
    answers = [*(tmp_path / "json").iterdir(), tmp_path / "own/j.results.json"]
    assert [json.loads(path.read_text())["prediction"] for path in answers] == [expected] * 5
    for path in (tmp_path / "own").iterdir():
        assert exactly(read_result(path)) == exact, path.name


def test_tritonclient_asks_a_real_server(model_json: Path, start: Callable[..., Any]) -> None:
    """Health, metadata, the index and predictions in both forms; its errors are ours."""
    server = start(model_json, workers=2)
    client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
    try:
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("wine", "1.2")
        assert not client.is_model_ready("nope")
        assert client.get_server_metadata()["name"] == "mpack"
        assert [item["name"] for item in client.get_model_metadata("wine")["inputs"]] == ["alcohol", "grape", "year"]
        assert client.get_model_repository_index()[0]["state"] == "READY"
        table: Columns = {
            "alcohol": np.array([[12.5], [11.0]]),
            "grape": np.array([["merlot"], ["späte"]], dtype=object),
            "year": np.array([[1999], [2001]]),
        }
        for binary in (False, True):
            wanted = [triton.InferRequestedOutput("quality", binary_data=binary)]
            answer = client.infer("wine", tritons(table, binary=binary), outputs=wanted, request_id="7")
            assert answer.as_numpy("quality").tolist() == [[14.499], [13.001]]
            assert answer.get_response()["id"] == "7"
        unwanted = client.infer("wine", tritons(table, binary=True))  # asks for raw outputs, whichever they are
        assert unwanted.as_numpy("quality").tolist() == [[14.499], [13.001]]
        table["year"] = table["year"].astype(np.float64)
        with pytest.raises(triton.InferenceServerException, match="the model takes INT64"):
            client.infer("wine", tritons(table, binary=True))
        table["grape"][0, 0], table["year"] = "boom", np.array([[1], [1]])
        with pytest.raises(triton.InferenceServerException, match="the grapes are off"):
            client.infer("wine", tritons(table, binary=True))
    finally:
        client.close()
