"""Every road to a model gives the same numbers, bit for bit: over HTTP, gRPC and on the command line; tritonclient
asks a real server."""

from __future__ import annotations

import csv
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
import pyarrow as pa
import pyarrow.parquet
import pytest
import tritonclient.http as triton
import xgboost
from mpack_runtime.arrow import MEDIA
from mpack_runtime.cli.predict import predict
from mpack_runtime.config import ModelConfig
from mpack_runtime.grpc.protocol import Protocol
from mpack_runtime.service import Service
from mpack_runtime.v2.raw import pack, unpack
from mpack_runtime.v2.tensors import DATATYPES, DTYPES
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from tritonclient.grpc import service_pb2 as pb
from werkzeug.test import Client

Columns = dict[str, "np.ndarray[Any, Any]"]
TABLE: Columns = {"a": np.array([1.5, 1 / 3, -7.25]), "b": np.array([0.1, 1e-300, 12345.678])}
MIXED: Columns = {
    "plan": np.array(["x", "y", "x"], dtype=object),
    "size": np.array([1, 2**53 + 1, 3]),
    "rate": np.array([0.1, 1 / 3, 2.5]),
}
TYPES = {"O": "string", "i": "long", "f": "double"}
CSV = "text/csv; header=present"
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
FIELDS = {"FP64": "fp64_contents", "FP32": "fp32_contents", "INT64": "int64_contents", "BYTES": "bytes_contents"}


def as_tensors(table: Columns, matrix: str | None) -> dict[str, Any]:
    """The table as V2 inputs by name: a column each, or all of them as one."""
    return {matrix: np.stack(list(table.values()), axis=1)} if matrix else table


def v2_json(client: Client, tensors: Columns) -> Any:
    items = [
        {
            "name": name,
            "datatype": DATATYPES.get(array.dtype.name, "BYTES"),
            "shape": list(array.shape),
            "data": array.tolist(),
        }
        for name, array in tensors.items()
    ]
    return client.post("/v2/models/m/infer", json={"inputs": items}).json["outputs"]


def tritons(tensors: Columns, *, binary: bool) -> list[Any]:
    """The inputs as tritonclient has them."""
    inputs = []
    for name, array in tensors.items():
        found = triton.InferInput(name, list(array.shape), DATATYPES.get(array.dtype.name, "BYTES"))
        found.set_data_from_numpy(array, binary_data=binary)
        inputs.append(found)
    return inputs


def v2_binary(client: Client, tensors: Columns, names: list[str]) -> dict[str, Any]:
    """By the bytes that tritonclient makes and reads."""
    wanted = [triton.InferRequestedOutput(name, binary_data=True) for name in names]
    make, read = triton.InferenceServerClient.generate_request_body, triton.InferenceServerClient.parse_response_body
    body, length = make(tritons(tensors, binary=True), outputs=wanted)
    answer = client.post("/v2/models/m/infer", data=body, headers={"Inference-Header-Content-Length": str(length)})
    assert answer.status_code == 200, answer.text
    result = read(answer.data, header_length=int(answer.headers["Inference-Header-Content-Length"]))
    return {name: result.as_numpy(name) for name in names}


def by_grpc(service: Service, tensors: Columns, *, raw: bool) -> list[Any]:
    """The outputs' values; messages are tritonclient's."""
    made = pb.ModelInferRequest(model_name="m")
    for name, array in tensors.items():
        datatype = DATATYPES.get(array.dtype.name, "BYTES")
        item = made.inputs.add(name=name, datatype=datatype, shape=array.shape)
        values = array.ravel().tolist()
        if raw:
            made.raw_input_contents.append(pack(values) if datatype == "BYTES" else array.tobytes())
        else:
            coded = [value.encode() if datatype == "BYTES" else value for value in values]
            getattr(item.contents, FIELDS[datatype]).extend(coded)
    told = pb.ModelInferResponse.FromString(
        Protocol(service, lambda: True).answer("ModelInfer", made.SerializeToString()).body
    )
    if not raw:
        return [np.array(getattr(one.contents, FIELDS[one.datatype]), DTYPES[one.datatype]) for one in told.outputs]
    pairs = zip(told.outputs, told.raw_output_contents, strict=True)
    return [
        unpack(data) if one.datatype == "BYTES" else np.frombuffer(data, DTYPES[one.datatype]) for one, data in pairs
    ]


def by_command(service: Service, root: Path, table: Columns, rows: list[Any], *, records: bool) -> None:
    """Results in `root`: own/j.results.json and so on, each of its file's format; json/ has all of them as JSON.

    Without records nothing has names: a tensor's name is not its columns'."""
    (root / "own").mkdir()
    (root / "json").mkdir()
    lines: list[Any] = [dict(zip(table, row, strict=True)) for row in rows] if records else rows
    (root / "j.json").write_text(json.dumps({"columns": list(table), "data": rows}))
    (root / "c.csv").write_text(pd.DataFrame(table).to_csv(index=False, header=records))
    (root / "l.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pa.parquet.write_table(pa.table(table), root / "p.parquet")
    files = [str(root / name) for name in ("j.json", "c.csv", "l.jsonl", "p.parquet")]
    for form in (None, "json"):
        assert predict(lambda: service.config, files, str(root / (form or "own")), io.StringIO(), form=form) == 0


def tables(root: Path) -> list[list[list[Any]]]:
    """The rows of the results that are tables."""
    with (root / "own/c.results.csv").open(newline="") as stream:
        cells = list(csv.reader(stream))[1:]
    lines = (root / "own/l.results.jsonl").read_text().splitlines()
    columns = pa.parquet.read_table(root / "own/p.results.parquet").columns
    return [
        [[_cell(cell) for cell in row] for row in cells],
        [list(json.loads(line).values()) for line in lines],
        [list(row) for row in zip(*(column.to_pylist() for column in columns), strict=True)],
    ]


def _cell(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def plain(column: Any) -> Any:
    """A column of Arrow's, lists or not, as an array of its own type."""
    array = column.combine_chunks()
    while pa.types.is_nested(array.type):
        array = array.flatten()
    return array.to_numpy(zero_copy_only=False)


def by_arrow(client: Client, path: str, table: Columns) -> list[Any]:
    """The columns of an answer to the table, both as Arrow streams."""
    sink, given = pa.BufferOutputStream(), pa.table(table)
    with pa.ipc.new_stream(sink, given.schema) as writer:
        writer.write_table(given)
    body = sink.getvalue().to_pybytes()
    answer = client.post(path, data=body, content_type=MEDIA, headers={"Accept": MEDIA})
    assert answer.status_code == 200, answer.text
    found: list[Any] = pa.ipc.open_stream(answer.data).read_all().columns
    return found


def texts(array: Any) -> list[Any]:
    """Values as lists; text of raw tensors is bytes, and JSON has float32 by the digits that tell it from others."""
    flat = np.asarray(array).reshape(-1)
    flat = flat.astype(str).astype(np.float64) if flat.dtype == np.float32 else flat
    return [item.decode() if isinstance(item, bytes) else item for item in flat.tolist()]


@pytest.mark.parametrize("name", MODELS)
def test_every_road_gives_the_same_numbers(tmp_path: Path, client_of: CLIENTS, name: str) -> None:
    """ODAHU's JSON and CSV, MLflow's four forms and CSV, V1, V2's JSON, binary and gRPC by columns and one tensor,
    Arrow, and the command line's four formats."""
    make, table = MODELS[name]
    service = make(tmp_path, table)
    client = client_of(service)
    rows = [list(row) for row in zip(*(values.tolist() for values in table.values()), strict=True)]
    frame = {"columns": list(table), "data": rows}
    expected = client.post("/api/model/invoke", json=frame).json["prediction"]
    csv = pd.DataFrame(table).to_csv(index=False)
    assert client.post("/api/model/invoke", data=csv, content_type=CSV).json["prediction"] == expected
    records = [dict(zip(table, row, strict=True)) for row in rows]
    forms: dict[str, Any] = {"dataframe_split": frame, "instances": rows, "inputs": rows}
    if name != "graph":  # whose one tensor is no table
        forms["dataframe_records"] = records
    for form, value in forms.items():
        assert client.post("/invocations", json={form: value}).json == {"predictions": expected}, form
    assert client.post("/invocations", data=csv, content_type=CSV).json == {"predictions": expected}
    assert client.post("/v1/models/m:predict", json={"instances": rows}).json == {"predictions": expected}
    parts = list(expected.values()) if isinstance(expected, dict) else [expected]
    flat = [texts(part) for part in parts]
    for path in ("/api/model/invoke", "/invocations"):
        assert [texts(plain(found)) for found in by_arrow(client, path, table)] == flat
    for matrix in {MATRICES.get(name), "x" if name == "graph" else None}:
        tensors = as_tensors(table, matrix)
        outputs = v2_json(client, tensors)
        assert [output["data"] for output in outputs] == flat
        raw = v2_binary(client, tensors, [output["name"] for output in outputs])
        assert [texts(array) for array in raw.values()] == flat
        assert [list(array.shape) for array in raw.values()] == [output["shape"] for output in outputs]
        for raw_form in (False, True):
            assert [texts(array) for array in by_grpc(service, tensors, raw=raw_form)] == flat
    by_command(service, tmp_path, table, rows, records=name != "graph")
    answers = [*(tmp_path / "json").iterdir(), tmp_path / "own/j.results.json"]
    assert [json.loads(path.read_text())["prediction"] for path in answers] == [expected] * 5
    for found in tables(tmp_path):
        columns = list(zip(*found, strict=True)) if isinstance(expected, dict) else [found]
        assert [texts(column) for column in columns] == flat


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
