"""scikit-learn's linear models by the sum that they are: through scikit-learn's checks one row takes 20 times as long.

It is the product and the sum that scikit-learn makes of the same memory, so no number makes a difference. A short cut
is for scikit-learn's own classes and methods, for finite float64 matrices of the model's width, and only if it gave the
estimator's own answer, bit for bit, to rows of trial. Whatever else comes, the estimator is asked.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from mpack_runtime.frame import Array

Predict = Callable[[Any], Any]
_REGRESSORS = frozenset(
    ("LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "ElasticNet", "ElasticNetCV", "BayesianRidge")
)
_CLASSIFIERS = frozenset(
    ("LogisticRegression", "LogisticRegressionCV", "RidgeClassifier", "LinearSVC", "SGDClassifier")
)
#: Rows of each trial: BLAS takes other roads for one row than for several.
_TRIALS = (1, 2, 3, 64)
#: Coefficients at most: of more, the product takes longer than the checks, and the trials memory.
_LARGEST = 10_000


def shortened(estimator: Any, predict: Predict) -> Predict:
    """`predict`, which is the estimator's own method, or something quicker that answers the same."""
    kind, names = type(estimator), _REGRESSORS | _CLASSIFIERS
    if kind.__name__ not in names or not kind.__module__.startswith("sklearn.") or not _own(estimator, predict):
        return predict
    coefficients, intercept = getattr(estimator, "coef_", None), getattr(estimator, "intercept_", None)
    if type(coefficients) is not np.ndarray or coefficients.dtype != np.float64 or coefficients.ndim not in (1, 2):
        return predict
    if coefficients.size > _LARGEST:
        return predict
    width, transposed = coefficients.shape[-1], coefficients.T
    classes = estimator.classes_ if kind.__name__ in _CLASSIFIERS else None

    def quick(matrix: Array) -> Any:
        answer = matrix @ transposed + intercept
        if classes is None:
            return answer
        if answer.ndim == 1 or answer.shape[1] == 1:
            return classes[(answer.reshape(-1) > 0).astype(np.int64)]
        return classes[answer.argmax(axis=1)]

    def either(matrix: Any) -> Any:
        plain = type(matrix) is np.ndarray and matrix.dtype == np.float64 and matrix.ndim == 2
        if plain and matrix.shape[0] and matrix.shape[1] == width and np.isfinite(matrix).all():
            return quick(matrix)
        return predict(matrix)

    return either if _agree(quick, predict, width) else predict


def _own(estimator: Any, predict: Predict) -> bool:
    """Whether the methods are scikit-learn's: somebody else's may agree on rows of trial alone."""
    methods = (predict, getattr(estimator, "decision_function", None), getattr(estimator, "_decision_function", None))
    functions = [getattr(method, "__func__", method) for method in methods if method is not None]
    return all(str(getattr(function, "__module__", "")).startswith("sklearn.") for function in functions)


def _agree(quick: Predict, predict: Predict, width: int) -> bool:
    """Whether both answer rows of trial alike, with the same type; an estimator that fails decides for itself."""
    random = np.random.default_rng(0)
    try:
        for rows in _TRIALS:
            matrix = random.normal(scale=10.0, size=(rows, width))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of names that the matrix lacks
                wanted, found = predict(matrix), quick(matrix)
            alike = type(found) is type(wanted) and found.dtype == wanted.dtype and found.shape == wanted.shape
            if not alike or found.tobytes() != wanted.tobytes():
                return False
    except Exception:
        return False
    return True
