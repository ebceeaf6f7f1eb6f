"""Requests that wait are asked as one, and nobody's answer is another than alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mpack_runtime import batches, loaders
from mpack_runtime.batching import OFF, ON, PROBING, Batching
from mpack_runtime.config import LoaderConfig, LoadSettings, ModelConfig, Settings
from mpack_runtime.frame import Array, Frame, Inputs, Prediction, Tensors
from mpack_runtime.gate import Gate, Watch
from mpack_runtime.loaders import Model
from mpack_runtime.loaders.sklearn import EstimatorModel
from mpack_runtime.service import Service
from mpack_runtime.signature import Signature, Tensor
from mpack_runtime.turns import has_rows, take_turns
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from werkzeug.test import Client


def frame(*values: float, params: dict[str, Any] | None = None, dtype: str = "float64") -> Frame:
    """A table of one column."""
    return Frame(("x",), (np.array(values, dtype),), len(values), params or {})


class Asked:
    """A model that takes its first call only when `go` is set, and keeps what it was asked."""

    def __init__(self, answer: Callable[[Array], Any] = lambda x: x * 2) -> None:
        self.answer, self.calls, self.go = answer, list[list[float]](), threading.Event()

    def __call__(self, inputs: Inputs) -> Any:
        column = inputs.data[0] if isinstance(inputs, Frame) else inputs.single()
        self.calls.append(column.tolist())
        if len(self.calls) == 1:
            assert self.go.wait(20)
        return self.answer(column)


def together(batching: Batching, gate: Gate, model: Asked, asked: list[Inputs]) -> list[Any]:
    """Answers or errors, in order, of a first request and of others that wait, in this order, until it is answered."""

    def ask(inputs: Inputs) -> Any:
        try:
            return batching.ask(inputs)
        except Exception as error:
            return error

    model.go.clear()
    model.calls.clear()
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = []
        for number, inputs in enumerate(asked):
            answers.append(pool.submit(ask, inputs))
            end = time.monotonic() + 20
            while len(gate._waiting) < number or not model.calls:
                assert time.monotonic() < end
                time.sleep(0.001)
        model.go.set()
        return [answer.result(20) for answer in answers]


def batching(model: Asked, *, rowwise: bool = True, **settings: Any) -> tuple[Batching, Gate]:
    """One call at once."""
    gate = Gate(1, 100, 20)
    return Batching(gate, model, lambda: rowwise, **{"always": True, "rows": 100, **settings}), gate


def test_what_waits_is_one_call() -> None:
    """In order, each gets its own rows; other columns, types and parameters make other calls."""
    model = Asked()
    answers = together(
        *batching(model),
        model,
        [frame(1), frame(2, 3), frame(4), frame(5, dtype="int64"), frame(6, params={"t": 1}), frame(7)],
    )
    assert [answer.tolist() for answer in answers] == [[2], [4, 6], [8], [10], [12], [14]]
    assert model.calls == [[1], [2, 3, 4, 7], [5], [6]]


def test_other_methods_are_asked_alone() -> None:
    """Labels that are the same alone and joined prove nothing of probabilities; several targets' are no rows."""
    other = replace(frame(2.0), method="predict_proba")
    assert batches.kind(frame(2.0)) is not None and batches.kind(other) is None
    assert batches.kind(Tensors({"x": np.zeros((2, 1))}, method="predict_proba")) is None


def test_a_bad_row_fails_alone() -> None:
    """The others of its call get their answers, and it gets the error that it would get alone."""

    def answer(column: Array) -> Array:
        if (column < 0).any():
            raise ValueError(f"negative: {column.tolist()}")
        return column

    model = Asked(answer)
    first, good, bad, last = together(*batching(model), model, [frame(1), frame(2), frame(-3), frame(4)])
    assert [first.tolist(), good.tolist(), last.tolist()] == [[1], [2], [4]] and str(bad) == "negative: [-3.0]"
    assert model.calls == [[1], [2, -3, 4], [2], [-3], [4]]


@pytest.mark.parametrize("answer", [lambda x: x[:1], lambda x: float(x.sum()), lambda x: {"sum": [x.sum()]}])
def test_an_answer_that_is_no_rows_ends_it(answer: Callable[[Array], Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Each is asked alone, then and from then on, and the log says so once."""
    model = Asked(answer)
    batch, gate = batching(model)
    for _ in range(2):
        answers = together(batch, gate, model, [frame(1), frame(2), frame(3)])
        assert all(map(batches.same, answers, (answer(np.array([x])) for x in (1.0, 2.0, 3.0))))
    assert batch.state == OFF and model.calls == [[1], [2], [3]]
    assert capsys.readouterr().err.count("not batched any more") == 1


def test_a_call_has_so_many_rows_and_no_more() -> None:
    """What does not fit is for the next call, and a request of more rows is asked alone."""
    model = Asked()
    asked: list[Inputs] = [frame(1), frame(2, 3), frame(4, 5, 6, 7, 8), frame(9, 10), frame(11)]
    together(*batching(model, rows=4), model, asked)
    assert model.calls == [[1], [2, 3, 9, 10], [4, 5, 6, 7, 8], [11]]


def test_the_first_waits_for_company_until_the_call_is_full() -> None:
    """With a delay of a minute, two requests of two rows make a call of four at once."""
    model = Asked()
    model.go.set()
    batch, _ = batching(model, rows=4, delay=60.0)
    with ThreadPoolExecutor(2) as pool:
        answers = [answer.tolist() for answer in pool.map(batch.ask, [frame(1, 2), frame(3, 4)], timeout=20)]
    assert answers == [[2, 4], [6, 8]] and sorted(model.calls[0]) == [1, 2, 3, 4]


def proven(model: Asked, queues: int = 12, **settings: Any) -> Batching:
    """After so many queues of four requests."""
    batch, gate = batching(model, always=False, clock=lambda: CLOCK[0], **settings)
    for number in range(queues):
        together(batch, gate, model, [frame(number + part / 7) for part in range(5)])
    return batch


CLOCK = [0.0]


def steady(column: Array) -> Array:
    """A call costs the same whatever its rows."""
    CLOCK[0] += 1
    return column * 2


def quick(column: Array) -> Array:
    """A call costs next to nothing."""
    CLOCK[0] += 1e-4
    return column * 2


def by_row(column: Array) -> Array:
    """A call costs as much as its rows."""
    CLOCK[0] += len(column)
    return column * 2


@pytest.mark.parametrize(
    ("answer", "rowwise", "state"),
    [
        (steady, True, ON),
        (steady, False, OFF),
        (by_row, True, OFF),
        (quick, True, OFF),
        (lambda x: steady(x) - x.mean() * (len(x) > 3), True, OFF),
        (lambda x: steady(x).astype("float32" if len(x) > 3 else "float64"), True, OFF),
        (lambda x: steady(x) if len(x) == 1 else 1 / 0, True, OFF),
    ],
)
def test_auto_joins_only_what_pays_and_changes_nothing(
    answer: Callable[[Array], Any], rowwise: bool, state: str
) -> None:
    """Not what is as slow, differs in a bit or a type, or raises; nor what its loader does not vouch for."""
    model = Asked(answer)
    batch = proven(model, rowwise=rowwise)
    assert batch.state == state
    if state == ON:
        assert [len(call) for call in model.calls] == [1, 4]


def test_auto_needs_some_queues() -> None:
    """Two queues of four prove nothing yet."""
    assert proven(Asked(steady), queues=2).state == PROBING


def test_a_larger_call_is_compared_again() -> None:
    """A model that answers otherwise from six rows on is found out by the first such call, which harms nobody."""
    model = Asked(lambda x: steady(x) + (len(x) > 5))
    batch = proven(model)
    assert batch.state == ON
    answers = together(batch, batch._gate, model, [frame(part) for part in range(8)])
    assert [answer.tolist() for answer in answers] == [[2 * part] for part in range(8)]
    assert batch.state == OFF


def test_another_kind_is_compared_first() -> None:
    """What one method's answers prove says nothing of another's, here one array for each class."""

    def answer(column: Array) -> Any:
        found = steady(column)
        return found if column.dtype == np.float64 else [found, found + 100]

    model = Asked(answer)
    batch = proven(model)
    assert batch.state == ON
    asked: list[Inputs] = [frame(1, dtype="int64"), frame(2, dtype="int64"), frame(3, dtype="int64")]
    answers = together(batch, batch._gate, model, asked)
    assert [[part.tolist() for part in one] for one in answers] == [[[2], [102]], [[4], [104]], [[6], [106]]]
    assert batch.state == OFF


def test_as_many_outputs_as_rows_are_not_taken_for_rows() -> None:
    """Even where the user vouches for the rows; and it is not the end of joining."""
    model = Asked(lambda x: [x * 2, x * 3])
    batch, gate = batching(model)
    answers = together(batch, gate, model, [frame(1), frame(2), frame(3)])
    assert [[part.tolist() for part in one] for one in answers] == [[[2], [3]], [[4], [6]], [[6], [9]]]
    assert batch.state == ON


def test_a_full_first_waits_for_nobody() -> None:
    """Its rows are as many as a call may have, whatever the delay."""
    model = Asked()
    model.go.set()
    batch, _ = batching(model, rows=2, delay=60.0)
    begun = time.monotonic()
    assert batch.ask(frame(1, 2)).tolist() == [2, 4] and time.monotonic() - begun < 20


TABLE = pd.DataFrame({"a": [1, 2, 3], "b": ["x", "y", "z"]})


@pytest.mark.parametrize(
    ("whole", "parts"),
    [
        (np.arange(6).reshape(3, 2), [np.array([[0, 1], [2, 3]]), np.array([[4, 5]])]),
        ([{"a": 1}, {"a": 2}, {"a": 3}], [[{"a": 1}, {"a": 2}], [{"a": 3}]]),
        (
            {"p": np.arange(3), "q": ["a", "b", "c"]},
            [{"p": np.arange(2), "q": ["a", "b"]}, {"p": np.array([2]), "q": ["c"]}],
        ),
        (Prediction([1, 2, 3], ("y",)), [Prediction([1, 2], ("y",)), Prediction([3], ("y",))]),
        (TABLE, [TABLE[:2], TABLE[2:].reset_index(drop=True)]),
    ],
)
def test_answers_are_split_by_rows(whole: Any, parts: list[Any]) -> None:
    """Arrays, lists, objects of those, predictions and tables; the parts are as if they were alone."""
    assert all(map(batches.same, batches.split(whole, [2, 1]), parts))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (np.array([0.0]), np.array([-0.0])),
        (np.array([1]), np.array([1.0])),
        (np.array([1.0]), np.array([np.nextafter(1.0, 2.0)])),
        (np.array([1.0]), np.array([[1.0]])),
        (np.array([1, None], object), np.array([1.0, None], object)),
        ([1], [True]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ("a", b"a"),
    ],
)
def test_what_differs_in_a_bit_is_not_the_same(left: Any, right: Any) -> None:
    """Values, types, shapes, order and signs count."""
    assert batches.same(left, left) and not batches.same(left, right)


def test_no_rows_have_no_kind() -> None:
    """Tensors that do not begin with their rows are joined with nothing."""
    assert batches.kind(Tensors({"a": np.zeros((2, 3)), "b": np.zeros(2)})) is not None
    assert batches.kind(Tensors({"a": np.zeros((2, 3)), "b": np.zeros(3)})) is None
    assert batches.kind(Tensors({"a": np.array(1.0)})) is None
    assert not has_rows(Signature((Tensor("a", "float32", (1, 3)),)))
    assert has_rows(Signature((Tensor("a", "float32", (-1, 3)),), (Tensor("b", "float32", ()),)))


FIXTURES = Path(__file__).parents[2] / "fixtures/models"
X = np.random.default_rng(5).normal(size=(200, 6))
Y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).astype(int)


@pytest.mark.parametrize(
    ("estimator", "rowwise"),
    [
        (RandomForestClassifier(5, random_state=1), True),
        (make_pipeline(StandardScaler(), PCA(3), LinearRegression()), True),
        (make_pipeline(FunctionTransformer(lambda x: x - x.mean()), LinearRegression()), False),
    ],
)
def test_estimators_answer_row_by_row_unless_they_run_code_of_others(estimator: Any, rowwise: bool) -> None:
    """A function in a pipeline may do anything with rows."""
    assert EstimatorModel(estimator.fit(X, Y), "predict").rowwise() is rowwise


def test_graphs_answer_row_by_row_where_their_first_dimension_is_free(tmp_path: Path) -> None:
    """As their inputs and outputs tell."""
    iris = LoaderConfig("onnx", "iris.onnx")
    model = loaders.load(ModelConfig("m", "1", iris, FIXTURES / "onnx-iris"))
    assert model.rowwise() and model.signature is not None
    model.signature = Signature((Tensor("x", "float32", (1, 4)),), model.signature.outputs)
    assert not model.rowwise()


@pytest.mark.parametrize("batching", ["auto", "on", "off"])
def test_a_forest_under_load_answers_as_alone(tmp_path: Path, batching: str) -> None:
    """Sixteen threads ask 400 different rows: every probability is bit for bit that of the row alone."""
    forest = RandomForestClassifier(30, random_state=1, n_jobs=1).fit(X, Y)
    model = EstimatorModel(forest, "predict_proba")
    service = served(model, tmp_path, threads=2, load=LoadSettings(batching=batching))
    rows = np.random.default_rng(6).normal(size=(400, 6))
    alone = [forest.predict_proba(row[None]) for row in rows]
    sizes: list[int] = []
    service.observe = lambda seconds, count: sizes.append(count)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda row: service.predict(Frame(None, tuple(row[:, None]), 1)).value, rows))
    assert all(map(batches.same, found, alone))
    assert (max(sizes) > 1) is (batching != "off")


def served(model: Model, root: Path, **settings: Any) -> Service:
    """A service that takes turns."""
    service = Service(ModelConfig("m", "1", LoaderConfig("sklearn", "m"), root), model)
    take_turns(service, Settings(**settings), Watch())
    return service


def test_a_request_of_too_many_rows_is_400_on_every_road(tmp_path: Path, client_of: Callable[..., Client]) -> None:
    """Where maxBatchRows is given; without, any number is right."""
    model = EstimatorModel(LinearRegression().fit(X, Y), "predict")
    rows = X[:3].tolist()
    tensor = {"name": "x", "datatype": "FP64", "shape": [3, 6], "data": rows}
    for limit, status in ((2, 400), (3, 200), (None, 200)):
        client = client_of(served(model, tmp_path, load=LoadSettings(max_batch_rows=limit)))
        for path, body in (
            ("/api/model/invoke", {"data": rows}),
            ("/v1/models/m:predict", {"instances": rows}),
            ("/v2/models/m/infer", {"inputs": [tensor]}),
            ("/invocations", {"inputs": rows}),
        ):
            answer = client.post(path, json=body)
            assert answer.status_code == status, (path, limit, answer.text)
            assert status == 200 or "MPACK_MAX_BATCH_ROWS" in answer.text
