"""skops files, without what skops does when it is imported to know all that it may trust.

It trusts the estimators that `sklearn.utils.all_estimators` lists, which imports every module of scikit-learn, and the
ufuncs of NumPy and SciPy, each looked for in every module. A file names few estimators and seldom a function, so the
lists are made of what it names. Its parts for scikit-learn's own kinds of nodes (trees, losses), which import clusters
and trees, are left out for a file that has none, and so are the ensembles. Nothing else becomes trusted, and where a
name or a node cannot be settled everything is imported as ever.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from zipfile import ZipFile

#: Modules of skops whose kinds of nodes (trees, losses) are scikit-learn's own.
PARTS = ("skops.io._sklearn", "skops.io._quantile_forest")


def load(path: Path, *, trusted: Sequence[str]) -> Any:
    """The object in a skops file. Raises what skops raises, for one, for a type that neither it nor `trusted` knows."""
    import skops

    with ZipFile(path) as archive:
        text = archive.read("schema.json").decode()
    schema = json.loads(text)
    io = str(Path(skops.__path__[0], "io"))
    named = set(_named(schema))
    ufuncs = "ufunc" in text or "FunctionNode" in text
    if not _import_skops(io, named, ufuncs=ufuncs, kinds=set(_kinds(schema))):
        _import_skops(io, named, ufuncs=ufuncs)
    from skops.io import load as skops_load

    return skops_load(path, trusted=trusted)


def _import_skops(io: str, named: set[tuple[str, str]], *, ufuncs: bool, kinds: set[str] | None = None) -> bool:
    """Imports skops.io, whose directory is `io`; with `kinds` without its parts for scikit-learn, and then False where
    a kind of node is unknown."""
    import sklearn.utils

    for name in [name for name in sys.modules if f"{name}.".startswith("skops.io.")]:
        del sys.modules[name]  # it would know what another file names
    everything = sklearn.utils.all_estimators
    found = [_estimator(module, name) for module, name in sorted(named)]
    if "?" not in found:
        sklearn.utils.all_estimators = lambda *_: [item for item in found if item is not None]
    if not ufuncs:
        # A package that runs nothing stands in for skops.io, so that this module of it can be imported before the rest.
        sys.modules["skops.io"] = package = ModuleType("skops.io")
        package.__path__ = [io]
        vars(importlib.import_module("skops.io._utils"))["get_public_type_names"] = lambda *_, **__: []
        del sys.modules["skops.io"]
    try:
        if kinds is None:
            importlib.import_module("skops.io")
            return True
        return kinds <= _kinds_without_sklearn()
    finally:
        sklearn.utils.all_estimators = everything


def _kinds_without_sklearn() -> set[str]:
    """Imports skops.io without its `PARTS` for scikit-learn and without ensembles that nothing has imported by now; the
    kinds of nodes that it then knows, none where it cannot be imported so."""
    absent: dict[str, Any] = {} if "sklearn.ensemble" in sys.modules else {"sklearn.ensemble": None}
    for name in PARTS:
        absent[name] = part = ModuleType(name)
        vars(part).update(NODE_TYPE_MAPPING={}, GET_STATE_DISPATCH_FUNCTIONS=[])
    sys.modules.update(absent)
    try:
        importlib.import_module("skops.io")
        return {kind for kind, _ in importlib.import_module("skops.io._audit").NODE_TYPE_MAPPING}
    except (ImportError, AttributeError):
        return set()
    finally:
        for name in absent:
            del sys.modules[name]


def _kinds(value: Any) -> Iterator[str]:
    """The kinds of nodes of a schema."""
    if isinstance(value, dict) and "__loader__" in value:
        yield str(value["__loader__"])
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _kinds(item)


def _named(value: Any) -> Iterator[tuple[str, str]]:
    """(module, class) of everything of scikit-learn that a schema names."""
    if isinstance(value, dict):
        module, name = value.get("__module__"), value.get("__class__")
        if isinstance(module, str) and isinstance(name, str) and module.partition(".")[0] == "sklearn":
            yield module, name
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _named(item)


def _estimator(module: str, name: str) -> Any:
    """(name, class) of an estimator that `all_estimators` lists, None for another class, "?" where it is not clear."""
    from sklearn.base import BaseEstimator

    parts = module.split(".")
    public = parts[: next((at for at, part in enumerate(parts) if part.startswith("_")), len(parts))]
    try:
        cls = getattr(importlib.import_module(module), name)
        if not (isinstance(cls, type) and issubclass(cls, BaseEstimator)):
            return None
        same = getattr(importlib.import_module(".".join(public)), name, None) is cls
    except (ImportError, AttributeError, ValueError):
        return "?"
    odd = {"tests", "externals", "experimental"} & set(public) or name.startswith("_") or cls is BaseEstimator
    return (name, cls) if same and not odd and not getattr(cls, "__abstractmethods__", None) else "?"
