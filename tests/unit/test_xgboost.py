"""Bare XGBoost and LightGBM files, told apart by content."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from mpack.artifact.lightgbm import LightgbmFormat
from mpack.artifact.model import Description, Trust
from mpack.artifact.sklearn import SklearnFormat
from mpack.artifact.xgboost import XgboostFormat
from mpack.errors import InputError
from mpack.testing.trees import tree_of_files, tree_of_folder

MODELS = Path(__file__).parents[2] / "fixtures" / "models"
XGBOOST: dict[str, Any] = {
    "learner": {
        "attributes": {"scikit_learn": json.dumps({"_estimator_type": "classifier"})},
        "feature_names": ["a", "b"],
        "feature_types": ["float", "int"],
        "gradient_booster": {"model": {"trees": [{"id": 0, "x": [1.5, 2.5]}]}, "name": "gbtree"},
        "learner_model_param": {"num_class": "0", "num_feature": "2", "num_target": "1"},
        "objective": {"name": "binary:logistic"},
    },
    "version": [3, 2, 0],
}
LIGHTGBM = (
    "tree\nversion=v4\nnum_class=1\nfeature_names=a b\n\nTree=0\nnum_leaves=1\n\nend of trees\n\npandas_categorical:"
)


def ubjson(value: Any) -> bytes:
    """A value as XGBoost writes it: lengths of 64 bits, counted arrays, typed ones for floats."""
    if isinstance(value, str):
        return b"S" + text(value)
    if isinstance(value, dict):
        return b"{" + b"".join(text(key) + ubjson(item) for key, item in value.items()) + b"}"
    if isinstance(value, list) and value and all(isinstance(item, float) for item in value):
        return b"[$d#L" + struct.pack(f">q{len(value)}f", len(value), *value)
    if isinstance(value, list):
        return b"[#L" + struct.pack(">q", len(value)) + b"".join(map(ubjson, value))
    return b"i" + struct.pack(">b", value)


def text(value: str) -> bytes:
    """A string without its marker."""
    return b"L" + struct.pack(">q", len(value)) + value.encode()


def with_learner(**changes: Any) -> dict[str, Any]:
    """The model with parts of its learner replaced."""
    return {**XGBOOST, "learner": {**XGBOOST["learner"], **changes}}


def read(directory: Path, data: bytes | str, name: str = "m.bst", gpu: bool = False) -> Description:
    """Reads an XGBoost file; no other format may see a model in it."""
    tree = tree_of_files(directory, {name: data})
    assert LightgbmFormat().detect(tree) == SklearnFormat().detect(tree) == []
    (candidate,) = XgboostFormat().detect(tree)
    return XgboostFormat().read(tree, candidate, Trust(gpu=gpu))


COMPACT = json.dumps(XGBOOST, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "data",
    [
        COMPACT,
        json.dumps(XGBOOST, indent=2).encode(),
        json.dumps(dict(reversed(XGBOOST.items()))).encode(),
        ubjson(XGBOOST),
    ],
    ids=["compact", "indented", "reordered", "ubjson"],
)
def test_reading(data: bytes, tmp_path: Path) -> None:
    """Version, class and columns from either form, whatever the file's name; without a GPU's libraries."""
    found = read(tmp_path, data)
    assert [item.line for item in found.requirements] == ["xgboost-cpu==3.2.0", "scikit-learn"]
    assert found.loader.options == {"class": "XGBClassifier"}
    assert found.signature is not None
    assert [item.name for item in found.signature.inputs] == ["a", "b"]
    assert any("xgboost-cpu in place of" in item.message for item in found.findings)


def test_large_trees_are_not_read(tmp_path: Path) -> None:
    """Trees of any size between the two ends do not matter."""
    trees = {"model": {"trees": [[0.5] * 3_000_000]}, "name": "gbtree"}
    for data in (
        json.dumps(with_learner(gradient_booster=trees), separators=(",", ":")),
        ubjson(with_learner(gradient_booster=trees)),
    ):
        assert len(data) > 9 << 20
        assert read(tmp_path, data).loader.options == {"class": "XGBClassifier"}


def test_gpu(tmp_path: Path) -> None:
    """Who wants a GPU gets xgboost itself."""
    assert read(tmp_path, COMPACT, gpu=True).requirements[0].line == "xgboost==3.2.0"


@pytest.mark.parametrize(
    ("version", "lines"),
    [
        ([1, 7, 6], ["xgboost==1.7.6", "numpy<2", "scikit-learn<1.6", "scipy<1.15"]),
        ([2, 1, 3], ["xgboost-cpu==2.1.3", "scikit-learn<1.6", "scipy<1.15"]),
    ],
)
def test_old_releases(version: list[int], lines: list[str], tmp_path: Path) -> None:
    """Releases before xgboost-cpu are kept, with what they work with."""
    found = read(tmp_path, json.dumps({**XGBOOST, "version": version}))
    assert [item.line for item in found.requirements] == lines


@pytest.mark.parametrize(
    ("told", "name"),
    [({}, "Booster"), ({"_estimator_type": "regressor"}, "XGBRegressor"), ({"type": "XGBRFRanker"}, "Booster"),
     ({"type": "os.system"}, "Booster"), ({"_estimator_type": "ranker"}, "XGBRanker")],
)  # fmt: skip
def test_class(told: dict[str, str], name: str, tmp_path: Path) -> None:
    """The wrapper's class, in its older and newer form."""
    data = json.dumps(with_learner(attributes={"scikit_learn": json.dumps(told)}))
    assert read(tmp_path, data).loader.options == {"class": name}


def test_without_names(tmp_path: Path) -> None:
    """Columns are counted where they have no names."""
    found = read(tmp_path, json.dumps(with_learner(feature_names=[])))
    assert found.signature is not None
    assert [item.name for item in found.signature.inputs] == [None, None]


@pytest.mark.parametrize(
    ("data", "message", "code"),
    [
        (b"binf" + b"\0" * 200, "old binary form", "artifact-invalid"),
        (b"\0\0\0?" + b"\0" * 132 + b"\x0fbinary:logistic\x06gbtree", "old binary form", "artifact-invalid"),
        (COMPACT[:-20], "without its end", "artifact-truncated"),
        (b'{"learner":{}}', "none that mpack can read", "artifact-invalid"),
        (b'{"learner":{"learner_model_param":3},"version":[1,2,3]}', "none that mpack can read", "artifact-invalid"),
        (ubjson(XGBOOST)[:200] + b"}", "none that mpack can read", "artifact-invalid"),
    ],
)  # fmt: skip
def test_refused(data: bytes, message: str, code: str, tmp_path: Path) -> None:
    """The old binary form and damaged files are refused with what to do."""
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, data)
    assert caught.value.code == code
    assert caught.value.hint


def test_other_json_is_none(tmp_path: Path) -> None:
    """JSON of another kind is not taken for a model."""
    assert XgboostFormat().detect(tree_of_files(tmp_path, {"a.json": '{"a": 1}', "b.json": "[1]", "c": ""})) == []


def test_fixture() -> None:
    """A real file: a Booster with names."""
    tree = tree_of_folder(MODELS / "xgboost-json" / "quality.json")
    found = XgboostFormat().read(tree, XgboostFormat().detect(tree)[0], Trust())
    assert found.loader.options == {"class": "Booster"}


def read_lightgbm(directory: Path, data: str) -> Description:
    """Reads a LightGBM text file; no other format may see a model in it."""
    tree = tree_of_files(directory, {"m.bst": data})
    assert XgboostFormat().detect(tree) == SklearnFormat().detect(tree) == []
    (candidate,) = LightgbmFormat().detect(tree)
    return LightgbmFormat().read(tree, candidate, Trust())


@pytest.mark.parametrize(
    ("data", "line", "names", "needs"),
    [
        (LIGHTGBM + "null\n", "lightgbm>=4,<5", ["a", "b"], set()),
        (LIGHTGBM.replace("v4", "v3") + "[]\n", "lightgbm>=3,<5", ["a", "b"], set()),
        (LIGHTGBM + '[["x", "y"]]\n', "lightgbm>=4,<5", ["a", "b"], {"pandas"}),
        (LIGHTGBM.replace("a b", "Column_0 Column_1").replace("\n", "\r\n"), "lightgbm>=4,<5", [None, None], set()),
    ],
)
def test_lightgbm(data: str, line: str, names: list[str | None], needs: set[str], tmp_path: Path) -> None:
    """The release by the version of the format, columns, and pandas for categories of a DataFrame only."""
    found = read_lightgbm(tmp_path, data)
    assert [item.line for item in found.requirements] == [line]
    assert found.signature is not None
    assert [item.name for item in found.signature.inputs] == names
    assert found.needs == needs


@pytest.mark.parametrize(
    ("data", "code"),
    [(LIGHTGBM.partition("end of")[0], "artifact-truncated"), (LIGHTGBM.replace("v4", "v9"), "artifact-invalid")],
)
def test_lightgbm_refused(data: str, code: str, tmp_path: Path) -> None:
    """A model without its end, and one of an unknown version."""
    with pytest.raises(InputError, match=r"m\.bst") as caught:
        read_lightgbm(tmp_path, data)
    assert caught.value.code == code
