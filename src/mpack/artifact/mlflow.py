"""MLflow models: a directory with an MLmodel file.

Flavours sklearn, xgboost, lightgbm, onnx and pytorch are loaded by mpack's runtime itself, without mlflow; every other
model with a python_function flavour by mlflow (loader "pyfunc"). A model that brings code (loader_module
mlflow.pyfunc.model, or a `code:` path) is loaded by mlflow and shown as such; in all others, pickles are held against
the allow-list.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import field, replace
from typing import Any

from mpack.artifact.conda import parse_conda
from mpack.artifact.mlflow_signature import parse_signature, read_example
from mpack.artifact.model import Candidate, Description, Finding, Loader, Tree, Trust
from mpack.artifact.native import MLFLOW, add_missing, cpu_only, numpy_lines, sklearn_lines, thin, wants_pandas
from mpack.artifact.pickles import judge, looks_like_pickle, root_of, scan_pickle, show_pickles
from mpack.artifact.requirements import decode, parse_requirements, requirement_name
from mpack.artifact.yamlfile import load_yaml
from mpack.errors import InputError
from mpack.records import dataclass
from mpack.signature import Column, Signature
from mpack.spec import Requirement

MANIFEST = "MLmodel"
_METHODS = ("predict", "predict_proba", "predict_log_proba")
#: Column types that a matrix of numbers cannot hold.
_TABLE_TYPES = frozenset({"string", "binary", "datetime"})


@dataclass(frozen=True)
class Model:
    """One MLmodel and where it stands. `prefix` is its directory with a final "/", or ""."""

    tree: Tree
    prefix: str
    manifest: dict[str, Any]
    trust: Trust

    @property
    def path(self) -> str:
        return self.prefix + MANIFEST

    @property
    def flavors(self) -> dict[str, dict[str, Any]]:
        return {str(name): conf or {} for name, conf in self.manifest["flavors"].items()}

    def file(self, flavor: str, *keys: str) -> str:
        """The path of a flavour's model file. Raises InputError where it has none."""
        conf = self.flavors[flavor]
        value = next((conf[key] for key in keys if isinstance(conf.get(key), str)), None)
        path = self.prefix + str(value).removeprefix("./")
        if value is None or (path not in self.tree and not self.below(path)):
            raise _invalid(self.path, f"the flavour {flavor} names the file {value!r}, which is not in the artifact")
        return path

    def below(self, path: str) -> list[str]:
        """Files in a directory."""
        return [name for name in self.tree if name.startswith(path.rstrip("/") + "/")]

    def relative(self, path: str) -> str:
        return path.removeprefix(self.prefix)


@dataclass(frozen=True)
class Reading:
    """What a flavour's own reading gives: loader, files, libraries that it cannot do without, facts about pickles."""

    flavor: str
    loader: Loader
    files: tuple[str, ...]
    lines: tuple[str, ...] = ()
    needs: frozenset[str] = frozenset()
    findings: tuple[Finding, ...] = ()
    native: bool = True
    brings_code: bool = False
    signature: Any = field(default=None)


class MlflowFormat:
    """Format "mlflow"."""

    name = "mlflow"

    def detect(self, tree: Tree) -> list[Candidate]:
        return [
            Candidate(self.name, path.rpartition("/")[0])
            for path in tree
            if path.rpartition("/")[2] == MANIFEST and _is_manifest(tree, path)
        ]

    def read(self, tree: Tree, candidate: Candidate, trust: Trust) -> Description:
        prefix = candidate.root + "/" if candidate.root else ""
        model = Model(tree, prefix, _manifest(tree, prefix + MANIFEST), trust)
        signature = parse_signature(model.manifest.get("signature"), model.path)
        sample, notes = read_example(tree, prefix, model.manifest.get("saved_input_example_info"))
        reading = _read_flavor(model)
        needs = set(reading.needs)
        if reading.flavor in ("sklearn", "lightgbm") and _is_mixed(signature):
            needs.add("pandas")
        python, requirements, environment_notes = _environment(model)
        requirements = add_missing(requirements, *reading.lines, source=model.path)
        thinned, changes = (
            thin(requirements, frozenset(needs), trust) if reading.native else cpu_only(requirements, trust)
        )
        name, version = _registered(model)
        return Description(
            format=self.name,
            flavor=reading.flavor,
            name=name,
            version=version,
            python=python,
            requirements=thinned,
            loader=reading.loader,
            ships={model.relative(path): path for path in reading.files},
            signature=signature or reading.signature,
            sample=sample,
            needs=frozenset(needs),
            brings_code=reading.brings_code,
            findings=(*notes, *environment_notes, *reading.findings, *changes),
        )


def _is_mixed(signature: Signature | None) -> bool:
    """True for columns that a matrix of numbers cannot hold: as in training, they come as a DataFrame."""
    fields = signature.inputs if signature else ()
    return any(isinstance(item, Column) and item.type in _TABLE_TYPES for item in fields)


# --- manifest and environment


def _is_manifest(tree: Tree, path: str) -> bool:
    return b"flavors:" in tree.head(path, 1 << 16) or tree[path].size < 1 << 16


def _manifest(tree: Tree, path: str) -> dict[str, Any]:
    try:
        value = load_yaml(decode(tree.read(path), path))
    except ValueError as error:
        raise _invalid(path, f"it is not YAML: {' '.join(str(error).split())}") from None
    flavors = value.get("flavors") if isinstance(value, dict) else None
    if not isinstance(flavors, dict) or not flavors:
        raise _invalid(path, "it names no flavors")
    if not all(conf is None or isinstance(conf, dict) for conf in flavors.values()):
        raise _invalid(path, "flavors is not a mapping of mappings")
    return dict(value)


def _environment(model: Model) -> tuple[str | None, tuple[Requirement, ...], tuple[Finding, ...]]:
    """Python and requirements: requirements.txt, else conda.yaml, else python_env.yaml, as mlflow itself prefers."""
    tree, prefix = model.tree, model.prefix
    function = model.flavors.get("python_function", {})
    env = function.get("env")
    named = env if isinstance(env, dict) else {"conda": env}
    conda_path = prefix + str(named.get("conda") or "conda.yaml")
    virtualenv_path = prefix + str(named.get("virtualenv") or "python_env.yaml")
    version = function.get("python_version")
    python = str(version) if version is not None and re.match(r"\d+\.\d+", str(version)) else None
    root = prefix.rstrip("/")
    if prefix + "requirements.txt" in tree:
        path = prefix + "requirements.txt"
        lines, notes = parse_requirements(decode(tree.read(path), path), path, tree, root)
        return python or _python_of(model, conda_path, virtualenv_path), tuple(lines), tuple(notes)
    if conda_path in tree:
        found = parse_conda(decode(tree.read(conda_path), conda_path), conda_path, tree, root)
        return python or found.python, found.requirements, found.findings
    if virtualenv_path in tree:
        document = _yaml(tree, virtualenv_path)
        text = "\n".join(str(line) for line in document.get("dependencies") or ())
        lines, notes = parse_requirements(text, virtualenv_path, tree, root)
        return python or _text(document.get("python")), tuple(lines), tuple(notes)
    return python, (), (Finding("note", "the model names no requirements; the flavour's own are used", model.path),)


def _python_of(model: Model, conda_path: str, virtualenv_path: str) -> str | None:
    """The Python version that the environment files tell, where the MLmodel does not."""
    if virtualenv_path in model.tree:
        return _text(_yaml(model.tree, virtualenv_path).get("python"))
    if conda_path in model.tree:
        entries = _yaml(model.tree, conda_path).get("dependencies") or ()
        found = (re.match(r"python\s*=+\s*(\d+\.\d+[\d.]*)", entry) for entry in entries if isinstance(entry, str))
        return next((match[1].rstrip(".") for match in found if match), None)
    return None


def _registered(model: Model) -> tuple[str | None, str | None]:
    """Name and version in MLflow's model registry, where the model was downloaded from it."""
    path = model.prefix + "registered_model_meta"
    if path not in model.tree:
        return None, None
    meta = _yaml(model.tree, path)
    return _text(meta.get("model_name")), _text(meta.get("model_version"))


def _yaml(tree: Tree, path: str) -> dict[str, Any]:
    try:
        value = load_yaml(decode(tree.read(path), path))
    except ValueError as error:
        raise _invalid(path, f"it is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise _invalid(path, "it is no mapping")
    return value


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


# --- flavours


def _read_flavor(model: Model) -> Reading:
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
    version = _text(conf.get("sklearn_version"))
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
        raise _invalid(model.path, f"predict_fn is {method!r}, which is none of {', '.join(_METHODS)}")
    return str(method)


def _xgboost(model: Model) -> Reading:
    conf = model.flavors["xgboost"]
    path = model.file("xgboost", "data")
    class_name = str(conf.get("model_class") or "xgboost.core.Booster").rpartition(".")[2]
    version = _text(conf.get("xgb_version"))
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
    version = _text(conf.get("lgb_version"))
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
    version = _text(model.flavors["pytorch"].get("pytorch_version"))
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
        raise _invalid(model.path, f"the flavour {flavor} brings code, but there is no python_function that loads it")
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
    version = _text(model.manifest.get("mlflow_version"))
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
    _, requirements, _ = _environment(model)
    return any(requirement_name(item) in MLFLOW for item in requirements)


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


def _invalid(path: str, reason: str) -> InputError:
    return InputError("artifact-invalid", f"{path}: {reason}.", "Save the model again with mlflow.")
