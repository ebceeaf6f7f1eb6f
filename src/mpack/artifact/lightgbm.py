"""Bare LightGBM files: the text model (.txt, .bst, whatever its name), and pickled wrappers inside other formats."""

from __future__ import annotations

import re

from mpack.artifact.model import Candidate, Description, Loader, Tree, Trust
from mpack.artifact.pickle_values import Blob
from mpack.artifact.pickles import PickleScan
from mpack.errors import InputError
from mpack.signature import Column, Signature
from mpack.spec import Requirement

_HEAD = 4 << 20
_TAIL = 1 << 20
#: Version of the text format -> releases of LightGBM that read it.
_RELEASES = {"v2": "lightgbm>=2.2,<4", "v3": "lightgbm>=3,<5", "v4": "lightgbm>=4,<5"}


class LightgbmFormat:
    """Format "lightgbm"."""

    name = "lightgbm"

    def detect(self, tree: Tree) -> list[Candidate]:
        return [Candidate(self.name, path) for path in tree if is_text_model(tree, path)]

    def read(self, tree: Tree, candidate: Candidate, trust: Trust) -> Description:
        path = candidate.root
        header = read_header(tree, path)
        needs = frozenset({"pandas"}) if _has_categories(_tail(tree, path)) else frozenset()
        return Description(
            format=self.name,
            flavor="lightgbm",
            name=None,
            version=None,
            python=None,
            requirements=(Requirement(_release(header, path), "model", path),),
            loader=Loader("lightgbm", path, {"class": "Booster"}),
            ships={path: path},
            signature=_signature(header),
            needs=needs,
        )


def is_text_model(tree: Tree, path: str) -> bool:
    """True if the file begins as LightGBM's text models do. Cheap."""
    head = tree.head(path, 64).replace(b"\r\n", b"\n")
    return head.startswith(b"tree\nversion=v") or head.startswith(b"tree\nnum_class=")


def read_header(tree: Tree, path: str) -> dict[str, str]:
    """The lines before the first tree. Raises InputError artifact-truncated if the model has no end."""
    text = tree.head(path, _HEAD).decode("utf-8", "replace").replace("\r\n", "\n")
    header = text.partition("\nTree=0")[0]
    if b"end of trees" not in _tail(tree, path) and "end of trees" not in text:
        raise InputError(
            "artifact-truncated",
            f"{path} is a LightGBM text model that ends before its last tree does.",
            "Copy or save it again.",
        )
    return dict(line.partition("=")[::2] for line in header.splitlines() if "=" in line)


def pickle_needs_pandas(scan: PickleScan) -> bool:
    """True if a pickled LightGBM model has categories of a DataFrame."""
    categories = [
        value for item in scan.instances_of("Booster") if (value := item.attribute("pandas_categorical")) is not None
    ]
    handles = [item.tail for item in scan.attributes("handle") if isinstance(item, Blob)]
    return any(getattr(value, "items", None) for value in categories) or any(map(_has_categories, handles))


def pickle_release(scan: PickleScan) -> str:
    """The releases of LightGBM that read the text model inside a pickle."""
    for handle in scan.attributes("handle"):
        match = re.search(rb"version=(v\d)", handle.head) if isinstance(handle, Blob) else None
        if match and match[1].decode() in _RELEASES:
            return _RELEASES[match[1].decode()]
    return "lightgbm"


def _tail(tree: Tree, path: str) -> bytes:
    with tree.open(path) as stream:
        stream.seek(max(0, tree[path].size - _TAIL))
        return stream.read()


def _has_categories(tail: bytes) -> bool:
    match = re.search(rb"pandas_categorical:(.*)", tail)
    return bool(match and match[1].strip() not in (b"null", b"[]", b""))


def _release(header: dict[str, str], path: str) -> str:
    version = header.get("version", "v2")
    if version not in _RELEASES:
        raise InputError(
            "artifact-invalid",
            f"{path} is a LightGBM text model of the version {version}, which mpack does not know.",
            f"It knows {', '.join(_RELEASES)}; package the model with mlflow.lightgbm, which tells LightGBM's release.",
        )
    return _RELEASES[version]


def _signature(header: dict[str, str]) -> Signature | None:
    """Its columns: names from training, or unnamed where LightGBM made them up."""
    names = header.get("feature_names", "").split()
    if not names:
        return None
    made_up = names == [f"Column_{index}" for index in range(len(names))]
    return Signature(inputs=tuple(Column(None if made_up else name, "double") for name in names))
