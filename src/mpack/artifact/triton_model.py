"""One Triton model of an artifact: which files go to which version directory, and what the files tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mpack.artifact.model import Finding, Tree
from mpack.artifact.onnx import read_onnx
from mpack.artifact.openvino import read_ir, weights_of
from mpack.artifact.savedmodel import read_saved_model
from mpack.artifact.triton_layout import (
    CONFIG,
    KINDS,
    MAX_VERSION,
    SCHEMA,
    SEED_KINDS,
    Files,
    Kind,
    backend_of,
    config_facts,
    directory_name,
    has_number_in_front,
    is_number,
    is_version,
    kinds_in,
    needs_file,
    split,
    triton_name,
)
from mpack.artifact.triton_schema import read_schema
from mpack.errors import InputError
from mpack.records import dataclass
from mpack.signature import Signature

_KNOWN = ", ".join(kind.file for kind in KINDS)
#: What a file of any name in a version directory becomes.
_RENAMED = (
    (".plan", "model.plan"),
    (".graphdef", "model.graphdef"),
    (".onnx", "model.onnx"),
    (".pt", "model.pt"),
    (".pth", "model.pt"),
    (".xml", "model.xml"),
)


@dataclass(frozen=True)
class Model:
    """`files`: path inside the model's directory -> path in the tree. `config_name`: the name in config.pbtxt."""

    name: str
    versions: tuple[str, ...]
    backend: str | None
    config: str | None
    files: Mapping[str, str]
    signature: Signature | None = None
    empty: bool = False
    config_name: str | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def version(self) -> str:
        """The version that Triton serves by default: the largest."""
        return max(self.versions, key=int)

    def to_json(self) -> dict[str, Any]:
        """As `loader.options` has it."""
        return {
            "name": self.name,
            "version": self.version,
            "versions": list(self.versions),
            "backend": self.backend,
            "config": self.config,
            "signature": self.signature.to_json() if self.signature else None,
            "empty": self.empty,
        }


def read_seed(tree: Tree, root: str, files: Files, name: str, version: str) -> Model:
    """ODAHU's layout: config.pbtxt beside the version, all else in it. The first model file tells the backend."""
    where = root or "the artifact"
    name = triton_name(name, "The name in the project file")
    own, _ = split(files)
    kind, *others = [kind for kind in kinds_in(files) if kind in SEED_KINDS]
    config = own.get(CONFIG)
    if config is None and not kind.completes:
        raise _invalid(
            f"{where} has {kind.file} but no {CONFIG}: config.pbtxt is required for {kind.backend} backend",
            "Write one with the model's inputs and outputs.",
        )
    if kind.file == "model.netdef" and "init_model.netdef" not in own:
        raise _invalid(f"{where} has model.netdef without init_model.netdef", "Add the file with the weights.")
    facts = config_facts(tree, config) if config else {}
    inner = {path: source for path, source in files.items() if path != CONFIG}
    placed = {f"{version}/{path}": source for path, source in inner.items()}
    findings = tuple(
        Finding(
            "warning", f"{other.file} beside {kind.file}: the {kind.backend} model is served", _join(root, other.file)
        )
        for other in others
    )
    return Model(
        name,
        (version,),
        backend_of(facts, [kind]),
        config,
        placed | ({CONFIG: config} if config else {}),
        _signature(tree, inner, kind),
        config_name=facts.get("name"),
        findings=findings,
    )


def read_model(
    tree: Tree, root: str, files: Files, name: str | None, fallback: str, *, directory: bool = False
) -> Model:
    """A model as Triton's own repositories have it. `name` is the manifest's; `fallback` a folder's or archive's, and
    `directory` says that it is the model's directory, whose name must be Triton's."""
    own, folders = split(files)
    if CONFIG in folders:
        raise _invalid(f"{_join(root, CONFIG)} is a directory", "It must be a file that describes the model.")
    config = own.get(CONFIG)
    facts = config_facts(tree, config) if config else {}
    versions = _versions(root, folders)
    newest = folders[max(versions, key=int)] if versions else {}
    kinds = kinds_in(newest)
    backend = backend_of(facts, kinds)
    if not versions and backend != "ensemble" and needs_file(backend):
        raise _no_version(root, own, folders)
    if not versions:
        versions = ["1"]
    elif config is None:
        _check_unconfigured(root, max(versions, key=int), kinds)
    elif not kinds and not newest and needs_file(backend):
        raise _invalid(f"{_join(root, versions[-1])} holds no model file", f"Put one there: {_KNOWN}.")
    if name is None:
        name = fallback if directory else facts.get("name") or directory_name(fallback)
    kind = next((kind for kind in kinds if kind.backend == backend), None)
    return Model(
        triton_name(name, f"The name of {root}" if directory else "The model's name"),
        tuple(versions),
        backend,
        config,
        {path: source for path, source in files.items() if path != SCHEMA},
        read_schema(tree, own[SCHEMA]) if SCHEMA in own else _signature(tree, newest, kind) if kind else None,
        empty=not newest,
        config_name=facts.get("name"),
        findings=tuple(_ignored(root, folders)),
    )


def read_versions(tree: Tree, root: str, files: Files, fallback: str) -> Model:
    """Numbered directories without a config: the largest above 0 is taken, its number kept, its file renamed."""
    where = root or "the artifact"
    own, folders = split(files)
    numbers = sorted((name for name in folders if is_version(name) and name != "0"), key=int)
    if not numbers:
        raise _invalid(
            f"{where} has no version directory above 0 (it has {', '.join(folders) or 'none'})",
            f"Name it by a number from 1 to {MAX_VERSION}, without leading zeros.",
        )
    version = numbers[-1]
    inner = folders[version]
    while not kinds_in(inner):
        here, deeper = split(inner)
        if here or len(deeper) != 1:
            break
        (inner,) = deeper.values()
    renamed = _renamed(_join(root, version), inner)
    kinds = kinds_in(renamed)
    _check_unconfigured(root, version, kinds)
    schema = own.get(SCHEMA) or inner.get(SCHEMA)
    findings = [Finding("note", f"version {version} is taken, of {', '.join(numbers)}", root or None)]
    return Model(
        directory_name(fallback),
        (version,),
        kinds[0].backend,
        None,
        {f"{version}/{path}": source for path, source in renamed.items()},
        read_schema(tree, schema) if schema else _signature(tree, renamed, kinds[0]),
        findings=tuple(findings) if len(numbers) > 1 else (),
    )


def _versions(root: str, folders: Mapping[str, Files]) -> list[str]:
    """Version directories, smallest first. Raises InputError for one that makes the server end, or wait forever."""
    for name in folders:
        if has_number_in_front(name) and not is_number(name):
            raise _invalid(
                f"{_join(root, name)}: Triton takes this directory for a version by its first characters, and then"
                " waits forever",
                "Rename it: a version is a number from 0, without sign, dot or letters.",
            )
        if is_number(name) and name[0] != "0" and not is_version(name):
            raise _invalid(
                f"{_join(root, name)}: this version ends the server; Triton's largest is {MAX_VERSION}",
                "Use a smaller number.",
            )
    return sorted((name for name in folders if is_version(name)), key=int)


def _ignored(root: str, folders: Mapping[str, Files]) -> list[Finding]:
    zeros = [name for name in folders if is_number(name) and not is_version(name)]
    message = "Triton ignores version directories with leading zeros"
    return [Finding("warning", message, _join(root, name)) for name in zeros]


def _no_version(root: str, own: Files, folders: Mapping[str, Files]) -> InputError:
    where = root or "the artifact"
    zeros = [name for name in folders if is_number(name)]
    if zeros:
        reason = f"{where} has no version directory but {', '.join(zeros)}, and Triton ignores those with leading zeros"
    elif kinds_in(own):
        reason = f"{where} has {kinds_in(own)[0].file}, but not in a version directory"
    else:
        reason = f"{where} has {CONFIG}, but no version directory with a model file: no Triton backend suits it"
    return _invalid(reason, f"Put the model into a directory named 1, as one of {_KNOWN}.")


def _check_unconfigured(root: str, version: str, kinds: list[Kind]) -> None:
    where = _join(root, version)
    if not kinds:
        raise _invalid(f"{where} holds no model file that Triton knows", f"Known are {_KNOWN}.")
    if len(kinds) > 1:
        names = " and ".join(kind.file for kind in kinds)
        raise InputError(
            "artifact-ambiguous",
            f"{where} has {names}, and no {CONFIG} says which is the model.",
            f'Write a {CONFIG} with backend: "…", or take one of them out.',
        )
    (kind,) = kinds
    if not kind.completes and kind.backend != "pytorch":
        raise _invalid(
            f"{where} has {kind.file} but no {CONFIG}: config.pbtxt is required for {kind.backend} backend",
            "Write one with the model's inputs and outputs beside the version directory.",
        )


def _renamed(where: str, files: Files) -> dict[str, str]:
    """The version's files with the model under the name that Triton looks for."""
    inner = {path: source for path, source in files.items() if path != SCHEMA}
    own, _ = split(inner)
    if kinds_in(inner):
        return inner
    if "saved_model.pb" in own:
        return {f"model.savedmodel/{path}": source for path, source in inner.items()}
    found = [(name, fixed) for name in own for suffix, fixed in _RENAMED if name.endswith(suffix)]
    if len(found) > 1:
        raise InputError(
            "artifact-ambiguous",
            f"{where} has more than one model file: {', '.join(name for name, _ in found)}.",
            "Leave one of them there.",
        )
    if not found:
        return inner
    ((name, fixed),) = found
    names = {name: fixed}
    if fixed == "model.xml":
        names[name.removesuffix(".xml") + ".bin"] = "model.bin"
    return {names.get(path, path): source for path, source in inner.items()}


def _signature(tree: Tree, files: Files, kind: Kind) -> Signature | None:
    """Inputs and outputs as the model file tells them; a damaged one is an error."""
    if kind.backend == "onnxruntime":
        path = files.get(kind.file) or files.get(f"{kind.file}/{kind.file}")
        return read_onnx(tree, path).signature if path else None
    if kind.file == "model.savedmodel":
        path = files.get(f"{kind.file}/saved_model.pb")
        return read_saved_model(tree, path).signature if path else None
    if kind.backend == "openvino":
        path = files[kind.file]
        return read_ir(tree, path, weights_of(path)).signature
    return None


def _join(root: str, name: str) -> str:
    return f"{root}/{name}" if root else name


def _invalid(reason: str, hint: str) -> InputError:
    return InputError(
        "artifact-invalid", f"{reason[0].upper()}{reason[1:]}." if reason.startswith("the ") else f"{reason}.", hint
    )
