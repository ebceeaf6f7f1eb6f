"""MLflow models: a directory with an MLmodel file.

Flavours sklearn, xgboost, lightgbm, onnx and pytorch are loaded by mpack's runtime itself, without mlflow; every other
model with a python_function flavour by mlflow (loader "pyfunc"). A model that brings code (loader_module
mlflow.pyfunc.model, or a `code:` path) is loaded by mlflow and shown as such; in all others, pickles are held against
the allow-list.
"""

from __future__ import annotations

from typing import Any

from mpack.artifact.mlflow_flavors import read_flavor
from mpack.artifact.mlflow_model import MANIFEST, Model, environment, invalid, text_of, yaml_of
from mpack.artifact.mlflow_signature import parse_signature, read_example
from mpack.artifact.model import Candidate, Description, Tree, Trust
from mpack.artifact.native import add_missing, cpu_only, thin
from mpack.artifact.requirements import decode
from mpack.artifact.yamlfile import load_yaml
from mpack.signature import Column, Signature

#: Column types that a matrix of numbers cannot hold.
_TABLE_TYPES = frozenset({"string", "binary", "datetime"})


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
        reading = read_flavor(model)
        needs = set(reading.needs)
        if reading.flavor in ("sklearn", "lightgbm") and _is_mixed(signature):
            needs.add("pandas")
        found = environment(model)
        requirements = add_missing(found.requirements, *reading.lines, source=model.path)
        thinned, changes = (
            thin(requirements, frozenset(needs), trust) if reading.native else cpu_only(requirements, trust)
        )
        name, version = _registered(model)
        return Description(
            format=self.name,
            flavor=reading.flavor,
            name=name,
            version=version,
            python=found.python,
            requirements=thinned,
            loader=reading.loader,
            ships={model.relative(path): path for path in reading.files},
            signature=signature or reading.signature,
            sample=sample,
            needs=frozenset(needs),
            brings_code=reading.brings_code,
            conda=found.conda,
            findings=(*notes, *found.findings, *reading.findings, *changes),
        )


def _is_mixed(signature: Signature | None) -> bool:
    """True for columns that a matrix of numbers cannot hold: as in training, they come as a DataFrame."""
    fields = signature.inputs if signature else ()
    return any(isinstance(item, Column) and item.type in _TABLE_TYPES for item in fields)


def _is_manifest(tree: Tree, path: str) -> bool:
    return b"flavors:" in tree.head(path, 1 << 16) or tree[path].size < 1 << 16


def _manifest(tree: Tree, path: str) -> dict[str, Any]:
    try:
        value = load_yaml(decode(tree.read(path), path))
    except ValueError as error:
        raise invalid(path, f"it is not YAML: {' '.join(str(error).split())}") from None
    flavors = value.get("flavors") if isinstance(value, dict) else None
    if not isinstance(flavors, dict) or not flavors:
        raise invalid(path, "it names no flavors")
    if not all(conf is None or isinstance(conf, dict) for conf in flavors.values()):
        raise invalid(path, "flavors is not a mapping of mappings")
    return dict(value)


def _registered(model: Model) -> tuple[str | None, str | None]:
    """Name and version in MLflow's model registry, where the model was downloaded from it."""
    path = model.prefix + "registered_model_meta"
    if path not in model.tree:
        return None, None
    meta = yaml_of(model.tree, path)
    return text_of(meta.get("model_name")), text_of(meta.get("model_version"))
