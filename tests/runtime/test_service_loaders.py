"""Loading and asking real models that the test trained itself, and entry points that it wrote."""

from __future__ import annotations

import datetime
import json
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import onnx.helper as oh
import pandas as pd
import pytest
from mpack_runtime import loaders
from mpack_runtime.config import ModelConfig
from mpack_runtime.errors import BadRequest, LoadFailure, ModelFailure
from mpack_runtime.frame import Frame
from mpack_runtime.service import Service
from mpack_runtime.signature import Column, Tensor
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

TABLE = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "b": [0.0, 1.0, 5.0, 2.0]})
TARGET = [1.0, 3.0, 8.0, 6.0]


def config(root: Path, kind: str, path: str, **fields: Any) -> ModelConfig:
    """A model.json around files under root/model."""
    options = fields.pop("options", {})
    model = {"schema": 1, "name": "m", "version": "1", "loader": {"kind": kind, "path": path, "options": options}}
    (root / "model").mkdir(exist_ok=True)
    (root / "model.json").write_text(json.dumps({**model, **fields}))
    return ModelConfig.load(root / "model.json")


def pickled(root: Path, value: Any, **fields: Any) -> Service:
    settings = config(root, "sklearn", "m.pkl", **fields)
    settings.path.write_bytes(pickle.dumps(value))
    return Service.load(settings)


def ask(service: Service, body: Any) -> Any:
    answer = service.encode(service.predict(service.decode(json.dumps(body).encode())))
    return json.loads(answer)


# --- scikit-learn -----------------------------------------------------------------------------------------------------


def test_regression_with_names_reorders(tmp_path: Path) -> None:
    """Without a declared signature the estimator's own names do; the answer stays 1-D."""
    estimator = LinearRegression().fit(TABLE, TARGET)
    service = pickled(tmp_path, estimator)
    expected = estimator.predict(TABLE[:2]).tolist()
    assert ask(service, {"columns": ["b", "a"], "data": [[0, 1], [1, 2]]}) == {"prediction": expected, "columns": []}
    assert ask(service, {"data": [[1, 0], [2, 1]]})["prediction"] == expected
    assert service.example() == {"columns": ["a", "b"], "data": [[0, 0]]}


@pytest.mark.parametrize(("serialization", "method"), [("pickle", "predict_proba"), ("joblib", "decision_function")])
def test_method_and_serialization_options(tmp_path: Path, serialization: str, method: str) -> None:
    """options.method picks what is asked, options.serialization how the file is read."""
    estimator = LogisticRegression().fit(TABLE.to_numpy(), [0, 0, 1, 1])
    settings = config(tmp_path, "sklearn", "m", options={"serialization": serialization, "method": method})
    if serialization == "joblib":
        joblib.dump(estimator, settings.path, compress=3)
    else:
        settings.path.write_bytes(pickle.dumps(estimator))
    service = Service.load(settings)
    assert service.signature.inputs == (Column(None), Column(None))
    np.testing.assert_allclose(
        ask(service, {"data": [[1, 2]]})["prediction"], getattr(estimator, method)([[1, 2]]), rtol=1e-12
    )


def test_pipeline_on_strings_and_numbers_with_gaps(tmp_path: Path) -> None:
    """Mixed columns reach a ColumnTransformer as a DataFrame; CSV and JSON answer the same; labels are strings."""
    table = pd.DataFrame(
        {"plan": ["x", "y", "x", "y"], "size": [1.0, 2.0, 3.0, 4.0], "paid": [True, False, True, False]}
    )
    encoder = ColumnTransformer([("plan", OneHotEncoder(), ["plan"])], remainder="passthrough")
    estimator = make_pipeline(encoder, LogisticRegression()).fit(table, ["no", "yes", "no", "yes"])
    inputs = [("plan", "string"), ("size", "double"), ("paid", "boolean")]
    declared = [{"kind": "column", "name": name, "type": kind, "required": True} for name, kind in inputs]
    service = pickled(tmp_path, estimator, signature={"inputs": declared})
    answer = ask(service, {"columns": ["paid", "plan", "size"], "data": [[True, "x", 1], [False, "y", 2]]})
    assert answer == {"prediction": ["no", "yes"], "columns": []}
    csv = service.decode(b"paid,plan,size\ntrue,x,1\nfalse,y,2\n", "text/csv")
    assert (
        isinstance(csv, Frame) and service.encode(service.predict(csv)) == json.dumps(answer).replace(" ", "").encode()
    )


class Rude:
    """An estimator that prints, and raises what it is told."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def predict(self, matrix: Any) -> Any:
        print("printed by the model")
        raise self.error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("no such thing"), "Exception during prediction: no such thing"),
        (KeyError("k"), "Exception during prediction: 'k'"),
        (RecursionError(), "Exception during prediction: RecursionError"),
        (SystemExit(3), "Exception during prediction: 3"),
    ],
)
def test_model_exception_is_a_message_and_a_traceback_on_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], error: BaseException, message: str
) -> None:
    """The client sees the text; the log has the traceback."""
    service = Service(config(tmp_path, "sklearn", "m.pkl"), loaders.sklearn.EstimatorModel(Rude(error), "predict"))  # type: ignore[attr-defined]
    with pytest.raises(ModelFailure) as caught:
        service.predict(service.decode(b'{"data": [[1]]}'))
    assert caught.value.message == message
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (b"", {}, "EOFError"),
        (b"not a pickle", {}, "may be damaged"),
        (b"cno_such_module\nThing\n.", {}, "needs the Python module 'no_such_module'"),
        (pickle.dumps({"a": 1}), {}, "is a dict, which has no method predict"),
        (b"", {"method": "eval"}, "The option method is 'eval'"),
        (b"", {"serialization": "json"}, "The option serialization is 'json'"),
        (b"", {"serialization": "skops"}, "needs the Python module 'skops"),
        (None, {}, "does not exist"),
    ],
)
def test_load_failure_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, options: Any, words: str
) -> None:
    """Damaged files, missing dependencies and wrong options end in one sentence each."""
    monkeypatch.setitem(sys.modules, "skops", None)
    settings = config(tmp_path, "sklearn", "m.pkl", options=options)
    if content is not None:
        settings.path.write_bytes(content)
    with pytest.raises(LoadFailure) as caught:
        Service.load(settings)
    assert words in caught.value.message


def test_only_models_without_threads_may_be_forked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """scikit-learn alone is forkable; not beside a library whose thread pool a pickle may start."""
    monkeypatch.setattr(loaders, "THREADED", ("no_such_library",))
    assert loaders.forkable(config(tmp_path, "sklearn", "m"))
    assert not loaders.forkable(config(tmp_path, "onnx", "m"))
    monkeypatch.setattr(loaders, "THREADED", ("onnxruntime",))
    assert not loaders.forkable(config(tmp_path, "sklearn", "m"))


def test_unknown_loader_kind_is_refused(tmp_path: Path) -> None:
    """A kind that is not listed is never imported."""
    with pytest.raises(LoadFailure, match="asks for a loader 'pickled'"):
        loaders.load(config(tmp_path, "pickled", ""))


# --- ONNX -------------------------------------------------------------------------------------------------------------


def graph(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any]) -> None:
    model = oh.make_model(oh.make_graph(nodes, "g", inputs, outputs), opset_imports=[oh.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.save(model, path)


def test_onnx_with_two_inputs_and_one_output(tmp_path: Path) -> None:
    """Named inputs, a table with a column each, dtype casts and a last dimension of 1."""
    settings = config(tmp_path, "onnx", "m.onnx")
    kinds = onnx.TensorProto
    nodes = [oh.make_node("Cast", ["y"], ["z"], to=kinds.FLOAT), oh.make_node("Add", ["x", "z"], ["sum"])]
    inputs = [
        oh.make_tensor_value_info("x", kinds.FLOAT, ["n", 1]),
        oh.make_tensor_value_info("y", kinds.INT32, ["n", 1]),
    ]
    graph(settings.path, nodes, inputs, [oh.make_tensor_value_info("sum", kinds.FLOAT, ["n", 1])])
    service = Service.load(settings)
    assert service.signature.inputs == (Tensor("x", "float32", (-1, 1)), Tensor("y", "int32", (-1, 1)))
    for body in (
        {"inputs": {"x": [[0.5]], "y": [2]}},
        {"columns": ["y", "x"], "data": [[2, 0.5]]},
        {"data": [[0.5, 2]]},
    ):
        assert ask(service, body) == {"prediction": [[2.5]], "columns": ["sum"]}
    assert ask(service, service.example()) == {"prediction": [[0.0]], "columns": ["sum"]}
    with pytest.raises(BadRequest, match="Missing input"):
        ask(service, {"inputs": {"x": [1]}})


def test_onnx_with_column_signature_and_several_outputs(tmp_path: Path) -> None:
    """A declared table feeds the one matrix; several outputs are an object of names; strings pass."""
    declared = [{"kind": "column", "name": name, "type": "double", "required": True} for name in "ab"]
    settings = config(tmp_path, "onnx", "m.onnx", signature={"inputs": declared})
    kinds = onnx.TensorProto
    nodes = [oh.make_node("Neg", ["x"], ["n"]), oh.make_node("Identity", ["x"], ["i"])]
    outputs = [oh.make_tensor_value_info(name, kinds.FLOAT, [None, 2]) for name in "ni"]
    graph(settings.path, nodes, [oh.make_tensor_value_info("x", kinds.FLOAT, [None, 2])], outputs)
    answer = ask(Service.load(settings), {"columns": ["b", "a"], "data": [[2, 1]]})
    assert answer == {"prediction": {"n": [[-1, -2]], "i": [[1, 2]]}, "columns": []}
    text = config(tmp_path, "onnx", "s.onnx")
    info = [oh.make_tensor_value_info(name, kinds.STRING, [None]) for name in "st"]
    graph(text.path, [oh.make_node("Identity", ["s"], ["t"])], info[:1], info[1:])
    assert ask(Service.load(text), {"inputs": ["ü", "b"]})["prediction"] == ["ü", "b"]


# --- ODAHU ------------------------------------------------------------------------------------------------------------

ENTRY = """
import os
def init():
    assert os.path.isdir(os.environ["MODEL_LOCATION"])
    return {mode!r}
def predict_on_matrix(matrix, provided_columns_names=None):
    assert type(matrix) is list and type(matrix[0]) is list
    return {answer}
def info():
    inputs = [("n", "integer", 3), ("f", "number", 0.5), ("s", "string", ""), ("t", None, "x")]
    return [dict(name=n, type=t, example=e) for n, t, e in inputs], [dict(name="out", type="number", example=1)]
"""


def gppi(root: Path, answer: str, *, mode: str = "matrix", text: str = ENTRY, head: Any = None) -> ModelConfig:
    """An entry point of a module name of its own, as one process can import a name only once."""
    name = "entry_" + root.name.replace("-", "_")
    settings = config(root, "odahu", "work", options={"entrypoint": name, "workdir": "work"})
    settings.path.mkdir()
    (settings.path / f"{name}.py").write_text(text.format(mode=mode, answer=answer))
    if head is not None:
        head.to_pickle(settings.path / "head_input.pkl")
    return settings


@pytest.fixture(autouse=True)
def restore_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPPI loading changes sys.path and MODEL_LOCATION for good; tests get them back."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("MODEL_LOCATION", "")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("[[1, 'x']], ('a', 'b')", {"prediction": [[1, "x"]], "columns": ["a", "b"]}),
        ("[r[0] for r in matrix], None", {"prediction": [7], "columns": []}),
        ("matrix, provided_columns_names", {"prediction": [[7, 0.5, "s", None]], "columns": ["n", "f", "s", "t"]}),
        ("__import__('numpy').array([1.5]), []", {"prediction": [1.5], "columns": []}),
    ],
)
def test_gppi_answers_of_lists_and_arrays(tmp_path: Path, answer: str, expected: Any) -> None:
    """Plain lists work as arrays do; columns are what the entry point gives; names reach it in the model's order."""
    service = Service.load(gppi(tmp_path, answer))
    assert ask(service, {"columns": ["t", "s", "f", "n"], "data": [[None, "s", 0.5, 7]]}) == expected
    assert [column.type for column in service.signature.input_columns] == ["long", "double", "any", "any"]
    assert service.example() == {"columns": ["n", "f", "s", "t"], "data": [[3, 0.5, "", "x"]]}


def test_gppi_sample_tells_types_and_request(tmp_path: Path) -> None:
    """head_input.pkl gives the columns' true types (dates as dates) and the request of the self-check."""
    head = pd.DataFrame({"d": pd.to_datetime(["2024-05-01"]), "ok": [True], "n": [2]})
    answer = "[[type(v).__name__ for v in matrix[0]]], ()"
    service = Service.load(gppi(tmp_path, answer, head=head))
    assert [column.type for column in service.signature.input_columns] == ["datetime", "boolean", "long"]
    assert service.sample is not None
    assert service.sample.request == {"columns": ["d", "ok", "n"], "data": [["2024-05-01T00:00:00", True, 2]]}
    assert ask(service, service.sample.request)["prediction"] == [["datetime", "bool", "int"]]


@pytest.mark.parametrize(
    ("mode", "text", "words"),
    [
        ("objects", ENTRY, "Can not handle this types of requests"),
        ("tensor", ENTRY, "Unknown model's return type: tensor"),
        ("matrix", "import not_there", "needs the Python module 'not_there'"),
        ("matrix", "def init():\n    raise OSError('no weights')", "OSError: no weights"),
        ("matrix", "raise SystemExit(2)", "SystemExit"),
    ],
)
def test_gppi_that_cannot_be_served(tmp_path: Path, mode: str, text: str, words: str) -> None:
    """Objects mode, unknown modes and failing init() are LoadFailures in the reference's words."""
    with pytest.raises(LoadFailure) as caught:
        Service.load(gppi(tmp_path, "1, ()", mode=mode, text=text))
    assert words in caught.value.message


def test_gppi_serializer_tells_what_json_cannot(tmp_path: Path) -> None:
    """get_output_json_serializer() is asked for objects alone; mpack knows dates that it does not."""
    text = ENTRY + textwrap.dedent("""
        import datetime, json
        import numpy as np
        class Money:
            pass
        class Encoder(json.JSONEncoder):
            def default(self, value):
                return dict(cents=[1, np.int64(2)]) if isinstance(value, Money) else super().default(value)
        def get_output_json_serializer():
            return Encoder
        """)
    answer = "[[Money(), 1.5, datetime.date(2024, 5, 1), dict(m=np.array([Money()], dtype=object))]], ()"
    service = Service.load(gppi(tmp_path, answer, text=text))
    money = {"cents": [1, 2]}
    assert ask(service, {"data": [[1, 2, "x", 3]]})["prediction"] == [[money, 1.5, "2024-05-01", {"m": [money]}]]


def test_gppi_wrong_return_is_a_model_failure(tmp_path: Path) -> None:
    """predict_on_matrix() must give two values."""
    service = Service.load(gppi(tmp_path, "[1, 2, 3]"))
    with pytest.raises(ModelFailure, match="must return two values"):
        ask(service, {"data": [[1, 2, "x", 3]]})


# --- stdout -----------------------------------------------------------------------------------------------------------


def test_results_keep_stdout_clean() -> None:
    """Prints of Python and of native code go to stderr while results own stdout, and come back afterwards."""
    code = """
        import os
        from mpack_runtime.stdio import results
        with results() as out:
            print("python")
            os.write(1, b"native\\n")
            os.system("echo child")
            out.write("result\\n")
        print("after")
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert ran.stdout == "result\nafter\n"
    assert sorted(ran.stderr.split()) == ["child", "native", "python"]


def test_numeric_models_need_no_pandas_and_do_not_warn(tmp_path: Path) -> None:
    """Where pandas is not installed they get a matrix; scikit-learn's warning of names would be wrong about one whose
    columns were put in order by name.
    """
    for name, table in (("named", TABLE), ("plain", TABLE.to_numpy())):
        (tmp_path / name).mkdir()
        settings = config(tmp_path / name, "sklearn", "m.pkl")
        settings.path.write_bytes(pickle.dumps(LinearRegression().fit(table, TARGET)))
    code = """
        import sys
        sys.modules["pandas"] = None
        from mpack_runtime.config import ModelConfig
        from mpack_runtime.service import Service
        for path in sys.argv[1:]:
            service = Service.load(ModelConfig.load(path + "/model.json"))
            body = b'{"columns": ["b", "a"], "data": [[0, 1]]}' if "named" in path else b'{"data": [[1, 0]]}'
            print(service.encode(service.predict(service.decode(body))).decode())
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "named"), str(tmp_path / "plain")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    expected = pytest.approx(LinearRegression().fit(TABLE, TARGET).predict(TABLE)[:1])
    assert [json.loads(line)["prediction"] for line in ran.stdout.splitlines()] == [expected, expected]


def test_frame_values_are_plain(tmp_path: Path) -> None:
    """Dates are datetimes, numbers Python's own."""
    service = pickled(tmp_path, LinearRegression().fit(TABLE, TARGET))
    table = service.rows(["a", "b"], [[1, 2.5]])
    assert isinstance(table, Frame) and [type(value) for value in table.values()[0]] == [int, float]
    dates = Frame(("d",), (np.array(["2024-05-01T12:00"], dtype="M8[ns]"),), 1)
    assert dates.values() == [[datetime.datetime(2024, 5, 1, 12)]] == dates.matrix().tolist()
    assert dates.pandas()["d"].dt.year.tolist() == [2024]
