"""XGBoost's and LightGBM's trees, alone, behind their scikit-learn classes, and in pipelines.

XGBoost casts what it is asked to float32 and computes in float32; LightGBM computes in float64.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from mpack_runtime.convert.forest import LESS, Forest, Tree, Unsupported
from mpack_runtime.convert.nodes import INT64, Nodes
from mpack_runtime.convert.trees import register_estimator, two_shares


class BareXGBoost:
    """A Booster in the form that skl2onnx knows models in."""

    def __init__(self, booster: Any) -> None:
        self.booster = booster


class BareLightGBM(BareXGBoost):
    """Likewise."""


def register() -> None:
    """Makes skl2onnx know the boosters of the libraries that are installed."""
    if importlib.util.find_spec("xgboost") is not None:
        import xgboost

        for name in ("XGBClassifier", "XGBRFClassifier", "XGBRegressor", "XGBRFRegressor", "XGBRanker"):
            register_estimator(getattr(xgboost, name), f"Mpack{name}", _xgboost)
        register_estimator(BareXGBoost, "MpackXGBoost", _xgboost)
    if importlib.util.find_spec("lightgbm") is not None:
        import lightgbm

        for name in ("LGBMClassifier", "LGBMRegressor", "LGBMRanker"):
            register_estimator(getattr(lightgbm, name), f"Mpack{name}", _lightgbm)
        register_estimator(BareLightGBM, "MpackLightGBM", _lightgbm)


# --- XGBoost

_XGBOOST_LINKS = {
    "binary:logistic": "Sigmoid", "reg:logistic": "Sigmoid", "binary:logitraw": "", "multi:softprob": "Softmax",
    "multi:softmax": "ArgMax", "reg:squarederror": "", "reg:absoluteerror": "", "reg:pseudohubererror": "",
    "reg:squaredlogerror": "", "reg:quantileerror": "", "rank:ndcg": "", "rank:pairwise": "", "rank:map": "",
    "count:poisson": "Exp", "reg:gamma": "Exp", "reg:tweedie": "Exp",
}  # fmt: skip


def _xgboost(model: Any, nodes: Nodes) -> None:
    booster = model.booster if isinstance(model, BareXGBoost) else _best(model)
    learner = json.loads(bytes(booster.save_raw("json")))["learner"]
    objective = learner["objective"]["name"]
    if objective not in _XGBOOST_LINKS or learner["gradient_booster"]["name"] != "gbtree":
        kind = learner["gradient_booster"]["name"]
        raise Unsupported(f"XGBoost's {kind} with the objective {objective}")
    parameters = learner["learner_model_param"]
    link = _XGBOOST_LINKS[objective]
    groups = max(1, int(parameters["num_class"]), int(parameters.get("num_target", 1)))
    forest = Forest(groups, np.float32, LESS)
    forest.start([float(item) for item in _margins(parameters["base_score"], groups, link)])
    found = learner["gradient_booster"]["model"]
    for tree, group in zip(found["trees"], found["tree_info"]):
        forest.add(_xgboost_tree(tree), group)
    raw = nodes.forest(forest, nodes.cast(nodes.source, np.float32))
    if hasattr(type(model), "classes_"):
        return _xgboost_classes(model, nodes, raw, groups)
    if link == "ArgMax":
        return nodes.finish(nodes.add("ArgMax", raw, axis=1, keepdims=1))
    nodes.finish(_linked(nodes, link, raw) if link else raw)


def _linked(nodes: Nodes, link: str, raw: str) -> str:
    return nodes.add(link, raw, axis=1) if link == "Softmax" else nodes.add(link, raw)


def _best(model: Any) -> Any:
    """The trees that a scikit-learn class of XGBoost predicts with."""
    booster = model.get_booster()
    end = model._get_iteration_range(None)[1]
    return booster[:end] if end else booster


def _margins(text: str, groups: int, link: str) -> Any:
    """The sums' start, from the probability or number that the model file tells."""
    told = json.loads(text) if text.startswith("[") else [float(text)]
    scores = np.array([float(item) for item in told], np.float32)
    if link == "Sigmoid":
        scores = -np.log(np.float32(1) / scores - np.float32(1))
    elif link == "Exp":
        scores = np.log(scores)
    return np.broadcast_to(scores, (groups,))


def _xgboost_tree(tree: Mapping[str, Any]) -> Tree:
    if any(tree.get("split_type") or ()) or tree.get("categories_nodes"):
        raise Unsupported("XGBoost with categorical features")
    left, right = np.array(tree["left_children"]), np.array(tree["right_children"])
    numbers = np.array(tree["split_conditions"], np.float32)
    if len(tree["base_weights"]) != len(left):
        raise Unsupported("XGBoost with vectors in its leaves")
    missing = np.array(tree["default_left"], int)
    return Tree(np.array(tree["split_indices"]), numbers, left, right, missing, numbers[:, None])


def _xgboost_classes(model: Any, nodes: Nodes, raw: str, groups: int) -> None:
    classes = np.asarray(model.classes_)
    if groups > 1:
        shares = nodes.add("Softmax", raw, axis=1)
        nodes.labels(nodes.add("ArgMax", shares, axis=1, keepdims=0), classes)
        return nodes.finish(shares, 1)
    share = nodes.add("Sigmoid", raw)
    second = nodes.add("Cast", nodes.add("Greater", share, nodes.constant(0.5, np.float32)), to=INT64)
    nodes.labels(nodes.add("Reshape", second, nodes.constant([-1], np.int64)), classes)
    two_shares(nodes, share, np.float32)


# --- LightGBM

_LIGHTGBM_LINKS = {
    "binary": "Sigmoid", "cross_entropy": "Sigmoid", "multiclass": "Softmax", "multiclassova": "Sigmoid",
    "regression": "", "regression_l1": "", "huber": "", "fair": "", "quantile": "", "mape": "", "lambdarank": "",
    "rank_xendcg": "", "poisson": "Exp", "gamma": "Exp", "tweedie": "Exp",
}  # fmt: skip


def _lightgbm(model: Any, nodes: Nodes) -> None:
    booster = model.booster if isinstance(model, BareLightGBM) else model.booster_
    dump = booster.dump_model()
    objective, *options = str(dump.get("objective", "")).split() or [""]
    if objective not in _LIGHTGBM_LINKS or "sqrt" in options:
        raise Unsupported(f"LightGBM with the objective {' '.join([objective, *options]).strip() or 'of its own'}")
    columns = dump["num_tree_per_iteration"]
    forest = Forest(columns)
    trees = dump["tree_info"]
    for number, tree in enumerate(trees):
        forest.add(_lightgbm_tree(tree), number % columns)
    raw = nodes.forest(forest, nodes.cast(nodes.source, np.float64))
    if dump.get("average_output"):
        raw = nodes.add("Div", raw, nodes.constant(len(trees) // columns, np.float64))
    answer = _lightgbm_link(objective, options, nodes, raw)
    if not hasattr(type(model), "classes_"):
        return nodes.finish(answer)
    classes = np.asarray(model.classes_)
    if columns > 1:
        nodes.labels(nodes.add("ArgMax", answer, axis=1, keepdims=0), classes)
        return nodes.finish(answer, 1)
    rest = nodes.add("Sub", nodes.constant(1.0, np.float64), answer)
    shares = nodes.add("Concat", rest, answer, axis=1)
    nodes.labels(nodes.add("ArgMax", shares, axis=1, keepdims=0), classes)
    nodes.finish(shares, 1)


def _lightgbm_link(objective: str, options: list[str], nodes: Nodes, raw: str) -> str:
    link = _LIGHTGBM_LINKS[objective]
    if not link:
        return raw
    if link == "Sigmoid":
        steep = next((float(item.partition(":")[2]) for item in options if item.startswith("sigmoid:")), 1.0)
        raw = nodes.add("Mul", raw, nodes.constant(steep, np.float64))
    return _linked(nodes, link, raw)


def _lightgbm_tree(info: Mapping[str, Any]) -> Tree:
    rows: list[list[float]] = []
    todo: list[tuple[Mapping[str, Any], int, int]] = [(info["tree_structure"], -1, 0)]
    while todo:
        node, parent, side = todo.pop()
        if parent >= 0:
            rows[parent][side] = len(rows)
        if "split_feature" not in node:
            if "leaf_coeff" in node:
                raise Unsupported("LightGBM with linear trees")
            rows.append([-1, 0.0, -1, -1, 0, node["leaf_value"]])
            continue
        number = len(rows)
        rows.append([node["split_feature"], float(node["threshold"]), -1, -1, _missing_left(node), 0.0])
        todo += [(node["right_child"], number, 3), (node["left_child"], number, 2)]
    table = np.array(rows)
    feature, left, right, missing = (table[:, index].astype(int) for index in (0, 2, 3, 4))
    return Tree(feature, table[:, 1], left, right, missing, table[:, 5:])


def _missing_left(node: Mapping[str, Any]) -> int:
    """Where NaN goes. What LightGBM takes for missing beside it must go the way that its number goes."""
    if node["decision_type"] != "<=":
        raise Unsupported("LightGBM with categorical features")
    zero_left = float(node["threshold"]) >= 0
    if node["missing_type"] == "None":
        return int(zero_left)
    if node["missing_type"] == "Zero" and bool(node["default_left"]) != zero_left:
        raise Unsupported("LightGBM with zeros for missing values")
    return int(node["default_left"])
