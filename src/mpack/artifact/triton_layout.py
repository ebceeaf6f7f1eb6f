"""Triton's rules for names, versions and model files, and the light reading of config.pbtxt that layouts need.

What the server does with version directories (2.51, tried): it reads a leading number and takes no notice of what
follows. 0 to 2^63-1 are served; more ends the process; `007` is ignored, and a model with nothing else does not load;
`-1`, `+1`, `1x` and `1.0` are taken for a version whose files are then looked for elsewhere, and it waits forever.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mpack.artifact.model import Description, Tree
from mpack.errors import InputError
from mpack.records import dataclass

CONFIG = "config.pbtxt"
SCHEMA = "_schema.json"
MAX_VERSION = 2**63 - 1
_MAX_NAME = 200
_MAX_CONFIG = 1 << 20


@dataclass(frozen=True)
class Kind:
    """A model file (or directory) by the name that Triton's backend looks for. `completes`: config.pbtxt may be absent,
    because the backend or mpack reads inputs and outputs from the file."""

    file: str
    backend: str
    completes: bool = False


#: In the seed's order: the first that is there tells the backend. The last one is not the seed's.
KINDS = (
    Kind("model.py", "python"),
    Kind("model.plan", "tensorrt", True),
    Kind("model.savedmodel", "tensorflow", True),
    Kind("model.graphdef", "tensorflow"),
    Kind("model.onnx", "onnxruntime", True),
    Kind("model.pt", "pytorch"),
    Kind("model.netdef", "caffe2"),
    Kind("model.xml", "openvino", True),
)
SEED_KINDS = KINDS[:7]
#: Names that no other format has, so that they tell a Triton model without a config beside.
TRITON_ONLY = frozenset({"model.plan", "model.graphdef", "model.netdef"})
_BACKENDS = frozenset(kind.backend for kind in KINDS)
#: What config.pbtxt may say as `platform` -> the backend.
PLATFORMS = {
    "ensemble": "ensemble",
    "tensorrt_plan": "tensorrt",
    "tensorflow_graphdef": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
    "onnxruntime_onnx": "onnxruntime",
    "pytorch_libtorch": "pytorch",
    "caffe2_netdef": "caffe2",
}


def triton_name(text: str, where: str = "The model's name") -> str:
    """The name, if it can be Triton's model name and directory. Raises InputError artifact-invalid.

    The reference allows [/.a-zA-Z0-9-_]+. Here it is also the directory's name, so "/" and a leading "." (with that
    ".." too) are refused, and more than 200 characters.
    """
    if re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", text, re.ASCII) and len(text) <= _MAX_NAME:
        return text
    shown = text if len(text) <= 60 else text[:60] + "…"
    raise InputError(
        "artifact-invalid",
        f"{where}, {shown!r}, cannot be a Triton model's: Model name must be valid URL path segment.",
        f"Use letters, digits, '.', '_' and '-', not a '.' at the start, at most {_MAX_NAME} characters; "
        "mpack.toml beside the artifact can set another name.",
    )


def directory_name(text: str) -> str:
    """A file's or folder's name made fit for a model's directory: what is not allowed becomes "_"."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip(".")[:_MAX_NAME] or "model"


def triton_version(text: str, where: str = "The model's version") -> str:
    """The version directory: a number as it is, else all its digits joined ("1.0" -> "10", "v2-3" -> "23").

    Leading zeros go ("007" -> "7", "0.1" -> "1"), for Triton ignores directories that have them. Raises InputError
    artifact-invalid where there is no digit from 0 to 9, or for a number above 2^63-1, which ends the server.
    """
    digits = "".join(re.findall("[0-9]", text))
    shown = text if len(text) <= 60 else text[:60] + "…"
    if not digits:
        raise InputError(
            "artifact-invalid",
            f"{where}, {shown!r}, has no digit: Model version must be numeric.",
            "Give a version like 1 or 1.2 in the manifest or in mpack.toml.",
        )
    digits = digits.lstrip("0") or "0"
    if not is_version(digits):
        raise InputError(
            "artifact-invalid",
            f"{where}, {shown!r}, makes a number above {MAX_VERSION}, which is Triton's largest.",
            "Give a shorter version in the manifest or in mpack.toml.",
        )
    return digits


def is_number(name: str) -> bool:
    """True for digits from 0 to 9 alone."""
    return re.fullmatch("[0-9]+", name) is not None


def is_version(name: str) -> bool:
    """True for a directory that Triton serves as a version: a number without leading zeros, at most 2^63-1."""
    return re.fullmatch(r"0|[1-9][0-9]{0,18}", name, re.ASCII) is not None and int(name) <= MAX_VERSION


def has_number_in_front(name: str) -> bool:
    """True for a directory that the server takes for a version by its first characters, although it is none."""
    return not is_version(name) and re.match(r"\s*[+-]?[0-9]", name, re.ASCII) is not None


Files = Mapping[str, str]


def below(tree: Tree, root: str) -> dict[str, str]:
    """Files below a directory ("" for all): path relative to it -> path in the tree."""
    prefix = root + "/" if root else ""
    return {path.removeprefix(prefix): path for path in tree if path.startswith(prefix)}


def split(files: Files) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """(files that stand in the directory itself, sub-directories with their files)."""
    own: dict[str, str] = {}
    folders: dict[str, dict[str, str]] = {}
    for path, source in files.items():
        head, slash, rest = path.partition("/")
        if slash:
            folders.setdefault(head, {})[rest] = source
        else:
            own[head] = source
    return own, folders


def kinds_in(files: Files) -> list[Kind]:
    """The model files that stand in a directory, in the seed's order."""
    names = {path.partition("/")[0] for path in files}
    return [kind for kind in KINDS if kind.file in names]


def config_facts(tree: Tree, path: str) -> dict[str, str]:
    """Strings and words at the top level of a config.pbtxt (name, platform, backend, …); "ensemble_scheduling" -> ""
    where there is one. What is not text format gives whatever was understood: the packager parses and judges it.

    Raises InputError for a file of more than 1 MB, or no UTF-8.
    """
    try:
        text = tree.read(path, _MAX_CONFIG).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            "artifact-invalid",
            f"{path}: it is not UTF-8 text ({error.reason} at byte {error.start}).",
            "Write it in protobuf's text format.",
        ) from None
    facts: dict[str, str] = {}
    depth = 0
    field = ""
    for word in _words(text):
        if word in "{[<":
            if depth == 0 and field == "ensemble_scheduling":
                facts[field] = ""
            depth += 1
        elif word in "}]>":
            depth = max(0, depth - 1)
        elif word in "\"'":
            break  # a string without an end: no text format
        elif depth == 0 and word[0] in "\"'":
            facts.setdefault(field, word[1:-1])
        elif depth == 0 and word not in ":;,":
            field = word
    return facts


def _words(text: str) -> Iterator[str]:
    pattern = r"""#[^\n]*|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|[{}\[\]<>:;,"']|[^\s{}\[\]<>:;,#"']+"""
    return (match[0] for match in re.finditer(pattern, text) if match[0][0] != "#")


def backend_of(facts: Mapping[str, str], kinds: list[Kind]) -> str | None:
    """The backend that a config names, else that of the first model file; None where neither tells."""
    if "ensemble_scheduling" in facts or facts.get("platform") == "ensemble":
        return "ensemble"
    named = facts.get("backend") or PLATFORMS.get(facts.get("platform", ""))
    return named or (kinds[0].backend if kinds else None)


def needs_file(backend: str | None) -> bool:
    """True for a backend that loads a file out of the version directory."""
    return backend is None or backend in _BACKENDS


def arrange(description: Description) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """(models, ships) of a description of the format "triton", after mpack.toml: one model alone takes the
    description's name and signature, and in the seed's layout its version. Raises InputError where name or version
    cannot be Triton's."""
    options = description.loader.options
    models = [dict(model) for model in options["models"]]
    ships = dict(description.ships)
    if options["layout"] == "repository":
        return models, ships
    old = models[0]
    name = triton_name(description.name) if description.name else old["name"]
    version = old["version"]
    if options["layout"] == "seed":
        version = triton_version(description.version or "1")
    signature = description.signature.to_json() if description.signature else None
    new = {**old, "name": name, "version": version, "signature": signature}
    new["versions"] = [version if item == old["version"] else item for item in old["versions"]]
    before, after = f"{old['name']}/{old['version']}/", f"{name}/{version}/"
    moved = {
        after + path.removeprefix(before) if path.startswith(before) else f"{name}/{path.partition('/')[2]}": source
        for path, source in ships.items()
    }
    return [new], moved
