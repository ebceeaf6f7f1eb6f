"""The model repository of an image: /opt/mpack/repository/<model>/{config.pbtxt,<version>/…}, from an artifact."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mpack.artifact.model import Artifact, ArtifactFile, Tree
from mpack.artifact.onnx import read_onnx
from mpack.artifact.triton_layout import CONFIG, arrange, triton_name, triton_version
from mpack.contents import Contents, Source, sha256_bytes
from mpack.errors import InputError
from mpack.plan import RUNTIME
from mpack.signature import Signature
from mpack.spec import FileEntry
from mpack_docker_triton.backends import FILES
from mpack_docker_triton.check import Subject, check_repository
from mpack_docker_triton.generate import DEFAULT_MAX_BATCH, apply, declared, generate
from mpack_docker_triton.modelconfig import parse, write
from mpack_docker_triton.schema import Message

if TYPE_CHECKING:
    from mpack_docker_triton.packager import TritonArguments

ROOT = "/opt/mpack/repository"
#: The backend's Python is isolated: it takes no PYTHONPATH.
MODEL_PY = f'''"""The model of /opt/mpack/model.json in Triton's Python backend."""

import sys

sys.path.insert(0, "{RUNTIME}")

from mpack_runtime.triton.model import TritonPythonModel  # noqa: E402, F401
'''.encode()
#: Bytes of all config.pbtxt of a repository together.
MAX_CONFIGS = 4 << 20
_MAX_CODE = 16 << 20


@dataclass(frozen=True)
class Repository:
    """The files below ROOT, and what model.json tells the runtime of them.

    `declared` is model -> inputs and outputs as V2 metadata shows them; `asked` the model that a sample without a name
    is for, `version` the one of it that Triton serves by default; `runs_python`: a model.py of the user's is among
    them; `needs`: files that the base must have.
    """

    files: tuple[FileEntry, ...]
    contents: Contents
    version: str | None
    asked: str | None
    declared: Mapping[str, Any]
    native: bool
    runs_python: bool = False
    needs: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    root: str = ROOT

    def serving(self) -> dict[str, Any]:
        """The part `serving` of model.json."""
        return {
            "server": "triton",
            "repository": self.root,
            "model": self.asked,
            "version": self.version,
            "native": self.native,
            "models": list(self.models),
            "declared": dict(self.declared),
        }


@dataclass
class _Files:
    """Files of a repository while it is put together."""

    entries: dict[str, FileEntry] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)

    def add(self, path: str, file: ArtifactFile) -> None:
        self.entries[path] = FileEntry(path, file.size, file.sha256, 0o755 if file.executable else 0o644)
        self.sources[file.sha256] = file.source

    def write(self, path: str, data: bytes) -> None:
        sha256 = sha256_bytes(data)
        self.entries[path] = FileEntry(path, len(data), sha256)
        self.sources[sha256] = data

    def by_model(self) -> dict[str, list[str]]:
        """The paths in each model's directory, relative to it."""
        found: dict[str, list[str]] = {}
        for path in self.entries:
            model, _, inner = path.partition("/")
            found.setdefault(model, []).append(inner)
        return found

    def done(self) -> tuple[tuple[FileEntry, ...], Contents]:
        return tuple(self.entries[path] for path in sorted(self.entries)), Contents(self.sources)


def wrapped_repository(artifact: Artifact, arguments: TritonArguments) -> Repository:
    """One model of the Python backend around mpack's runtime, for every model that the runtime loads."""
    return _single(artifact, arguments, "python", artifact.signature, {"model.py": MODEL_PY})


def native_onnx(artifact: Artifact, arguments: TritonArguments) -> Repository:
    """One ONNX model for Triton's own backend, with the files of its weights beside it.

    Its tensors are those of the file: a signature may describe a table around them.
    """
    loader = artifact.description.loader
    tree = Tree({file.path: file for file in artifact.files}, artifact.name)
    signature = read_onnx(tree, artifact.description.ships[loader.path]).signature
    return _single(artifact, arguments, "onnxruntime", signature, _shipped(artifact, "model.onnx"))


def native_repository(artifact: Artifact, arguments: TritonArguments) -> Repository:
    """What only Triton loads: the artifact's own repository or model, or one file that a backend reads."""
    kind = artifact.description.loader.kind
    if kind == "triton":
        return _brought(artifact, arguments)
    backend = {"savedmodel": "tensorflow", "torchscript": "pytorch", "openvino": "openvino"}[kind]
    return _single(artifact, arguments, backend, artifact.signature, _shipped(artifact, FILES[backend][0]))


def _single(
    artifact: Artifact,
    arguments: TritonArguments,
    backend: str,
    signature: Signature | None,
    files: Mapping[str, bytes | ArtifactFile],
) -> Repository:
    """A repository of one model with a generated configuration."""
    name, version = triton_name(artifact.name), triton_version(artifact.version)
    config = _generated(name, backend, signature, arguments)
    made = _Files()
    made.write(f"{name}/config.pbtxt", write(config).encode())
    for path, content in files.items():
        if isinstance(content, bytes):
            made.write(f"{name}/{version}/{path}", content)
        else:
            made.add(f"{name}/{version}/{path}", content)
    entries, contents = made.done()
    native = backend != "python"
    return Repository(
        entries,
        contents,
        version,
        asked=name,
        declared={name: declared(config)},
        native=native,
        needs=_needs([backend], made),
        models=(name,),
    )


def _brought(artifact: Artifact, arguments: TritonArguments) -> Repository:
    """The artifact's own models. Configurations are checked, completed and written again; all else stays as it is."""
    models, ships = arrange(artifact.description)
    files = {file.path: file for file in artifact.files}
    _check_size(models, files)
    made = _Files()
    for path, source in ships.items():
        made.add(path, files[source])
    rename = artifact.description.loader.options["layout"] != "repository"
    configs = {model["name"]: _config(model, files, arguments, rename=rename) for model in models}
    inside = made.by_model()
    subjects = [
        Subject(
            name=model["name"],
            path=model["config"] or f"{model['name']}/{CONFIG}",
            config=configs[model["name"]],
            text=_text(files, model["config"]),
            versions=tuple(model["versions"]),
            files=tuple(inside.get(model["name"], ())),
            signature=_signature(model),
            completes=_completes(model, files, ships),
        )
        for model in models
    ]
    findings = check_repository(subjects)
    for model in models:
        name = model["name"]
        made.write(f"{name}/{CONFIG}", write(configs[name]).encode())
        if model["empty"]:
            made.write(f"{name}/{model['version']}/.keep", b"")
    entries, contents = made.done()
    asked = _asked(subjects)
    return Repository(
        entries,
        contents,
        version=str(asked.loaded[0]) if asked else None,
        asked=asked.name if asked else None,
        declared={name: declared(config) for name, config in sorted(configs.items())},
        native=True,
        runs_python=any(subject.backend == "python" for subject in subjects),
        needs=_needs([subject.backend for subject in subjects], made),
        models=tuple(sorted(configs)),
        warnings=tuple(f"{item.path}: {item.message}" for item in findings if item.level != "note"),
    )


def _completes(model: Mapping[str, Any], files: Mapping[str, ArtifactFile], ships: Mapping[str, str]) -> bool:
    """True if the model's own model.py says its inputs and outputs when it is loaded."""
    source = ships.get(f"{model['name']}/{model['version']}/model.py")
    if source is None:
        return False
    with files[source].source.open("rb") as stream:
        return b"def auto_complete_config" in stream.read(_MAX_CODE)


def _check_size(models: list[dict[str, Any]], files: Mapping[str, ArtifactFile]) -> None:
    size = sum(files[model["config"]].size for model in models if model["config"])
    if size > MAX_CONFIGS:
        raise InputError(
            "artifact-too-large",
            f"The models' {CONFIG} are {size} bytes together; those of a repository may have {MAX_CONFIGS}.",
            "Make several images of the models.",
        )


def _config(
    model: Mapping[str, Any], files: Mapping[str, ArtifactFile], arguments: TritonArguments, *, rename: bool
) -> Message:
    """A model's configuration: its own with the backend named, or one made from what its file tells."""
    name, path = model["name"], model["config"]
    if path is None:
        return _generated(name, model["backend"], _signature(model), arguments)
    config = parse(files[path].source.read_bytes(), path)
    if rename or not config.name:
        config.name = name
    if not config.backend and not config.platform and model["backend"] != "ensemble":
        config.backend = model["backend"] or ""
    _apply(config, arguments)
    return config


def _generated(name: str, backend: str, signature: Signature | None, arguments: TritonArguments) -> Message:
    config = generate(
        name,
        backend,
        signature,
        max_batch_size=DEFAULT_MAX_BATCH if arguments.maxBatchSize is None else arguments.maxBatchSize,
        dynamic_batching=arguments.dynamicBatching is not False,
    )
    _apply(config, arguments)
    return config


def _apply(config: Message, arguments: TritonArguments) -> None:
    """What the user said; of an ensemble, whose scheduling is its steps', only the batch size."""
    if config.HasField("ensemble_scheduling"):
        apply(config, max_batch_size=arguments.maxBatchSize)
        return
    apply(
        config,
        instances=arguments.instances,
        dynamic_batching=arguments.dynamicBatching,
        max_queue_delay_us=arguments.maxQueueDelay,
        max_batch_size=arguments.maxBatchSize,
    )


def _text(files: Mapping[str, ArtifactFile], path: str | None) -> str:
    return files[path].source.read_text("utf-8") if path else ""


def _signature(model: Mapping[str, Any]) -> Signature | None:
    return Signature.from_json(model["signature"]) if model["signature"] else None


def _asked(subjects: list[Subject]) -> Subject | None:
    """The model that a sample without a name is for: the only one, else the only ensemble."""
    ensembles = [subject for subject in subjects if subject.backend == "ensemble"]
    return next((choice[0] for choice in (subjects, ensembles) if len(choice) == 1), None)


def _shipped(artifact: Artifact, name: str) -> dict[str, bytes | ArtifactFile]:
    """What the model ships, with its own file or directory under the name that the backend looks for."""
    files = {file.path: file for file in artifact.files}
    path = artifact.description.loader.path
    folder = path.rpartition("/")[0]
    moved: dict[str, bytes | ArtifactFile] = {}
    for image_path, source in artifact.description.ships.items():
        inner = image_path.removeprefix(folder + "/") if folder else image_path
        if image_path == path:
            inner = name
        elif image_path.startswith(path + "/"):
            inner = f"{name}/{image_path.removeprefix(path + '/')}"
        elif name == "model.xml" and image_path == path.removesuffix(".xml") + ".bin":
            inner = "model.bin"
        if inner in moved:
            raise InputError(
                "artifact-invalid",
                f"{source} would stand beside the model as {inner}, which is the model's own name for Triton.",
                "Give the file another name, and name it so in the model.",
            )
        moved[inner] = files[source]
    return moved


def _needs(backends: Iterable[str], made: _Files) -> tuple[str, ...]:
    """The libraries of backends that the base must have: all but those that the repository brings."""
    wanted = set(backends) - {"ensemble"}
    brought = {path.rpartition("/")[2] for path in made.entries}
    return tuple(
        f"/opt/tritonserver/backends/{backend}/libtriton_{backend}.so"
        for backend in sorted(wanted)
        if f"libtriton_{backend}.so" not in brought
    )
