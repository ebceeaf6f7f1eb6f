"""MLflow's flavours: which loader and files each needs, and which libraries it cannot do without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mpack.artifact.mlflow_model import Model, Reading, environment, invalid, text_of
from mpack.artifact.model import Finding, Loader
from mpack.artifact.native import MLFLOW, numpy_lines, sklearn_lines, wants_pandas
from mpack.artifact.pickles import judge, looks_like_pickle, root_of, scan_pickle, show_pickles
from mpack.artifact.requirements import requirement_name
from mpack.errors import InputError

_METHODS = ("predict", "predict_proba", "predict_log_proba")


def read_flavor(model: Model) -> Reading:
    for flavor, read in READERS.items():
        if flavor in model.flavors:
            return read(model)
    if "python_function" in model.flavors:
        return _pyfunc(model)
    names = ", ".join(model.flavors)
    raise InputError(
        "artifact-invalid",
        f"{model.path} has the flavours {names}, none of which can be served from Python.",
        f"mpack serves {', '.join(READERS)} and every model with a python_function flavour.",
    )


def _sklearn(model: Model) -> Reading:
    from mpack.artifact.sklearn import skops_options, skops_wants_pandas
    from mpack.artifact.skops import is_skops, read_skops

    conf = model.flavors["sklearn"]
    path = (
        model.file("sklearn", "pickled_model")
        if "pickled_model" in conf
        else model.file("python_function", "model_path", "data")
    )
    version = text_of(conf.get("sklearn_version"))
    method = _method(model)
    if is_skops(model.tree, path):
        file = read_skops(model.tree, path)
        names, scan, wants = file.scan.globals, file.scan, skops_wants_pandas(file)
        options: dict[str, Any] = {**skops_options(file.trusted), "method": method}
    else:
        scan = scan_pickle(model.tree, path, joblib=conf.get("serialization_format") == "joblib")
        names, wants = scan.globals, wants_pandas(scan.globals, scan.instances)
        options = {"serialization": scan.serialization, "method": method}
    if _code(model) and (scan.unknown or scan.problem):
        return _pyfunc(model, "sklearn")
    lines = [line for line in sklearn_lines(version, names) if line.startswith("scikit-learn") or ">=" in line]
    lines += ["skops"] if options["serialization"] == "skops" else []
    return Reading(
        flavor="sklearn",
        loader=Loader("sklearn", model.relative(path), options),
        files=(path,),
        lines=tuple(lines),
        needs=frozenset({"pandas"}) if wants else frozenset(),
        findings=judge(scan, model.trust),
    )


def _method(model: Model) -> str:
    """The estimator's method that the python_function calls."""
    method = model.flavors.get("python_function", {}).get("predict_fn") or "predict"
    if method not in _METHODS:
        raise invalid(model.path, f"predict_fn is {method!r}, which is none of {', '.join(_METHODS)}")
    return str(method)


def _xgboost(model: Model) -> Reading:
    conf = model.flavors["xgboost"]
    path = model.file("xgboost", "data")
    class_name = str(conf.get("model_class") or "xgboost.core.Booster").rpartition(".")[2]
    version = text_of(conf.get("xgb_version"))
    if root_of(model.tree, path):
        return _pickled(model, "xgboost", path)
    lines = [f"xgboost=={version}" if version else "xgboost"]
    lines += [] if class_name == "Booster" else ["scikit-learn"]
    return Reading("xgboost", Loader("xgboost", model.relative(path), {"class": class_name}), (path,), tuple(lines))


def _lightgbm(model: Model) -> Reading:
    from mpack.artifact.sklearn import skops_options
    from mpack.artifact.skops import is_skops, read_skops

    conf = model.flavors["lightgbm"]
    path = model.file("lightgbm", "data")
    version = text_of(conf.get("lgb_version"))
    line = f"lightgbm=={version}" if version else "lightgbm"
    if is_skops(model.tree, path):
        file = read_skops(model.tree, path)
        loader = Loader("sklearn", model.relative(path), skops_options(file.trusted))
        lines = (line, "scikit-learn", "skops")
        return Reading("lightgbm", loader, (path,), lines, findings=judge(file.scan, model.trust))
    if root_of(model.tree, path):
        reading = _pickled(model, "lightgbm", path)
        return replace(reading, lines=(line, *reading.lines), loader=replace(reading.loader, kind="lightgbm"))
    return Reading("lightgbm", Loader("lightgbm", model.relative(path), {"class": "Booster"}), (path,), (line,))


def _pickled(model: Model, flavor: str, path: str) -> Reading:
    """A pickled wrapper class with scikit-learn's interface."""
    from mpack.artifact.lightgbm import pickle_needs_pandas as lightgbm_needs_pandas

    scan = scan_pickle(model.tree, path, joblib=False)
    pandas = wants_pandas(scan.globals, scan.instances) or lightgbm_needs_pandas(scan)
    return Reading(
        flavor=flavor,
        loader=Loader("sklearn", model.relative(path), {"serialization": scan.serialization, "method": "predict"}),
        files=(path,),
        lines=("scikit-learn", *numpy_lines(scan.globals)),
        needs=frozenset({"pandas"}) if pandas else frozenset(),
        findings=judge(scan, model.trust),
    )


def _onnx(model: Model) -> Reading:
    from mpack.artifact.onnx import read_onnx

    path = model.file("onnx", "data")
    if path not in model.tree:  # a directory: the model with external data beside it
        path = next((name for name in model.below(path) if name.endswith(".onnx")), path)
    graph = read_onnx(model.tree, path)
    return Reading(
        flavor="onnx",
        loader=Loader("onnx", model.relative(path), {}),
        files=(path, *graph.external),
        lines=(graph.runtime,),
        findings=graph.findings,
        signature=graph.signature,
    )


def _pytorch(model: Model) -> Reading:
    """A whole pickled module: its classes are torch's and the model's own, so it is refused unless trusted."""
    from mpack.artifact.torch import scan_torch

    if _code(model):
        return _pyfunc(model, "pytorch")
    folder = model.file("pytorch", "model_data")
    files = model.below(folder) or [folder]
    version = text_of(model.flavors["pytorch"].get("pytorch_version"))
    findings: list[Finding] = []
    for path in files:
        for scan in scan_torch(model.tree, path):
            findings += judge(scan, model.trust)
    line = f"torch=={version.partition('+')[0]}" if version else "torch"
    target = next((path for path in files if path.endswith((".pth", ".pt"))), files[0])
    return Reading(
        "pytorch", Loader("pytorch", model.relative(target), {}), tuple(files), (line,), findings=tuple(findings)
    )


def _pyfunc(model: Model, flavor: str = "python_function") -> Reading:
    """Any python_function, loaded by mlflow from its whole directory."""
    conf = model.flavors.get("python_function")
    if conf is None:
        raise invalid(model.path, f"the flavour {flavor} brings code, but there is no python_function that loads it")
    code = _code(model)
    findings: list[Finding] = []
    files = model.below(model.prefix) if model.prefix else list(model.tree)
    if code:
        findings.append(Finding("warning", f"the model brings its own code ({code})", model.path))
        findings += show_pickles(model.tree, files)
    else:
        for path in files:
            if looks_like_pickle(model.tree, path):
                findings += judge(scan_pickle(model.tree, path), model.trust)
    version = text_of(model.manifest.get("mlflow_version"))
    return Reading(
        flavor=flavor,
        loader=Loader("pyfunc", "", {}),
        files=tuple(files),
        lines=(f"mlflow=={version}" if version else "mlflow",) if not _has_mlflow(model) else (),
        needs=frozenset({"pandas"}),
        findings=tuple(findings),
        native=False,
        brings_code=bool(code),
    )


def _has_mlflow(model: Model) -> bool:
    return any(requirement_name(item) in MLFLOW for item in environment(model).requirements)


def _code(model: Model) -> str | None:
    """What code the model openly brings, for a message; None if it brings none."""
    function = model.flavors.get("python_function", {})
    loader = str(function.get("loader_module") or "")
    if loader == "mlflow.pyfunc.model":
        return f"loader_module {loader}"
    paths = [conf["code"] for conf in model.flavors.values() if isinstance(conf.get("code"), str) and conf["code"]]
    if paths:
        return f"code path {paths[0]}"
    return None if not loader or loader.startswith("mlflow.") else f"loader_module {loader}"


READERS: dict[str, Callable[[Model], Reading]] = {
    "sklearn": _sklearn,
    "xgboost": _xgboost,
    "lightgbm": _lightgbm,
    "onnx": _onnx,
    "pytorch": _pytorch,
}
