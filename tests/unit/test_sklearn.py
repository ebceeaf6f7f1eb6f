"""Bare scikit-learn files: library, version and needs without unpickling."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mpack.artifact.model import Description, Tree, Trust
from mpack.artifact.native import sklearn_lines
from mpack.artifact.pickle_values import Global
from mpack.artifact.sklearn import SklearnFormat
from mpack.errors import InputError
from mpack.testing.trees import tree_of_files, tree_of_folder

NO_TRUST = Trust()
MODELS = Path(__file__).parents[2] / "fixtures" / "models"
TABLE = pd.DataFrame({"a": [1.0, 2, 3], "b": [1.0, 0, 1]})


def read(tree: Tree, trust: Trust = NO_TRUST) -> Description:
    """Reads the one model of a tree."""
    (candidate,) = SklearnFormat().detect(tree)
    return SklearnFormat().read(tree, candidate, trust)


def test_pickle(tmp_path: Path) -> None:
    """The version that the estimator wrote is pinned; column names alone do not need pandas."""
    model = LinearRegression().fit(TABLE, [1, 2, 3])
    found = read(tree_of_files(tmp_path, {"deep/model.pkl": pickle.dumps(model)}))
    assert f"scikit-learn=={sklearn.__version__}" in [item.line for item in found.requirements]
    assert found.loader.options == {"serialization": "pickle", "method": "predict"}
    assert found.needs == frozenset()
    assert dict(found.ships) == {"deep/model.pkl": "deep/model.pkl"}


def test_columns_by_name_need_pandas(tmp_path: Path) -> None:
    """A ColumnTransformer fitted on a DataFrame needs pandas; one fitted on an array does not."""
    columns = ColumnTransformer([("n", StandardScaler(), ["a"])])
    named = make_pipeline(columns, LinearRegression()).fit(TABLE, [1, 2, 3])
    assert read(tree_of_files(tmp_path / "n", {"m": pickle.dumps(named)})).needs == {"pandas"}
    by_place = ColumnTransformer([("n", StandardScaler(), [0])])
    plain = make_pipeline(by_place, LinearRegression()).fit(TABLE.to_numpy(), [1, 2, 3])
    assert read(tree_of_files(tmp_path / "p", {"m": pickle.dumps(plain)})).needs == frozenset()


def test_joblib() -> None:
    """A real joblib file is read as joblib's."""
    found = read(tree_of_folder(MODELS / "sklearn-joblib" / "forest.joblib"))
    assert found.loader.options["serialization"] == "joblib"
    assert {"joblib", "numpy>=2"} <= {item.line for item in found.requirements}


def test_skops() -> None:
    """A real skops file: its types are named to the loader, and it tells both versions."""
    found = read(tree_of_folder(MODELS / "sklearn-skops" / "flowers.skops"))
    lines = [item.line for item in found.requirements]
    assert lines[0].startswith("scikit-learn==")
    assert lines[1].startswith("skops==")
    assert "sklearn.pipeline.Pipeline" in found.loader.options["trusted"]


def skops_file(schema: Any) -> bytes:
    """A zip with a schema."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("schema.json", schema if isinstance(schema, str) else json.dumps(schema))
    return stream.getvalue()


def node(module: str, name: str, loader: str = "ObjectNode", content: Any = None) -> dict[str, Any]:
    """A node of a skops schema."""
    return {"__module__": module, "__class__": name, "__loader__": loader, "content": content}


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (node("os", "system", "FunctionNode"), "os.system"),
        (node("operator", "methodcaller", "OperatorFuncNode"), "looks up an attribute"),
        (node("sklearn.pipeline", "Pipeline", "MethodNode", {"func": "fit"}), "looks up an attribute"),
        ({"__loader__": "FunctionNode", "content": {"module_path": "os", "function": "system"}}, "os.system"),
        ({"__module__": ["os"], "__class__": "system"}, "names a class by something that is no text"),
    ],
)
def test_skops_refused(inner: Any, message: str, tmp_path: Path) -> None:
    """Whatever a schema names is held against the same list as a pickle's names."""
    schema = node("sklearn.linear_model._base", "LinearRegression", content={"x": [inner]})
    with pytest.raises(InputError) as caught:
        read(tree_of_files(tmp_path, {"m.skops": skops_file(schema)}))
    assert caught.value.code == "pickle-refused"
    assert message in caught.value.message


@pytest.mark.parametrize("schema", ["{", "[]", "{}"])
def test_skops_broken(schema: str, tmp_path: Path) -> None:
    """A schema that is none is refused by name."""
    with pytest.raises(InputError, match=r"m\.skops") as caught:
        read(tree_of_files(tmp_path, {"m.skops": skops_file(schema)}))
    assert caught.value.code == "artifact-corrupt"


def test_data_is_no_model(tmp_path: Path) -> None:
    """Pickled tables, arrays and plain data beside a model are not taken for one."""
    stream = io.BytesIO()
    joblib.dump(np.zeros(3), stream)
    files = {"t": pickle.dumps(TABLE), "d": pickle.dumps({"a": 1}), "a": stream.getvalue(), "txt": b"cat\ndog\n"}
    assert SklearnFormat().detect(tree_of_files(tmp_path, files)) == []


def test_unknown_class(tmp_path: Path) -> None:
    """A class of one's own is refused until it is trusted, and then shown."""
    tree = tree_of_files(tmp_path, {"m.pkl": b"\x80\x04cmycompany.models\nScorer\n)\x81."})
    with pytest.raises(InputError, match=r"mycompany\.models\.Scorer"):
        read(tree)
    found = read(tree, Trust(modules=frozenset({"mycompany"})))
    assert [item.level for item in found.findings] == ["danger"]


def test_pickled_booster(tmp_path: Path) -> None:
    """A pickled Booster is refused with the way to save it."""
    with pytest.raises(InputError, match="pickled xgboost Booster") as caught:
        read(tree_of_files(tmp_path, {"m.pkl": b"\x80\x04cxgboost.core\nBooster\n)\x81."}))
    assert "save_model" in caught.value.hint


@pytest.mark.parametrize(
    ("version", "names", "lines"),
    [
        ("1.9.1", [], ["scikit-learn==1.9.1"]),
        ("1.9.1", [Global("numpy._core.multiarray", "_reconstruct")], ["scikit-learn==1.9.1", "numpy>=2"]),
        ("1.2.2", [], ["scikit-learn==1.2.2", "numpy<2", "scipy<1.11"]),
        ("0.24.2", [], ["scikit-learn==0.24.2", "numpy<2", "scipy<1.8"]),
        (None, [], ["scikit-learn"]),
        ("weird", [], ["scikit-learn"]),
    ],
)
def test_bounds(version: str | None, names: list[Global], lines: list[str]) -> None:
    """Old releases keep NumPy and SciPy to what they work with."""
    assert sklearn_lines(version, names) == lines
