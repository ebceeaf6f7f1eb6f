"""What is imported, and told to skops, for a file."""

from __future__ import annotations

import importlib
import json
import sys
import zipfile
from pathlib import Path

import pytest
from mpack_runtime.loaders import skops
from sklearn.base import BaseEstimator
from sklearn.utils import all_estimators

SKOPS = {
    "__init__": "",
    "io/__init__": "from ._persist import load",
    "io/_utils": "get_public_type_names = None",
    "io/_audit": "NODE_TYPE_MAPPING = {}",
    "io/_general": "NODE_TYPE_MAPPING = {('ListNode', 1): 1}",
    "io/_sklearn": "import sklearn.ensemble\nNODE_TYPE_MAPPING = {('TreeNode', 1): 1}",
    "io/_quantile_forest": "from ._sklearn import NODE_TYPE_MAPPING",
    "io/_persist": """
import importlib
from ._audit import NODE_TYPE_MAPPING
try:
    import sklearn.ensemble
except ImportError:
    pass
for name in ("_general", "_sklearn", "_quantile_forest"):
    NODE_TYPE_MAPPING.update(importlib.import_module("skops.io." + name).NODE_TYPE_MAPPING)
def load(path, trusted):
    return sorted(kind for kind, _ in NODE_TYPE_MAPPING)
""",
}


def test_skops_is_told_of_no_estimator_that_scikit_learn_does_not_list() -> None:
    """Of what a file names, exactly what `all_estimators` lists; another of its estimators cannot be settled."""
    listed = {(name, cls) for name, cls in all_estimators() if cls.__module__.startswith("sklearn.")}
    found = {skops._estimator(cls.__module__, name) for name, cls in listed} - {"?"}
    assert found <= listed and len(found) > 0.9 * len(listed)
    unlisted = {cls for _, cls in listed for cls in cls.__mro__ if issubclass(cls, BaseEstimator)}
    for cls in unlisted - {cls for _, cls in listed}:
        assert skops._estimator(cls.__module__, cls.__name__) == "?", cls
    for module, name in [("sklearn.utils._mocking", "CheckingClassifier"), ("sklearn.none", "X"), ("sklearn", "X")]:
        assert skops._estimator(module, name) == "?"
    assert skops._estimator("sklearn.tree._tree", "Tree") is None
    schema = {"__module__": "sklearn.a", "__class__": "B", "content": [{"x": {"__module__": "os", "__class__": "C"}}]}
    assert set(skops._named([schema])) == {("sklearn.a", "B")}


@pytest.mark.parametrize(
    ("kind", "known", "ensembles"),
    [("ListNode", ["ListNode"], False), ("TreeNode", ["ListNode", "TreeNode"], True)],
)
def test_skops_has_its_parts_for_scikit_learn_where_a_file_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, known: list[str], ensembles: bool
) -> None:
    """By a stand-in of skops's shape, which is not among the tools: a file of other nodes imports neither the parts nor
    the ensembles, and blocks nothing for later; one of an unknown kind gets all."""
    for name, text in SKOPS.items():
        (tmp_path / "skops" / "io").mkdir(parents=True, exist_ok=True)
        (tmp_path / "skops" / f"{name}.py").write_text(text)
    with zipfile.ZipFile(tmp_path / "m.skops", "w") as archive:
        archive.writestr("schema.json", json.dumps({"__loader__": "ListNode", "content": [{"__loader__": kind}]}))
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "skops" or "sklearn.ensemble" in name]:
        monkeypatch.delitem(sys.modules, name)
    try:
        assert skops.load(tmp_path / "m.skops", trusted=()) == known
        assert ("sklearn.ensemble" in sys.modules) is ensembles
        assert ("skops.io._sklearn" in sys.modules) is ensembles
        importlib.import_module("sklearn.ensemble")
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "skops"]:
            del sys.modules[name]
