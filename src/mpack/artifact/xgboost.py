"""Bare XGBoost files: JSON and UBJSON models, whatever their name; the old binary form is refused with what to do."""

from __future__ import annotations

import json
import re
from typing import Any

from mpack.artifact.model import Candidate, Description, Loader, Tree, Trust
from mpack.artifact.native import add_missing, cpu_only
from mpack.artifact.plain import older
from mpack.artifact.ubjson import UbjsonError, read_members
from mpack.errors import InputError
from mpack.signature import Column, Signature

#: What may stand before and after the trees. XGBoost sorts keys, so all else stands at the two ends.
_ENDS = 4 << 20
_WHOLE = 16 << 20
_JSON = re.compile(rb'\s*\{\s*"(learner|version)"\s*:')
_UBJ = re.compile(rb"\{(?:L\0{7}|[iU])\x07(learner|version)")
_OBJECTIVE = re.compile(rb"(?:reg|binary|multi|rank|count|survival):[a-z_]+\b")
_TYPES = {"classifier": "XGBClassifier", "regressor": "XGBRegressor", "ranker": "XGBRanker"}


class XgboostFormat:
    """Format "xgboost"."""

    name = "xgboost"

    def detect(self, tree: Tree) -> list[Candidate]:
        return [Candidate(self.name, path) for path in tree if _kind(tree.head(path, 1024))]

    def read(self, tree: Tree, candidate: Candidate, trust: Trust) -> Description:
        path = candidate.root
        if _kind(tree.head(path, 1024)) == "binary":
            raise InputError(
                "artifact-invalid",
                f"{path} is in XGBoost's old binary form, which does not tell its version.",
                "Load it with the XGBoost that wrote it and save it anew: booster.save_model('model.ubj').",
            )
        model = read_model(tree, path)
        version = ".".join(str(part) for part in model["version"])
        class_name = _class(model["learner"].get("attributes") or {})
        lines = [f"xgboost=={version}", *bounds(version, class_name)]
        requirements, notes = cpu_only(add_missing((), *lines, source=path), trust)
        return Description(
            format=self.name,
            flavor="xgboost",
            name=None,
            version=None,
            python=None,
            requirements=requirements,
            loader=Loader("xgboost", path, {"class": class_name}),
            ships={path: path},
            signature=_signature(model["learner"]),
            findings=notes,
        )


def _kind(head: bytes) -> str | None:
    """ "json", "ubjson", "binary" or None, by a file's first bytes."""
    if _JSON.match(head):
        return "json"
    if _UBJ.match(head):
        return "ubjson"
    objective = _OBJECTIVE.search(head, 0, 512)
    if head.startswith(b"binf") or (objective and b"\0" in head[:64] and re.search(rb"gbtree|gblinear|dart", head)):
        return "binary"
    return None


def read_model(tree: Tree, path: str) -> dict[str, Any]:
    """{"version": […], "learner": {…}} without the trees. Raises InputError artifact-truncated or artifact-invalid."""
    size = tree[path].size
    head = tree.head(path, _ENDS)
    with tree.open(path) as stream:
        stream.seek(max(0, size - _ENDS))
        tail = stream.read()
    if not tail.rstrip().endswith(b"}"):
        raise _truncated(path)
    try:
        model = _read_ubjson(head, tail) if _kind(head) == "ubjson" else _read_json(tree, path, head, tail)
        version = [int(part) for part in model["version"]]
        learner = model["learner"]
        if len(version) != 3 or not isinstance(learner["learner_model_param"], dict):
            raise ValueError("version or learner_model_param is of an unknown form")
    except json.JSONDecodeError as error:
        if error.pos >= len(error.doc.rstrip()):
            raise _truncated(path) from None
        raise _unreadable(path, error) from None
    except (UbjsonError, ValueError, KeyError, TypeError, RecursionError, IndexError) as error:
        raise _unreadable(path, error) from None
    return model


def _truncated(path: str) -> InputError:
    return InputError("artifact-truncated", f"{path} is an XGBoost model without its end.", "Copy or save it again.")


def _unreadable(path: str, error: Exception) -> InputError:
    return InputError(
        "artifact-invalid",
        f"{path} begins as an XGBoost model but is none that mpack can read: {type(error).__name__} {error}.",
        "Save it with booster.save_model().",
    )


def _read_json(tree: Tree, path: str, head: bytes, tail: bytes) -> dict[str, Any]:
    before = head.partition(b'"gradient_booster"')[0].rstrip().rstrip(b",")
    after = tail.rpartition(b'"learner_model_param"')[2]
    try:
        first = json.loads(before + b"}}")["learner"]
        rest = json.loads(b'{"learner":{"learner_model_param"' + after)
        return {"version": rest["version"], "learner": {**first, **rest["learner"]}}
    except (ValueError, KeyError):  # indented, or in another order: read whole
        if tree[path].size > _WHOLE:
            raise
    return dict(json.loads(tree.read(path, _WHOLE)))


def _read_ubjson(head: bytes, tail: bytes) -> dict[str, Any]:
    start = re.match(rb"\{(?:L\0{7}|[iU])\x07learner\{", head)
    key = rb"L\0{7}\x13learner_model_param\{"
    last = [match.start() for match in re.finditer(key, tail)]
    if not start or not last:
        raise UbjsonError("learner or learner_model_param is missing")
    first, _ = read_members(head, start.end(), stop="gradient_booster")
    rest, position = read_members(tail, last[-1])
    outer, _ = read_members(tail, position)
    return {**outer, "learner": {**first, **rest}}


def _class(attributes: dict[str, Any]) -> str:
    """The scikit-learn class that saved the model, or Booster."""
    try:
        told = json.loads(attributes.get("scikit_learn") or "{}")
    except (ValueError, TypeError):
        return "Booster"
    name = told.get("type") if isinstance(told, dict) else None
    if isinstance(name, str) and re.fullmatch(r"XGB(RF)?(Classifier|Regressor)|XGBRanker", name):
        return name
    return _TYPES.get(str(told.get("_estimator_type")), "Booster") if isinstance(told, dict) else "Booster"


def bounds(version: str, class_name: str) -> list[str]:
    """What older releases of XGBoost do not work with."""
    lines = ["numpy<2"] if older(version, "2.1") else []
    if class_name != "Booster":
        # Their wrappers do not know scikit-learn 1.6; the releases before that stand on a SciPy of their time.
        lines += ["scikit-learn<1.6", "scipy<1.15"] if older(version, "2.1.4") else ["scikit-learn"]
    return lines


def _signature(learner: dict[str, Any]) -> Signature | None:
    """Its columns: names from training, else as many as there are features."""
    names = learner.get("feature_names") or []
    if names and all(isinstance(name, str) for name in names):
        return Signature(inputs=tuple(Column(name, "double") for name in names))
    count = int(learner["learner_model_param"].get("num_feature", 0))
    return Signature(inputs=(Column(None, "double"),) * count) if 0 < count <= 100_000 else None
