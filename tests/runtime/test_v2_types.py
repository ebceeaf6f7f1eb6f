"""V2 tensors and signatures: which datatype the model gets, which one answers have, what is refused."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mpack_runtime.frame import Frame, Inputs, Tensors
from mpack_runtime.signature import Column, Param, Signature, Tensor
from mpack_runtime.v2.raw import pack
from mpack_runtime.v2.tensors import DTYPES
from werkzeug.test import Client

INFER = "/v2/models/sk/infer"
Serve = Callable[..., Client]


def item(name: str, datatype: str, data: Any, shape: Any = None, **parameters: Any) -> dict[str, Any]:
    """One input; the shape is a column's unless it is told."""
    found = {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": data}
    return {**found, "parameters": parameters} if parameters else found


class Seen:
    """A model that keeps what it was asked, and answers its rows' numbers."""

    inputs: Inputs

    def __call__(self, inputs: Inputs) -> Any:
        self.inputs = inputs
        return np.arange(inputs.rows)

    @property
    def arrays(self) -> list[Any]:
        return list(self.inputs.data if isinstance(self.inputs, Frame) else self.inputs.arrays.values())


def ask(client: Client, *inputs: Any, **more: Any) -> Any:
    return client.post(INFER, json={"inputs": list(inputs), **more})


def binary(client: Client, name: str, datatype: str, shape: list[int], data: bytes) -> Any:
    parameters = {"binary_data_size": len(data)}
    head = json.dumps({"inputs": [{"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}]})
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return client.post(INFER, data=head.encode() + data, headers=headers)


# --- a datatype and a declared one ------------------------------------------------------------------------------------

CASTS = [
    ("FP32", "float64", [1.5], [1.5]),
    ("FP16", "float32", [0.5], [0.5]),
    ("INT32", "int64", [-7], [-7]),
    ("INT32", "float64", [7], [7.0]),
    ("INT64", "float64", [2**53], [2.0**53]),
    ("UINT8", "float32", [255], [255.0]),
    ("UINT32", "int64", [2**32 - 1], [2**32 - 1]),
    ("BOOL", "int64", [True], [1]),
    ("INT64", "int64", [2**63 - 1], [2**63 - 1]),
    ("INT64", "int64", [5.0], [5]),
    ("UINT64", "uint64", [2**64 - 1], [2**64 - 1]),
    ("FP64", "float64", [None], [np.nan]),
    ("FP32", "float32", [0.1], [np.float32(0.1)]),
    ("BYTES", "str", ["mérlot"], ["mérlot"]),
]
LOSSY = [
    ("FP64", "float32", [1.0], "takes FP32"),
    ("FP32", "float16", [1.0], "takes FP16"),
    ("INT64", "float32", [1], "takes FP32"),
    ("INT64", "int32", [1], "takes INT32"),
    ("INT8", "uint8", [1], "takes UINT8"),
    ("UINT64", "int64", [1], "takes INT64"),
    ("FP64", "int64", [1.0], "takes INT64"),
    ("INT64", "bool", [1], "takes BOOL"),
    ("INT64", "float64", [2**53 + 1], "without loss"),
    ("BYTES", "float64", ["1"], "BYTES; the model takes FP64"),
    ("FP64", "str", [1.0], "FP64; the model takes BYTES"),
    ("INT64", "int64", [2**63], "out of range"),
    ("INT64", "int64", [1.5], "a whole number"),
    ("INT64", "int64", [1e17], "a whole number"),
    ("INT64", "int64", ["1"], "a whole number"),
    ("INT64", "int64", [None], "null"),
    ("INT8", "int8", [128], "out of range"),
    ("UINT8", "uint8", [-1], "out of range"),
    ("BOOL", "bool", [1], "true or false"),
    ("BYTES", "str", [1], "a string"),
    ("BYTES", "str", [None], "null"),
    ("FP16", "float16", [70000.0], "out of range"),
    ("FP64", "float64", [True], "the boolean true"),
]


@pytest.mark.parametrize(("datatype", "dtype", "data", "wanted"), CASTS)
def test_a_datatype_that_holds_less_is_taken(serve: Serve, datatype: str, dtype: str, data: Any, wanted: Any) -> None:
    """The model gets the declared type, and the very values."""
    seen = Seen()
    client = serve(seen, Signature((Tensor("x", dtype, (-1,)),)))
    answer = ask(client, item("x", datatype, data))
    assert answer.status_code == 200, answer.json
    (array,) = seen.arrays
    assert array.dtype == (object if dtype == "str" else np.dtype(dtype))
    np.testing.assert_array_equal(array, np.array(wanted, array.dtype))


@pytest.mark.parametrize(("datatype", "dtype", "data", "words"), LOSSY)
def test_what_would_lose_something_is_refused(serve: Serve, datatype: str, dtype: str, data: Any, words: str) -> None:
    """By the datatype, whatever the values are; of 64-bit whole numbers for FP64 by the values."""
    answer = ask(serve(Seen(), Signature((Tensor("x", dtype, (-1,)),))), item("x", datatype, data))
    assert answer.status_code == 400 and words in answer.json["error"], answer.json


EXTREMES: dict[str, list[Any]] = {
    **{name: [np.iinfo(DTYPES[name]).min, np.iinfo(DTYPES[name]).max] for name in DTYPES if "INT" in name},
    **{name: [np.finfo(DTYPES[name]).max, np.finfo(DTYPES[name]).tiny] for name in DTYPES if name.startswith("FP")},
    "BOOL": [True, False],
    "BYTES": ["", "späte Lese\0"],
}


@pytest.mark.parametrize("datatype", DTYPES)
@pytest.mark.parametrize("form", ["flat", "nested", "raw"])
def test_without_a_signature_the_wires_type_is_the_models_and_the_answers(
    serve: Serve, datatype: str, form: str
) -> None:
    """Every datatype's extremes, in and out in both forms, under any name; an odd number of bytes before raw ones."""
    values = EXTREMES[datatype]
    client = serve(lambda inputs: inputs.matrix()[:, 0])
    array = np.array(values, dtype=DTYPES[datatype])
    plain = array.tolist() if datatype != "BYTES" else values
    if form == "raw":
        packed = pack(text.encode() for text in values) if datatype == "BYTES" else array.tobytes()
        answer = binary(client, "anything", datatype, [2, 1], packed)
    else:
        answer = ask(
            client, item("anything", datatype, [[value] for value in plain] if form == "nested" else plain, [2, 1])
        )
    assert answer.status_code == 200, answer.json
    (output,) = answer.json["outputs"]
    # A float16 answer is written as numbers of as few digits as it needs.
    assert output["datatype"] == ("FP64" if datatype == "FP16" else datatype)
    np.testing.assert_array_equal(np.array(output["data"], array.dtype), array)
    assert output["name"] == "predict" and output["shape"] == [2, 1]


def test_nothing_is_computed_in_another_precision(serve: Serve) -> None:
    """FP32 sums in float32, FP64 in float64, whole numbers stay whole."""
    client = serve(lambda inputs: inputs.matrix().sum(axis=1))
    for datatype in ("FP32", "FP64"):
        (output,) = ask(client, item("x", datatype, [0.1, 0.2], [1, 2])).json["outputs"]
        exact = np.array([[0.1, 0.2]], DTYPES[datatype]).sum(axis=1)
        assert output["datatype"] == datatype and np.array(output["data"], exact.dtype) == exact
    assert ask(client, item("x", "INT64", [2**60, 1], [1, 2])).json["outputs"][0]["data"] == [2**60 + 1]


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "words"),
    [
        ("FP32", [2, 1], b"1234567", "7 bytes"),
        ("FP32", [2, 1], b"1234", "4 bytes"),
        ("BOOL", [2, 1], b"\1\2", "0 or 1"),
        ("BYTES", [1, 1], b"\5\0\0\0abc", "cut off"),
        ("BYTES", [1, 1], b"\5\0", "2 bytes"),
        ("BYTES", [2, 1], pack(["a"]), "do not fit"),
        ("BYTES", [1, 1], pack([b"\xff"]), "not UTF-8"),
        ("FP32", [0, 1], b"", "empty"),
    ],
)
def test_raw_bytes_that_do_not_fit(serve: Serve, datatype: str, shape: list[int], data: bytes, words: str) -> None:
    """400 with the reason."""
    answer = binary(serve(Seen()), "x", datatype, shape, data)
    assert answer.status_code == 400 and words in answer.json["error"], answer.json


# --- columns ----------------------------------------------------------------------------------------------------------

WINE = Signature(
    (
        Column("alcohol", "double"),
        Column("grape", "string", required=False),
        Column("year", "long"),
        Column("day", "datetime", required=False),
        Column("label", "binary", required=False),
        Column("kept", "boolean", required=False),
        Column("points", "integer", required=False),
    ),
    (Column("quality", "double"),),
)
ALCOHOL, YEAR = item("alcohol", "FP64", [12.5, None]), item("year", "INT64", [2**53 + 1, 1], [2, 1])


def test_a_table_is_an_input_a_column(serve: Serve) -> None:
    """Either shape of a column; null, and what is left out, is missing; each column has its declared type."""
    seen = Seen()
    client = serve(seen, WINE)
    text = item("grape", "BYTES", ["", None])
    day = item("day", "BYTES", ["2024-05-01T12:00:00+02:00", ""], content_type="datetime")
    label = item("label", "BYTES", [base64.b64encode(b"\xff\0").decode(), ""], content_type="base64")
    gaps = item("points", "FP64", [7.0, None])
    answer = ask(client, YEAR, ALCOHOL, text, day, label, gaps, parameters={"content_type": "pd"})
    assert answer.json["outputs"] == [{"name": "quality", "datatype": "FP64", "shape": [2, 1], "data": [0.0, 1.0]}]
    frame = seen.inputs
    assert isinstance(frame, Frame) and frame.columns == WINE.input_names
    alcohol, grape, year, day_, label_, kept, points = frame.data
    assert alcohol[0] == 12.5 and np.isnan(alcohol[1]) and year.tolist() == [2**53 + 1, 1]
    assert grape.tolist() == ["", None] and label_.tolist() == [b"\xff\0", b""] and kept.tolist() == [None, None]
    assert str(day_[0])[:16] == "2024-05-01T10:00" and np.isnat(day_[1]) and points[0] == 7 and np.isnan(points[1])
    assert ask(client, ALCOHOL, YEAR, item("kept", "BOOL", [True, None])).status_code == 200
    assert seen.arrays[5].tolist() == [True, None]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([ALCOHOL], 'Missing input "year"'),
        ([ALCOHOL, YEAR, item("zzz", "FP64", [1.0])], '"zzz"'),
        ([ALCOHOL, item("year", "INT64", [1])], 'differ in their number of rows ("alcohol" 2, "year" 1)'),
        ([ALCOHOL, item("year", "INT64", [1, None])], "null is not allowed"),
        ([ALCOHOL, item("year", "FP64", [1.0, 2.0])], "the model takes INT64"),
        ([ALCOHOL, item("year", "BYTES", ["1", "2"])], "the model takes INT64"),
        ([ALCOHOL, item("year", "INT64", [1, 2, 3, 4], [2, 2])], "[n] or [n, 1]"),
        ([ALCOHOL, YEAR, item("grape", "INT64", [1, 2])], "the model takes BYTES"),
        ([ALCOHOL, YEAR, item("points", "FP64", [1.0, 1.5])], "a whole number"),
        ([ALCOHOL, YEAR, item("day", "BYTES", ["2024-05-01", "tomorrow"])], 'Row 2, column "day"'),
        ([ALCOHOL, YEAR, item("label", "BYTES", ["YQ==", "!"], content_type="base64")], "not base64"),
        ([item("input-0", "FP64", [1.0] * 7, [1, 7])], "Missing input"),
    ],
)
def test_a_table_that_does_not_fit(serve: Serve, inputs: list[Any], words: str) -> None:
    """400, by column and row."""
    answer = ask(serve(Seen(), WINE), *inputs)
    assert answer.status_code == 400 and words in answer.json["error"], answer.json


@pytest.mark.parametrize("names", [("a", "b"), (None, None)])
def test_columns_of_one_type_are_one_tensor_too(serve: Serve, names: tuple[Any, Any]) -> None:
    """`input-0`, by position; a datatype that holds less is taken here too."""
    seen = Seen()
    client = serve(seen, Signature(tuple(Column(name, "double") for name in names)))
    assert ask(client, item("input-0", "FP32", [1, 2, 3, 4], [2, 2])).status_code == 200
    assert [array.tolist() for array in seen.arrays] == [[1, 3], [2, 4]] and seen.arrays[0].dtype == np.float64
    for wrong in (item("x", "FP64", [1, 2], [1, 2]), item("input-0", "FP64", [1, 2, 3], [1, 3])):
        assert ask(client, wrong).status_code == 400
    assert ask(client, item("input-0", "BYTES", ["1", "2"], [1, 2])).status_code == 400
    shown = client.get("/v2/models/sk").json["inputs"]
    assert [spec["name"] for spec in shown] == ([*names] if names[0] else ["input-0"])


def test_columns_of_text_are_one_tensor_of_text(serve: Serve) -> None:
    """Missing values included; numbers are refused."""
    seen = Seen()
    client = serve(seen, Signature((Column("a", "string"), Column("b", "string", required=False))))
    assert ask(client, item("input-0", "BYTES", ["x", None], [1, 2])).status_code == 200
    assert [array.tolist() for array in seen.arrays] == [["x"], [None]]
    assert ask(client, item("input-0", "FP64", [1, 2], [1, 2])).status_code == 400
    client = serve(seen, Signature((Column("a", "long"), Column("b", "long", required=False))))
    assert ask(client, item("input-0", "INT64", [1, None], [1, 2])).status_code == 200
    assert ask(client, item("input-0", "INT64", [None, 1], [1, 2])).status_code == 400


def test_columns_of_several_types_without_names(serve: Serve) -> None:
    """One tensor of the widest type; each column by its values."""
    seen = Seen()
    client = serve(seen, Signature((Column(None, "boolean"), Column(None, "long"), Column(None, "double"))))
    assert ask(client, item("input-0", "FP64", [1, 7, 0.5], [1, 3])).status_code == 200
    assert [array.tolist() for array in seen.arrays] == [[True], [7], [0.5]]
    answer = ask(client, item("input-0", "FP64", [1, 7.5, 0.5], [1, 3]))
    assert answer.status_code == 400 and "column 2" in answer.json["error"]


def test_columns_that_only_the_model_tells(serve: Serve) -> None:
    """One tensor of any name, or the columns by name, in any order; metadata shows the one."""
    seen = Seen()
    client = serve(seen, told=Signature((Column("a"), Column("b"))))
    assert client.get("/v2/models/sk").json["inputs"] == [{"name": "input-0", "datatype": "FP64", "shape": [-1, 2]}]
    assert ask(client, item("features", "FP32", [1, 2], [1, 2])).status_code == 200
    assert [array.dtype for array in seen.arrays] == [np.float32, np.float32]
    assert ask(client, item("b", "INT8", [2]), item("a", "BYTES", ["1"])).status_code == 200
    assert [array.tolist() for array in seen.arrays] == [["1"], [2]] and seen.arrays[1].dtype == np.int8
    assert ask(client, item("x", "FP32", [1]), item("y", "FP32", [1])).status_code == 400


@pytest.mark.parametrize(
    ("types", "datatype", "data"),
    [
        (("boolean", "long"), "INT64", [1, 7]),
        (("long", "double"), "FP64", [7, 0.5]),
        (("double", "string"), "BYTES", ["0.5", "x"]),
        (("float", "float"), "FP32", [0.5, 7]),
    ],
)
def test_types_that_only_the_model_tells(serve: Serve, types: tuple[str, str], datatype: str, data: list[Any]) -> None:
    """What metadata shows is what is taken: the widest of them."""
    client = serve(Seen(), told=Signature(tuple(Column(name, kind) for name, kind in zip("ab", types, strict=True))))
    shown = {"name": "input-0", "datatype": datatype, "shape": [-1, 2]}
    assert client.get("/v2/models/sk").json["inputs"] == [shown]
    answer = ask(client, item("input-0", datatype, data, [1, 2]))
    assert answer.status_code == 200, answer.text


def test_a_model_that_tells_nothing(serve: Serve) -> None:
    """Rows; a column for a list; a tensor of three dimensions; columns where the content type says so."""
    seen = Seen()
    client = serve(seen)
    assert ask(client, item("a", "INT16", [1, 2, 3])).json["outputs"][0]["shape"] == [3, 1]
    assert ask(client, item("a", "FP32", [1.0] * 8, [2, 2, 2])).status_code == 200
    assert isinstance(seen.inputs, Tensors) and seen.arrays[0].shape == (2, 2, 2)
    two = item("a", "INT64", [1, None]), item("b", "BYTES", ["x", None])
    assert ask(client, *two).status_code == 400
    assert ask(client, *two, parameters={"content_type": "pd"}).status_code == 200
    assert isinstance(seen.inputs, Frame) and seen.inputs.columns == ("a", "b")
    assert np.isnan(seen.arrays[0][1]) and seen.arrays[1].tolist() == ["x", None]


def test_parameters_of_the_model(serve: Serve) -> None:
    """The request's parameters that the signature names are the model's; a wrong one is refused; others are ignored."""
    seen = Seen()
    client = serve(seen, Signature((Column("a", "long"),), (), (Param("n", "long", 3),)))
    assert ask(client, item("a", "INT64", [1]), parameters={"n": 5, "priority": 2}).status_code == 200
    assert seen.inputs.params == {"n": 5}
    assert ask(client, item("a", "INT64", [1]), parameters={"n": "x"}).status_code == 400


# --- answers ----------------------------------------------------------------------------------------------------------

ANSWERS: dict[str, tuple[Any, list[tuple[str, str, list[int], Any]]]] = {
    "a scalar": (7, [("predict", "INT64", [1, 1], [7])]),
    "text": (["a", "b"], [("predict", "BYTES", [2, 1], ["a", "b"])]),
    "text with a gap": (["a", None], [("predict", "BYTES", [2, 1], ["a", None])]),
    "NaN and infinity": (np.array([np.nan, np.inf]), [("predict", "FP64", [2, 1], [None, None])]),
    "float32": (np.array([[0.1]], np.float32), [("predict", "FP32", [1, 1], [0.1])]),
    "a 3-D tensor": (np.zeros((1, 2, 1), np.uint8), [("predict", "UINT8", [1, 2, 1], [0, 0])]),
    "a table": (
        pd.DataFrame({"y": [1, 2], "why": ["a", None]}),
        [("y", "INT64", [2, 1], [1, 2]), ("why", "BYTES", [2, 1], ["a", None])],
    ),
    "columns of one name": (pd.DataFrame([[1, 2]], columns=["y", "y"]), [("predict", "INT64", [1, 2], [1, 2])]),
    "an object": ({"y": [1.5], "n": 2}, [("y", "FP64", [1, 1], [1.5]), ("n", "INT64", [1, 1], [2])]),
    "objects": ([{"a": 0.5}, {"a": 1}], [("predict", "BYTES", [2, 1], ['{"a": 0.5}', '{"a": 1}'])]),
    "ragged lists": ([[1], [1, 2]], [("predict", "BYTES", [2, 1], ["[1]", "[1, 2]"])]),
    "arrays of different depths": (
        [np.zeros((1, 2)), np.zeros(1)],
        [("predict", "BYTES", [2, 1], ["[[0.0, 0.0]]", "[0.0]"])],
    ),
    "dates": ([datetime.date(2024, 5, 1)], [("predict", "BYTES", [1, 1], ["2024-05-01"])]),
    "numbers beyond 64 bits": ([2**70], [("predict", "BYTES", [1, 1], [str(2**70)])]),
    "half a character": (["\ud800"], [("predict", "BYTES", [1, 1], ['"\\ud800"'])]),
    "nothing": (None, [("predict", "BYTES", [1, 1], [None])]),
    "no rows": ([], [("predict", "FP64", [0, 1], [])]),
}


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("declared", [False, True])
def test_whatever_a_model_answers_has_a_form(serve: Serve, kind: str, declared: bool) -> None:
    """The answer's own names and types; a declared output that does not fit keeps its name, and refuses nothing."""
    raw, wanted = ANSWERS[kind]
    outputs = (Tensor("told", "bool", (-1, 5)),) if declared else ()
    client = serve(lambda _: raw, Signature((Column("a", "long"),), outputs))
    answer = ask(client, item("a", "INT64", [1]))
    assert answer.status_code == 200, answer.json
    found = [(out["name"], out["datatype"], out["shape"], out["data"]) for out in answer.json["outputs"]]
    assert found == ([("told", *rest) for _, *rest in wanted] if declared and len(wanted) == 1 else wanted)


def test_a_gap_in_text_cannot_be_raw(serve: Serve) -> None:
    """400, for it is the request that wants it raw; gaps in numbers are NaN."""
    client = serve(lambda _: ["a", None])
    answer = ask(client, item("a", "INT64", [1]), parameters={"binary_data_output": True})
    assert answer.status_code == 400 and "missing value" in answer.json["error"]


@pytest.mark.parametrize(("kind", "datatype"), [("float", "FP32"), ("integer", "INT32"), ("double", "FP64")])
def test_a_declared_output_has_its_type_where_nothing_is_lost(serve: Serve, kind: str, datatype: str) -> None:
    """A model that answers float64 or int64 answers the declared type; what would be lost keeps its own."""
    numbers = [0.5, 2.0] if kind in ("float", "double") else [1, 2]
    signature = Signature((Column("a", "long"),), (Column("y", kind),))
    (output,) = ask(serve(lambda _: np.array(numbers), signature), item("a", "INT64", [1])).json["outputs"]
    assert output == {"name": "y", "datatype": datatype, "shape": [2, 1], "data": numbers}
    (output,) = ask(serve(lambda _: np.array([1 / 3]), signature), item("a", "INT64", [1])).json["outputs"]
    assert output["datatype"] == "FP64" and output["data"] == [1 / 3]
