"""A reference as an image: of the store, then the container engine, then the registry that it names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mpack.builders import BuiltImage, BuiltLayer
from mpack.engine import Docker
from mpack.errors import EnvironmentFault, InputError, UsageError
from mpack.oci.image import OciImage
from mpack.oci.imageindex import same_platform
from mpack.oci.load import read_archive, read_file
from mpack.oci.store import Store
from mpack.registry import RegistryClient
from mpack.registry.pull import pull
from mpack.registry.reference import names_registry, parse_reference

#: What stands before the path of an image in a file, as in `--output`.
FILES = ("oci", "oci-archive", "docker-archive")


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
    image = store.find(reference, platform)
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
    """As `find_image`, with the engine that answers; an image of the store is found without asking for one.

    Raises UsageError for an index of several platforms at a registry, of which `find_image` would take one.
    """
    image = store.find(reference, platform)
    if image is not None:
        return stored_image(image), None
    docker = Docker.answering()
    if names_registry(reference) and (docker is None or docker.inspect(reference) is None):
        _require_one_platform(reference)
    return find_image(reference, store, docker, platform, say), docker


def _require_one_platform(reference: str) -> None:
    with RegistryClient(parse_reference(reference)) as client:
        there = client.platforms()
    if len(there) > 1:
        raise UsageError(
            "usage",
            f"{reference} is there for {', '.join(there)}, and mpack takes one platform's image out of a registry.",
            "Copy all of them with `skopeo copy --all`, push the index from the store it was built in, or name one "
            "image by its digest (HOST/NAME@sha256:…).",
        )


@dataclass(frozen=True)
class OpenImage:
    """An image whose bytes are in the store. `digest` is its manifest's, None where its source keeps no manifest;
    `listed` is False for what was only copied here."""

    image: OciImage
    digest: str | None
    listed: bool


def open_image(
    reference: str,
    store: Store,
    docker: Docker | None,
    platform: str,
    say: Callable[[str], None] = lambda text: None,
) -> OpenImage:
    """As `find_image`, for reading layers; also oci:DIR, oci-archive:FILE and docker-archive:FILE with one image in it.

    The caller holds a lease of the store. Raises as `find_image`, and InputError base-unsuitable for a file.
    """
    kind, _, path = reference.partition(":")
    if kind in FILES and path:
        image = _from_file(reference, store, platform)
        return OpenImage(image, None if kind == "docker-archive" else image.digest, False)
    found = find_image(reference, store, docker, platform, say)
    if found.digest is not None:
        return OpenImage(store.image(found.digest), found.digest, store.find_any(found.digest) is not None)
    known = store.find(found.id)
    if known is not None:
        return OpenImage(known, None, True)
    assert docker is not None
    say(f"copying {reference} from docker")
    with docker.save(found.id) as archive:
        [loaded] = read_archive(store, archive, f"docker's image {reference}")
    return OpenImage(loaded.image, None, False)


def _from_file(reference: str, store: Store, platform: str) -> OciImage:
    """The one image of a layout or archive; of several platforms' images, the platform's."""
    images = {item.image.digest: item.image for item in read_file(store, reference)}
    if len(images) > 1:
        images = {digest: image for digest, image in images.items() if same_platform(image.platform, platform)}
    if len(images) != 1:
        found = f"{len(images)} images, not one" if images else f"no image for {platform}"
        raise InputError("base-unsuitable", f"{reference} holds {found}.", "Copy the one image out of it.")
    return images.popitem()[1]


def stored_image(image: OciImage) -> BuiltImage:
    """An image of the store as builders return it."""
    layers = tuple(
        BuiltLayer(layer.diff_id, layer.kind, layer.digest, layer.size, cached=True) for layer in image.layers
    )
    unpacked = sum(layer.unpacked_size or 0 for layer in image.layers)
    return BuiltImage(image.id, image.platform, "embedded", "store", layers, unpacked, image.digest, image.size)
