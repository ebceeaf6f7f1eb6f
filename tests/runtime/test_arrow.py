"""Arrow streams in and out: which values the model gets, what is refused, what is answered."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from mpack_runtime.arrow import MEDIA
from mpack_runtime.config import LoaderConfig, ModelConfig, Settings
from mpack_runtime.frame import Frame, Inputs
from mpack_runtime.loaders import Model
from mpack_runtime.rest.app import RestApp
from mpack_runtime.service import Service
from mpack_runtime.signature import Column, Signature, Tensor
from werkzeug.test import Client

INVOKE, INVOCATIONS = "/api/model/invoke", "/invocations"
DAY = datetime.date(2024, 5, 1)
NOON = datetime.datetime(2024, 5, 1, 12, 30, 0, 250_000)
BERLIN = datetime.timezone(datetime.timedelta(hours=2))
NAT = np.datetime64("NaT")


class Seen(Model):
    """Keeps what it was asked, and answers `answer` or the rows' numbers."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.methods = ("predict", "predict_proba")

    def predict(self, inputs: Inputs) -> Any:
        self.inputs = inputs
        return np.arange(inputs.rows) if self.answer is None else self.answer

    def output_names(self, method: str) -> tuple[str, ...]:
        return ("no", "yes")

    @property
    def arrays(self) -> list[Any]:
        return list(self.inputs.data if isinstance(self.inputs, Frame) else self.inputs.arrays.values())


def client_of(model: Model, signature: Signature | None = None, *, arrow: bool = True, strict: bool = False) -> Client:
    config = ModelConfig("m", "1", LoaderConfig("sklearn", "m"), Path(), signature, arrow=arrow, strict=strict)
    return Client(RestApp(Service(config, model), Settings()).flask())


def stream(*tables: pa.Table, **options: Any) -> bytes:
    """An Arrow stream of these tables' batches."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, tables[0].schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for table in tables:
            writer.write_table(table)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def post(client: Client, body: bytes, path: str = INVOKE, **headers: str) -> Any:
    return client.post(path, data=body, content_type=MEDIA, headers=headers)


def message(answer: Any) -> str:
    assert answer.status_code == 400, answer.text
    return str(answer.json["message"])


def read(answer: Any) -> pa.Table:
    assert answer.status_code == 200, answer.text
    assert answer.content_type == MEDIA
    return pa.ipc.open_stream(answer.data).read_all()


def column(type_: str, *, required: bool = True) -> Signature:
    return Signature((Column("x", type_, required),))


# --- a column and its declared type -----------------------------------------------------------------------------------

ARRAY = pa.array
TAKEN = [
    ("double", ARRAY([1.5, None]), np.array([1.5, np.nan])),
    ("double", ARRAY([0.1], pa.float32()), np.array([np.float32(0.1)], float)),
    ("double", ARRAY([2**53, -7]), np.array([2.0**53, -7.0])),
    ("double", ARRAY([7, None], pa.uint8()), np.array([7.0, np.nan])),
    ("double", ARRAY([Decimal("0.10"), None]), np.array([0.1, np.nan])),
    ("double", pa.nulls(1), np.array([np.nan])),
    ("float", ARRAY([0.5, None], pa.float16()), np.array([0.5, np.nan], np.float32)),
    ("float", ARRAY([0.1], pa.float32()), np.array([0.1], np.float32)),
    ("float", ARRAY([2**24]), np.array([2**24], np.float32)),
    ("long", ARRAY([2**63 - 1, -(2**63)]), np.array([2**63 - 1, -(2**63)])),
    ("long", ARRAY([2**53 + 1], pa.uint64()), np.array([2**53 + 1])),
    ("long", ARRAY([7.0, -1.0]), np.array([7, -1])),
    ("integer", ARRAY([2**31 - 1]), np.array([2**31 - 1], np.int32)),
    ("integer", ARRAY([Decimal(7)]), np.array([7], np.int32)),
    ("boolean", ARRAY([True, False, True]), np.array([True, False, True])),
    ("string", ARRAY(["mérlot", None]), np.array(["mérlot", None], object)),
    ("string", ARRAY(["a"], pa.large_string()), np.array(["a"], object)),
    ("string", ARRAY(["a", None, "a"]).dictionary_encode(), np.array(["a", None, "a"], object)),
    ("binary", ARRAY([b"\xff", None]), np.array([b"\xff", None], object)),
    ("binary", ARRAY([b"ab"], pa.binary(2)), np.array([b"ab"], object)),
    ("binary", ARRAY(["/w=="]), np.array([b"\xff"], object)),
    ("datetime", ARRAY([NOON, None]), np.array([NOON, NAT], "datetime64[ns]")),
    ("datetime", ARRAY([NOON.replace(tzinfo=BERLIN)]), np.array(["2024-05-01T10:30:00.25"], "datetime64[ns]")),
    ("datetime", ARRAY([DAY]), np.array([DAY], "datetime64[ns]")),
    ("datetime", ARRAY([DAY], pa.date64()), np.array([DAY], "datetime64[ns]")),
    ("datetime", ARRAY(["2024-05-01T12:30:00+02:00"]), np.array(["2024-05-01T10:30"], "datetime64[ns]")),
    ("any", ARRAY([0.1], pa.float32()), np.array([0.1], np.float32)),
    ("any", ARRAY([1, 2], pa.int8()), np.array([1, 2], np.int8)),
    ("any", ARRAY([2**53 + 1, None]), np.array([2**53 + 1, None], object)),
    ("any", ARRAY([True, None]), np.array([True, None], object)),
    ("any", ARRAY([DAY, None]), np.array([DAY, NAT], "datetime64[ns]")),
    ("any", ARRAY([1, 2, 1]).dictionary_encode(), np.array([1, 2, 1])),
    ("any", ARRAY([["a"], []]), np.array([["a"], []], object)),
]  # fmt: skip
REFUSED = [
    ("float", ARRAY([1.0]), "float64; the model takes float32"),
    ("float", ARRAY([1, 2**24 + 1]), "row 2: 16777217 cannot be FP32 without loss"),
    ("double", ARRAY([1, 2**53 + 1]), "row 2: 9007199254740993 cannot be FP64 without loss"),
    ("double", ARRAY(["1"]), 'expected a number (double), got the string "1"'),
    ("double", ARRAY([True]), "the boolean true"),
    ("double", ARRAY([DAY]), "got a timestamp"),
    ("double", ARRAY([[1.0]]), "got a list"),
    ("long", ARRAY([1, None]), "Row 2, column \"x\": null is not allowed"),
    ("long", ARRAY([1.0, 1.5]), "Row 2, column \"x\": expected a whole number"),
    ("long", ARRAY([2**63], pa.uint64()), "cannot be INT64 without loss"),
    ("long", ARRAY([Decimal("1.5")]), "expected a whole number"),
    ("long", ARRAY([float("inf")]), "expected a whole number"),
    ("integer", ARRAY([0, 2**31]), "row 2: 2147483648 cannot be INT32 without loss"),
    ("boolean", ARRAY([1]), "expected true or false, got the number 1"),
    ("boolean", ARRAY([True, None]), "null is not allowed"),
    ("string", ARRAY([1]), "expected a string"),
    ("string", ARRAY([b"a"]), "expected a string"),
    ("binary", ARRAY(["?"]), "base64"),
    ("datetime", ARRAY([20240501]), "ISO 8601"),
    ("datetime", ARRAY([-(2**62), 0], pa.timestamp("s")), "is not between the years 1678 and 2261"),
    ("any", ARRAY([datetime.timedelta(1)]), "of the Arrow type duration[us]"),
    ("any", ARRAY([{"a": 1}]), "of the Arrow type struct<a: int64>"),
    ("any", ARRAY(["a"], pa.string_view()), "of the Arrow type string_view"),
    ("any", ARRAY([[1]], pa.list_view(pa.int64())), "of the Arrow type list_view"),
    ("any", pa.RunEndEncodedArray.from_arrays([2], [1.0]), "of the Arrow type run_end_encoded"),
    ("any", ARRAY([b"1" * 16], pa.uuid()), "of the extension type \"arrow.uuid\""),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "given", "wanted"), TAKEN)
def test_a_column_reaches_the_model_in_its_declared_type(type_: str, given: pa.Array, wanted: Any) -> None:
    """Whole, with NaN, NaT and None for what is missing; whether in one batch, in several, or in the middle of one."""
    table = pa.table({"x": given})
    padded = pa.table({"x": pa.concat_arrays([given] * 3)}).slice(len(given), len(given))
    for body in (stream(table), stream(padded), stream(*(table.slice(row, 1) for row in range(len(given))))):
        model = Seen()
        answer = post(client_of(model, column(type_)), body)
        assert answer.status_code == 200, answer.text
        (array,) = model.arrays
        assert array.dtype == wanted.dtype
        np.testing.assert_array_equal(array, wanted)


@pytest.mark.parametrize(("type_", "given", "words"), REFUSED)
def test_what_would_lose_something_is_refused(type_: str, given: pa.Array, words: str) -> None:
    """With the column, and the row where one is to blame."""
    assert words in message(post(client_of(Seen(), column(type_)), stream(pa.table({"x": given}))))


def test_columns_are_not_copied() -> None:
    """Numbers of the declared type, and without one, are the bytes of the body themselves."""
    model = Seen()
    table = pa.table({"a": np.arange(1000.0), "b": np.arange(1000), "c": np.ones(1000, np.float32)})
    client = client_of(model, Signature((Column("a", "double"), Column("b", "long"), Column("c"))))
    assert post(client, stream(table)).status_code == 200
    assert [array.flags.owndata or array.flags.writeable for array in model.arrays] == [False] * 3
    np.testing.assert_array_equal(model.arrays[1], np.arange(1000))


def test_optional_columns_and_their_gaps() -> None:
    """As in JSON: floats with NaN, objects beyond 2^53 and of booleans; one that is left out is missing as a whole."""
    signature = Signature((Column("n", "long", False), Column("b", "boolean", False), Column("s", "string", False)))
    model = Seen()
    client = client_of(model, signature)
    for numbers in (ARRAY([1, None]), ARRAY([1.0, float("nan")])):
        assert post(client, stream(pa.table({"b": [True, None], "n": numbers}))).status_code == 200
        assert [array.dtype.kind for array in model.arrays] == ["f", "O", "O"]
        np.testing.assert_array_equal(model.arrays[0], [1, np.nan])
        assert [array.tolist() for array in model.arrays[1:]] == [[True, None], [None, None]]
    assert post(client, stream(pa.table({"n": [2**53 + 1, None]}))).status_code == 200
    assert model.arrays[0].tolist() == [2**53 + 1, None]


def test_names_are_matched_as_everywhere() -> None:
    """In any order, too many with a warning or an error if strict, too few an error, without names by position."""
    signature = Signature((Column("a", "double"), Column("b", "string")))
    table = pa.table({"z": [0], "b": ["x"], "a": [1.5]})
    model = Seen()
    answer = post(client_of(model, signature), stream(table))
    assert answer.headers["Mpack-Warning"] == 'the column "z" was ignored'
    assert [array.tolist() for array in model.arrays] == [[1.5], ["x"]]
    assert '"z" is not known' in message(post(client_of(model, signature, strict=True), stream(table)))
    assert 'Missing column "a"' in message(post(client_of(model, signature), stream(table.drop(["a"]))))
    assert "twice" in message(post(client_of(model), stream(pa.table([[1], [2]], names=["a", "a"]))))
    unnamed = Signature((Column(None, "double"), Column(None, "any")))
    assert post(client_of(model, unnamed), stream(table.select(["a", "b"]))).status_code == 200
    assert "3 columns; the model takes 2" in message(post(client_of(model, unnamed), stream(table)))
    assert post(client_of(model), stream(table)).status_code == 200
    assert isinstance(model.inputs, Frame) and model.inputs.columns == ("z", "b", "a")


FIXED, FREE = pa.list_(pa.float32(), 2), pa.list_(pa.list_(pa.int64()))
ROWS: list[Any] = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


@pytest.mark.parametrize(
    ("tensor", "columns", "wanted"),
    [
        (Tensor("x", "float32", (-1, 2)), {"x": ARRAY(ROWS, FIXED)}, np.array(ROWS, np.float32)),
        (Tensor(None, "float64", (-1, 2)), {"rows": ARRAY(ROWS)}, np.array(ROWS)),
        (Tensor("x", "float64", (-1, 2)), {"a": ARRAY([1, 3, 5]), "b": ARRAY([2.0, 4.0, None])},
         np.array([[1.0, 2.0], [3.0, 4.0], [5.0, np.nan]])),
        (Tensor("x", "int64", (-1, 1, 2)), {"x": ARRAY([[[1, 2]], [[3, 4]]], FREE)}, np.array([[[1, 2]], [[3, 4]]])),
        (Tensor("x", "int32", (-1,)), {"x": ARRAY([1, 2])}, np.array([1, 2], np.int32)),
        (Tensor("x", "bool", (-1,)), {"x": ARRAY([True])}, np.array([True])),
        (Tensor("x", "str", (-1, 1)), {"x": ARRAY(["a", "b"])}, np.array([["a"], ["b"]], object)),
        (Tensor("x", "any", ()), {"x": ARRAY(ROWS, FIXED)}, np.array(ROWS, np.float32)),
    ],
)  # fmt: skip
def test_lists_are_the_rows_of_a_tensor(tensor: Tensor, columns: dict[str, Any], wanted: Any) -> None:
    """In the declared type and shape, and the model's to change; several columns are one matrix."""
    model = Seen()
    answer = post(client_of(model, Signature((tensor,))), stream(pa.table(columns)))
    assert answer.status_code == 200, answer.text
    (array,) = model.arrays
    assert array.dtype == wanted.dtype and array.flags.writeable
    np.testing.assert_array_equal(array, wanted)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (ARRAY([[1.0, 2.0], [3.0]]), 'Row 2, column "x" is ragged'),
        (ARRAY([[1.0, 2.0], None]), "null is not allowed in place of a list"),
        (ARRAY([[1.0, 2.0]]), "float64; the model takes float32"),
        (ARRAY([[1.0, 2.0, 3.0]], pa.list_(pa.float32())), "shape [1, 3]"),
        (ARRAY([[]], pa.list_(pa.float32())), "is empty"),
        (ARRAY([[]], pa.list_(pa.float32(), 0)), "is empty"),
        (ARRAY([["a", "b"]]), "expected a number (float32), got text"),
        (ARRAY([[None]]), "of the Arrow type list<item: null>"),
        (ARRAY([["x", "y"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))), "of the Arrow type list"),
    ],
)
def test_what_is_no_tensor_is_refused(given: pa.Array, words: str) -> None:
    """Ragged lists, missing ones, other types and shapes."""
    signature = Signature((Tensor("x", "float32", (-1, 2)),))
    assert words in message(post(client_of(Seen(), signature), stream(pa.table({"x": given}))))


def test_only_tensors_of_floats_have_gaps() -> None:
    """Whole numbers and text have none, as in JSON."""
    whole = Signature((Tensor("x", "int64", (-1,)), Tensor("y", "str", (-1,))))
    for table in (pa.table({"x": [1, None], "y": ["a", "b"]}), pa.table({"x": [1], "y": [None]})):
        assert "null is not allowed" in message(post(client_of(Seen(), whole), stream(table)))


# --- answers ----------------------------------------------------------------------------------------------------------

ASK = stream(pa.table({"x": [1.0, 2.0]}))
Y = Column("y", "double")


@pytest.mark.parametrize(
    ("raw", "outputs", "wanted"),
    [
        (np.array([0.1, np.nan]), (Y,), {"y": ARRAY([0.1, None])}),
        (np.array([0.1, np.inf], np.float32), (Column("y", "float"),), {"y": ARRAY([0.1, np.inf], pa.float32())}),
        (np.array([2**53 + 1, 3]), (Column("y", "long"),), {"y": ARRAY([2**53 + 1, 3])}),
        (np.array([1, 2]), (Column("y", "integer"),), {"y": ARRAY([1, 2], pa.int32())}),
        (np.array([True, False]), (Column("y", "boolean"),), {"y": ARRAY([True, False])}),
        (["a", None], (Column("y", "string"),), {"y": ARRAY(["a", None])}),
        ([b"\xff", None], (Column("y", "binary"),), {"y": ARRAY([b"\xff", None])}),
        (np.array([NOON, NAT], "M8[us]"), (Column("y", "datetime"),),
         {"y": ARRAY([NOON, None], pa.timestamp("ns", "UTC"))}),
        (np.array([0.5, 1.5]), (Column("y", "long"),), {"y": ARRAY([0.5, 1.5])}),
        (np.array(ROWS[:2]), (Tensor("p", "float64", (-1, 2)),), {"p": ARRAY(ROWS[:2], pa.list_(pa.float64(), 2))}),
        (np.array(ROWS[:2]), (Y, Column("z", "double")), {"y": ARRAY([1.0, 3.0]), "z": ARRAY([2.0, 4.0])}),
        (["a", "\ud800"], (), {"predict": ARRAY(['"a"', '"\\ud800"'])}),
        ([None, "a"], (), {"predict": ARRAY([None, "a"])}),
        (np.array([7, 8]), (), {"predict": ARRAY([7, 8])}),
        ({"a": np.array([1.5, 2.5]), "b": ["x", "y"]}, (), {"a": ARRAY([1.5, 2.5]), "b": ARRAY(["x", "y"])}),
        ({"a": np.array([1.5, 2.5]), "b": ["x"]}, (), {"a": ARRAY([[1.5, 2.5]]), "b": ARRAY([["x"]])}),
        (pd.DataFrame({"u": [1, 2], "v": ["x", None]}), (), {"u": ARRAY([1, 2]), "v": ARRAY(["x", None])}),
        (np.zeros((2, 0)), (), {"predict": ARRAY([[], []], pa.list_(pa.float64()))}),
        (np.zeros((1, 2, 0)), (), {"predict": ARRAY([[[], []]], pa.list_(pa.list_(pa.float64()), 2))}),
        ([[1.0], [2.0, 3.0]], (), {"predict": ARRAY(["[1.0]", "[2.0,3.0]"])}),
    ],
)  # fmt: skip
def test_an_answer_has_the_signatures_names_and_types(raw: Any, outputs: Any, wanted: dict[str, Any]) -> None:
    """Where nothing is lost, else its own; both roads answer the same table."""
    client = client_of(Seen(raw), Signature((Column("x", "double"),), outputs))
    table = read(post(client, ASK, Accept=MEDIA))
    made = {name: [_compact(item) for item in values.to_pylist()] for name, values in wanted.items()}
    assert {name: [_compact(item) for item in table[name].to_pylist()] for name in table.column_names} == made
    assert [table.schema.field(name).type for name in wanted] == [values.type for values in wanted.values()]
    assert read(post(client, ASK, INVOCATIONS, Accept=f"text/html, {MEDIA};q=0.9")).equals(table)


def _compact(item: Any) -> Any:
    return item.replace(" ", "") if isinstance(item, str) else item


def test_numbers_are_json_s_bit_for_bit(tmp_path: Path) -> None:
    """A real estimator, its probabilities too; JSON is what is answered unless Arrow is asked for."""
    from sklearn.linear_model import LogisticRegression

    table = pd.DataFrame({"a": [1.5, 1 / 3, -7.25], "b": [0.1, 1e-30, 123.678]})
    estimator = LogisticRegression().fit(table, ["no", "yes", "no"])
    from mpack_runtime.loaders.sklearn import EstimatorModel

    client = client_of(EstimatorModel(estimator, "predict"))
    body = stream(pa.Table.from_pandas(table))
    rows = {"data": table.to_numpy().tolist()}
    for query in ("", "?method=predict_proba", "?method=decision_function"):
        spoken = client.post(INVOKE + query, json=rows).json["prediction"]
        assert post(client, body, INVOKE + query).json["prediction"] == spoken
        found = read(post(client, body, INVOKE + query, Accept=MEDIA))
        values = found.to_pandas().to_numpy()
        assert (values if values.shape[1] > 1 else values[:, 0]).tolist() == spoken
        asked = client.post(INVOKE + query, json=rows, headers={"Accept": MEDIA})
        assert read(asked).equals(found)
    assert found.column_names == ["decision_function"]
    assert read(post(client, body, INVOKE + "?method=predict_proba", Accept=MEDIA)).column_names == ["no", "yes"]


def test_an_image_without_it_says_so() -> None:
    """415 for a body; 406 where nothing but Arrow is accepted, and JSON where that is too."""
    client = client_of(Seen(), arrow=False)
    refused = post(client, ASK)
    assert refused.status_code == 415 and "arrow=true" in refused.json["message"]
    assert post(client, ASK, INVOCATIONS).status_code == 415
    json = {"json": {"data": [[1.0]]}}
    assert client.post(INVOKE, **json, headers={"Accept": MEDIA}).status_code == 406
    answer = client.post(INVOKE, **json, headers={"Accept": f"{MEDIA}, application/json"})
    assert answer.json["prediction"] == [0]
    assert MEDIA not in client.get("/openapi.json").text
    document = client_of(Seen()).get("/openapi.json").json["paths"]
    for path in (INVOKE, INVOCATIONS):
        operation = document[path]["post"]
        assert MEDIA in operation["requestBody"]["content"] and MEDIA in operation["responses"]["200"]["content"]
