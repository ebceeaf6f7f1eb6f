"""Answers out: whatever a model returns, as strict JSON."""

from __future__ import annotations

import datetime
import json
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from mpack_runtime.errors import ModelFailure
from mpack_runtime.frame import Prediction
from mpack_runtime.render import encode, render

ZONE = datetime.timezone(datetime.timedelta(hours=1))


def strict(text: bytes) -> Any:
    """Parses JSON and refuses NaN and infinities."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def prediction(raw: Any, names: tuple[str, ...] = ()) -> Any:
    return strict(encode(render(raw, names)))["prediction"]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (np.array([1, 2]), [1, 2]),
        (np.array([[1.5], [math.nan]]), [[1.5], [None]]),
        (np.array([np.inf, -np.inf], dtype=np.float32), [None, None]),
        (np.array([0.1], dtype=np.float32), [0.1]),
        (np.array([[0.1]], dtype=np.float16).T, [[0.1]]),
        (np.zeros((1, 2, 3)), [[[0, 0, 0], [0, 0, 0]]]),
        (np.arange(4).reshape(2, 2).T, [[0, 2], [1, 3]]),
        (np.arange(2, dtype=">i4"), [0, 1]),
        (np.array(3), 3),
        (np.array(["a", "ü"]), ["a", "ü"]),
        (np.array([b"a"]), ["YQ=="]),
        (np.array([True]), [True]),
        (np.array([2**63 - 1]), [2**63 - 1]),
        (np.array([2**64 - 1], dtype=np.uint64), [2**64 - 1]),
        (np.array(["2024-05-01", "NaT"], dtype="M8[ns]"), ["2024-05-01T00:00:00", None]),
        (np.array(["2024-05-01"], dtype="M8[D]"), ["2024-05-01"]),
        (np.array([1500], dtype="m8[ms]"), [1.5]),
        (np.array([1, None, "x", math.nan], dtype=object), [1, None, "x", None]),
        (np.ma.masked_array([1, 2], mask=[False, True]), [1, None]),
        (np.array([1 + 2j]), ["(1+2j)"]),
        ([1, 2.5, None, "x", True], [1, 2.5, None, "x", True]),
        ((np.array([1]), [np.float32(0.1)]), [[1], [0.1]]),
        ({"label": np.array(["a"]), 1: [np.int64(3)]}, {"label": ["a"], "1": [3]}),
        ([{0: 0.25, 1: np.float32(0.75)}], [{"0": 0.25, "1": 0.75}]),
        (np.float64("nan"), None),
        (2**70, 2**70),
        ([2**70, np.array([math.nan])], [2**70, [None]]),
        (b"\x00\x01", "AAE="),
        ([Decimal("0.1"), Decimal(3), Decimal("NaN")], [0.1, 3, None]),
        (
            [datetime.date(2024, 5, 1), datetime.datetime(2024, 5, 1, 9, 30, tzinfo=ZONE), datetime.time(9)],
            ["2024-05-01", "2024-05-01T09:30:00+01:00", "09:00:00"],
        ),
        (datetime.timedelta(minutes=1), 60.0),
        (pd.Series([1, None], dtype="Int64"), [1, None]),
        (pd.Series(["a", None]), ["a", None]),
        (pd.Series(["a", "b"], dtype="category"), ["a", "b"]),
        (pd.Series([0.5, math.nan], index=[7, 8]), [0.5, None]),
        (pd.to_datetime(pd.Series(["2024-05-01T09:30:00+01:00", None])), ["2024-05-01T09:30:00+01:00", None]),
        (pd.Timestamp("2024-05-01T09:30:00.25"), "2024-05-01T09:30:00.25"),
        (pd.Timedelta(seconds=2), 2.0),
        ([pd.NA, pd.NaT], [None, None]),
        (scipy.sparse.csr_matrix([[0, 1], [2, 0]]), [[0, 1], [2, 0]]),
        ("text", "text"),
        (None, None),
        ([], []),
    ],
)
def test_everything_that_models_return_is_json(raw: Any, expected: Any) -> None:
    """Shape and values survive; what JSON has no word for follows the module's rule."""
    assert prediction(raw) == expected


def test_keys_stand_in_the_reference_order() -> None:
    """`prediction` first, then `columns`."""
    assert encode(render(np.array([1.5]))) == b'{"prediction":[1.5],"columns":[]}'


def test_data_frame_brings_its_columns() -> None:
    """Names of the table win; mixed columns, missing integers, equal names and no column at all."""
    table = pd.DataFrame(
        {"n": pd.array([1, None], dtype="Int64"), 2: ["a", None], "t": pd.to_datetime(["2024-05-01", None])}
    )
    answer = render(table, ("x", "y", "z"))
    assert answer.columns == ("n", "2", "t")
    assert answer.value == [[1, "a", "2024-05-01T00:00:00"], [None, None, None]]
    assert render(pd.DataFrame([[1, 2]], columns=["a", "a"])) == Prediction([[1, 2]], ("a", "a"))
    assert render(pd.DataFrame(index=[0, 1])).value == [[], []]
    assert prediction({"inner": table})["inner"][1] == [None, None, None]


@pytest.mark.parametrize(
    ("raw", "names", "columns"),
    [
        (np.zeros((2, 2)), ("a", "b"), ["a", "b"]),
        (np.zeros((2, 3)), ("a", "b"), []),
        (np.zeros(2), ("a",), ["a"]),
        (np.zeros(2), ("a", "b"), []),
        (np.zeros((2, 2, 2)), ("a", "b"), []),
        ([[1, "x"]], ("a", "b"), ["a", "b"]),
        ([[1], [1, 2]], ("a",), []),
        (Prediction([1], ("own",)), ("a",), ["own"]),
    ],
)
def test_signature_names_the_columns_where_they_fit(raw: Any, names: tuple[str, ...], columns: list[str]) -> None:
    """The signature's output names are used only for an answer of their width."""
    assert strict(encode(render(raw, names)))["columns"] == columns


def test_what_cannot_be_json_is_a_sentence() -> None:
    """Foreign objects, endless structures and text that is no Unicode are ModelFailures."""
    endless: list[Any] = []
    endless.append(endless)
    for raw, words in ((object(), "builtins.object"), ([{1, 2}], "builtins.set"), (endless, "holds itself")):
        with pytest.raises(ModelFailure) as caught:
            render(raw)
        assert words in caught.value.message


@settings(max_examples=200, deadline=None)
@given(arrays.arrays(arrays.scalar_dtypes(), arrays.array_shapes(max_dims=3, max_side=3)))
def test_any_array_is_strict_json_of_its_shape(array: Any) -> None:
    """Every dtype of NumPy's scalars gives strict JSON with the array's own shape."""
    assert np.shape(np.array(prediction(array), dtype=object)) == array.shape


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates() | st.decimals()
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner), max_leaves=10
)


@settings(max_examples=200, deadline=None)
@given(values)
def test_any_value_is_strict_json(value: Any) -> None:
    """Every nesting of plain Python values gives strict UTF-8 JSON, or a ModelFailure."""
    try:
        assert "prediction" in strict(encode(render(value)))
    except ModelFailure as error:
        assert "cannot be written as JSON" in error.message
