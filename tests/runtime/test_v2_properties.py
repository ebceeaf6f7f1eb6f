"""Mutated requests of every road: whatever is sent, the answer is JSON and no 5xx."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpack_runtime import loaders
from mpack_runtime.config import LoaderConfig, ModelConfig, Settings
from mpack_runtime.frame import Inputs
from mpack_runtime.rest.app import RestApp
from mpack_runtime.service import Service
from mpack_runtime.signature import Column, Param, Signature, Tensor
from mpack_runtime.v2.tensors import DTYPES
from werkzeug.test import Client


class Rows(loaders.Model):
    """Answers the numbers of its rows, whatever it is asked."""

    def predict(self, inputs: Inputs) -> Any:
        return np.arange(inputs.rows)


TYPED = ("double", "string", "long", "datetime", "binary", "boolean", "any", "float", "integer")
SIGNATURES = {
    "nothing": None,
    "columns": Signature(tuple(Column(kind, kind, required=index < 2) for index, kind in enumerate(TYPED))),
    "one type": Signature((Column("a", "double"), Column("b", "double")), (), (Param("n", "long", 1),)),
    "without names": Signature((Column(None, "long"), Column(None, "double"))),
    "text without names": Signature((Column(None, "long"), Column(None, "string"))),
    "tensors": Signature((Tensor("a", "float32", (-1, 2)), Tensor("b", "str", (-1,)), Tensor("c", "bool", ()))),
    "one tensor": Signature((Tensor(None, "any", ()),), (Tensor("y", "int8", (-1,)),)),
}
NAMES = ("a", "b", "c", "input-0", *TYPED)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | st.integers(-(2**65), 2**65) | FLOATS | st.text()
JSONS = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3))
SHAPES = st.lists(st.integers(-1, 4) | st.sampled_from([2**31, 2**63, 2**64]), max_size=4)


def mostly(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What is meant, and now and then anything."""
    return st.integers(0, 9).flatmap(lambda number: values if number else JSONS)


def parameters(*names: str) -> st.SearchStrategy[Any]:
    values = st.sampled_from(["np", "pd", "str", "base64", "datetime", True, False, 0, 4, 8, -1, 2**63, None, "x"])
    return mostly(st.dictionaries(st.sampled_from(names), values, max_size=2))


DATA = st.lists(SCALARS, max_size=6) | st.lists(st.lists(SCALARS, max_size=3), max_size=3)
VALUES = {"b": st.booleans(), "i": st.integers(-9, 9), "u": st.integers(0, 9), "f": FLOATS, "O": st.text()}


@st.composite
def good(draw: st.DrawFn) -> dict[str, Any]:
    """An input whose parts agree, but perhaps not with the model."""
    datatype = draw(st.sampled_from(sorted(DTYPES)))
    rows = draw(st.integers(1, 2))
    shape = [rows, *draw(st.sampled_from([[], [1], [2], [9], [2, 1]]))]
    values = VALUES[DTYPES[datatype].kind] | (st.none() if draw(st.booleans()) else st.nothing())
    data = [draw(values) for _ in range(int(np.prod(shape)))]
    return {"name": draw(st.sampled_from(NAMES)), "datatype": datatype, "shape": shape, "data": data}


WILD = st.fixed_dictionaries(
    {
        "name": mostly(st.sampled_from(NAMES)),
        "datatype": mostly(st.sampled_from(sorted(DTYPES))),
        "shape": mostly(SHAPES),
    },
    optional={"data": mostly(DATA), "parameters": parameters("binary_data_size", "content_type")},
)
INPUT = good() | WILD
OUTPUT = st.fixed_dictionaries(
    {"name": mostly(st.sampled_from(["predict", "y"]))},
    optional={"parameters": parameters("binary_data", "classification")},
)
V2 = st.fixed_dictionaries(
    {"inputs": mostly(st.lists(mostly(INPUT), max_size=3))},
    optional={
        "id": mostly(st.text()),
        "outputs": mostly(st.lists(mostly(OUTPUT), max_size=2)),
        "parameters": parameters("content_type", "binary_data_output", "n"),
    },
)
TABLES = st.sampled_from(["instances", "inputs", "dataframe_split", "dataframe_records", "params", "data"])
OTHER = st.dictionaries(TABLES, JSONS | DATA | st.dictionaries(st.sampled_from(NAMES), DATA), max_size=2)


@pytest.fixture(scope="module", params=SIGNATURES)
def client(request: Any) -> Client:
    """A client of a model with one of the signatures."""
    config = ModelConfig("m", "1", LoaderConfig("x", "m"), Path(tempfile.gettempdir()), SIGNATURES[request.param])
    return Client(RestApp(Service(config, Rows()), Settings(max_body=1 << 16)).flask())


def check(answer: Any) -> None:
    """An answer or a refusal with words."""
    assert answer.status_code in (200, 400, 413, 415), answer.text
    if answer.status_code != 200:
        assert all(isinstance(words, str) and words for words in answer.json.values())


@settings(max_examples=150, deadline=None)
@given(body=V2, tail=st.binary(max_size=40), cut=st.integers(-3, 3) | st.none())
def test_no_v2_request_is_a_5xx(client: Client, body: Any, tail: bytes, cut: int | None) -> None:
    """JSON, and JSON with bytes after it whose lengths are right or wrong."""
    text = json.dumps(body).encode()
    headers = {} if cut is None else {"Inference-Header-Content-Length": str(len(text) + cut)}
    check(client.post("/v2/models/m/infer", data=text if cut is None else text + tail, headers=headers))


#: Where a datatype's own values are too many: dates, float32, and tables of whole numbers and text in one tensor.
FITTING = {
    ("datetime", "BYTES"): st.just("2024-05-01"),
    ("input-0", "BYTES"): st.just("7"),
    ("input-0", "FP64"): st.integers(-9, 9),
    **{(name, "FP32"): st.floats(-9, 9, width=32) for name in ("a", "float")},
}


def fitting(data: st.DataObject, specs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Inputs that the model takes, by its metadata."""
    rows, items = data.draw(st.integers(1, 2)), []
    for spec in specs:
        first, *rest = spec["shape"]
        shape = [rows if first < 0 else first, *(2 if dim < 0 else dim for dim in rest)]
        values = FITTING.get((spec["name"], spec["datatype"]), VALUES[DTYPES[spec["datatype"]].kind])
        count = int(np.prod(shape))
        items.append({**spec, "shape": shape, "data": data.draw(st.lists(values, min_size=count, max_size=count))})
    return items


CHANGES = ("name", "datatype", "shape", "data", "parameters", "gone", "more")


@settings(max_examples=100, deadline=None)
@given(data=st.data(), changes=st.lists(st.sampled_from(CHANGES), max_size=2), binary=st.booleans())
def test_a_fitting_request_is_answered_and_no_change_of_it_is_a_5xx(
    client: Client, data: st.DataObject, changes: list[str], binary: bool
) -> None:
    """Unchanged 200, in both forms of answers; then with parts replaced by others, left out, or sent twice."""
    items = fitting(data, client.get("/v2/models/m").json["inputs"])
    for change in changes:
        index = data.draw(st.integers(0, max(len(items) - 1, 0)))
        if not items or change == "more":
            items.append(data.draw(INPUT))
        elif change == "gone":
            items.pop(index)
        else:
            items[index] = {**items[index], change: data.draw(WILD).get(change, 1)}
    answer = client.post("/v2/models/m/infer", json={"inputs": items, "parameters": {"binary_data_output": binary}})
    check(answer)
    assert changes or answer.status_code == 200, answer.text


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_changed_byte_is_a_5xx(client: Client, data: st.DataObject) -> None:
    """Bytes of a fitting request put elsewhere, changed, or taken away."""
    items = fitting(data, client.get("/v2/models/m").json["inputs"])
    body = bytearray(json.dumps({"id": "1", "inputs": items, "parameters": {"n": 1}}).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(body)))
        body[start : start + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    check(client.post("/v2/models/m/infer", data=bytes(body)))


@settings(max_examples=100, deadline=None)
@given(body=OTHER, path=st.sampled_from(["/invocations", "/v1/models/m:predict"]))
def test_no_request_of_the_other_roads_is_a_5xx(client: Client, body: Any, path: str) -> None:
    """MLflow's forms and V1's, with anything in them."""
    check(client.post(path, json=body))
