"""ODAHU GPPI artifacts: odahuflow.project.yaml, a working directory with an entry point, and a conda file.

The manifest is checked in the reference's order and with its words. head_input.pkl and head_output.pkl are samples that
only the image reads.
"""

from __future__ import annotations

import json
from typing import Any

from mpack.artifact.conda import parse_conda
from mpack.artifact.model import Candidate, Description, Finding, Loader, Sample, Tree, Trust
from mpack.artifact.native import cpu_only
from mpack.artifact.pickles import show_pickles
from mpack.artifact.requirements import decode
from mpack.artifact.yamlfile import load_yaml
from mpack.errors import InputError

#: The name that all code of the reference uses comes first; its documentation has the other.
MANIFESTS = ("odahuflow.project.yaml", "odahuflow.project.yml", "odahuflow.model.yaml", "odahuflow.model.yml")
INPUT_SAMPLE, OUTPUT_SAMPLE = "head_input.pkl", "head_output.pkl"


class OdahuFormat:
    """Format "odahu"."""

    name = "odahu"

    def detect(self, tree: Tree) -> list[Candidate]:
        """Directories with a manifest that has a `binaries` section: Triton projects have the same file without."""
        folders = {
            path.rpartition("/")[0]
            for path in tree
            if path.rpartition("/")[2] in MANIFESTS and b"binaries" in tree.head(path, 1 << 16)
        }
        return [Candidate(self.name, folder) for folder in sorted(folders)]

    def read(self, tree: Tree, candidate: Candidate, trust: Trust) -> Description:
        prefix = candidate.root + "/" if candidate.root else ""
        path = next(prefix + name for name in MANIFESTS if prefix + name in tree)
        manifest = _parse(decode(tree.read(path), path), path)
        model, conda_path = _check(manifest, path)
        workdir = str(model.get("workDir") or ".").strip("/").removeprefix("./").rstrip("/")
        workdir = "" if workdir == "." else workdir
        entrypoint = str(model.get("entrypoint") or "entrypoint").removesuffix(".py")
        _check_entrypoint(tree, prefix, workdir, entrypoint, path)
        conda = prefix + conda_path.removeprefix("./")
        if conda not in tree:
            raise _invalid(path, f"binaries.conda_path names {conda_path}, which is not in the artifact")
        folder = conda.rpartition("/")[0]
        environment = parse_conda(decode(tree.read(conda), conda), conda, tree, folder, always=trust.conda)
        requirements, notes = cpu_only(environment.requirements, trust)
        files = [name for name in tree if name.startswith(prefix)]
        sample = _sample(tree, prefix, workdir)
        return Description(
            format=self.name,
            flavor="odahu",
            name=str(model["name"]),
            version=str(model["version"]),
            python=environment.python,
            requirements=requirements,
            loader=Loader("odahu", workdir, {"entrypoint": entrypoint, "workdir": workdir or "."}),
            ships={name.removeprefix(prefix): name for name in files},
            sample=sample,
            needs=frozenset({"pandas"}) if sample else frozenset(),
            brings_code=True,
            conda=environment.conda,
            findings=(
                Finding("warning", f"the model brings its own code (entry point {entrypoint})", path),
                *environment.findings,
                *notes,
                *show_pickles(tree, files),
            ),
        )


def _parse(text: str, path: str) -> dict[str, Any]:
    """JSON first, then YAML, as the reference reads it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            value = load_yaml(text)
        except ValueError as error:
            raise _incorrect(path, " ".join(str(error).split())) from None
    if not isinstance(value, dict):
        raise _incorrect(path, "it is no mapping")
    return value


def _check(manifest: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """The model section and conda_path, checked in the reference's order: type, dependencies, model, version, conda."""
    binaries = manifest.get("binaries")
    if not isinstance(binaries, dict):
        raise _incorrect(path, "binaries is not set")
    for key in ("type", "dependencies"):
        if not isinstance(binaries.get(key), str):
            raise _incorrect(path, f"binaries.{key} is not set")
    if binaries["type"] != "python":
        raise _invalid(path, f"Unsupported model binaries type: {binaries['type']}")
    if binaries["dependencies"] != "conda":
        raise _invalid(path, f"Unsupported model dependencies type: {binaries['dependencies']}")
    model = manifest.get("model")
    if model is None:
        raise _invalid(path, "Model section is not set")
    if not isinstance(model, dict) or not all(_is_text(model.get(key)) for key in ("name", "version")):
        raise _incorrect(path, "model.name and model.version must be set")
    if not manifest.get("odahuflowVersion"):
        raise _invalid(path, "odahuflowVersion is not set")
    if not binaries.get("conda_path"):
        raise _invalid(path, "Conda path is not set")
    return model, str(binaries["conda_path"])


def _is_text(value: Any) -> bool:
    """Text, or a number that the reference coerces to text."""
    return isinstance(value, (str, int, float)) and not isinstance(value, bool) and value != ""


def _check_entrypoint(tree: Tree, prefix: str, workdir: str, entrypoint: str, path: str) -> None:
    folder = prefix + (workdir + "/" if workdir else "")
    if workdir.split("/").count("..") or not any(name.startswith(folder) for name in tree):
        raise _invalid(path, f"model.workDir names {workdir}, which is not in the artifact")
    module = folder + entrypoint.replace(".", "/")
    if f"{module}.py" not in tree and f"{module}/__init__.py" not in tree:
        raise _invalid(
            path, f"model.entrypoint names the module {entrypoint}, which is not in {workdir or 'the artifact'}"
        )


def _sample(tree: Tree, prefix: str, workdir: str) -> Sample | None:
    folder = workdir + "/" if workdir else ""
    if prefix + folder + INPUT_SAMPLE not in tree:
        return None
    output = folder + OUTPUT_SAMPLE if prefix + folder + OUTPUT_SAMPLE in tree else None
    return Sample(input_file=folder + INPUT_SAMPLE, output_file=output)


def _incorrect(path: str, reason: str) -> InputError:
    return _invalid(path, f"Odahu manifest file is in incorrect format: {reason}")


def _invalid(path: str, reason: str) -> InputError:
    return InputError(
        "artifact-invalid", f"{path}: {reason}.", "Correct the manifest, or train and pack the model again."
    )
