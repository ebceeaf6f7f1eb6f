"""Where in a tree Triton models stand, told by paths and by the first bytes of manifests alone.

A directory with MLmodel, or with an ODAHU manifest that has `binaries` or `model`, is never one of Triton's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from mpack.artifact.model import Tree
from mpack.artifact.triton_layout import CONFIG, KINDS, SCHEMA, SEED_KINDS, TRITON_ONLY, is_version

#: An ODAHU project file; the reference's Triton packager reads name and version at its top level.
MANIFESTS = ("odahuflow.project.yaml", "odahuflow.project.yml", "odahuflow.model.yaml", "odahuflow.model.yml")
_GPPI = re.compile(rb"binaries|^[\"']?model[\"']?\s*:|\"model\"\s*:", re.MULTILINE)
_SEED_FILES = frozenset(kind.file for kind in SEED_KINDS)
_FIXED = frozenset(kind.file for kind in KINDS)
#: What a file in a version directory may be called where nothing but the directories tells a Triton model.
_SUFFIXES = (".onnx", ".pt", ".pth", ".plan", ".graphdef", ".netdef", ".xml")
_BESIDE = (SCHEMA, "mpack.toml")


def find_roots(tree: Tree) -> list[str]:
    """Directories that are a model repository or one model, each once, sorted."""
    configured: set[str] = set()
    seeds: dict[str, set[str]] = {}
    versions: dict[str, set[str]] = {}
    native: set[str] = set()
    strange: set[str] = set()
    for path in tree:
        parts = path.split("/")
        for index, part in enumerate(parts):
            folder = "/".join(parts[:index])
            if part == CONFIG:
                configured.add(folder)
            if part in _SEED_FILES:
                seeds.setdefault(folder, set()).add(part)
            if index and is_version(parts[index - 1]) and (part in _FIXED or _is_model(parts, index)):
                versions.setdefault("/".join(parts[: index - 1]), set()).add(parts[index - 1])
                native |= {"/".join(parts[: index - 1])} if part in _FIXED else set()
        if parts[-1] == "MLmodel" or (parts[-1] in MANIFESTS and is_gppi(tree, path)):
            strange.add("/".join(parts[:-1]))
    roots = (
        set(_configured(configured, seeds, versions))
        | set(_seeds(tree, seeds))
        | set(_versions(tree, versions, native))
    )
    return sorted(roots - strange)


def is_gppi(tree: Tree, path: str) -> bool:
    """True for a manifest of a GPPI artifact: the Triton layout's has name and version at its top level only."""
    return _GPPI.search(tree.head(path, 1 << 16)) is not None


def is_seed(own: set[str], names: set[str], has_versions: bool) -> bool:
    """True for a directory with a model file of the seed's layout and no version directory with one.

    `own` are its files, `names` its files and directories.
    """
    return bool(names & _SEED_FILES) and not has_versions and bool({CONFIG, *MANIFESTS} & own or TRITON_ONLY & names)


def _is_model(parts: list[str], index: int) -> bool:
    """True for a model file by its suffix, in the version directory or in a folder there."""
    return len(parts) - index <= 2 and (parts[-1].endswith(_SUFFIXES) or parts[-1] == "saved_model.pb")


def _configured(configured: set[str], seeds: dict[str, set[str]], versions: dict[str, set[str]]) -> Iterator[str]:
    """A model with a config at the top stands for itself, and so does one in the seed's layout; else its repository."""
    for folder in configured:
        alone = folder == "" or (folder in seeds and folder not in versions)
        yield folder if alone else folder.rpartition("/")[0]


def _seeds(tree: Tree, seeds: dict[str, set[str]]) -> Iterator[str]:
    for folder, files in seeds.items():
        prefix = folder + "/" if folder else ""
        told = files & TRITON_ONLY or any(prefix + name in tree for name in MANIFESTS)
        if told and not is_version(folder.rpartition("/")[2]):
            yield folder


def _versions(tree: Tree, versions: dict[str, set[str]], native: set[str]) -> Iterator[str]:
    """Models without a config: several in one directory (`native`: under the names that Triton looks for), or one of
    several versions with nothing else beside them. A single version with one model is left to its file's format."""
    beside: dict[str, set[str]] = {}
    for path in tree:
        parts = path.split("/")
        for index, part in enumerate(parts):
            if (folder := "/".join(parts[:index])) in versions:
                beside.setdefault(folder, set()).add(part)
    siblings = Counter(folder.rpartition("/")[0] for folder in native if folder)
    for folder, numbers in versions.items():
        parent = folder.rpartition("/")[0]
        if folder in native and siblings[parent] > 1:
            yield parent
        elif all(is_version(name) or name in _BESIDE for name in beside[folder]) and (
            len(numbers) > 1 or _only_triton(tree, folder, numbers)
        ):
            yield folder


def _only_triton(tree: Tree, folder: str, numbers: set[str]) -> bool:
    prefix = folder + "/" if folder else ""
    return any(f"{prefix}{number}/{name}" in tree for number in numbers for name in TRITON_ONLY)
