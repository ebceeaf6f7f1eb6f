"""One type on every road: whatever carries a value, the model gets it whole in the declared type, or it is a 400."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from mpack_runtime.arrow import MEDIA
from mpack_runtime.cli.source import chunks
from mpack_runtime.config import LoaderConfig, ModelConfig, Settings
from mpack_runtime.errors import BadRequest
from mpack_runtime.frame import Frame, Inputs
from mpack_runtime.loaders import Model
from mpack_runtime.rest.app import RestApp
from mpack_runtime.service import Service
from mpack_runtime.signature import Column, Signature
from mpack_runtime.v2.raw import pack
from mpack_runtime.v2.tensors import DATATYPES
from werkzeug.test import Client

Values = list[Any]


class Seen(Model):
    """Keeps the column it was asked with."""

    array: Any = None

    def predict(self, inputs: Inputs) -> Any:
        (self.array,) = inputs.data if isinstance(inputs, Frame) else inputs.arrays.values()
        return np.zeros(inputs.rows)


class Asked:
    """A service of one column `x`, and its client."""

    def __init__(self, signature: Signature | None) -> None:
        self.model = Seen()
        config = ModelConfig("m", "1", LoaderConfig("sklearn", "m"), Path(), signature, arrow=True)
        self.service = Service(config, self.model)
        self.client = Client(RestApp(self.service, Settings()).flask())

    def post(self, path: str, **request: Any) -> int:
        return self.client.post(path, **request).status_code


def spoken(values: Values) -> Values:
    """As JSON and CSV have them."""
    forms: dict[type, Callable[[Any], Any]] = {
        bytes: lambda item: base64.b64encode(item).decode(),
        np.datetime64: str,
    }
    return [forms.get(type(item), lambda item: item)(item) for item in values]


def by_json(asked: Asked, values: Values, _: pa.DataType) -> int:
    body = {"columns": ["x"], "data": [[item] for item in spoken(values)]}
    return asked.post("/api/model/invoke", json=body)


def by_csv(asked: Asked, values: Values, _: pa.DataType) -> int:
    body = pd.DataFrame({"x": pd.Series(spoken(values), dtype=object)}).to_csv(index=False)
    return asked.post("/api/model/invoke", data=body, content_type="text/csv; header=present")


def by_records(asked: Asked, values: Values, _: pa.DataType) -> int:
    return asked.post("/invocations", json={"dataframe_records": [{"x": item} for item in spoken(values)]})


def by_v1(asked: Asked, values: Values, _: pa.DataType) -> int:
    return asked.post("/v1/models/m:predict", json={"instances": [{"x": item} for item in spoken(values)]})


def v2_input(values: Values, kind: pa.DataType) -> tuple[dict[str, Any], Any]:
    """The input without its data, and the values in its datatype."""
    texts = [item if isinstance(item, bytes) else str(item).encode() for item in values]
    name = np.dtype(kind.to_pandas_dtype()).name
    datatype = DATATYPES.get(name, "BYTES")
    item = {"name": "x", "datatype": datatype, "shape": [len(values)]}
    return item, texts if datatype == "BYTES" else np.array(values, kind.to_pandas_dtype())


def by_v2_json(asked: Asked, values: Values, kind: pa.DataType) -> int:
    item, data = v2_input(values, kind)
    if item["datatype"] == "BYTES":
        item["parameters"] = {"content_type": "base64"}
        item["data"] = [base64.b64encode(text).decode() for text in data]
    else:
        item["data"] = data.tolist()
    return asked.post("/v2/models/m/infer", json={"inputs": [item]})


def by_v2_raw(asked: Asked, values: Values, kind: pa.DataType) -> int:
    item, data = v2_input(values, kind)
    raw = pack(data) if item["datatype"] == "BYTES" else data.tobytes()
    head = json.dumps({"inputs": [{**item, "parameters": {"binary_data_size": len(raw)}}]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return asked.post("/v2/models/m/infer", data=head + raw, headers=headers)


def table_of(values: Values, kind: pa.DataType) -> pa.Table:
    if pa.types.is_timestamp(kind):
        return pa.table({"x": pa.array(np.array(values, "datetime64[ns]"))})
    return pa.table({"x": pa.array(values, kind)})


def by_arrow(asked: Asked, values: Values, kind: pa.DataType) -> int:
    table, sink = table_of(values, kind), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return asked.post("/api/model/invoke", data=sink.getvalue().to_pybytes(), content_type=MEDIA)


def by_parquet(asked: Asked, values: Values, kind: pa.DataType) -> int:
    file = io.BytesIO()
    pyarrow.parquet.write_table(table_of(values, kind), file)
    file.seek(0)
    try:
        for chunk in chunks(asked.service, file, "parquet"):
            asked.service.predict(chunk.inputs)
    except BadRequest as error:
        return error.status
    return 200


TEXT = (by_json, by_csv, by_records, by_v1)
TYPED = (by_v2_json, by_v2_raw, by_arrow, by_parquet)
DAYS = [np.datetime64("2024-05-01T12:30:00.250000001", "ns"), np.datetime64("1969-12-31T23:59:59", "ns")]
SAME: dict[str, tuple[Values, pa.DataType, Any]] = {
    "boolean": ([True, False], pa.bool_(), np.bool_),
    "integer": ([2**31 - 1, -(2**31)], pa.int32(), np.int32),
    "long": ([2**63 - 1, -(2**63), 2**53 + 1], pa.int64(), np.int64),
    "float": ([0.1, -1.5, 3e38], pa.float32(), np.float32),
    "double": ([0.1, 1 / 3, -1e300, 5e-324], pa.float64(), np.float64),
    "string": (["mérlot", '"quoted", with a comma', "1"], pa.string(), object),
    "binary": ([b"\xff\x00", b"a"], pa.binary(), object),
    "datetime": (DAYS, pa.timestamp("ns"), "datetime64[ns]"),
}


@pytest.mark.parametrize("road", [*TEXT, *TYPED])
@pytest.mark.parametrize("type_", SAME)
def test_the_declared_type_is_what_the_model_gets(road: Any, type_: str) -> None:
    """The very values, on each road; int64 beyond 2^53, and nanoseconds, survive."""
    values, kind, dtype = SAME[type_]
    if road is by_parquet and type_ == "datetime":
        values = [DAYS[0].astype("datetime64[us]").astype("datetime64[ns]"), DAYS[1]]  # what Python's datetime holds
    asked = Asked(Signature((Column("x", type_),)))
    assert road(asked, values, kind) == 200
    assert asked.model.array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(asked.model.array, np.array(values, dtype))


WIDER: list[tuple[str, Values, pa.DataType, Any]] = [
    ("double", [0.1], pa.float32(), np.float64(np.float32(0.1))),
    ("double", [2**31 - 1], pa.int32(), 2.0**31 - 1),
    ("double", [2**53], pa.int64(), 2.0**53),
    ("long", [-7], pa.int32(), -7),
    ("long", [2**32 - 1], pa.uint32(), 2**32 - 1),
    ("float", [255], pa.uint8(), 255.0),
]
LOSSY: list[tuple[str, Values, pa.DataType, tuple[Any, ...]]] = [
    ("long", [1.5], pa.float64(), (*TEXT, *TYPED)),
    ("long", [2**63], pa.uint64(), (*TEXT, *TYPED)),
    ("integer", [2**31], pa.int64(), (*TEXT, *TYPED)),
    ("boolean", [1], pa.int64(), (*TEXT, *TYPED)),
    ("double", ["x"], pa.string(), (*TEXT, *TYPED)),
    ("string", [1.5], pa.float64(), (by_json, by_records, by_v1, *TYPED)),
    ("datetime", ["yesterday"], pa.string(), (*TEXT, *TYPED)),
    ("datetime", [20240501], pa.int64(), (by_json, by_records, by_v1, *TYPED)),
    ("float", [1e39], pa.float64(), (*TEXT, *TYPED)),
    ("float", [1 / 3], pa.float64(), (by_v2_json, by_v2_raw, by_arrow)),
    ("double", [2**53 + 1], pa.int64(), (by_v2_json, by_v2_raw, by_arrow)),
]


@pytest.mark.parametrize("road", [by_v2_json, by_v2_raw, by_arrow])
@pytest.mark.parametrize(("type_", "values", "kind", "wanted"), WIDER)
def test_a_type_that_holds_less_is_taken(road: Any, type_: str, values: Values, kind: Any, wanted: Any) -> None:
    """By each road that has types of its own, in the declared type."""
    asked = Asked(Signature((Column("x", type_),)))
    assert road(asked, values, kind) == 200
    assert asked.model.array.dtype == np.dtype(SAME[type_][2])
    assert asked.model.array.tolist() == [wanted]


@pytest.mark.parametrize(("type_", "values", "kind", "roads"), LOSSY)
def test_what_would_be_lost_is_refused(type_: str, values: Values, kind: Any, roads: Any) -> None:
    """By every road that can say it; the model is not asked. Digits in text have no type, but the nearest float."""
    for road in roads:
        asked = Asked(Signature((Column("x", type_),)))
        assert road(asked, values, kind) == 400, road.__name__
        assert asked.model.array is None


@pytest.mark.parametrize("name", ["float16", "float32", "float64", "int8", "int32", "int64", "uint8", "uint64", "bool"])
def test_without_a_signature_the_wires_type_is_computed_in(name: str) -> None:
    """V2's raw and JSON tensors, and Arrow's columns: float32 stays float32."""
    dtype = np.dtype(name)
    for road in (by_v2_json, by_v2_raw, by_arrow):
        asked = Asked(None)
        assert road(asked, np.array([0, 1], dtype).tolist(), pa.from_numpy_dtype(dtype)) == 200
        assert asked.model.array.dtype == dtype, road.__name__
        assert asked.model.array.tolist() == [0, 1]
