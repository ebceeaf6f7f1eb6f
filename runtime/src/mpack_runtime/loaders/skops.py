"""skops files, without what skops does when it is imported to know all that it may trust.

It trusts the estimators that `sklearn.utils.all_estimators` lists, which imports every module of scikit-learn, and the
ufuncs of NumPy and SciPy, each looked for in every module. A file names few estimators and seldom a function, so the
lists are made of what it names. Nothing else becomes trusted, and where a name cannot be settled the whole list is made
as ever.
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


def load(path: Path, *, trusted: Sequence[str]) -> Any:
    """The object in a skops file. Raises what skops raises, for one, for a type that neither it nor `trusted` knows."""
    import skops

    with ZipFile(path) as archive:
        schema = archive.read("schema.json").decode()
    for name in [name for name in sys.modules if f"{name}.".startswith("skops.io.")]:
        del sys.modules[name]  # it would know what another file names
    io = str(Path(skops.__path__[0], "io"))
    _import_skops(io, set(_named(json.loads(schema))), ufuncs="ufunc" in schema or "FunctionNode" in schema)
    from skops.io import load as skops_load

    return skops_load(path, trusted=trusted)


def _import_skops(io: str, named: set[tuple[str, str]], *, ufuncs: bool) -> None:
    """Imports skops.io, whose directory is `io`."""
    import sklearn.utils

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
        importlib.import_module("skops.io")
    finally:
        sklearn.utils.all_estimators = everything


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
