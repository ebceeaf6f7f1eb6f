"""What every packager around mpack's runtime shares: the model's tree, model.json, the runtime's tree and requirements.

A packager for another server (Triton, OpenVINO) uses the parts that fit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mpack.artifact.model import Artifact, Loader, Sample
from mpack.artifact.plain import plain_extra
from mpack.artifact.requirements import parse
from mpack.contents import Contents, Source
from mpack.installed import requires
from mpack.plan import MODEL, MODEL_JSON, RUNTIME, VENV
from mpack.spec import FileEntry, FileTree, ImageConfig, Requirement, json_file, package_tree

RUNTIME_DISTRIBUTION = "mpack-runtime"
RUNTIME_MODULE = "mpack_runtime"
MODEL_SCHEMA = 1
ENTRYPOINT = (f"{VENV}/bin/python", "-m", RUNTIME_MODULE)


def runtime_requirements(extra: str, needs: frozenset[str] = frozenset()) -> tuple[Requirement, ...]:
    """The runtime distribution's requirements under `extra` ("rest", "cli"), and a plain line for each of `needs`."""
    lines: list[str] = []
    for text in requires(RUNTIME_DISTRIBUTION):
        plain = plain_extra(text)
        if plain is not None:
            lines += [plain[0]] if plain[1] == extra else []
            continue
        requirement = parse(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            requirement.marker = None
            lines.append(str(requirement))
    lines += sorted(needs)
    return tuple(Requirement(line, "runtime", f"{RUNTIME_DISTRIBUTION}[{extra}]") for line in lines)


def runtime_tree() -> tuple[FileTree, Contents]:
    """The runtime package under /opt/mpack/runtime."""
    return package_tree(RUNTIME_MODULE, RUNTIME)


def model_tree(artifact: Artifact) -> tuple[FileTree, Contents]:
    """The files that the image needs of the artifact, under /opt/mpack/model."""
    files = {file.path: file for file in artifact.files}
    entries: list[FileEntry] = []
    sources: dict[str, Source] = {}
    for image_path, path in artifact.description.ships.items():
        file = files[path]
        entries.append(FileEntry(image_path, file.size, file.sha256, 0o755 if file.executable else 0o644))
        sources[file.sha256] = file.source
    return FileTree("model", MODEL, tuple(entries)), Contents(sources)


def config_tree(artifact: Artifact, serving: Mapping[str, Any], *, native: bool = False) -> tuple[FileTree, Contents]:
    """model.json: what to load and how to serve it (its fields are in ARCHITECTURE.md).

    `native`: the runtime loads no model, another server's own backend does.
    """
    description = artifact.description
    value = {
        "schema": MODEL_SCHEMA,
        "name": artifact.name,
        "version": artifact.version,
        "loader": None if native else _loader(description.loader),
        "signature": description.signature.to_json() if description.signature else None,
        "sample": _sample(description.sample),
        "serving": dict(serving),
    }
    directory, _, name = MODEL_JSON.rpartition("/")
    entry, contents = json_file(name, value)
    return FileTree("config", directory, (entry,)), contents


def artifact_wheels(artifact: Artifact) -> Contents:
    """The bytes of the wheels that the artifact brought and its requirements name (lines "PATH.whl#sha256=HEX")."""
    named = " ".join(requirement.line for requirement in artifact.description.requirements)
    wheels = (file for file in artifact.files if file.path.endswith(".whl"))
    return Contents({file.sha256: file.source for file in wheels if f"#sha256={file.sha256}" in named})


def serving_trees(artifact: Artifact, serving: Mapping[str, Any]) -> tuple[tuple[FileTree, ...], Contents]:
    """The three trees of an image around mpack's runtime, in image order, and all bytes that a build needs."""
    made = (runtime_tree(), model_tree(artifact), config_tree(artifact, serving))
    contents = artifact_wheels(artifact)
    for _, part in made:
        contents = contents | part
    return tuple(tree for tree, _ in made), contents


def serving_env(settings: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    """The image's environment: Python's switches and the runtime's settings (MPACK_*), sorted."""
    fixed = {"PYTHONPATH": RUNTIME, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    # A module beside the data must not stand in for one of the environment (Python 3.11 and later).
    fixed["PYTHONSAFEPATH"] = "1"
    return tuple(sorted({**fixed, **{key: str(value) for key, value in settings.items()}}.items()))


def with_model_labels(config: ImageConfig, artifact: Artifact, packager: str) -> ImageConfig:
    """The labels that tell what is in the image: model, artifact digest, signature, consent to code in pickles, and
    what the model was converted to."""
    labels = {
        "org.opencontainers.image.title": artifact.name,
        "org.opencontainers.image.version": artifact.version,
        "dev.mpack.packager": packager,
        "dev.mpack.artifact.digest": artifact.digest,
        "dev.mpack.artifact.format": artifact.format,
    }
    if "converted" in artifact.description.loader.options:
        labels["dev.mpack.optimized"] = artifact.description.loader.kind
    if artifact.signature:
        labels["dev.mpack.signature"] = json.dumps(
            artifact.signature.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
    if artifact.trust.pickle:
        labels["dev.mpack.trust"] = "pickle"
    elif artifact.trust.modules:
        labels["dev.mpack.trust"] = "modules:" + ",".join(sorted(artifact.trust.modules))
    return config.add_labels(labels)


def _loader(loader: Loader) -> dict[str, Any]:
    return {"kind": loader.kind, "path": loader.path, "options": dict(loader.options)}


def _sample(sample: Sample | None) -> dict[str, Any] | None:
    if sample is None:
        return None
    return {
        "request": sample.request,
        "input_file": sample.input_file,
        "expected": sample.expected,
        "output_file": sample.output_file,
        "tolerance": sample.tolerance,
    }
