"""Bare scikit-learn files: .pkl, .joblib (compressed too) and .skops, known by content.

Library and version are read without unpickling: scikit-learn writes `_sklearn_version` into each estimator's state.
A pickled model of another library with scikit-learn's interface is read here too, and is refused unless trusted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mpack.artifact.model import Candidate, Description, Finding, Loader, Tree, Trust
from mpack.artifact.native import add_missing, cpu_only, numpy_lines, sklearn_lines, wants_pandas
from mpack.artifact.pickle_machine import JOBLIB_ARRAY
from mpack.artifact.pickle_values import Blob, Global
from mpack.artifact.pickles import PickleScan, judge, root_of, scan_pickle
from mpack.artifact.skops import is_skops, read_skops
from mpack.errors import InputError
from mpack.spec import Requirement

if TYPE_CHECKING:
    from packaging.version import Version

#: Pickles that begin with one of these are data beside a model.
_DATA = frozenset(
    ("builtins", "collections", "datetime", "numpy", "pandas", "scipy", "copyreg", "_codecs", "decimal", "pytz")
)
_XGBOOST_VERSION = re.compile(rb'version\[#L\0{7}\x03i(.)i(.)i(.)|"version":\[(\d+),(\d+),(\d+)\]', re.S)


class SklearnFormat:
    """Format "sklearn"."""

    name = "sklearn"

    def detect(self, tree: Tree) -> list[Candidate]:
        return [Candidate(self.name, path) for path in tree if is_skops(tree, path) or is_model_pickle(tree, path)]

    def read(self, tree: Tree, candidate: Candidate, trust: Trust) -> Description:
        from mpack.artifact.lightgbm import pickle_needs_pandas

        path = candidate.root
        if is_skops(tree, path):
            return _read_skops(self.name, tree, path, trust)
        scan = scan_pickle(tree, path)
        findings = judge(scan, trust)
        _check_root(scan)
        flavor = pickle_flavor(scan)
        pandas = wants_pandas(scan.globals, scan.instances) or pickle_needs_pandas(scan)
        needs = frozenset({"pandas"}) if pandas else frozenset()
        requirements, notes = cpu_only(pickle_requirements(scan), trust)
        return Description(
            format=self.name,
            flavor=flavor,
            name=None,
            version=None,
            python=None,
            requirements=requirements,
            loader=Loader(
                "lightgbm" if flavor == "lightgbm" else "sklearn",
                path,
                {"serialization": scan.serialization, "method": "predict"},
            ),
            ships={path: path},
            needs=needs,
            findings=(*findings, *notes),
        )


def is_model_pickle(tree: Tree, path: str) -> bool:
    """True if the file is a pickle (joblib's too) of an object, not of plain data or a table."""
    root = root_of(tree, path)
    return root is not None and root != JOBLIB_ARRAY and root.module.partition(".")[0] not in _DATA | {"torch"}


def pickle_flavor(scan: PickleScan) -> str:
    """The library of the object itself."""
    top = scan.root.module.partition(".")[0] if isinstance(scan.root, Global) else ""
    return top if top in ("xgboost", "lightgbm") else "sklearn"


def pickle_requirements(scan: PickleScan) -> tuple[Requirement, ...]:
    """The libraries that a pickle names, in the versions that it tells."""
    modules = scan.modules()
    versions = [value for value in scan.attributes("_sklearn_version") if isinstance(value, str)]
    lines = []
    if versions:
        newest = versions[0] if len(set(versions)) == 1 else max(versions, key=_release)
        lines += sklearn_lines(newest, scan.globals)
    if "xgboost" in modules:
        version = xgboost_version(scan)
        from mpack.artifact.xgboost import bounds

        lines += [f"xgboost=={version}", *bounds(version, "XGBModel")] if version else ["xgboost"]
    if "lightgbm" in modules:
        from mpack.artifact.lightgbm import pickle_release

        lines.append(pickle_release(scan))
    if modules & {"sklearn", "xgboost", "lightgbm"}:  # the wrappers of the other two stand on scikit-learn
        lines.append("scikit-learn")
    lines += numpy_lines(scan.globals)
    lines += [name for name in ("scipy", "pandas", "joblib") if name in modules or name == scan.serialization]
    return add_missing((), *dict.fromkeys(lines), source=scan.path)


def _release(version: str) -> Version:
    """For comparing; what is no version comes last."""
    from packaging.version import InvalidVersion, Version

    try:
        return Version(version)
    except InvalidVersion:
        return Version("0")


def xgboost_version(scan: PickleScan) -> str | None:
    """The version that a pickled Booster's own serialisation ends with."""
    for handle in scan.attributes("handle"):
        for data in _bytes_of(handle):
            found = list(_XGBOOST_VERSION.finditer(data))
            if found:
                last = found[-1]
                if last[1] is not None:
                    return ".".join(str(part[0]) for part in last.groups()[:3])
                return ".".join(part.decode() for part in last.groups()[3:])
    return None


def _bytes_of(value: Any) -> list[bytes]:
    """The ends of a byte string, bytearray(…) included."""
    if isinstance(value, Blob):
        return [value.tail]
    arguments = getattr(value, "args", ())
    return [item.tail for item in arguments if isinstance(item, Blob)]


def _check_root(scan: PickleScan) -> None:
    if scan.root == Global("xgboost.core", "Booster"):
        raise InputError(
            "artifact-invalid",
            f"{scan.path} is a pickled xgboost Booster, which is tied to one version of xgboost.",
            "Save it with booster.save_model('model.ubj') and package that file.",
        )


def _read_skops(name: str, tree: Tree, path: str, trust: Trust) -> Description:
    file = read_skops(tree, path)
    findings: tuple[Finding, ...] = judge(file.scan, trust)
    lines = sklearn_lines(file.sklearn_version, file.scan.globals)
    lines.append(f"skops=={file.skops_version}" if file.skops_version else "skops")
    modules = file.scan.modules()
    lines += [library for library in ("xgboost", "lightgbm") if library in modules]
    requirements, notes = cpu_only(add_missing((), *lines, source=path), trust)
    return Description(
        format=name,
        flavor="sklearn",
        name=None,
        version=None,
        python=None,
        requirements=requirements,
        loader=Loader("sklearn", path, skops_options(file.trusted)),
        ships={path: path},
        needs=frozenset({"pandas"}) if skops_wants_pandas(file) else frozenset(),
        findings=(*findings, *notes),
    )


def skops_options(trusted: list[str]) -> dict[str, Any]:
    """The loader's options for a skops file."""
    return {"serialization": "skops", "trusted": trusted, "method": "predict"}


def skops_wants_pandas(file: Any) -> bool:
    """`wants_pandas` for a skops file."""
    columns = any(name.name == "ColumnTransformer" for name in file.scan.globals)
    return wants_pandas(file.scan.globals, ()) or (columns and "feature_names_in_" in file.attributes)
