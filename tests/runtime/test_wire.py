"""Requests in: forms, names, types, missing values, and a sentence for every fault."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from mpack_runtime import wire
from mpack_runtime.errors import BadRequest
from mpack_runtime.frame import Frame, Tensors
from mpack_runtime.signature import Column, Param, Signature, Tensor

NAMED = Signature((Column("a", "double"), Column("b", "long"), Column("c", "string", required=False)))
UNNAMED = Signature((Column(None, "double"), Column(None, "double")))
MATRIX = Signature((Tensor(None, "float32", (-1, 2)),))
TWO = Signature((Tensor("x", "float32", (-1, 1)), Tensor("y", "int64", (-1,))))


def decode(value: Any, signature: Signature = NAMED, **options: Any) -> Any:
    return wire.decode(json.dumps(value).encode(), "application/json", signature, **options)


def frame(value: Any, signature: Signature = NAMED, **options: Any) -> Frame:
    inputs = decode(value, signature, **options)
    assert isinstance(inputs, Frame)
    return inputs


def refused(value: Any, signature: Signature = NAMED, **options: Any) -> str:
    with pytest.raises(BadRequest) as caught:
        decode(value, signature, **options)
    assert caught.value.status == 400
    return caught.value.message


def one(kind: str, *values: Any, required: bool = True) -> np.ndarray[Any, Any]:
    return frame({"data": [[value] for value in values]}, Signature((Column("v", kind, required),))).data[0]


# --- forms ------------------------------------------------------------------------------------------------------------

ROWS = [[1.5, 2, "p"], [2.5, 3, "q"]]
RECORDS = [dict(zip("abc", row, strict=True)) for row in ROWS]


@pytest.mark.parametrize(
    "body",
    [
        {"columns": ["a", "b", "c"], "data": ROWS},
        {"data": ROWS},
        {"columns": ["c", "a", "b"], "data": [[c, a, b] for a, b, c in ROWS]},
        {"dataframe_split": {"columns": ["a", "b", "c"], "index": [0, 1], "data": ROWS}},
        {"dataframe_records": RECORDS},
        {"instances": RECORDS},
        {"instances": ROWS},
        {"inputs": {"b": [2, 3], "a": [1.5, 2.5], "c": ["p", "q"]}},
    ],
)
def test_every_form_becomes_the_same_frame(body: Any) -> None:
    """All JSON forms mean one table, in the signature's order and types."""
    table = frame(body)
    assert table.columns == ("a", "b", "c") and table.rows == 2 and table.warnings == ()
    assert [column.dtype for column in table.data] == [np.float64, np.int64, object]
    assert table.values() == ROWS


def test_csv_is_the_same_frame() -> None:
    """CSV with a header in another order, quoted cells, a BOM and blank lines."""
    body = '\ufeffc,b,a\r\np,2,1.5\r\n\r\n"q",3,2.5\r\n'.encode()
    table = wire.decode(body, "text/csv; charset=UTF-8", NAMED)
    assert isinstance(table, Frame) and table.values() == ROWS


@pytest.mark.parametrize(
    ("body", "content_type", "signature", "names", "rows"),
    [
        (b"1,2,x\n", "text/csv", NAMED, ("a", "b", "c"), 1),
        (b"a,b\n1,2\n", "text/csv", NAMED, ("a", "b", "c"), 1),
        (b"u,v\n1,2\n", "text/csv", UNNAMED, None, 1),
        (b"u,v\n1,2\n", "text/csv", Signature(), ("u", "v"), 1),
        (b"u,1\nv,2\n", "text/csv", Signature(), None, 2),
        (b"u,v\n", "text/csv; header=absent", Signature(), None, 1),
        (b"1,2\n3,4\n", 'text/csv; header="present"', Signature(), ("1", "2"), 1),
    ],
)
def test_csv_header_rule(body: bytes, content_type: str, signature: Signature, names: Any, rows: int) -> None:
    """The content type decides; else the signature's names; else whether the line holds a number."""
    table = wire.decode(body, content_type, signature)
    assert isinstance(table, Frame) and (table.columns, table.rows) == (names, rows)


def test_csv_cells_get_the_declared_types() -> None:
    """Empty cells are missing, numbers are numbers, true and false are booleans in any case."""
    kinds = ("boolean", "long", "double", "string", "datetime", "binary", "any")
    signature = Signature(tuple(Column(kind, kind, required=False) for kind in kinds))
    table = wire.decode(b"True,9007199254740993,1e3,007,2024-05-01,AAE=,5\n", "text/csv", signature)
    assert isinstance(table, Frame)
    assert [column.tolist()[0] for column in table.data[:4]] == [True, 9007199254740993, 1000.0, "007"]
    assert table.data[4][0] == np.datetime64("2024-05-01") and table.data[5][0] == b"\x00\x01"
    assert table.data[6].dtype == np.int64
    gaps = wire.decode(b",,,,,,\n", "text/csv", signature)
    assert isinstance(gaps, Frame)
    assert gaps.values()[0][:6:3] == [None, None] and np.isnan(gaps.values()[0][2]) and gaps.values()[0][4] is None


def test_params_are_checked_and_passed() -> None:
    """Known parameters arrive with their type; unknown ones are a warning."""
    signature = Signature(NAMED.inputs, params=(Param("t", "double", 0.5), Param("ids", "long", [1])))
    table = frame({"data": ROWS, "params": {"t": 1, "ids": [4, 5], "u": 0}}, signature)
    assert table.params == {"t": 1.0, "ids": [4, 5]} and table.warnings == ('the parameter "u" was ignored',)
    assert refused({"data": ROWS, "params": {"t": "x"}}, signature).startswith('Parameter "t": expected a number')


# --- names ------------------------------------------------------------------------------------------------------------


def test_extra_columns_are_dropped_with_a_warning_or_refused() -> None:
    """A column too many is named; strict refuses it."""
    body = {"columns": ["z", "a", "b"], "data": [[0, 1, 2]]}
    table = frame(body)
    assert table.columns == ("a", "b", "c") and table.warnings == ('the column "z" was ignored',)
    assert '"z"' in refused(body, strict=True)
    assert frame({"data": ROWS, "dta": 1}).warnings == ('the request\'s key "dta" was ignored',)


def test_missing_required_column_is_named_and_optional_is_filled() -> None:
    """Only required columns must be there."""
    assert refused({"columns": ["a", "c"], "data": [[1, "x"]]}).startswith('Missing column "b"')
    assert frame({"columns": ["b", "a"], "data": [[1, 2]]}).data[2].tolist() == [None]
    assert "Row 2 has no column" in refused({"dataframe_records": [RECORDS[0], {"a": 1}]})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"columns": ["a", "a", "b"], "data": [[1, 2, 3]]}, 'columns names "a" twice'),
        ({"columns": ["a", None], "data": [[1, 2]]}, "columns: name 2 is null"),
        ({"columns": "ab", "data": [[1, 2]]}, 'columns is the string "ab"'),
        ({"columns": ["a", "b"], "data": [[1, 2], [1]]}, "Row 2 has 1 value, where 2 are expected"),
        ({"data": [[1, 2]]}, "Row 1 has 2 values, where 3 are expected"),
        ({"data": [[1, 2, "x"], 7]}, "Row 2 is the number 7"),
        ({"data": [[1, 2, "x"], {}]}, "Row 2 is an object"),
        ({"data": [1, 2]}, "Row 1 is the number 1"),
        ({"data": []}, "Matrix is not provided"),
        ({"data": None}, "Matrix is not provided"),
        ({}, "Matrix is not provided"),
        ({"data": {"a": 1}}, "Matrix is not provided"),
        ({"data": ROWS, "instances": ROWS}, "data and instances"),
        ({"dataframe_split": ROWS}, "dataframe_split is a list"),
        ({"dataframe_split": {"columns": ["a"]}}, "dataframe_split has no data"),
        ({"dataframe_records": {}}, "must be a list of at least one object"),
        ({"dataframe_records": [1]}, "Row 1 is the number 1"),
        ({"dataframe_records": [{}]}, "Row 1 is an empty object"),
        ({"inputs": {}}, "empty object"),
        ({"inputs": {"a": 1}}, 'column "a" is the number 1'),
        ({"inputs": {"a": [1], "b": [1, 2]}}, "differ in length"),
        ({"inputs": 5}, "inputs is the number 5"),
        ({"instances": {"a": 1}}, "instances is an object"),
        ({"data": ROWS, "params": 3}, "params is the number 3"),
        ([1, 2], "The request is a list"),
        ("x", 'The request is the string "x"'),
        (None, "The request is null"),
    ],
)
def test_wrong_shape_is_a_sentence(body: Any, words: str) -> None:
    """Every structural fault names its place."""
    assert words in refused(body)


def test_without_signature_names_and_nesting_decide() -> None:
    """Named columns make a named frame, unnamed a positional one, nested lists a tensor."""
    assert frame({"columns": ["u"], "data": [[1]]}, Signature()).columns == ("u",)
    assert frame({"data": [[1, "x"]]}, Signature()).columns is None
    nested = decode({"data": [[[1, 2], [3, 4]]]}, Signature())
    assert isinstance(nested, Tensors) and nested.single().shape == (1, 2, 2)
    assert "expected a number, a string" in refused({"columns": ["u"], "data": [[{"x": 1}]]}, Signature())


# --- types ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "value", "dtype"),
    [
        ("boolean", True, np.bool_),
        ("integer", -(2**31), np.int32),
        ("integer", 3.0, np.int32),
        ("long", 2**53 + 1, np.int64),
        ("long", 2**63 - 1, np.int64),
        ("float", 1, np.float32),
        ("double", 1e308, np.float64),
        ("string", "ü", np.object_),
        ("any", 2**63 - 1, np.int64),
        ("any", 2**64 - 1, np.object_),
        ("any", 0.5, np.float64),
        ("any", True, np.bool_),
        ("any", [1, {"x": None}], np.object_),
    ],
)
def test_values_arrive_exactly(kind: str, value: Any, dtype: Any) -> None:
    """Each type keeps its values, whole numbers beyond 2^53 too."""
    column = one(kind, value, value)
    assert column.dtype == dtype and column.tolist() == [value, value]


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("boolean", 1, "expected true or false, got the number 1"),
        ("integer", 2**31, "out of range for integer"),
        ("integer", 1.5, "expected a whole number (integer), got the number 1.5"),
        ("long", True, "got the boolean true"),
        ("long", 2**63, "out of range for long"),
        ("long", 1e17, "expected a whole number (long)"),
        ("long", "1", 'got the string "1"'),
        ("float", 1e39, "out of range for float"),
        ("double", "1", 'expected a number (double), got the string "1"'),
        ("double", False, "got the boolean false"),
        ("double", [1], "got a list"),
        ("string", 1, "expected a string, got the number 1"),
        ("binary", "%", "expected a base64 string"),
        ("binary", "ü", "expected a base64 string"),
        ("datetime", "yesterday", "expected an ISO 8601 string"),
        ("datetime", "2024-02-30", "expected an ISO 8601 string"),
        ("datetime", "2500-01-01", "expected an ISO 8601 string"),
        ("datetime", "2024-01-01T25:00", "expected an ISO 8601 string"),
        ("datetime", 0, "expected an ISO 8601 string"),
    ],
)
def test_wrong_value_names_row_column_and_reason(kind: str, value: Any, words: str) -> None:
    """The message tells where and why, for JSON."""
    good = {"boolean": True, "string": "x", "binary": "", "datetime": "2024-01-01"}.get(kind, 1)
    signature = Signature((Column("a", "any"), Column("v", kind)))
    message = refused({"data": [[0, good], [0, value]]}, signature)
    assert message.startswith('Row 2, column "v": ') and words in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-05-01", "2024-05-01T00:00:00"),
        ("2024-05-01T12:30", "2024-05-01T12:30:00"),
        ("2024-05-01T12:30:15.25Z", "2024-05-01T12:30:15.25"),
        ("2024-05-01 12:30:15+02:00", "2024-05-01T10:30:15"),
        ("2024-05-01T12:30:15-0530", "2024-05-01T18:00:15"),
    ],
)
def test_dates_are_utc(text: str, expected: str) -> None:
    """A zone is converted, none is taken as UTC."""
    assert one("datetime", text)[0] == np.datetime64(expected, "ns")


def test_cells_of_type_any_may_nest_but_not_without_end() -> None:
    """Lists and objects pass in a declared column of type any, up to 64 levels."""
    signature = Signature((Column("v", "any"),))
    deep = json.loads("[" * 64 + "]" * 64)
    assert frame({"data": [[deep]]}, signature).data[0][0] == deep
    assert refused({"data": [[1], [[{"x": deep}]]]}, signature).startswith(
        'Row 2, column "v": lists and objects are nested'
    )


def test_null_is_a_missing_value() -> None:
    """NaN, NaT or None where the type has one; whole numbers and booleans only in optional columns."""
    assert np.isnan(one("double", None, 1)[0]) and np.isnan(one("float", None)[0])
    assert np.isnat(one("datetime", None)[0])
    assert one("string", None, "x").tolist() == [None, "x"] and one("any", None, True).tolist() == [None, True]
    assert one("any", None, 3).dtype == np.float64
    for kind in ("boolean", "integer", "long"):
        body = {"data": [[True if kind == "boolean" else 1], [None]]}
        message = refused(body, Signature((Column("v", kind),)))
        assert message == f'Row 2, column "v": null is not allowed, a {kind} is required.'
    gaps = one("long", 1, None, required=False)
    assert gaps.dtype == np.float64 and gaps[0] == 1 and np.isnan(gaps[1])
    assert one("long", 2**53 + 1, None, required=False).tolist() == [2**53 + 1, None]
    assert one("boolean", True, None, required=False).tolist() == [True, None]


@pytest.mark.parametrize("cell", ["nan", "inf", "-Infinity", "1_000", "0x10", "1e999", "١"])
def test_csv_numbers_are_plain_and_finite(cell: str) -> None:
    """What Python would take as a number is refused where RFC 8259 would not write it so."""
    for kind in ("double", "long"):
        with pytest.raises(BadRequest, match=r'^Row 1, column "v": '):
            wire.decode(f"{cell}\n".encode(), "text/csv; header=absent", Signature((Column("v", kind),)))


# --- tensors ----------------------------------------------------------------------------------------------------------


def test_one_tensor_takes_every_form() -> None:
    """Rows, instances, inputs and CSV all fill a matrix of the declared dtype."""
    bodies: list[Any] = [{"data": [[1, 2], [3, 4]]}, {"instances": [[1, 2], [3, 4]]}, {"inputs": [[1, 2], [3, 4]]}]
    arrays = [decode(body, MATRIX) for body in bodies] + [wire.decode(b"1,2\n3,4\n", "text/csv", MATRIX)]
    for tensors in arrays:
        assert isinstance(tensors, Tensors) and tensors.rows == 2
        assert tensors.single().dtype == np.float32 and tensors.single().tolist() == [[1, 2], [3, 4]]


def test_two_tensors_by_name_by_column_and_by_record() -> None:
    """Named inputs, a table with a column each, and records mean the same; a last dimension of 1 may be left out."""
    bodies: list[Any] = [
        {"inputs": {"y": [5, 6], "x": [[1], [2]]}},
        {"inputs": {"y": [5, 6], "x": [1, 2]}},
        {"columns": ["y", "x"], "data": [[5, 1], [6, 2]]},
        {"data": [[1, 5], [2, 6]]},
        {"instances": [{"x": 1, "y": 5}, {"x": 2, "y": 6}]},
    ]
    for body in bodies:
        arrays = decode(body, TWO).arrays
        assert list(arrays) == ["x", "y"]
        assert arrays["x"].tolist() == [[1], [2]] and arrays["y"].tolist() == [5, 6]
    single = Signature((Tensor("x", "float32", (-1, 2)),))
    assert decode({"instances": [{"x": [1, 2]}]}, single).arrays["x"].tolist() == [[1, 2]]
    assert decode({"dataframe_records": [{"u": 1, "v": 2}]}, single).arrays["x"].tolist() == [[1, 2]]
    csv = wire.decode(b"y,x\n5,1\n", "text/csv", TWO)
    assert isinstance(csv, Tensors) and csv.arrays["y"].tolist() == [5]
    words = Signature((Tensor("n", "int64", (-1,)), Tensor("s", "str", (-1,))))
    mixed = wire.decode(b"s,z,n\n007,x,9007199254740993\n", "text/csv", words)
    assert isinstance(mixed, Tensors) and mixed.warnings == ('the column "z" was ignored',)
    assert (mixed.arrays["n"].tolist(), mixed.arrays["s"].tolist()) == ([9007199254740993], ["007"])


@pytest.mark.parametrize(
    ("body", "signature", "words"),
    [
        ({"data": [[1, 2, 3]]}, MATRIX, "has the shape [1, 3]; the model takes [-1, 2]"),
        ({"data": [[1, 2], [3]]}, MATRIX, "Row 2 of the input is ragged"),
        ({"data": [[1, 2], [3, [4]]]}, MATRIX, "Row 2 of the input is ragged"),
        ({"data": [[1, 2], [3, {}]]}, MATRIX, "Row 2 of the input is not a tensor"),
        ({"data": [[1, 2], [3, "x"]]}, MATRIX, "Row 2 of the input (index [1, 1]): expected a number (float32)"),
        ({"data": [[1, 1e39]]}, MATRIX, "out of range for float32"),
        ({"inputs": []}, MATRIX, "The input is empty: its shape is [0]"),
        ({"inputs": [[1, 2]]}, TWO, "The model takes 2 inputs"),
        ({"inputs": {"x": [1]}}, TWO, 'Missing input "y"'),
        ({"inputs": {"x": [1], "y": [1, 2]}}, TWO, "differ in their number of rows"),
        ({"inputs": {"x": [1], "y": [1.5]}}, TWO, "expected a whole number (int64)"),
        ({"inputs": {"x": [1], "y": [None]}}, TWO, "got null"),
        ({"inputs": {"x": [1], "y": [2**63]}}, TWO, "out of range for int64"),
        ({"inputs": 3}, MATRIX, "inputs is the number 3"),
        ({"inputs": {"x": [1], "y": [1], "z": 1}}, TWO, ""),
    ],
)
def test_wrong_tensor_is_a_sentence(body: Any, signature: Signature, words: str) -> None:
    """Shape, raggedness, type and range faults name the row; an input too many is a warning."""
    if words:
        assert words in refused(body, signature)
    else:
        assert decode(body, signature).warnings == ('the input "z" was ignored',)


# --- bodies that are no request ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "content_type", "status", "words"),
    [
        (b"", "application/json", 400, "Please provide data with this POST request"),
        (b" \n", "application/json", 400, "Please provide data with this POST request"),
        (b'{"data": [["\xff"]]}', "application/json", 400, "Can not decode POST data using utf-8 charset"),
        (b"{", "application/json", 400, "Can not parse input as JSON"),
        (b'{"data": [[1]]} x', "application/json", 400, "Can not parse input as JSON"),
        (b'{"data": [[1, 2, "x"]], "data": [[1, 2, "y"]]}', "application/json", 400, 'The key "data" stands twice'),
        (b'{"inputs": {"a": [1], "b": [2], "a": [3]}}', "application/json", 400, 'The key "a" stands twice'),
        (b'{"instances": [{"a": 1, "b": 2, "b": 3}]}', "application/json", 400, 'The key "b" stands twice'),
        (b'{"data": [[1, 2, ":"]], "dat\\u0061": 0}', "application/json", 400, 'The key "data" stands twice'),
        (b'\xef\xbb\xbf{"instances": [{"a": 1, "b": 2, "c": "12:30:00"}]}', "application/json", 200, ""),
        (b'{"data": [[NaN, 1, "x"]]}', "application/json", 400, "Can not parse input as JSON"),
        (b'{"data": [[1e999, 1, "x"]]}', "application/json", 400, "Can not parse input as JSON"),
        (b'{"data": [[1, 1, "\\ud800"]]}', "application/json", 400, "Can not parse input as JSON"),
        (b'{"data": ' + b"[" * 100_000, "application/json", 400, "Can not parse input as JSON"),
        (b'{"data": ' + b"[" * 500 + b"]" * 500 + b"}", "application/json", 400, ""),
        (b'{"data": [[' + b"9" * 300 + b', 1, "x"]]}', "application/json", 200, ""),
        (b'{"data": [[1, ' + b"9" * 300 + b', "x"]]}', "application/json", 400, "expected a whole number (long)"),
        (b"a=1", "application/x-www-form-urlencoded", 415, "The content type"),
        (b"{}", "text/plain", 415, "application/json or text/csv"),
        (b"{}", "application/json; charset=latin-1", 415, "charset"),
        (b"\n\n", "text/csv", 400, "Please provide data"),
        (b"a,b,c\n", "text/csv", 400, "a header and no row"),
        (b'a,b,c\n1,2,"x\n', "text/csv", 400, "Can not parse input as CSV"),
        (b"a,b\n1\n", "text/csv", 400, "Row 1 has 1 value"),
        (b"1,2\n", "text/csv; header=maybe", 415, "present or absent"),
    ],
)
def test_bodies_that_are_no_request(body: bytes, content_type: str, status: int, words: str) -> None:
    """Never anything but a BadRequest of the right status."""
    if status == 200:
        assert wire.decode(body, content_type, NAMED).rows == 1
        return
    with pytest.raises(BadRequest) as caught:
        wire.decode(body, content_type, NAMED)
    assert caught.value.status == status and words in caught.value.message


def test_chunk_rows_keep_their_numbers() -> None:
    """A later chunk's message counts rows from the file's first."""
    with pytest.raises(BadRequest, match=r"^Row 1002, column"):
        wire.from_rows(["a", "b"], [["1", "2"], ["x", "2"]], NAMED, text=True, first_row=1001)
