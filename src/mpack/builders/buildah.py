"""The buildah builder: a plan as a Dockerfile, built without a daemon; the image comes into the store.

Wheels are all in the build context, so steps of mpack's own need neither network nor credentials; steps that a
template adds have the host's network. Of buildah's image the layers and the configuration are taken: times are 0, the
base's layers are those of the store, and the layers' blobs are mpack's form of gzip.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mpack.builders import BuiltImage, BuiltLayer
from mpack.builders.buildahstore import alone, storage_dir
from mpack.builders.conda import put_conda_layer
from mpack.builders.docker import to_stderr
from mpack.builders.kinds import layer_kinds
from mpack.contents import Contents
from mpack.dockerfile import SHARED_TEMPLATE, Stage, beyond_plan
from mpack.dockerfile.context import write_context
from mpack.engine.buildah import Buildah, Storage
from mpack.errors import EnvironmentFault
from mpack.oci.archive import LAYOUT, index_entry
from mpack.oci.compose import append_layers
from mpack.oci.compression import GzipWriter, open_gzip
from mpack.oci.files import disk_faults
from mpack.oci.image import OciImage, canonical_json
from mpack.oci.layer import GZIP, Layer
from mpack.oci.load import unpacked_size
from mpack.plan import ImagePlan

if TYPE_CHECKING:
    from mpack.bases import Bases
    from mpack.env.index import IndexSettings
    from mpack.oci.store import Store

#: What buildah calls a base of the store; with this host no other place is asked for it.
_BASE_NAME = "localhost/mpack-build-base"
#: Fields of docker's configuration that say how an image runs; the rest is of the container that it was made in.
_RUNTIME = (
    *("User", "WorkingDir", "Env", "Entrypoint", "Cmd", "ExposedPorts", "Volumes", "Labels", "StopSignal"),
    *("Healthcheck", "OnBuild", "Shell"),
)
#: Which buildah it was, in every image; it would be another image with another buildah.
_OWN_LABEL = "io.buildah.version"
#: Letters of a line of progress that are told: a step has the whole of a label in it.
_LONGEST = 200
_CHUNK = 1 << 20


class BuildahBuilder:
    """Builds into the store, one build at a time. `anew`: no step and no layer is taken from an earlier build."""

    name = "buildah"

    def __init__(
        self,
        buildah: Buildah,
        store: Store,
        bases: Bases,
        index: IndexSettings,
        template: Path = SHARED_TEMPLATE,
        report: Callable[[str], None] = to_stderr,
        *,
        anew: bool = False,
    ) -> None:
        self._buildah = buildah
        self._store = store
        self._bases = bases
        self._index = index
        self._template = template
        self._report = report
        self._anew = anew
        #: Images of plans without byte code that this built: (plan digest, manifest digest).
        self._drafts: dict[str, str] = {}

    def build(self, plan: ImagePlan, contents: Contents) -> BuiltImage:
        """The image, listed in the store without a name.

        Raises EnvironmentFault (engine-failed, disk-full, disk-unwritable) or InputError (template-invalid), and what
        `Bases.image` and downloading wheels raise.
        """
        with self._store.lease():
            base = self._bases.image(plan.base)
            place = storage_dir()
            with alone(place, self._report) as (work, lock), disk_faults("Building with buildah", place):
                storage = Storage(self._buildah, place / "storage", work, lock)
                storage.collect()
                try:
                    image_id = self._built(plan, contents, base, storage, work)
                    found = storage.inspect(image_id)
                    layers = self._layers(plan, base, found, lambda: storage.push(image_id, "made"), work)
                finally:
                    # Of the stages of a build that ended well, too, a working container stays.
                    with suppress(EnvironmentFault):
                        storage.collect()
            taken = [layer for layer, _ in layers]
            image = append_layers(self._store, base, taken, runtime=_runtime(found["config"], base))
            self._forget_draft(plan, image)
            self._store.add_image(image)
        return _described(image, base, [known for _, known in layers])

    def _built(self, plan: ImagePlan, contents: Contents, base: OciImage, storage: Storage, work: Path) -> str:
        """The id of the image in buildah's storage."""
        name = f"{_BASE_NAME}:{base.id.removeprefix('sha256:')[:32]}"
        if not storage.has(name):
            self._report(f"giving buildah the base image {plan.base.reference}")
            lend(base, name, self._store, work / "base")
            storage.pull("base", name)
        context = work / "context"
        context.mkdir()
        write_context(plan, contents, context, index=self._index, template=self._template, stage=Stage(base=name))
        put_conda_layer(self._store, plan, context)
        online = beyond_plan(plan, self._template) is not None
        return storage.build(
            "context",
            online=online,
            anew=self._anew,
            proxies=_both_cases(self._index.proxies) if online else {},
            on_line=lambda line: self._report(_short(line)),
            redact=self._index.redact,
        )

    def _layers(
        self, plan: ImagePlan, base: OciImage, found: Mapping[str, Any], push: Callable[[], None], work: Path
    ) -> list[tuple[Layer, bool]]:
        """The layers on the base in the store, and whether each was there already; only what is new is written."""
        count, diff_ids = len(base.layers), list(found["rootfs"]["diff_ids"])
        if diff_ids[:count] != [layer.diff_id for layer in base.layers]:
            raise EnvironmentFault(
                "engine-failed",
                f"buildah {self._buildah.version} changed the layers of the base image {plan.base.reference}.",
                "`mpack cache prune --keep-size 0` empties its storage; then build again.",
            )
        kinds = layer_kinds(plan, self._template, len(diff_ids), count)
        known = {diff_id: layer for diff_id in diff_ids[count:] if (layer := self._store.cache.get(_key(diff_id)))}
        blobs = work / "made" / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        for diff_id in (*diff_ids[:count], *known):
            (blobs / diff_id.removeprefix("sha256:")).touch()
        push()
        [entry] = _read(work / "made" / "index.json")["manifests"]
        described = _read(blobs / entry["digest"].removeprefix("sha256:"))["layers"]
        layers = []
        for diff_id, kind, item in zip(diff_ids[count:], kinds[count:], described[count:], strict=True):
            layer = known.get(diff_id)
            if layer is None:
                layer = self._taken(blobs / item["digest"].removeprefix("sha256:"), diff_id, kind)
                self._store.cache.put(_key(diff_id), layer)
            layers.append((replace(layer, kind=kind), diff_id in known))
        return layers

    def _taken(self, path: Path, diff_id: str, kind: str) -> Layer:
        """A layer of buildah's as one of the store, measured."""
        with path.open("rb") as stream, self._store.writing() as blob:
            writer = GzipWriter(blob)
            with cast("Any", open_gzip(stream)) as plain:
                while data := plain.read(_CHUNK):
                    writer.write(data)
            writer.close()
            if writer.raw_digest != diff_id:
                raise EnvironmentFault("engine-failed", f"buildah wrote the layer {diff_id} as {writer.raw_digest}.")
        layer = Layer(diff_id, blob.digest, blob.size, GZIP, None, kind, writer.raw_size)
        config = {"rootfs": {"type": "layers", "diff_ids": [diff_id]}}
        alone_image = self._store.put_image(canonical_json(config), (layer,))
        return replace(layer, unpacked_size=unpacked_size(alone_image, 0))

    def _forget_draft(self, plan: ImagePlan, image: OciImage) -> None:
        """The same plan without byte code was listed when its modules were learnt; the whole image takes its place."""
        if plan.bytecode is None:
            self._drafts[plan.digest] = image.digest
            return
        draft = self._drafts.pop(replace(plan, bytecode=None).digest, image.digest)
        record = self._store.find_record(draft)
        if draft != image.digest and record is not None and not record.names:
            self._store.forget(draft)


def lend(image: OciImage, name: str, store: Store, layout: Path) -> None:
    """Makes an OCI layout of one image whose blobs stay where they are."""
    layout.mkdir()
    (layout / "oci-layout").write_bytes(LAYOUT)
    (layout / "blobs").symlink_to(store.directory.parent.absolute())
    (layout / "index.json").write_bytes(canonical_json({"schemaVersion": 2, "manifests": [index_entry(image, name)]}))


def _described(image: OciImage, base: OciImage, known: list[bool]) -> BuiltImage:
    cached = [True] * len(base.layers) + known
    layers = tuple(
        BuiltLayer(layer.diff_id, layer.kind, layer.digest, layer.size, one)
        for layer, one in zip(image.layers, cached, strict=True)
    )
    unpacked = sum(layer.unpacked_size or 0 for layer in image.layers)
    return BuiltImage(image.id, image.platform, "buildah", "store", layers, unpacked, image.digest, image.size)


def _runtime(config: Mapping[str, Any], base: OciImage) -> dict[str, Any]:
    """The `config` object of the image."""
    found = {name: config[name] for name in _RUNTIME if config.get(name)}
    if _OWN_LABEL not in base.labels and _OWN_LABEL in found.get("Labels", {}):
        found["Labels"] = {name: value for name, value in found["Labels"].items() if name != _OWN_LABEL}
    return found


def _both_cases(proxies: tuple[tuple[str, str], ...]) -> dict[str, str]:
    return {form: value for name, value in proxies for form in (name, name.lower())}


def _short(line: str) -> str:
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} …"


def _key(diff_id: str) -> str:
    return f"buildah {diff_id}"


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found
