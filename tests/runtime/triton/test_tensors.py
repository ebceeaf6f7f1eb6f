"""The rules between signatures, requests, answers and V2 tensors; no server."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from mpack_runtime import batches
from mpack_runtime.errors import BadRequest, ModelFailure
from mpack_runtime.frame import Frame, Prediction, Tensors
from mpack_runtime.signature import Column, Signature, Tensor
from mpack_runtime.v2 import inputs, outputs
from mpack_runtime.v2.spec import Spec
from mpack_runtime.v2.tensors import Unfit, cast, input_specs, output_specs

TYPES = {
    "boolean": "BOOL", "integer": "INT32", "long": "INT64", "float": "FP32", "double": "FP64",
    "string": "BYTES", "binary": "BYTES", "datetime": "BYTES", "any": "BYTES",
}  # fmt: skip


def texts(*items: str | bytes, shape: tuple[int, ...] = (-1, 1)) -> Any:
    array = np.empty(len(items), dtype=object)
    array[:] = [item.encode() if isinstance(item, str) else item for item in items]
    return array.reshape(shape)


@pytest.mark.parametrize(("kind", "datatype"), TYPES.items())
def test_named_columns_are_one_tensor_each(kind: str, datatype: str) -> None:
    """Rule 1, with what is not required told."""
    signature = Signature((Column("a", kind), Column("b", kind, required=False)), (Column("y", kind),))
    assert input_specs(signature) == (Spec("a", datatype, (-1, 1)), Spec("b", datatype, (-1, 1), False))
    assert output_specs(signature) == (Spec("y", datatype, (-1, 1)),)


@pytest.mark.parametrize(
    ("kinds", "datatype"),
    [
        (["boolean", "boolean"], "BOOL"),
        (["boolean", "integer"], "INT32"),
        (["integer", "long"], "INT64"),
        (["boolean", "float"], "FP32"),
        (["integer", "float"], "FP64"),
        (["long", "double"], "FP64"),
        (["double", "string"], "BYTES"),
        (["any"], "BYTES"),
    ],
)
def test_columns_without_names_are_one_matrix(kinds: list[str], datatype: str) -> None:
    """Rule 2: the widest type."""
    fields = tuple(Column(None, kind) for kind in kinds)
    assert input_specs(Signature(fields)) == (Spec("input-0", datatype, (-1, len(kinds))),)
    assert output_specs(Signature((), fields)) == (Spec("predict", datatype, (-1, len(kinds))),)


@pytest.mark.parametrize(
    ("tensors", "named_in", "named_out"),
    [
        ([Tensor("x", "float32", (-1, 4))], [("x", "FP32", (-1, 4))], [("x", "FP32", (-1, 4))]),
        ([Tensor(None, "str", (-1,))], [("input-0", "BYTES", (-1, 1))], [("predict", "BYTES", (-1, 1))]),
        (
            [Tensor(None, "uint8", (-1, 2, 2)), Tensor(None, "float16", (3,))],
            [("input-0", "UINT8", (-1, 2, 2)), ("input-1", "FP16", (3,))],
            [("output-0", "UINT8", (-1, 2, 2)), ("output-1", "FP16", (3,))],
        ),
        ([Tensor("s", "int8", ())], [("s", "INT8", (1,))], [("s", "INT8", (1,))]),
        ([Tensor(None, "any", ())], [("input-0", "FP64", (-1, -1))], [("predict", "FP64", (-1, -1))]),
        ([], [("input-0", "FP64", (-1, -1))], []),
    ],
)
def test_tensors_and_unknown_sides(tensors: list[Tensor], named_in: list[Any], named_out: list[Any]) -> None:
    """Rules 3 and 4."""
    assert input_specs(Signature(tuple(tensors))) == tuple(Spec(*item) for item in named_in)
    assert output_specs(Signature((), tuple(tensors))) == tuple(Spec(*item) for item in named_out)


WINE = Signature(
    (
        Column("alcohol", "double"),
        Column("grape", "string", required=False),
        Column("year", "long"),
        Column("day", "datetime", required=False),
        Column("note", "any", required=False),
        Column("raw", "binary", required=False),
        Column("kept", "boolean", required=False),
    )
)


def test_a_table_is_read_exactly() -> None:
    """Whole numbers beyond 2^53, UTF-8, dates, bytes; what is left out or empty is missing."""
    arrays = {
        "alcohol": np.array([[1.5], [math.nan]]),
        "grape": texts("mérlot", ""),
        "year": np.array([[2**62 + 1], [-(2**63)]]),
        "day": texts("2024-05-01", ""),
        "note": texts("7", ""),
        "raw": texts(b"\xff\0", b""),
    }
    frame = inputs.decode(arrays, WINE)
    assert isinstance(frame, Frame) and frame.columns == tuple(column.name for column in WINE.input_columns)
    alcohol, grape, year, day, note, raw, kept = frame.data
    assert alcohol[0] == 1.5 and np.isnan(alcohol[1])
    assert grape.tolist() == ["mérlot", None] and year.tolist() == [2**62 + 1, -(2**63)]
    assert str(day[0]) == "2024-05-01T00:00:00.000000000" and np.isnat(day[1])
    assert note[0] == 7 and np.isnan(note[1]) and raw.tolist() == [b"\xff\0", None] and kept.tolist() == [None, None]
    back = inputs.encode(frame, WINE)
    assert set(back) == set(arrays), "a column of which all is missing is left out"
    assert back["year"].tolist() == arrays["year"].tolist() and back["raw"].tolist() == arrays["raw"].tolist()
    assert inputs.decode(back, WINE).data[3].tolist() == day.tolist()


def test_empty_text_stays_where_it_is_required() -> None:
    """Only what may be missing can be."""
    signature = Signature((Column("a", "string"),))
    assert inputs.decode({"a": texts("", "x")}, signature).data[0].tolist() == ["", "x"]
    with pytest.raises(BadRequest, match='Input "a" is required and has a missing value'):
        inputs.encode(Frame(("a",), (np.array(["x", None], dtype=object),), 2), signature)


MIXED = Signature((Column(None, "boolean"), Column(None, "integer", required=False), Column(None, "double")))


def test_a_matrix_is_split_into_its_columns() -> None:
    """Each column in its own type, missing values where they are allowed."""
    frame = inputs.decode({"input-0": np.array([[1, 7, 0.5], [0, math.nan, math.nan]])}, MIXED)
    assert [column.dtype.str for column in frame.data] == ["|b1", "<f8", "<f8"]
    assert frame.data[0].tolist() == [True, False] and frame.data[1][0] == 7 and np.isnan(frame.data[1][1])
    words = Signature((Column(None, "long"), Column(None, "string")))
    read = inputs.decode({"input-0": texts("9007199254740993", "é", "2", "b", shape=(2, 2))}, words)
    assert [column.tolist() for column in read.data] == [[2**53 + 1, 2], ["é", "b"]]
    assert inputs.encode(read, words)["input-0"].tolist() == [[b"9007199254740993", "é".encode()], [b"2", b"b"]]


def test_the_model_tells_what_the_declaration_does_not() -> None:
    """Rule 4: a matrix of numbers for a model that knows its columns, or that takes one tensor."""
    matrix = {"input-0": np.array([[1.0, 2.0]])}
    told = Signature((Column("a", "double"), Column("b", "integer")))
    frame = inputs.decode(matrix, Signature(), told)
    assert frame.columns == ("a", "b") and frame.data[1].dtype == np.int32
    graph = inputs.decode(matrix, Signature(), Signature((Tensor("x", "float32", (-1, 2)),)))
    assert isinstance(graph, Tensors) and graph.arrays["x"].dtype == np.float32
    assert inputs.decode(matrix, Signature()).columns is None


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"alcohol": np.ones((1, 1))}, 'Missing input "year": the request has "alcohol"'),
        ({"alcohol": np.ones((2, 1)), "year": np.ones((1, 1), "i8")}, 'differ in their number of rows ("alcohol" 2'),
        ({"alcohol": np.ones((1, 2)), "year": np.ones((1, 1), "i8")}, '"alcohol" has the shape [1, 2]'),
        ({"alcohol": np.ones((1, 1)), "year": np.array([[0.5]])}, 'Row 1, column "year": expected a whole number'),
        (
            {"alcohol": np.ones((2, 1)), "year": np.ones((2, 1), "i8"), "grape": texts("a", b"\xff")},
            'Row 2, column "grape": the text is not UTF-8',
        ),
        (
            {"alcohol": np.ones((1, 1)), "year": np.ones((1, 1), "i8"), "day": texts("tomorrow")},
            'Row 1, column "day": expected an ISO 8601 string',
        ),
    ],
)
def test_a_bad_request_is_told_by_input_and_row(arrays: dict[str, Any], words: str) -> None:
    """The client's fault, in the client's words."""
    with pytest.raises(BadRequest) as caught:
        inputs.decode(arrays, WINE)
    assert words in caught.value.message


def test_strict_models_refuse_inputs_that_they_do_not_know() -> None:
    """As strict REST models do."""
    arrays = {"a": np.ones((1, 1)), "b": np.ones((1, 1))}
    signature = Signature((Column("a", "double"),))
    assert inputs.decode(arrays, signature).rows == 1
    with pytest.raises(BadRequest, match='"b" is not known'):
        inputs.decode(arrays, signature, strict=True)


@pytest.mark.parametrize(
    ("value", "dtype", "datatype"),
    [
        (2**53 + 1, "int64", "FP64"),
        (2**31 - 1, "int32", "FP32"),
        (70000, "int32", "FP16"),
        (2**63 - 1, "int64", "FP64"),
        (-1, "int64", "UINT64"),
        (2**63, "uint64", "INT64"),
        (2.0**63, "float64", "INT64"),
        (float(2**31), "float64", "INT32"),
        (128, "int64", "INT8"),
        (0.5, "float64", "INT64"),
        (math.nan, "float64", "INT64"),
        (math.inf, "float64", "INT64"),
        (2, "int64", "BOOL"),
        (1e39, "float64", "FP32"),
        (1 / 3, "float64", "FP32"),
        (70000.0, "float32", "FP16"),
    ],
)
def test_a_lossy_cast_is_refused(value: Any, dtype: str, datatype: str) -> None:
    """With the row and the value."""
    with pytest.raises(Unfit, match=r"y, row 2: .* cannot be "):
        cast(np.array([[1], [value]], dtype), datatype, "y")


@pytest.mark.parametrize(
    ("value", "dtype", "datatype"),
    [
        (2**53, "int64", "FP64"),
        (2**63 - 1, "uint64", "INT64"),
        (-(2.0**63), "float64", "INT64"),
        (2147483647.0, "float64", "INT32"),
        (True, "bool", "INT8"),
        (1, "int64", "BOOL"),
        (255, "uint8", "FP32"),
        (-128, "int8", "FP16"),
        (2**31 - 128, "int32", "FP32"),
        (0.1, "float64", "FP32"),
        (math.nan, "float64", "FP32"),
        (math.inf, "float64", "FP16"),
        (0.5, "float64", "FP16"),
    ],
)
def test_an_exact_cast_is_done(value: Any, dtype: str, datatype: str) -> None:
    """Also a float that has the same shortest digits."""
    out = cast(np.array([value], dtype), datatype, "y")
    assert str(out[0]) == str(np.array(value).astype(out.dtype))


@pytest.mark.parametrize(
    ("value", "columns", "specs", "expected"),
    [
        ([1, 2], (), [("predict", "INT64", (-1, 1))], {"predict": [[1], [2]]}),
        (np.array([[0.25, 0.75]]), (), [("predict", "FP32", (-1, 2))], {"predict": [[0.25, 0.75]]}),
        (["é", "b"], (), [("y", "BYTES", (-1, 1))], {"y": [["é".encode()], [b"b"]]}),
        ([{"a": 1}, 2], (), [("y", "BYTES", (-1, 1))], {"y": [[b'{"a": 1}'], [b"2"]]}),
        (
            [[1, "x"], [2, "y"]],
            ("b", "a"),
            [("a", "BYTES", (-1, 1)), ("b", "INT32", (-1, 1))],
            {"a": [[b"x"], [b"y"]], "b": [[1], [2]]},
        ),
        (
            {"probabilities": np.array([[0.5, 0.5]]), "label": np.array([3])},
            (),
            [("label", "INT64", (-1, 1)), ("probabilities", "FP64", (-1, 2))],
            {"label": [[3]], "probabilities": [[0.5, 0.5]]},
        ),
    ],
)
def test_an_answer_becomes_the_declared_outputs(
    value: Any, columns: tuple[str, ...], specs: list[Any], expected: dict[str, Any]
) -> None:
    """Lists, arrays, tables by their columns' names, objects by their keys."""
    found = outputs.encode(Prediction(value, columns), [Spec(*spec) for spec in specs])
    assert {name: array.tolist() for name, array in found.items()} == expected


@pytest.mark.parametrize(
    ("value", "spec", "words"),
    [
        ([1, 2.5], ("y", "INT64", (-1, 1)), 'Output "y", row 2: 2.5 cannot be INT64 without loss.'),
        (["a"], ("y", "FP64", (-1, 1)), "Output \"y\" holds the str 'a', where FP64 is declared."),
        ([1, None], ("y", "INT64", (-1, 1)), "nan cannot be INT64"),
        ([2**70], ("y", "INT64", (-1, 1)), "a number beyond 64 bits"),
        (["a", None], ("y", "BYTES", (-1, 1)), "has a missing value, which BYTES cannot hold"),
        ([[1, 2]], ("y", "INT64", (-1, 3)), "has the shape [1, 2], where [-1, 3] is declared"),
        ([[1], [2, 3]], ("y", "INT64", (-1, 1)), "is ragged"),
        ({"a": 1, "b": 2}, ("y", "INT64", (-1, 1)), 'the model answers "a", "b", where "y" is declared'),
    ],
)
def test_an_answer_that_does_not_fit_is_an_error(value: Any, spec: Any, words: str) -> None:
    """Nothing is cut, rounded or guessed."""
    with pytest.raises(ModelFailure) as caught:
        outputs.encode(Prediction(value), [Spec(*spec)])
    assert words.lower() in caught.value.message.lower()


@pytest.mark.parametrize(
    ("value", "columns", "specs"),
    [
        ([1, 2], (), [("predict", "INT64", (-1, 1))]),
        ([0.5], ("quality",), [("quality", "FP64", (-1, 1))]),
        (np.zeros((2, 3), "float32"), (), [("predict", "FP32", (-1, 3))]),
        ([["a", 1]], ("x", "y"), [("x", "BYTES", (-1, 1)), ("y", "INT64", (-1, 1))]),
        ({"a": np.zeros((1, 2)), "b": ["x"]}, (), [("a", "FP64", (-1, 2)), ("b", "BYTES", (-1, 1))]),
    ],
)
def test_an_answer_tells_the_outputs(value: Any, columns: tuple[str, ...], specs: list[Any]) -> None:
    """What auto-completion writes, the same answer fits."""
    told = outputs.told_by(Prediction(value, columns))
    assert told == tuple(Spec(*spec) for spec in specs)
    assert set(outputs.encode(Prediction(value, columns), told)) == {spec.name for spec in told}


def test_scalars_and_vectors_have_the_models_own_shape() -> None:
    """They are shown with a dimension of 1 more, which the model does not see."""
    signature = Signature((Tensor("s", "int8", ()), Tensor("v", "str", (-1,))))
    arrays = {"s": np.array([7], "i1"), "v": texts("a", "é")}
    found = inputs.decode(arrays, signature)
    assert isinstance(found, Tensors) and found.arrays["s"].shape == () and found.arrays["v"].tolist() == ["a", "é"]
    assert {name: array.tolist() for name, array in inputs.encode(found, signature).items()} == {
        "s": [7],
        "v": [[b"a"], ["é".encode()]],
    }


def test_requests_are_joined_and_answers_are_split() -> None:
    """Only inputs of one kind, and each gets its own rows back."""
    first = Frame(("a",), (np.array([1.0, 2.0]),), 2)
    second = Frame(("a",), (np.array([3.0]),), 1)
    whole = Frame(("a",), (np.array([3]),), 1)
    assert batches.kind(first) == batches.kind(second) != batches.kind(whole)
    joined = batches.join([first, second])
    assert joined.rows == 3
    parts = batches.split({"y": joined.data[0].reshape(3, 1)}, [2, 1])
    assert [part["y"].tolist() for part in parts] == [[[1.0], [2.0]], [[3.0]]]
    graphs = [Tensors({"x": np.zeros((1, 2))}), Tensors({"x": np.ones((2, 2))})]
    assert batches.join(graphs).rows == 3
