"""Format "triton": what only NVIDIA Triton serves as it is.

repository  a directory whose sub-directories are models, ensembles among them
model       one model: config.pbtxt beside version directories
seed        ODAHU's layout: model.py, model.onnx, … beside config.pbtxt, odahuflow.project.yaml and conda.yaml
versions    numbered directories without a config; the largest is taken, as KServe's adapter does

`loader.options` has "layout" and "models": {"name", "version" (what is served by default), "versions", "backend" or
None, "config" (its path in the tree, or None), "signature" (as JSON, or None), "empty" (True where the version has no
file, and its directory must be made)}. `ships` is relative to the repository. `triton_layout.arrange` applies
mpack.toml.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mpack.artifact.conda import CondaEnv, parse_conda
from mpack.artifact.model import Candidate, Description, Finding, Loader, Tree, Trust
from mpack.artifact.native import cpu_only
from mpack.artifact.pickles import show_pickles
from mpack.artifact.requirements import decode
from mpack.artifact.triton_detect import MANIFESTS, find_roots, is_seed
from mpack.artifact.triton_layout import CONFIG, Files, below, is_number, kinds_in, split, triton_version
from mpack.artifact.yamlfile import load_yaml
from mpack.errors import InputError
from mpack.records import dataclass
from mpack.spec import CondaWish, Requirement

if TYPE_CHECKING:
    from mpack.artifact.triton_model import Model

MAX_MODELS = 1000
CONDA = ("conda.yaml", "conda.yml")
_NOT_SHIPPED = frozenset({*CONDA, "mpack.toml"})
#: What stands beside the models of a repository and is not worth a note.
_EXPECTED_BESIDE = frozenset({*_NOT_SHIPPED, *MANIFESTS, "Dockerfile", "README.md", "README", "LICENSE"})


class TritonFormat:
    """Format "triton"."""

    name = "triton"

    def detect(self, tree: Tree) -> list[Candidate]:
        return [Candidate(self.name, root) for root in find_roots(tree)]

    def read(self, tree: Tree, candidate: Candidate, trust: Trust) -> Description:
        reading = _read(tree, candidate.root)
        environment = _environment(tree, reading.folders, conda=trust.conda)
        requirements, notes = cpu_only(environment.requirements, trust)
        ships = {f"{model.name}/{path}": source for model in reading.models for path, source in model.files.items()}
        code = [source for path, source in ships.items() if _is_code(path)]
        findings = [finding for model in reading.models for finding in model.findings]
        if code:
            findings.append(Finding("warning", f"the model brings its own code ({', '.join(code[:3])})", code[0]))
            findings += show_pickles(tree, ships.values())
        alone = reading.models[0] if len(reading.models) == 1 else None
        return Description(
            format=self.name,
            flavor=(alone.backend or "triton") if alone else "triton",
            name=reading.name,
            version=reading.version,
            python=environment.python,
            requirements=requirements,
            loader=Loader(
                "triton", "", {"layout": reading.layout, "models": [model.to_json() for model in reading.models]}
            ),
            ships=ships,
            signature=alone.signature if alone else None,
            brings_code=bool(code),
            conda=environment.conda,
            findings=(*findings, *reading.findings, *environment.findings, *notes),
        )


@dataclass(frozen=True)
class Reading:
    """One layout, read. `folders` are where a conda.yaml is looked for; `version` is as its author wrote it."""

    layout: str
    models: tuple[Model, ...]
    folders: tuple[str, ...]
    name: str | None = None
    version: str | None = None
    findings: tuple[Finding, ...] = ()


def _read(tree: Tree, root: str) -> Reading:
    from mpack.artifact.triton_model import read_model, read_seed, read_versions

    files = below(tree, root)
    own, folders = split(files)
    if CONFIG in folders:
        raise _invalid(_join(root, CONFIG), "it is a directory", "It must be a file that describes the model.")
    has_versions = any(is_number(name) and kinds_in(inner) for name, inner in folders.items())
    shipped = {path: source for path, source in files.items() if path not in _NOT_SHIPPED}
    if is_seed(set(own), {*own, *folders}, has_versions):
        name, version = _manifest(tree, own)
        model = read_seed(tree, root, shipped, name, triton_version(version, "The version in the project file"))
        return Reading("seed", (model,), (root,), name, version)
    fallback = root.rpartition("/")[2] or tree.title
    if CONFIG in own:
        told = _manifest(tree, own)[0] if any(item in own for item in MANIFESTS) else None
        model = read_model(tree, root, shipped, told, fallback)
        return Reading("model", (model,), (root,), told or model.config_name, model.version)
    if not folders or all(map(is_number, folders)):
        model = read_versions(tree, root, shipped, fallback)
        return Reading("versions", (model,), (root,), None, model.version)
    return _repository(tree, root, own, folders)


def _repository(tree: Tree, root: str, own: Files, folders: Mapping[str, Files]) -> Reading:
    from mpack.artifact.triton_model import read_model

    models: list[Model] = []
    findings: list[Finding] = []
    named = [name for name, files in folders.items() if _is_model(files)]
    if len(named) > MAX_MODELS:
        raise InputError(
            "artifact-too-large",
            f"{root or 'The repository'} has {len(named)} models; one image may hold {MAX_MODELS}.",
            "Make several images of it.",
        )
    for name in named:
        models.append(read_model(tree, _join(root, name), folders[name], None, name, directory=True))
    left_out = [name for name in (*folders, *own) if name not in named and name not in _EXPECTED_BESIDE]
    if left_out:
        more = f" and {len(left_out) - 5} more" if len(left_out) > 5 else ""
        findings.append(Finding("note", f"left out, being no model: {', '.join(left_out[:5])}{more}", root or None))
    alone = models[0] if len(models) == 1 else None
    places = (root, *(_join(root, name) for name in named))
    return Reading(
        "repository",
        tuple(models),
        places,
        alone.name if alone else None,
        alone.version if alone else None,
        tuple(findings),
    )


def _is_model(files: Files) -> bool:
    own, folders = split(files)
    return (
        CONFIG in own
        or CONFIG in folders
        or any(is_number(name) and kinds_in(inner) for name, inner in folders.items())
    )


def _manifest(tree: Tree, own: Files) -> tuple[str, str]:
    """(name, version) of the project file, at its top level; what it does not say is model and 1."""
    path = next((own[name] for name in MANIFESTS if name in own), None)
    if path is None:
        return "model", "1"
    try:
        value = load_yaml(decode(tree.read(path, 1 << 20), path))
    except ValueError as error:
        raise _invalid(path, f"it is not YAML: {' '.join(str(error).split())}") from None
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise _invalid(path, "it is no mapping")
    return _text(value, "name", "model", path), _text(value, "version", "1", path)


def _text(value: dict[Any, Any], key: str, default: str, path: str) -> str:
    found = value.get(key, default)
    if isinstance(found, bool) or not isinstance(found, (str, int, float)):
        raise _invalid(path, f"{key} is neither text nor a number", "Write it in quotes.")
    try:
        return str(found)
    except ValueError:  # Python writes no number of more than 4300 digits
        raise _invalid(path, f"{key} is too large a number") from None


def _environment(tree: Tree, folders: tuple[str, ...], *, conda: bool) -> CondaEnv:
    """All models of an image share one environment: every conda.yaml beside or in them, together."""
    python: str | None = None
    requirements: dict[str, Requirement] = {}
    findings: list[Finding] = []
    read = [(path, folder) for folder in folders for path in [_environment_file(tree, folder)] if path]
    found_all = [parse_conda(decode(tree.read(path), path), path, tree, folder, always=conda) for path, folder in read]
    if any(found.conda for found in found_all) and not all(found.conda for found in found_all):
        return _environment(tree, folders, conda=True)
    for (path, _), found in zip(read, found_all, strict=True):
        if python and found.python and _minor(found.python) != _minor(python):
            message = f"it asks for Python {found.python}; all models of an image share one, {python}"
            findings.append(Finding("warning", message, path))
        python = python or found.python
        requirements |= {item.line: item for item in found.requirements}
        findings += found.findings
    wishes = [found.conda for found in found_all if found.conda]
    specs = tuple(dict.fromkeys(item for wish in wishes for item in wish.specs))
    channels = tuple(dict.fromkeys(item for wish in wishes for item in wish.channels))
    wish = CondaWish(specs, channels) if wishes else None
    return CondaEnv(python, tuple(requirements.values()), tuple(findings), wish)


def _environment_file(tree: Tree, folder: str) -> str | None:
    return next((path for name in CONDA if (path := _join(folder, name)) in tree), None)


def _minor(version: str) -> str:
    """ "3.11.7" -> "3.11"."""
    return ".".join(version.split(".")[:2])


def _is_code(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name == "model.py" or (name.startswith("libtriton_") and name.endswith(".so"))


def _join(root: str, name: str) -> str:
    return f"{root}/{name}" if root else name


def _invalid(path: str, reason: str, hint: str = "Correct the file.") -> InputError:
    return InputError("artifact-invalid", f"{path}: {reason}.", hint)
