"""Trees of any library as one node `TreeEnsemble` (ai.onnx.ml 5), summed in the order in which the library sums.

The operator has one target and one weight a leaf. A leaf that says more (a class's share each, several outputs) is
told by copies of its tree, one a target; a copy adds nothing where its leaf has nothing for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mpack_runtime.frame import Array

DOMAIN, OPSET = "ai.onnx.ml", 5
LESS_OR_EQUAL, LESS = 0, 1
_SUM = 1


class Unsupported(Exception):
    """The model, or a part of it, has no graph that answers as it does. The message is a clause."""


@dataclass(frozen=True)
class Tree:
    """One tree; node 0 is the root. `left` and `right` are children where a test holds and where it fails, -1 in
    leaves; `missing_left`: where NaN goes. `values` are a leaf's, one a target (-1 rows of inner nodes are unread)."""

    feature: Array
    threshold: Array
    left: Array
    right: Array
    missing_left: Array
    values: Array


@dataclass
class Forest:
    """Trees that are summed. `dtype` is float32 or float64, for thresholds, leaves and sums; `mode` the comparison."""

    targets: int
    dtype: Any = np.float64
    mode: int = LESS_OR_EQUAL
    features: list[int] = field(default_factory=list)
    splits: list[float] = field(default_factory=list)
    _next: dict[str, list[int]] = field(default_factory=lambda: {"true": [], "false": []})
    _is_leaf: dict[str, list[int]] = field(default_factory=lambda: {"true": [], "false": []})
    _missing: list[int] = field(default_factory=list)
    _leaf_targets: list[int] = field(default_factory=list)
    _leaf_weights: list[float] = field(default_factory=list)
    _roots: list[int] = field(default_factory=list)

    def start(self, values: Iterable[float]) -> None:
        """What the sums begin with, a value a target: as trees of one leaf, so that they are added first."""
        for target, value in enumerate(values):
            self.add(_leaf_alone(float(value)), target)

    def add(self, tree: Tree, target: int = 0) -> None:
        """One tree whose first value is for `target`, the next for the one after it."""
        while len(tree.left) == 1:  # the operator wants a test in each tree
            tree = _tested(tree)
        leaves = np.flatnonzero(tree.left < 0)
        told = {int(leaf): np.flatnonzero(tree.values[leaf]) for leaf in leaves}
        for turn in range(max(1, *(len(found) for found in told.values()))):
            self._add(tree, {leaf: _turn(tree, leaf, found, turn) for leaf, found in told.items()}, target)

    def _add(self, tree: Tree, leaves: dict[int, tuple[int, float]], target: int) -> None:
        inner = np.flatnonzero(tree.left >= 0)
        number = {int(node): len(self.features) + index for index, node in enumerate(inner)}
        self._roots.append(len(self.features))
        for node in inner:
            self.features.append(int(tree.feature[node]))
            self.splits.append(float(tree.threshold[node]))
            self._missing.append(int(tree.missing_left[node]))
            for side, child in (("true", int(tree.left[node])), ("false", int(tree.right[node]))):
                leaf = leaves.get(child)
                self._is_leaf[side].append(int(leaf is not None))
                self._next[side].append(number[child] if leaf is None else len(self._leaf_weights))
                if leaf is not None:
                    self._leaf_targets.append(target + leaf[0])
                    self._leaf_weights.append(leaf[1])

    def attributes(self) -> dict[str, Any]:
        """The node's attributes."""
        from onnx import numpy_helper

        count = len(self.features)
        return {
            "n_targets": self.targets,
            "aggregate_function": _SUM,
            "post_transform": 0,
            "tree_roots": self._roots,
            "nodes_featureids": self.features,
            "nodes_modes": numpy_helper.from_array(np.full(count, self.mode, np.uint8), "nodes_modes"),
            "nodes_splits": numpy_helper.from_array(np.array(self.splits, self.dtype), "nodes_splits"),
            "nodes_truenodeids": self._next["true"],
            "nodes_trueleafs": self._is_leaf["true"],
            "nodes_falsenodeids": self._next["false"],
            "nodes_falseleafs": self._is_leaf["false"],
            "nodes_missing_value_tracks_true": self._missing,
            "leaf_targetids": self._leaf_targets,
            "leaf_weights": numpy_helper.from_array(np.array(self._leaf_weights, self.dtype), "leaf_weights"),
        }


def _turn(tree: Tree, leaf: int, found: Array, turn: int) -> tuple[int, float]:
    """Which target a leaf tells in the copy of that number, and what."""
    return (int(found[turn]), float(tree.values[leaf, found[turn]])) if turn < len(found) else (0, 0.0)


def _leaf_alone(value: float) -> Tree:
    none = np.array([-1])
    return Tree(none, np.zeros(1), none, none, np.zeros(1, int), np.array([[value]]))


def _tested(tree: Tree) -> Tree:
    """A tree of one leaf with a test before it that changes nothing."""
    return Tree(
        np.array([0, -1, -1]),
        np.zeros(3),
        np.array([1, -1, -1]),
        np.array([2, -1, -1]),
        np.zeros(3, int),
        np.repeat(tree.values[:1], 3, axis=0),
    )
