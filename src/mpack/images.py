"""A reference as an image: of the store, then the container engine."""

from __future__ import annotations

from mpack.builders import BuiltImage, BuiltLayer
from mpack.engine import Docker
from mpack.errors import EnvironmentFault
from mpack.oci.image import OciImage
from mpack.oci.store import Store


def find_image(reference: str, store: Store, docker: Docker | None) -> BuiltImage:
    """The image of a name, digest or id. Raises EnvironmentFault image-unknown."""
    image = store.find(reference)
    if image is not None:
        return stored_image(image)
    found = docker.inspect(reference) if docker is not None else None
    if found is not None:
        layers = tuple(BuiltLayer(diff_id, "unknown") for diff_id in found["RootFS"].get("Layers") or ())
        platform = f"{found['Os']}/{found['Architecture']}"
        return BuiltImage(found["Id"], platform, "docker", "docker", layers, int(found["Size"]))
    places = "the store" if docker is None else "the store and the container engine"
    raise EnvironmentFault(
        "image-unknown", f"There is no image {reference} in {places}.", "`mpack images` and `docker images` list them."
    )


def stored_image(image: OciImage) -> BuiltImage:
    """An image of the store as builders return it."""
    layers = tuple(
        BuiltLayer(layer.diff_id, layer.kind, layer.digest, layer.size, cached=True) for layer in image.layers
    )
    unpacked = sum(layer.unpacked_size or 0 for layer in image.layers)
    return BuiltImage(image.id, image.platform, "embedded", "store", layers, unpacked, image.digest, image.size)
