"""Two images compared: configuration, then layers paired by what they are, then the files of those that differ."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from mpack.diff.fields import FieldChange, changes, config_fields, manifest_fields
from mpack.diff.items import FIELDS, Budget, Item, read_items, require_diff_id
from mpack.errors import InputError
from mpack.oci.image import OciImage
from mpack.oci.layer import Layer
from mpack.plan import MODEL_JSON, RUNTIME, VENV
from mpack.spec import LAYER_KINDS

_DIST_INFO = re.compile(r"/([A-Za-z0-9._]+)-([^/-]+)\.dist-info/METADATA$")
_OURS = MODEL_JSON.removesuffix("model.json")


@dataclass(frozen=True)
class Side:
    """One of the two. `digest` is its manifest's, None where its source keeps none (an engine, a docker archive)."""

    reference: str
    image: OciImage
    digest: str | None

    def to_json(self) -> dict[str, Any]:
        return {"reference": self.reference, "id": self.image.id, "digest": self.digest}


@dataclass(frozen=True)
class PackageChange:
    """A Python package in layers that differ: its versions in A and in B, none or several."""

    name: str
    old: tuple[str, ...]
    new: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "old": list(self.old), "new": list(self.new)}


@dataclass(frozen=True)
class LayerDiff:
    """A pair of layers, or a layer that one image has alone.

    `status`: same; compression (the same tar in other blobs); changed; only-a; only-b. `a` and `b` are (place, layer).
    """

    status: str
    kind: str
    a: tuple[int, Layer] | None
    b: tuple[int, Layer] | None
    added: Mapping[str, Item]
    removed: Mapping[str, Item]
    changed: Mapping[str, tuple[Item, Item]]

    @property
    def only_form(self) -> bool:
        """True for a changed layer whose files are the same: the entries' order or the headers' form differs."""
        return self.status == "changed" and not (self.added or self.removed or self.changed)

    def to_json(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "kind": self.kind,
            "a": _layer_json(self.a),
            "b": _layer_json(self.b),
            "added": [{"path": path, **item.to_json()} for path, item in self.added.items()],
            "removed": [{"path": path, **item.to_json()} for path, item in self.removed.items()],
            "changed": [{"path": path, **item_changes(*pair)} for path, pair in self.changed.items()],
        }


@dataclass(frozen=True)
class ImageDiff:
    """What came of it. `same`: the digests are equal, or, where one side has none, the ids. `same_content`: the ids
    are, hence the configuration and every layer's tar. `reordered`: layers of both stand in another order."""

    a: Side
    b: Side
    same: bool
    same_content: bool
    configuration: tuple[FieldChange, ...]
    manifest: tuple[FieldChange, ...]
    packages: tuple[PackageChange, ...]
    layers: tuple[LayerDiff, ...]
    reordered: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "same": self.same,
            "same_content": self.same_content,
            "a": self.a.to_json(),
            "b": self.b.to_json(),
            "configuration": [change.to_json() for change in self.configuration],
            "manifest": [change.to_json() for change in self.manifest],
            "packages": [change.to_json() for change in self.packages],
            "layers": [layer.to_json() for layer in self.layers],
            "reordered": self.reordered,
        }


def compare(a: Side, b: Side, budget: Budget | None = None) -> ImageDiff:
    """Compares two images whose blobs are at hand; only layers that differ are read.

    Raises InputError base-unsuitable for a layer that cannot be read or takes too much, EnvironmentFault for damage.
    """
    budget = budget or Budget()
    same_content = a.image.id == b.image.id
    blobs = a.digest is not None and b.digest is not None
    same = a.digest == b.digest if blobs else same_content
    pairs, rest_a, rest_b = _matched(a.image, b.image)
    items_a = {number: read_items(a.image, number, budget) for number in rest_a}
    items_b = {number: read_items(b.image, number, budget) for number in rest_b}
    layers = [_same(a.image, b.image, pair, blobs, budget) for pair in pairs]
    layers += _differing(a.image, b.image, items_a, items_b)
    layers.sort(key=lambda item: (LAYER_KINDS.index(item.kind), (item.a or item.b or (0,))[0], item.a is None))
    places = [number for _, number in pairs]
    return ImageDiff(
        a,
        b,
        same,
        same_content,
        () if same_content else changes(config_fields(a.image.config), config_fields(b.image.config)),
        changes(manifest_fields(a.image), manifest_fields(b.image)) if same_content and blobs else (),
        _packages(items_a.values(), items_b.values()),
        tuple(layers),
        places != sorted(places),
    )


def item_changes(old: Item, new: Item) -> dict[str, Any]:
    """Field -> [old, new] of what differs."""
    return {name: [old.field(name), new.field(name)] for name in FIELDS if old.field(name) != new.field(name)}


def _matched(a: OciImage, b: OciImage) -> tuple[list[tuple[int, int]], list[int], list[int]]:
    """Layers with one diff id as (place in A, place in B), and the places of all others."""
    left: dict[str, list[int]] = {}
    for number, layer in enumerate(b.layers):
        left.setdefault(layer.diff_id, []).append(number)
    pairs, rest = [], []
    for number, layer in enumerate(a.layers):
        if left.get(layer.diff_id):
            pairs.append((number, left[layer.diff_id].pop(0)))
        else:
            rest.append(number)
    return pairs, rest, sorted(number for numbers in left.values() for number in numbers)


def _same(a: OciImage, b: OciImage, pair: tuple[int, int], blobs: bool, budget: Budget) -> LayerDiff:
    first, second = a.layers[pair[0]], b.layers[pair[1]]
    status = "same"
    if blobs and first.digest != second.digest:
        require_diff_id(a, pair[0], budget)
        require_diff_id(b, pair[1], budget)
        status = "compression"
    kind = second.kind if first.kind == "base" else first.kind
    return LayerDiff(status, _known(kind), (pair[0], first), (pair[1], second), {}, {}, {})


def _differing(
    a: OciImage, b: OciImage, items_a: Mapping[int, Mapping[str, Item]], items_b: Mapping[int, Mapping[str, Item]]
) -> list[LayerDiff]:
    """The layers that no diff id pairs, paired in order within their kind."""
    by_kind: dict[str, tuple[list[int], list[int]]] = {}
    for side, (image, tables) in enumerate(((a, items_a), (b, items_b))):
        for number, items in tables.items():
            by_kind.setdefault(layer_kind(image, number, items), ([], []))[side].append(number)
    found = []
    for kind, (left, right) in by_kind.items():
        for first, second in zip_longest(left, right):
            one = None if first is None else (first, a.layers[first])
            other = None if second is None else (second, b.layers[second])
            found.append(_pair(kind, one, other, items_a.get(first, {}), items_b.get(second, {})))
    return found


def _pair(
    kind: str,
    a: tuple[int, Layer] | None,
    b: tuple[int, Layer] | None,
    old: Mapping[str, Item],
    new: Mapping[str, Item],
) -> LayerDiff:
    """Two layers with different diff ids, or one that has no counterpart."""
    if a and b and a[1].digest == b[1].digest:
        raise InputError(
            "base-unsuitable",
            f"The images name two diff ids for the one layer {a[1].digest}; a configuration is wrong.",
        )
    return LayerDiff(
        "only-b" if a is None else "only-a" if b is None else "changed",
        kind,
        a,
        b,
        {path: new[path] for path in sorted(new) if path not in old},
        {path: old[path] for path in sorted(old) if path not in new},
        {path: (old[path], new[path]) for path in sorted(old) if path in new and old[path] != new[path]},
    )


def layer_kind(image: OciImage, number: int, items: Mapping[str, Item]) -> str:
    """What a layer is for: as its manifest says; by its files where that tells of no kind, as after `docker save`."""
    if any(layer.kind != "base" for layer in image.layers):
        return _known(image.layers[number].kind)
    files = [path for path, item in items.items() if item.kind != "directory"]
    if files and all(path.endswith(".pyc") for path in files):
        return "bytecode"
    if not any(path.startswith(_OURS) for path in files):
        return "base"
    if any(path.startswith(f"{RUNTIME}/") for path in files):
        return "runtime"
    if any(path.startswith(f"{VENV}/") for path in files):
        return "dependencies"
    return "config" if files == [MODEL_JSON] else "model"


def _known(kind: str) -> str:
    return kind if kind in LAYER_KINDS else "base"


def _packages(old: Iterable[Mapping[str, Item]], new: Iterable[Mapping[str, Item]]) -> tuple[PackageChange, ...]:
    """The packages whose versions differ, by the metadata files in the layers that differ."""
    before, after = _versions(old), _versions(new)
    return tuple(
        PackageChange(name, tuple(before.get(name, ())), tuple(after.get(name, ())))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    )


def _versions(tables: Iterable[Mapping[str, Item]]) -> dict[str, Sequence[str]]:
    found: dict[str, set[str]] = {}
    for items in tables:
        for path in items:
            match = _DIST_INFO.search(path)
            if match:
                found.setdefault(re.sub(r"[-_.]+", "-", match[1]).lower(), set()).add(match[2])
    return {name: sorted(versions) for name, versions in found.items()}


def _layer_json(found: tuple[int, Layer] | None) -> dict[str, Any] | None:
    if found is None:
        return None
    number, layer = found
    return {"number": number, "diff_id": layer.diff_id, "digest": layer.digest, "size": layer.size}
