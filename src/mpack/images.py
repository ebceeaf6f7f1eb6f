"""A reference as an image: of the store, then the container engine, then the registry that it names."""

from __future__ import annotations

from collections.abc import Callable

from mpack.builders import BuiltImage, BuiltLayer
from mpack.engine import Docker
from mpack.errors import EnvironmentFault
from mpack.oci.image import OciImage
from mpack.oci.store import Store
from mpack.registry.pull import pull
from mpack.registry.reference import names_registry, parse_reference


def find_image(
    reference: str,
    store: Store,
    docker: Docker | None,
    platform: str,
    say: Callable[[str], None] = lambda text: None,
) -> BuiltImage:
    """The image of a name, digest or id. Only a name with a registry's host in it is asked of a registry.

    Raises EnvironmentFault image-unknown, and what a pull raises.
    """
    image = store.find(reference)
    if image is not None:
        return stored_image(image)
    found = docker.inspect(reference) if docker is not None else None
    if found is not None:
        layers = tuple(BuiltLayer(diff_id, "unknown") for diff_id in found["RootFS"].get("Layers") or ())
        return BuiltImage(
            found["Id"], f"{found['Os']}/{found['Architecture']}", "docker", "docker", layers, int(found["Size"])
        )
    if names_registry(reference):
        return stored_image(pull(parse_reference(reference), platform, store, say=say))
    places = "the store" if docker is None else "the store and the container engine"
    raise EnvironmentFault(
        "image-unknown",
        f"There is no image {reference} in {places}.",
        "`mpack images` and `docker images` list them; a registry's image is named with the registry's host.",
    )


def locate(
    reference: str, store: Store, platform: str, say: Callable[[str], None] = lambda text: None
) -> tuple[BuiltImage, Docker | None]:
    """As `find_image`, with the engine that answers; an image of the store is found without asking for one."""
    image = store.find(reference)
    if image is not None:
        return stored_image(image), None
    try:
        docker: Docker | None = Docker.find()
    except EnvironmentFault:
        docker = None
    return find_image(reference, store, docker, platform, say), docker


def stored_image(image: OciImage) -> BuiltImage:
    """An image of the store as builders return it."""
    layers = tuple(
        BuiltLayer(layer.diff_id, layer.kind, layer.digest, layer.size, cached=True) for layer in image.layers
    )
    unpacked = sum(layer.unpacked_size or 0 for layer in image.layers)
    return BuiltImage(image.id, image.platform, "embedded", "store", layers, unpacked, image.digest, image.size)
