"""The embedded builder: assembles layers itself, without daemon and without root.

Base layers are taken as they are; on them come the dependencies, the runtime, byte code, the model, the configuration.
A layer is made once for what it is made from and then taken from the store's cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mpack.builders import BuiltImage, BuiltLayer
from mpack.builders.runtimeconfig import runtime_config
from mpack.contents import Contents, sha256_file
from mpack.oci.compose import append_layers
from mpack.oci.image import OciImage, canonical_json
from mpack.oci.layer import ENCODER, Directory, Entry, Layer, bytes_entries, directory_entries, tree_entries
from mpack.oci.store import Store
from mpack.plan import VENV, BaseImage, Bytecode, ImagePlan
from mpack.spec import LAYER_KINDS, FileTree

if TYPE_CHECKING:
    from mpack.env.index import IndexSettings


class BaseSource(Protocol):
    """Where base images come from: `mpack.bases.Bases`."""

    def image(self, base: BaseImage) -> OciImage:
        """The base in the store. Raises EnvironmentFault base-unavailable."""


class Compiler(Protocol):
    """Makes byte code with an image's own interpreter."""

    def compile(self, image: BuiltImage, bytecode: Bytecode) -> Mapping[str, bytes]:
        """Absolute .pyc path -> bytes."""


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
        self._index = index
        self._compiler = compiler

    def build(self, plan: ImagePlan, contents: Contents) -> BuiltImage:
        """The image, listed in the store without a name.

        Raises InputError artifact-changed, and what `Bases.image`, `install_venv` and the compiler raise.
        """
        with self._store.lease():
            base = self._bases.image(plan.base)
            made = self._layers(plan, contents)
            image = self._image(plan, base, made)
            if plan.bytecode is not None and plan.bytecode.sources:
                made = self._with_bytecode(plan.bytecode, base, made, image)
                self._forget_draft(image)
                image = self._image(plan, base, made)
            self._store.add_image(image)
        return _built(image, base, made)

    # --- layers

    def _layers(self, plan: ImagePlan, contents: Contents) -> list[_Made]:
        """All layers but byte code, in image order."""
        trees = sorted(plan.trees, key=lambda tree: LAYER_KINDS.index(tree.kind))
        # With everything in the base the venv is little more than its interpreter's link: no layer of its own.
        merged = None
        if not plan.environment.to_install:
            merged = next((tree for tree in trees if tree.kind == "runtime"), None)
        made = [] if merged else [self._made("dependencies", venv_key(plan), lambda: self._venv(plan, contents))]
        for tree in trees:
            made.append(self._tree(plan, tree, contents, with_venv=tree is merged))
        return made

    def _tree(self, plan: ImagePlan, tree: FileTree, contents: Contents, *, with_venv: bool) -> _Made:
        if with_venv:
            key = {"venv": venv_key(plan), "tree": tree.to_json()}
            return self._made(tree.kind, key, lambda: self._venv(plan, contents, tree))
        return self._made(tree.kind, tree.to_json(), lambda: self._write(tree.kind, tree_entries(tree, contents)))

    def _made(self, kind: str, key: Any, write: Callable[[], Layer]) -> _Made:
        """The layer for what it is made from: out of the cache, or written now."""
        name = f"{kind} {ENCODER} {hashlib.sha256(canonical_json(key)).hexdigest()}"
        found = self._store.cache.get(name)
        if found is not None:
            return _Made(found, True)
        layer = write()
        self._store.cache.put(name, layer)
        return _Made(layer, False)

    def _write(self, kind: str, entries: Sequence[Entry], existing: Mapping[str, Directory] | None = None) -> Layer:
        return self._store.write_layer(entries, kind=kind, existing=existing)

    def _venv(self, plan: ImagePlan, contents: Contents, tree: FileTree | None = None) -> Layer:
        """Installs the environment and writes it as a layer, together with a tree if one is given."""
        from mpack.env.install import install_venv

        with self._store.scratch() as scratch:
            target = scratch / "venv"
            install_venv(plan.environment, plan.base, target, index=self._index, contents=contents)
            entries = directory_entries(target, VENV)
            if tree is None:
                return self._write("dependencies", entries)
            return self._write(tree.kind, [*entries, *tree_entries(tree, contents)])

    def _with_bytecode(self, bytecode: Bytecode, base: OciImage, made: list[_Made], draft: OciImage) -> list[_Made]:
        """The layers with byte code after the runtime; compiled in the image without it if no build did so before."""
        lower = [item for item in made if LAYER_KINDS.index(item.layer.kind) < LAYER_KINDS.index("bytecode")]
        key = {
            "base": [layer.diff_id for layer in base.layers],
            "layers": [item.layer.diff_id for item in lower],
            "bytecode": bytecode.to_json(),
        }
        compiled = self._made("bytecode", key, lambda: self._compiled(bytecode, draft, _built(draft, base, made)))
        return [*lower, compiled, *made[len(lower) :]]

    def _compiled(self, bytecode: Bytecode, draft: OciImage, built: BuiltImage) -> Layer:
        from mpack.oci.rootfs import read_files

        files = self._compiler.compile(built, bytecode)
        nodes = read_files(draft, lambda path: False)
        # Where a directory of the path is a link, a layer with that directory in it would replace the link.
        placed = {nodes.place(path): data for path, data in files.items()}
        existing = {
            path: Directory(node.mode, node.uid, node.gid) for path, node in nodes.items() if node.kind == "directory"
        }
        return self._write("bytecode", bytes_entries(placed), existing)

    # --- images

    def _image(self, plan: ImagePlan, base: OciImage, made: Sequence[_Made]) -> OciImage:
        runtime = runtime_config(base.runtime, plan.config)
        return append_layers(self._store, base, [item.layer for item in made], runtime=runtime)

    def _forget_draft(self, draft: OciImage) -> None:
        """The same plan without byte code was listed when its modules were learnt; the whole image takes its place."""
        record = self._store.find_record(draft.digest)
        if record is not None and not record.names:
            self._store.forget(draft.digest)


def venv_key(plan: ImagePlan) -> dict[str, Any]:
    """What the files of a venv depend on: packages, Python, trimming, and the program that lays them out."""
    base, environment = plan.base, plan.environment
    return {
        "packages": [package.to_json() for package in environment.to_install],
        "platform": environment.platform,
        "trim": environment.trim,
        "python": [base.python, base.python_version, list(base.site_dirs)],
        "program": sha256_file(_program()),
    }


def _program() -> Path:
    """The source of `mpack.env.assemble`, which need not be imported for it."""
    found = find_spec("mpack.env.assemble")
    assert found is not None and found.origin is not None
    return Path(found.origin)


def _built(image: OciImage, base: OciImage, made: Sequence[_Made]) -> BuiltImage:
    cached = [True] * len(base.layers) + [item.cached for item in made]
    layers = tuple(
        BuiltLayer(layer.diff_id, layer.kind, layer.digest, layer.size, known)
        for layer, known in zip(image.layers, cached, strict=True)
    )
    unpacked = sum(layer.unpacked_size or 0 for layer in image.layers)
    return BuiltImage(image.id, image.platform, "embedded", "store", layers, unpacked, image.digest, image.size)
