"""An MLmodel, what a flavour's reading gives, and the environment that is written beside it."""

from __future__ import annotations

import re
from dataclasses import field, replace
from typing import Any

from mpack.artifact.conda import CondaEnv, needs_conda, parse_conda
from mpack.artifact.model import Finding, Loader, Tree, Trust
from mpack.artifact.requirements import decode, parse_requirements
from mpack.artifact.yamlfile import load_yaml
from mpack.errors import InputError
from mpack.records import dataclass

MANIFEST = "MLmodel"


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
            raise invalid(self.path, f"the flavour {flavor} names the file {value!r}, which is not in the artifact")
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


def environment(model: Model) -> CondaEnv:
    """Python and requirements: requirements.txt, else conda.yaml, else python_env.yaml, as mlflow itself prefers.

    requirements.txt is the pip section of conda.yaml: where the rest of that is on no index, conda.yaml counts.
    """
    tree, prefix = model.tree, model.prefix
    function = model.flavors.get("python_function", {})
    env = function.get("env")
    named = env if isinstance(env, dict) else {"conda": env}
    conda_path = prefix + str(named.get("conda") or "conda.yaml")
    virtualenv_path = prefix + str(named.get("virtualenv") or "python_env.yaml")
    version = function.get("python_version")
    python = str(version) if version is not None and re.match(r"\d+\.\d+", str(version)) else None
    root = prefix.rstrip("/")
    listed = prefix + "requirements.txt" in tree
    if conda_path in tree:
        text = decode(tree.read(conda_path), conda_path)
        if not listed or model.trust.conda or needs_conda(text, conda_path):
            found = parse_conda(text, conda_path, tree, root, always=model.trust.conda)
            return replace(found, python=python or found.python)
    if listed:
        path = prefix + "requirements.txt"
        lines, notes = parse_requirements(decode(tree.read(path), path), path, tree, root)
        return CondaEnv(python or _python_of(model, conda_path, virtualenv_path), tuple(lines), tuple(notes))
    if virtualenv_path in tree:
        document = yaml_of(tree, virtualenv_path)
        text = "\n".join(str(line) for line in document.get("dependencies") or ())
        lines, notes = parse_requirements(text, virtualenv_path, tree, root)
        return CondaEnv(python or text_of(document.get("python")), tuple(lines), tuple(notes))
    note = Finding("note", "the model names no requirements; the flavour's own are used", model.path)
    return CondaEnv(python, (), (note,))


def _python_of(model: Model, conda_path: str, virtualenv_path: str) -> str | None:
    """The Python version that the environment files tell, where the MLmodel does not."""
    if virtualenv_path in model.tree:
        return text_of(yaml_of(model.tree, virtualenv_path).get("python"))
    if conda_path in model.tree:
        entries = yaml_of(model.tree, conda_path).get("dependencies") or ()
        found = (re.match(r"python\s*=+\s*(\d+\.\d+[\d.]*)", entry) for entry in entries if isinstance(entry, str))
        return next((match[1].rstrip(".") for match in found if match), None)
    return None


def yaml_of(tree: Tree, path: str) -> dict[str, Any]:
    try:
        value = load_yaml(decode(tree.read(path), path))
    except ValueError as error:
        raise invalid(path, f"it is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise invalid(path, "it is no mapping")
    return value


def text_of(value: Any) -> str | None:
    return None if value is None else str(value)


def invalid(path: str, reason: str) -> InputError:
    return InputError("artifact-invalid", f"{path}: {reason}.", "Save the model again with mlflow.")
