"""The embedded builder: assembles layers itself, without daemon and without root.

Base layers are taken as they are; on them come the dependencies, the runtime, byte code, the model, the configuration.
A layer is made once for what it is made from and then taken from the store's cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from mpack.builders import BuiltImage, BuiltLayer
from mpack.builders.runtimeconfig import runtime_config
from mpack.builders.wheels import WheelLayers, venv_entries, venv_key
from mpack.contents import Contents
from mpack.oci.compose import append_layers
from mpack.oci.image import OciImage, canonical_json
from mpack.oci.layer import ENCODER, Directory, Entry, Layer, bytes_entries, tree_entries
from mpack.oci.store import Store
from mpack.plan import BaseImage, Bytecode, ImagePlan
from mpack.records import dataclass
from mpack.spec import LAYER_KINDS, FileTree

if TYPE_CHECKING:
    from mpack.env.index import IndexSettings


#: Bytes below which a model shares a layer with its configuration: an engine takes a tenth of a second a new layer, and
#: a model that is trained again mostly has another configuration too.
SMALL_MODEL = 8 << 20


class BaseSource(Protocol):
    """Where base images come from: `mpack.bases.Bases`."""

    def image(self, base: BaseImage) -> OciImage:
        """The base in the store. Raises EnvironmentFault base-unavailable."""


class Compiler(Protocol):
    """Makes byte code with an image's own interpreter."""

    def compile(
        self,
        image: BuiltImage,
        bytecode: Bytecode,
        hashes: Mapping[str, str],
        read: Callable[[Sequence[str]], Mapping[str, bytes]],
    ) -> Mapping[str, bytes]:
        """Absolute .pyc path -> bytes; see `mpack.sandbox.compiler`."""


@dataclass(frozen=True)
class _Made:
    """A layer of this build, and whether it was made earlier."""

    layer: Layer
    cached: bool


class EmbeddedBuilder:
    """Builds a plan into the store. Two at once are fine; what fails leaves only unlisted blobs, which `gc` removes."""

    name = "embedded"

    def __init__(self, store: Store, bases: BaseSource, index: IndexSettings, compiler: Compiler) -> None:
        self._store = store
        self._bases = bases
        self._wheels = WheelLayers(store, index)
        self._compiler = compiler

    def build(self, plan: ImagePlan, contents: Contents) -> BuiltImage:
        """The image, listed in the store without a name.

        Raises InputError artifact-changed, and what `Bases.image`, `wheel_files` and the compiler raise.
        """
        with self._store.lease():
            base = self._bases.image(plan.base)
            notes: list[str] = []
            conda = self._conda(plan)
            made = self._layers(plan, contents, notes)
            if plan.bytecode is not None and plan.bytecode.sources:
                made = self._with_bytecode(plan, plan.bytecode, base, conda, made, contents)
            made = [*conda, *made]
            image = self._image(plan, base, made)
            self._store.add_image(image)
        return replace(_built(image, base, made), notes=tuple(notes))

    # --- layers

    def _conda(self, plan: ImagePlan) -> list[_Made]:
        if plan.environment.conda is None:
            return []
        from mpack.builders.conda import conda_layer

        return [_Made(*conda_layer(self._store, plan))]

    def _layers(self, plan: ImagePlan, contents: Contents, notes: list[str]) -> list[_Made]:
        """All layers but byte code, in image order."""
        trees = sorted(plan.trees, key=lambda tree: LAYER_KINDS.index(tree.kind))
        # With everything in the base the venv is little more than its interpreter's link: no layer of its own.
        merged = None
        made: list[_Made] = []
        if plan.environment.to_install:
            dependencies = self._wheels.layers(plan, contents)
            made = [_Made(layer, cached) for layer, cached in dependencies.layers]
            notes += dependencies.notes
        else:
            merged = next((tree for tree in trees if tree.kind == "runtime"), None)
        for group in _grouped(trees):
            made.append(self._trees(plan, group, contents, with_venv=merged in group))
        return made

    def _trees(self, plan: ImagePlan, trees: Sequence[FileTree], contents: Contents, *, with_venv: bool) -> _Made:
        """One layer of the trees, of the first one's kind."""
        key: Any = [tree.to_json() for tree in trees]
        more = venv_entries(plan) if with_venv else []
        if with_venv:
            key.append({"venv": venv_key(plan)})
        entries = [*more, *(entry for tree in trees for entry in tree_entries(tree, contents))]
        return self._made(trees[0].kind, key, lambda: self._write(trees[0].kind, entries))

    def _made(self, kind: str, key: Any, write: Callable[[], Layer]) -> _Made:
        """The layer for what it is made from: out of the cache, or written now."""
        name = f"{kind} {ENCODER} {hashlib.sha256(canonical_json(key)).hexdigest()}"
        found = self._store.cache.get(name)
        if found is not None:
            if kind == "model" and self._store.early is not None:
                self._store.early.give_up()
            return _Made(found, True)
        layer = write()
        self._store.cache.put(name, layer)
        return _Made(layer, False)

    def _write(self, kind: str, entries: Sequence[Entry], existing: Mapping[str, Directory] | None = None) -> Layer:
        return self._store.write_layer(entries, kind=kind, existing=existing)

    def _with_bytecode(
        self,
        plan: ImagePlan,
        bytecode: Bytecode,
        base: OciImage,
        conda: list[_Made],
        made: list[_Made],
        contents: Contents,
    ) -> list[_Made]:
        """The layers with byte code after the runtime; compiled if no build did so before."""
        lower = [item for item in made if LAYER_KINDS.index(item.layer.kind) < LAYER_KINDS.index("bytecode")]
        key = {
            "base": [layer.diff_id for layer in base.layers] + [item.layer.diff_id for item in conda],
            "layers": [item.layer.diff_id for item in lower],
            "bytecode": bytecode.to_json(),
        }
        compiled = self._made("bytecode", key, lambda: self._compiled(plan, bytecode, base, conda, made, contents))
        return [*lower, compiled, *made[len(lower) :]]

    def _compiled(
        self,
        plan: ImagePlan,
        bytecode: Bytecode,
        base: OciImage,
        conda: list[_Made],
        made: list[_Made],
        contents: Contents,
    ) -> Layer:
        from mpack.builders.sources import Sources

        # conda's packages bring the interpreter, or sources: here they are part of the base.
        ground = append_layers(self._store, base, [item.layer for item in conda]) if conda else base
        sources = Sources(self._store, self._wheels, plan, ground, bytecode.sources, contents)
        runtime = next(tree for tree in plan.trees if tree.kind == "runtime")
        place = [self._trees(plan, [runtime], contents, with_venv=True)]
        image = _built(self._image(plan, ground, place), ground, place)
        files = self._compiler.compile(image, bytecode, sources.hashes, sources.read)
        self._forget_draft(self._image(plan, base, [*conda, *made]))
        # Where a directory of the path is a link, a layer with that directory in it would replace the link.
        placed = {sources.place(path): data for path, data in files.items()}
        return self._write("bytecode", bytes_entries(placed), sources.directories)

    # --- images

    def _image(self, plan: ImagePlan, base: OciImage, made: Sequence[_Made]) -> OciImage:
        runtime = runtime_config(base.runtime, plan.config, plan.programs)
        return append_layers(self._store, base, [item.layer for item in made], runtime=runtime)

    def _forget_draft(self, draft: OciImage) -> None:
        """The same plan without byte code was listed when its modules were learnt; the whole image takes its place."""
        record = self._store.find_record(draft.digest)
        if record is not None and not record.names:
            self._store.forget(draft.digest)


def _grouped(trees: Sequence[FileTree]) -> list[list[FileTree]]:
    """What is one layer each: trees by themselves, but a small model together with its configuration."""
    last = [tree for tree in trees if tree.kind in ("model", "config")]
    if sum(item.size for tree in last for item in tree.files) >= SMALL_MODEL:
        last = []
    return [*([tree] for tree in trees if tree not in last), *([last] if last else [])]


def _built(image: OciImage, base: OciImage, made: Sequence[_Made]) -> BuiltImage:
    cached = [True] * len(base.layers) + [item.cached for item in made]
    layers = tuple(
        BuiltLayer(layer.diff_id, layer.kind, layer.digest, layer.size, known)
        for layer, known in zip(image.layers, cached, strict=True)
    )
    unpacked = sum(layer.unpacked_size or 0 for layer in image.layers)
    return BuiltImage(image.id, image.platform, "embedded", "store", layers, unpacked, image.digest, image.size)
