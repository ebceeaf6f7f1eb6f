"""scikit-learn's trees, forests and boosted trees, bit for bit.

Trees and forests cast what they are asked to float32 and compare it with thresholds in float64; the histogram-based
ones compare in float64. All of them sum in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mpack_runtime.convert.forest import Forest, Tree, Unsupported
from mpack_runtime.convert.nodes import INT64, Nodes


def register() -> None:
    """Makes skl2onnx write scikit-learn's trees so, in pipelines too."""
    from sklearn import ensemble, tree

    for name in ("DecisionTree", "ExtraTree"):
        _register(getattr(tree, f"{name}Classifier"), _forest)
        _register(getattr(tree, f"{name}Regressor"), _forest)
    for name in ("RandomForest", "ExtraTrees"):
        _register(getattr(ensemble, f"{name}Classifier"), _forest)
        _register(getattr(ensemble, f"{name}Regressor"), _forest)
    for kind in ("Classifier", "Regressor"):
        _register(getattr(ensemble, f"GradientBoosting{kind}"), _boosted)
        if hasattr(ensemble, f"HistGradientBoosting{kind}"):
            _register(getattr(ensemble, f"HistGradientBoosting{kind}"), _histogram)


def _register(kind: type, convert: Any) -> None:
    register_estimator(kind, f"Mpack{kind.__name__}", convert)


def register_estimator(kind: type, alias: str, convert: Any) -> None:
    """Tells skl2onnx how an estimator is converted: a classifier to labels and shares, anything else to numbers."""
    from skl2onnx import update_registered_converter

    classifier = kind.__name__.endswith("Classifier")
    update_registered_converter(
        kind,
        alias,
        _labels_and_shares if classifier else _numbers,
        lambda scope, operator, container: convert(operator.raw_operator, Nodes(scope, operator, container)),
        options={"zipmap": [True, False, "columns"], "nocl": [True, False]} if classifier else None,
    )


def _labels_and_shares(operator: Any) -> None:
    from skl2onnx.common.data_types import DoubleTensorType
    from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes

    calculate_linear_classifier_output_shapes(operator)
    operator.outputs[1].type = DoubleTensorType([None, None])


def _numbers(operator: Any) -> None:
    from skl2onnx.common.data_types import DoubleTensorType

    operator.outputs[0].type = DoubleTensorType([None, None])


def _forest(model: Any, nodes: Nodes) -> None:
    classifier = hasattr(model, "classes_")
    if model.n_outputs_ > 1 and classifier:
        raise Unsupported(f"a {type(model).__name__} with {model.n_outputs_} outputs")
    members = getattr(model, "estimators_", [model])
    forest = Forest(targets=len(model.classes_) if classifier else model.n_outputs_)
    for member in members:
        forest.add(_tree(member.tree_, classifier))
    answer = nodes.forest(forest, nodes.cast(nodes.cast(nodes.source, np.float32), np.float64))
    if members != [model]:
        answer = nodes.add("Div", answer, nodes.constant(len(members), np.float64))
    if not classifier:
        return nodes.finish(answer)
    nodes.labels(nodes.add("ArgMax", answer, axis=1, keepdims=0), model.classes_)
    nodes.finish(answer, 1)


def _tree(tree: Any, classifier: bool) -> Tree:
    values = tree.value[:, 0, :] if classifier else tree.value[:, :, 0]
    if classifier:  # counts, before scikit-learn 1.3
        sums = values.sum(axis=1, keepdims=True)
        values = values if np.allclose(sums, 1) else values / np.where(sums == 0, 1, sums)
    missing = getattr(tree, "missing_go_to_left", np.zeros(tree.node_count))
    return Tree(tree.feature, tree.threshold, tree.children_left, tree.children_right, missing, values)


def _boosted(model: Any, nodes: Nodes) -> None:
    if model.init_ != "zero" and type(model.init_).__name__ not in ("DummyClassifier", "DummyRegressor"):
        raise Unsupported(f"a {type(model).__name__} that starts from a {type(model.init_).__name__}")
    columns = model.estimators_.shape[1]
    forest = Forest(targets=columns)
    forest.start(np.ravel(model._raw_predict_init(np.zeros((1, model.n_features_in_)))))
    for stage in model.estimators_:
        for column, member in enumerate(stage):
            found = _tree(member.tree_, False)
            forest.add(Tree(**{**found.__dict__, "values": model.learning_rate * found.values}), column)
    raw = nodes.forest(forest, nodes.cast(nodes.cast(nodes.source, np.float32), np.float64))
    if not hasattr(model, "classes_"):
        return nodes.finish(raw)
    loss = 2.0 if model.loss == "exponential" else 1.0
    _classes(model.classes_, nodes, raw, columns, scale=loss, at_zero=1)


def _histogram(model: Any, nodes: Nodes) -> None:
    if getattr(model, "is_categorical_", None) is not None:
        raise Unsupported(f"a {type(model).__name__} with categorical features")
    start = np.ravel(model._baseline_prediction)
    forest = Forest(targets=len(start))
    forest.start(start)
    for stage in model._predictors:
        for column, member in enumerate(stage):
            forest.add(_histogram_tree(member.nodes), column)
    raw = nodes.forest(forest, nodes.cast(nodes.source, np.float64))
    if hasattr(model, "classes_"):
        return _classes(model.classes_, nodes, raw, len(start), scale=1.0, at_zero=0)
    link = type(getattr(model._loss, "link", None)).__name__
    if link not in ("IdentityLink", "LogLink"):
        raise Unsupported(f"a {type(model).__name__} with the link {link}")
    nodes.finish(nodes.add("Exp", raw) if link == "LogLink" else raw)


def _histogram_tree(found: Any) -> Tree:
    leaf = found["is_leaf"].astype(bool)
    left, right = (np.where(leaf, -1, found[side].astype(np.int64)) for side in ("left", "right"))
    missing = found["missing_go_to_left"]
    return Tree(found["feature_idx"], found["num_threshold"], left, right, missing, found["value"][:, None])


def _classes(classes: Any, nodes: Nodes, raw: str, columns: int, *, scale: float, at_zero: int) -> None:
    """Labels and shares from raw scores: a column a class, or one for the second of two, which wins above zero and,
    where `at_zero` is 1, at zero."""
    if columns > 1:
        nodes.labels(nodes.add("ArgMax", raw, axis=1, keepdims=0), classes)
        return nodes.finish(nodes.add("Softmax", raw, axis=1), 1)
    zero = nodes.constant(0.0, np.float64)
    second = nodes.add("GreaterOrEqual" if at_zero else "Greater", raw, zero)
    flat = nodes.add("Reshape", nodes.add("Cast", second, to=INT64), nodes.constant([-1], np.int64))
    nodes.labels(flat, classes)
    share = nodes.add("Sigmoid", nodes.add("Mul", raw, nodes.constant(scale, np.float64)))
    two_shares(nodes, share, np.float64)


def two_shares(nodes: Nodes, share: str, dtype: Any) -> None:
    """Makes the shares of two classes, of which the second is known, the operator's second output."""
    rest = nodes.add("Sub", nodes.constant(1.0, dtype), share)
    nodes.finish(nodes.add("Concat", rest, share, axis=1), 1)
