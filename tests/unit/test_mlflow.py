"""MLflow models: flavours, environments, signatures and examples."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from sklearn.linear_model import LinearRegression

from mpack.artifact.mlflow import MlflowFormat
from mpack.artifact.model import Description, Trust
from mpack.errors import InputError
from mpack.signature import Column, Param, Tensor
from mpack.testing.trees import tree_of_files, tree_of_folder

NO_TRUST = Trust()
MODELS = Path(__file__).parents[2] / "fixtures" / "models"
PICKLE = pickle.dumps(LinearRegression().fit([[0.0], [1.0]], [0, 1]))
PIN = "scikit-learn==1.3.2"
REQUIREMENTS = "mlflow==2.9.2\nmlflow-skinny\npandas==2.1\nscikit-learn==1.3.2\nxgboost==2.1.1\n"
FLAVORS: dict[str, Any] = {
    "python_function": {"loader_module": "mlflow.sklearn", "python_version": "3.11.7", "env": "conda.yaml"},
    "sklearn": {"pickled_model": "model.pkl", "serialization_format": "cloudpickle", "sklearn_version": "1.3.2"},
}


def read(
    directory: Path, manifest: dict[str, Any], files: dict[str, bytes | str], trust: Trust = NO_TRUST
) -> Description:
    """Reads an MLflow model in a folder of its own."""
    named = {f"m/{path}": data for path, data in {"MLmodel": yaml.safe_dump(manifest), **files}.items()}
    tree = tree_of_files(directory, named)
    (candidate,) = MlflowFormat().detect(tree)
    assert candidate.root == "m"
    return MlflowFormat().read(tree, candidate, trust)


def sklearn_model(directory: Path, trust: Trust = NO_TRUST, **manifest: Any) -> Description:
    """A scikit-learn model with more in its MLmodel."""
    files = {"model.pkl": PICKLE, "requirements.txt": REQUIREMENTS}
    return read(directory, {"flavors": FLAVORS, **manifest}, files, trust)


@pytest.mark.parametrize(
    ("name", "kind", "needs", "code"),
    [
        ("mlflow-wine", "sklearn", set(), False),
        ("mlflow-churn", "sklearn", {"pandas"}, False),
        ("mlflow-iris-proba", "sklearn", set(), False),
        ("mlflow-tensor", "sklearn", set(), False),
        ("mlflow-xgboost", "xgboost", set(), False),
        ("mlflow-lightgbm", "lightgbm", set(), False),
        ("mlflow-pyfunc", "pyfunc", {"pandas"}, True),
    ],
)
def test_fixtures(name: str, kind: str, needs: set[str], code: bool) -> None:
    """Models that MLflow saved: the loader, pandas only where needed, mlflow only for python_function."""
    tree = tree_of_folder(MODELS / name / "model")
    (candidate,) = MlflowFormat().detect(tree)
    found = MlflowFormat().read(tree, candidate, Trust())
    names = {item.line.partition("=")[0] for item in found.requirements}
    assert (found.loader.kind, found.needs, found.brings_code) == (kind, needs, code)
    assert ("mlflow" in names) == (kind == "pyfunc")
    assert ("pandas" in names) == ("pandas" in needs)
    assert "xgboost" not in names
    assert found.python == "3.11.7"
    assert found.signature is not None


def test_thinned_requirements(tmp_path: Path) -> None:
    """mlflow and pandas go with a note, xgboost becomes xgboost-cpu, all else stays; --keep-mlflow keeps mlflow."""
    found = sklearn_model(tmp_path / "a")
    assert [item.line for item in found.requirements] == ["scikit-learn==1.3.2", "xgboost-cpu==2.1.1", "numpy>=2"]
    assert any("mlflow, mlflow-skinny, pandas" in item.message for item in found.findings)
    assert dict(found.ships) == {"model.pkl": "m/model.pkl"}
    assert found.loader.path == "model.pkl"
    kept = sklearn_model(tmp_path / "b", Trust(keep_mlflow=True))
    assert [item.line for item in kept.requirements][:2] == ["mlflow==2.9.2", "mlflow-skinny"]


def test_method(tmp_path: Path) -> None:
    """The method that the python_function calls is the loader's; an unknown one is refused."""
    flavors = {**FLAVORS, "python_function": {**FLAVORS["python_function"], "predict_fn": "predict_proba"}}
    assert sklearn_model(tmp_path / "a", flavors=flavors).loader.options["method"] == "predict_proba"
    flavors["python_function"]["predict_fn"] = "__reduce__"
    with pytest.raises(InputError, match="predict_fn"):
        sklearn_model(tmp_path / "b", flavors=flavors)


@pytest.mark.parametrize(
    ("files", "python"),
    [
        ({"conda.yaml": f"dependencies: [python=3.9.1, {{pip: [{PIN}]}}]"}, "3.9.1"),
        ({"python_env.yaml": "python: 3.10.2\ndependencies: ['-r more.txt']", "more.txt": PIN}, "3.10.2"),
        ({"requirements.txt": PIN, "conda.yaml": "dependencies: [python=3.9.1, r-base]"}, "3.9.1"),
        ({}, None),
    ],
    ids=["conda", "virtualenv", "requirements", "none"],
)  # fmt: skip
def test_environments(files: dict[str, str], python: str | None, tmp_path: Path) -> None:
    """requirements.txt, else conda.yaml, else python_env.yaml, else what the flavour itself tells."""
    flavors = {"sklearn": FLAVORS["sklearn"], "python_function": {"loader_module": "mlflow.sklearn"}}
    found = read(tmp_path, {"flavors": flavors}, {"model.pkl": PICKLE, **files})
    assert found.python == python
    assert [item.line for item in found.requirements][:1] == [PIN]


@pytest.mark.parametrize("wrap", [json.dumps, lambda value: value], ids=["string", "list"])
def test_signature(wrap: Any, tmp_path: Path) -> None:
    """Columns with old and new words for what may be missing, arrays as any value, parameters, as JSON text or not."""
    inputs = [
        {"type": "double", "name": "a"},
        {"type": "long", "name": "b", "required": False},
        {"type": "string", "name": "c", "optional": True},
        {"type": "array", "items": {"type": "long"}, "name": "d", "required": True},
    ]
    outputs = [{"type": "tensor", "tensor-spec": {"dtype": "<U7", "shape": [-1, 2]}}]
    params = [{"name": "t", "dtype": "double", "default": 0.5, "shape": None}]
    signature = {"inputs": wrap(inputs), "outputs": wrap(outputs), "params": wrap(params)}
    found = sklearn_model(tmp_path, signature=signature)
    assert found.signature is not None
    assert found.signature.inputs == (
        Column("a", "double"), Column("b", "long", False), Column("c", "string", False), Column("d", "any"),
    )  # fmt: skip
    assert found.signature.outputs == (Tensor(None, "str", (-1, 2)),)
    assert found.signature.params == (Param("t", "double", 0.5),)
    assert found.needs == {"pandas"}


@pytest.mark.parametrize("signature", [3, {"inputs": "{"}, {"inputs": 3}, {"inputs": [{}]},
                                       {"inputs": [{"type": "tensor"}]}, {"params": [{"x": 1}]}])  # fmt: skip
def test_wrong_signature(signature: Any, tmp_path: Path) -> None:
    """A signature that is none is refused, naming the MLmodel."""
    with pytest.raises(InputError, match="m/MLmodel: signature"):
        sklearn_model(tmp_path, signature=signature)


PARAMS = {"params": {"t": 1}}
TABLE = {"columns": ["a", "b"], "data": [[1, "x"], [2, None]]}


@pytest.mark.parametrize(
    ("name", "kind", "content", "request_"),
    [
        ("input_example.json", "dataframe", TABLE, TABLE),
        ("input_example.json", "dataframe", {**TABLE, "index": [0, 1]}, TABLE),
        ("input_example.json", "dataframe", {"columns": [0, 1], "data": [[1, 2]]}, {"data": [[1, 2]]}),
        ("input_example.json", "dataframe", [{"a": 1, "b": "x"}, {"a": 2}], TABLE),
        ("input_example.json", "ndarray", {"inputs": [[1.5]]}, {"inputs": [[1.5]]}),
        ("input_example.json", "ndarray", {"x": [1], "y": [2]}, {"inputs": {"x": [1], "y": [2]}}),
        ("serving_input_example.json", "dataframe", {"dataframe_split": TABLE}, TABLE),
        ("serving_input_example.json", "dataframe", {"dataframe_split": TABLE, **PARAMS}, {**TABLE, **PARAMS}),
        ("serving_input_example.json", "ndarray", {"inputs": {"x": [1]}}, {"inputs": {"x": [1]}}),
        ("serving_input_example.json", "json_object", {"instances": [1]}, {"instances": [1]}),
        ("input_example.csv", "dataframe", "a,b\n1,x\n2,\n", TABLE),
    ],
)  # fmt: skip
def test_examples(name: str, kind: str, content: Any, request_: Any, tmp_path: Path) -> None:
    """Each form of input example as the request that the self-check sends."""
    info = {"artifact_path": name, "type": kind}
    data = content if isinstance(content, str) else json.dumps(content)
    files = {"model.pkl": PICKLE, "requirements.txt": REQUIREMENTS, name: data}
    found = read(tmp_path, {"flavors": FLAVORS, "saved_input_example_info": info}, files)
    assert found.sample is not None
    assert found.sample.request == request_


@pytest.mark.parametrize("content", ["{", "3", '{"columns": ["a"]}'])
def test_unusable_example(content: str, tmp_path: Path) -> None:
    """An example that cannot be sent is left out, and said."""
    info = {"artifact_path": "input_example.json", "type": "dataframe"}
    files = {"model.pkl": PICKLE, "requirements.txt": REQUIREMENTS, "input_example.json": content}
    found = read(tmp_path, {"flavors": FLAVORS, "saved_input_example_info": info}, files)
    assert found.sample is None
    assert any("input example" in item.message for item in found.findings)


EVIL = b"\x80\x04cposix\nsystem\n(X\x01\x00\x00\x00xtR."


def test_evil_pickles(tmp_path: Path) -> None:
    """A data file with code is refused in every flavour; where the model openly brings code, it is shown."""
    files: dict[str, bytes | str] = {"model.pkl": EVIL, "requirements.txt": "mlflow"}
    for index, flavors in enumerate(
        [
            FLAVORS,
            {"lightgbm": {"data": "model.pkl"}},
            {"xgboost": {"data": "model.pkl"}},
            {"python_function": {"loader_module": "mlflow.statsmodels", "data": "model.pkl"}},
            {"pytorch": {"model_data": "model.pkl"}},
        ]
    ):
        with pytest.raises(InputError, match=r"posix\.system") as caught:
            read(tmp_path / str(index), {"flavors": flavors}, files)
        assert caught.value.code == "pickle-refused"
    openly = {"python_function": {"loader_module": "mlflow.pyfunc.model", "python_model": "model.pkl"}}
    found = read(tmp_path / "open", {"flavors": openly}, files)
    assert found.brings_code
    assert {item.level for item in found.findings} == {"warning", "danger"}


def test_code_path(tmp_path: Path) -> None:
    """A scikit-learn model with code of its own is loaded by mlflow from its whole directory."""
    flavors = {key: {**conf, "code": "code"} for key, conf in FLAVORS.items()}
    own = b"\x80\x04cshop.models\nScorer\n)\x81."
    found = read(
        tmp_path, {"flavors": flavors, "mlflow_version": "2.9.2"}, {"model.pkl": own, "code/shop/models.py": ""}
    )
    assert (found.loader.kind, found.loader.path, found.brings_code) == ("pyfunc", "", True)
    assert [item.line for item in found.requirements] == ["mlflow==2.9.2"]
    assert set(found.ships) == {"MLmodel", "model.pkl", "code/shop/models.py"}


def test_registered_name(tmp_path: Path) -> None:
    """A model from the registry keeps its name and version."""
    files = {"model.pkl": PICKLE, "registered_model_meta": "model_name: churn\nmodel_version: 7\n"}
    found = read(tmp_path, {"flavors": FLAVORS}, files)
    assert (found.name, found.version) == ("churn", "7")


def test_onnx(tmp_path: Path) -> None:
    """An ONNX flavour gives onnxruntime, and the graph's own signature where the MLmodel has none."""
    data = (MODELS / "onnx-iris" / "iris.onnx").read_bytes()
    found = read(tmp_path, {"flavors": {"onnx": {"data": "model.onnx"}}}, {"model.onnx": data})
    assert [item.line for item in found.requirements] == ["onnxruntime>=1.20"]
    assert found.signature is not None
    assert found.signature.inputs == (Tensor("X", "float32", (-1, 4)),)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("flavors: [", "it is not YAML"),
        ("flavors: {}", "names no flavors"),
        ("flavors: {sklearn: 3}", "not a mapping of mappings"),
        ("flavors: {sklearn: {pickled_model: gone.pkl}}", "names the file 'gone.pkl', which is not in the artifact"),
        ("flavors: {spark: {}}", "the flavours spark, none of which can be served"),
        ("x: 1", "names no flavors"),
    ],
)
def test_wrong_manifest(manifest: str, message: str, tmp_path: Path) -> None:
    """A wrong MLmodel is refused, naming it."""
    tree = tree_of_files(tmp_path, {"MLmodel": manifest})
    (candidate,) = MlflowFormat().detect(tree)
    with pytest.raises(InputError, match=message) as caught:
        MlflowFormat().read(tree, candidate, Trust())
    assert caught.value.code == "artifact-invalid"
    assert "MLmodel" in caught.value.message
