"""The quick roads answer as the exact ones do, bit for bit: rows read as a matrix, linear models by their sum."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpack_runtime import render, wire, wire_matrix
from mpack_runtime.errors import BadRequest
from mpack_runtime.frame import Array, Frame
from mpack_runtime.loaders.sklearn_linear import shortened
from mpack_runtime.signature import COLUMN_TYPES, Column, Signature
from mpack_runtime.wire_columns import quote
from sklearn import linear_model, svm
from sklearn.linear_model import LinearRegression

NAMES = ["a", "b", "c"]
wholes = st.integers(-(2**31) - 1, 2**31) | st.sampled_from([2**53 + 1, -(2**63), 2**63 - 1, 2**63, 2**64 - 1, 0])
floats = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([3.5e38, -3.5e38, 3.4028235e38, -0.0, 1.0])
#: Most draws are of one kind, as requests are; the others must come out alike too.
cells = [wholes, floats, wholes | floats, floats | st.none(), wholes | st.booleans(), floats | st.booleans()]
tables = st.sampled_from([*cells, floats | st.sampled_from(["1", "x"])]).flatmap(
    lambda cell: st.lists(st.lists(cell, min_size=3, max_size=3), min_size=1, max_size=4)
)
ragged = st.lists(st.lists(wholes | floats, min_size=2, max_size=4) | st.just(1), max_size=3)
headers = st.sampled_from(
    [None, [], NAMES, ["b", "a", "c"], ["a", "b", "x"], ["a", "a", "c"], [0, 1, 2], "abc", "", {}, False]
)
signatures = st.builds(
    lambda kind, names, required: Signature(tuple(Column(name, kind, required) for name in names)),
    st.sampled_from(COLUMN_TYPES),
    st.sampled_from([NAMES, [None] * 3, ["a", "a", "c"], ["0", "1", "2"]]),
    st.booleans(),
)


@pytest.fixture(params=[1, 256], autouse=True, scope="module")
def many(request: pytest.FixtureRequest) -> Any:
    """Both ways to see that values are numbers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire_matrix, "_MANY", request.param)
        yield


def outcome(body: bytes, signature: Signature) -> Any:
    """All that can be told of what a request becomes."""
    try:
        found = wire.decode(body, "application/json", signature)
    except BadRequest as error:
        return error.message
    assert isinstance(found, Frame)
    matrix = found.matrix()
    columns = [(column.dtype, column.tolist().__repr__()) for column in found.data]
    return found.columns, found.rows, found.warnings, columns, matrix.dtype, matrix.flags.c_contiguous, repr(matrix)


@settings(max_examples=500, deadline=None)
@given(headers, tables | ragged, signatures)
def test_rows_read_as_a_matrix_are_what_their_columns_are(names: Any, rows: Any, signature: Signature) -> None:
    """The same frame, or the same refusal, as column by column."""
    body = json.dumps({"data": rows} if names is None else {"columns": names, "data": rows}).encode()
    quick = outcome(body, signature)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire_matrix, "table", lambda *_: None)
        assert quick == outcome(body, signature)


@settings(max_examples=300, deadline=None)
@given(tables, st.lists(st.permutations([*NAMES]) | st.just(["a", "b"]), min_size=1, max_size=4), signatures)
def test_records_are_what_they_are_one_by_one(rows: Any, keys: list[list[str]], signature: Signature) -> None:
    """Whether all of them have the same names in one order, or not: the same frame, or the same refusal."""
    records = [dict(zip(keys[index % len(keys)], row, strict=False)) for index, row in enumerate(rows)]
    quick = outcome(json.dumps({"dataframe_records": records}).encode(), signature)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire_matrix, "table", lambda *_: None)
        patch.setattr(wire, "_alike", lambda _: False)
        assert quick == outcome(json.dumps({"dataframe_records": records}).encode(), signature)


@pytest.mark.parametrize(
    ("kind", "row", "dtype"),
    [
        ("double", [1.5, 2, None], "float64"),
        ("float", [1.5, 2, 0.1], "float32"),
        ("long", [1, 2, 2**62], "int64"),
        ("integer", [1, 2, -3], "int32"),
        ("any", [1.5, 2.5, 3.5], "float64"),
        ("any", [1, 2, 3], "int64"),
        ("any", [1, 2.5, 3], "float64"),
    ],
)
def test_plain_numbers_take_the_quick_road(kind: str, row: list[Any], dtype: str) -> None:
    """Else nothing above would be about it."""
    found = wire_matrix.table(NAMES, [row, row], Signature(tuple(Column(name, kind) for name in NAMES)))
    assert found is not None and found.matrix() is found.whole and found.matrix().dtype == dtype


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**64 - 1) | st.floats(), max_size=5))
def test_packed_floats_are_numpys(values: list[Any]) -> None:
    """Rounded alike, whole numbers beyond 2^53 too."""
    assert wire_matrix.floats(values, {int, float}).tobytes() == np.array(values, np.float64).tobytes()


@given(st.text(max_size=90))
def test_plain_names_are_quoted_as_json(text: str) -> None:
    """With or without the quick way."""
    quoted = json.dumps(text)
    assert quote(text) == (quoted if len(quoted) <= 80 else quoted[:76] + "?" + '"')


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "float32", "float64", ">f8", "U3", "object"])
@pytest.mark.parametrize("shape", [(), (0,), (2,), (2, 2), (2, 1, 2)])
def test_arrays_are_rendered_as_by_the_whole_rule(dtype: str, shape: tuple[int, ...]) -> None:
    """An array by itself has the form and the names that it has inside a list."""
    array = np.ones(shape, dtype)
    found = render.render(array, ["y", "z"])
    assert np.array_equal(found.value, render.plain(array))
    assert found.columns == (("y", "z") if shape == (2, 2) else ())


REGRESSORS = [
    linear_model.LinearRegression(),
    linear_model.LinearRegression(fit_intercept=False),
    linear_model.Ridge(),
    linear_model.Lasso(alpha=0.01),
    linear_model.ElasticNet(alpha=0.01),
    linear_model.BayesianRidge(),
]
CLASSIFIERS = [linear_model.LogisticRegression(), linear_model.RidgeClassifier(), svm.LinearSVC()]


def fitted(estimator: Any, classes: int) -> tuple[Any, Array]:
    random = np.random.default_rng(5)
    rows = random.normal(size=(120, 7))
    wanted = (
        rows @ random.normal(size=7)
        if classes < 2
        else np.array(["no", "yes", "maybe"])[random.integers(classes, size=120)]
    )
    return estimator.fit(rows, wanted), rows


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize(
    ("estimator", "classes"),
    [*((item, 0) for item in REGRESSORS), *((item, count) for item in CLASSIFIERS for count in (2, 3))],
    ids=lambda item: type(item).__name__ if not isinstance(item, int) else str(item),
)
def test_a_linear_model_answers_its_own_bits(estimator: Any, classes: int) -> None:
    """By the short cut, for any number of rows; what is not for it goes to the estimator, errors included."""
    model, rows = fitted(estimator, classes)
    asked: list[Any] = []
    quick = shortened(model, _counted(model.predict, asked))
    trials = len(asked)
    for count in (1, 2, 5, 120):
        found, wanted = quick(rows[:count]), model.predict(rows[:count])
        assert found.dtype == wanted.dtype and found.tolist() == wanted.tolist()
    assert trials > 0 and len(asked) == trials
    for odd in (rows[:2] * np.nan, rows[:2] * np.inf, rows[:2, :3], rows[0], rows[:0]):
        with pytest.raises(ValueError) as expected:
            model.predict(odd)
        with pytest.raises(ValueError) as got:
            quick(odd)
        assert str(got.value) == str(expected.value)
    for other in (rows[:3].astype(np.float32), rows[:3].tolist(), np.ones((2, 7), int)):
        assert quick(other).tolist() == model.predict(other).tolist()
    assert len(asked) == trials + 8


def _counted(predict: Callable[[Any], Any], asked: list[Any]) -> Callable[[Any], Any]:
    @functools.wraps(predict)
    def count(rows: Any) -> Any:
        asked.append(rows)
        return predict(rows)

    return count


def test_whoever_answers_otherwise_is_asked() -> None:
    """A class of somebody else's, and an estimator whose answer is not that sum."""
    model, rows = fitted(LinearRegression(), 0)

    class Own(LinearRegression):
        def predict(self, X: Any) -> Any:
            return super().predict(X) + 1

    own, _ = fitted(Own(), 0)
    assert shortened(own, own.predict) == own.predict

    @functools.wraps(model.predict)
    def doubled(matrix: Any) -> Any:
        return 2 * model.predict(matrix)

    assert shortened(model, doubled) is doubled
    assert doubled(rows[:1]).tolist() == (2 * model.predict(rows[:1])).tolist()

    def capped(matrix: Any) -> Any:
        return np.minimum(LinearRegression.predict(model, matrix), 1e6)

    model.predict = capped  # which agrees on any rows of trial
    assert shortened(model, model.predict) is capped


def test_a_wide_model_is_not_tried() -> None:
    """Rows of trial for a million columns would take half a gigabyte, and the checks are not what takes its time."""
    model = LinearRegression()
    model.coef_, model.intercept_, model.n_features_in_ = np.ones(1_000_000), 0.0, 1_000_000
    asked: list[Any] = []
    predict = _counted(model.predict, asked)
    assert shortened(model, predict) is predict and not asked
