"""The docker engine as a target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BufferedReader
from itertools import islice, takewhile

from mpack.builders import BuiltImage
from mpack.engine import Docker
from mpack.errors import EnvironmentFault, InternalError
from mpack.oci.archive import Pieces, docker_archive
from mpack.oci.image import OciImage
from mpack.oci.store import Store, with_tag
from mpack.records import dataclass

#: Images of the store that are looked through for layers that the engine may have.
_RECENT = 16


@dataclass(frozen=True)
class DockerTarget:
    """Loads (an image of the store) and tags; of an index, the image for the engine's platform."""

    kind: str = "docker"

    def __str__(self) -> str:
        return self.kind

    def write(self, image: BuiltImage, name: str, store: Store, docker: Docker | None) -> str:
        engine = docker or Docker.find()
        full = with_tag(name)
        own = image.for_platform(engine.platform)
        if own.location == "docker" or engine.exists(own.id):
            engine.tag(own.id, full)
        else:
            load_image(engine, store, own, [full])
        if image.location == "store" and image.digest is not None:
            store.add_image(store.load(image.digest), [full])
        return full


def load_image(docker: Docker, store: Store, image: BuiltImage, names: Sequence[str] = ()) -> None:
    """Loads an image of the store into the engine: only the layers that the engine lacks, all if it refuses that.

    Without names the engine knows the image by its id alone.
    """
    if image.digest is None:
        raise InternalError("internal", f"The image {image.id} was to be loaded from the store, and is not there.")
    with store.lease():
        oci = store.image(image.digest)
        held = _held(docker, store, oci)
        if held:
            try:
                _load(docker, oci, names, held)
                return
            except EnvironmentFault as error:
                # An engine that keeps images in containerd's store wants every layer in the archive.
                if error.code != "engine-failed":
                    raise
        _load(docker, oci, names, 0)


def _load(docker: Docker, image: OciImage, names: Sequence[str], leave_out: int) -> None:
    docker.load(BufferedReader(Pieces(docker_archive(image, names, leave_out=leave_out)), 1 << 20))


def _held(docker: Docker, store: Store, image: OciImage) -> int:
    """How many of the image's lowest layers the engine has as the lowest layers of some image.

    An image of the store that shares most is what it was built after, and the engine probably has it: it is asked for
    the best of these by id, before it is asked for all that it has.
    """
    wanted = _chain(image)
    near: list[tuple[int, str]] = []
    for identifier, chain in _recent(store, image):
        shared = _shared(wanted, chain)
        # Hardly another can share more.
        if shared >= len(wanted) - 1 > 0 and docker.exists(identifier):
            return shared
        near.append((shared, identifier))
    for shared, identifier in sorted(near, key=lambda item: -item[0]):
        if shared > 0 and docker.exists(identifier):
            return shared
    return max((_shared(wanted, chain) for chain in docker.chains()), default=0)


def _recent(store: Store, image: OciImage) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Id and layers of the store's newest images but this one."""
    for record in islice(store.records(), _RECENT):
        with suppress(EnvironmentFault):
            if record.digest != image.digest:
                yield record.id, _chain(store.image(record.digest))


def _chain(image: OciImage) -> tuple[str, ...]:
    return tuple(layer.diff_id for layer in image.layers)


def _shared(wanted: Sequence[str], chain: Sequence[str]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(wanted, chain, strict=False)))
