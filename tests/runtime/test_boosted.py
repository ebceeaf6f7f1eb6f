"""XGBoost and LightGBM: their methods, and categories by their names."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from mpack_runtime.config import ModelConfig
from mpack_runtime.errors import BadRequest
from mpack_runtime.service import Service

RANDOM = np.random.default_rng(0)
COLORS, LEVELS = ["blue", "green", "red"], [10, 20, 30]
TABLE = pd.DataFrame(
    {
        "color": pd.Categorical(RANDOM.choice(COLORS, 300), COLORS),
        "x": RANDOM.normal(size=300),
        "level": pd.Categorical(RANDOM.choice(LEVELS, 300), LEVELS),
    }
)
TARGET = (TABLE.color == "red") * 2.0 + TABLE.x + TABLE.level.astype(int) / 10
CLASSES = (TARGET > 2).astype(int) + (TARGET > 3)
NUMBERS = TABLE.assign(color=TABLE.color.cat.codes, level=TABLE.level.cat.codes).astype(float)
ASKED: list[Any] = [["red", 0.5, 10], ["green", -1.0, 30], ["blue", None, 20], [None, 0.25, 10]]
SAME = pd.DataFrame(
    {
        "color": pd.Categorical([row[0] for row in ASKED], COLORS),
        "x": [row[1] for row in ASKED],
        "level": pd.Categorical([row[2] for row in ASKED], LEVELS),
    }
).astype({"x": float})
DECLARED = {
    "inputs": [
        {"kind": "column", "name": name, "type": kind, "required": False}
        for name, kind in (("color", "string"), ("x", "double"), ("level", "long"))
    ]
}


def service(root: Path, kind: str, write: Callable[[Path], Any], signature: Any = None, **options: Any) -> Service:
    (root / "model").mkdir()
    write(root / "model/m.json")
    loader = {"kind": kind, "path": "m.json", "options": options}
    model = {"schema": 1, "name": "m", "version": "1", "loader": loader, "signature": signature}
    (root / "model.json").write_text(json.dumps(model))
    return Service.load(ModelConfig.load(root / "model.json"))


@cache
def models(*, classes: bool) -> dict[str, Any]:
    """Each kind of model: (loader, how it is written, options, the model itself); classifiers are trained on numbers,
    regressors on categories."""
    table, target = (NUMBERS, CLASSES) if classes else (TABLE, TARGET)
    of_xgboost, of_lightgbm = xgboost.XGBRegressor, lightgbm.LGBMRegressor
    if classes:
        of_xgboost, of_lightgbm = xgboost.XGBClassifier, lightgbm.LGBMClassifier
    xgb = of_xgboost(n_estimators=5, enable_categorical=True).fit(table, target)
    light = of_lightgbm(n_estimators=5, verbose=-1).fit(table, target)
    booster, text = xgb.get_booster(), light.booster_
    return {
        "xgboost class": ("xgboost", xgb.save_model, {"class": type(xgb).__name__}, xgb),
        "xgboost booster": ("xgboost", booster.save_model, {}, booster),
        "lightgbm class": ("lightgbm", lambda path: path.write_bytes(pickle.dumps(light)), {}, light),
        "lightgbm booster": ("lightgbm", lambda path: text.save_model(str(path)), {}, text),
    }


NAMES = ("xgboost class", "xgboost booster", "lightgbm class", "lightgbm booster")


def answer(model: Any, table: Any, method: str = "predict") -> Any:
    """The library's own."""
    booster = isinstance(model, xgboost.Booster)
    if method == "predict_raw":
        raw = "output_margin" if type(model).__module__.startswith("xgboost") else "raw_score"
        return model.predict(xgboost.DMatrix(table) if booster else table, **{raw: True})
    data = xgboost.DMatrix(table, enable_categorical=True) if booster else table
    return getattr(model, method)(data)


def asked(found: Service, rows: Any, method: str = "predict") -> Any:
    inputs = found.decode(json.dumps({"columns": list(TABLE), "data": rows}).encode())
    return found.predict(found.asking(inputs, method))


@pytest.mark.parametrize("name", NAMES)
def test_every_method_is_the_librarys_own(tmp_path: Path, name: str) -> None:
    """Probabilities of those that have them, a column a class; margins of all."""
    kind, write, options, model = models(classes=True)[name]
    found = service(tmp_path, kind, write, **options)
    methods = set(found.model.methods) - {"decision_function"}
    assert methods == {"predict", "predict_raw", *({"predict_proba"} if name.endswith("class") else ())}
    rows = NUMBERS[:4].to_numpy().tolist()
    for method in methods:
        prediction = asked(found, rows, method)
        np.testing.assert_array_equal(prediction.value, answer(model, NUMBERS[:4], method), method)
        classes = ("0", "1", "2") if name.endswith("class") and method != "predict" else ()
        assert prediction.columns == classes


@pytest.mark.parametrize("signature", [None, DECLARED], ids=["told", "declared"])
@pytest.mark.parametrize("name", NAMES)
def test_categories_are_sent_by_name(tmp_path: Path, name: str, signature: Any) -> None:
    """As in training: text and numbers, null for a missing one, whatever their order in the model; CSV too."""
    kind, write, options, model = models(classes=False)[name]
    found = service(tmp_path, kind, write, signature, **options)
    expected = answer(model, SAME)
    np.testing.assert_array_equal(asked(found, ASKED).value, expected)
    csv = pd.DataFrame(ASKED, columns=list(TABLE)).to_csv(index=False).encode()
    np.testing.assert_array_equal(found.predict(found.decode(csv, "text/csv; header=present")).value, expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_category_that_is_not_known(tmp_path: Path, name: str) -> None:
    """XGBoost refuses it and so do we; for LightGBM it is missing; a number is never text's category."""
    kind, write, options, _ = models(classes=False)[name]
    found = service(tmp_path, kind, write, **options)
    if kind == "xgboost":
        with pytest.raises(
            BadRequest, match='Row 2, column "color": the string "pink" is none of its categories: blue'
        ):
            asked(found, [["red", 0.5, 10], ["pink", 0.5, 10]])
    else:
        missing = asked(found, [[None, 0.5, 10]]).value
        np.testing.assert_array_equal(asked(found, [["pink", 0.5, 10]]).value, missing)
    with pytest.raises(BadRequest, match='column "color": the number 2 is none'):
        asked(found, [[2, 0.5, 10]])
    with pytest.raises(BadRequest, match='column "level": the string "10" is none'):
        asked(found, [["red", 0.5, "10"]])
    for odd, words in ((["red"], "a list"), ({"a": 1}, "an object"), (True, "the boolean true")):
        for row in ([odd, 0.5, 10], ["red", 0.5, odd]):
            with pytest.raises(BadRequest, match=f"{words} is none of its categories"):
                asked(found, [row])


def test_names_that_xgboost_has_cut_are_not_trusted(tmp_path: Path) -> None:
    """It counts characters where it copies bytes, so beyond ASCII a feature's names are lost; it takes numbers then."""
    table = TABLE.assign(color=TABLE.color.cat.rename_categories({"blue": "blé"}))
    model = xgboost.XGBRegressor(n_estimators=5, enable_categorical=True).fit(table, TARGET)
    found = service(tmp_path, "xgboost", model.save_model, {**DECLARED, "inputs": []})
    assert [getattr(field, "type", None) for field in found.signature.inputs] == ["double", "double", "any"]
    rows = [[2, 0.5, 10], [0, -1.0, 30]]
    known = pd.DataFrame({"color": [2.0, 0.0], "x": [0.5, -1.0], "level": [0.0, 2.0]})
    np.testing.assert_array_equal(asked(found, rows).value, model.predict(known.to_numpy()))
