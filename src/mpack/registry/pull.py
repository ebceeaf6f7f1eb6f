"""Pulling one platform's image into the store, blob by blob; what the store has is not fetched again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mpack.errors import InputError
from mpack.oci.image import OciImage
from mpack.oci.store import Store
from mpack.registry.client import Descriptor, RegistryClient, Resolved
from mpack.registry.reference import Reference

_READABLE = ("tar", "tar.gzip", "tar+gzip")


def pull(
    reference: Reference,
    platform: str,
    store: Store,
    *,
    say: Callable[[str], None] = lambda text: None,
    config_dir: Path | None = None,
) -> OciImage:
    """The image of a reference, whole in the store but not listed there: the caller does that.

    Raises EnvironmentFault registry-failed or image-unknown, InputError base-unsuitable for another platform or form.
    """
    with RegistryClient(reference, config_dir=config_dir) as client, store.lease():
        found = client.resolve(platform)
        _check_layers(found)
        missing = [item for item in (found.config, *found.layers) if not store.has(item.digest, item.size)]
        if missing:
            say(f"pulling {reference}: {len(missing)} blobs, {sum(item.size for item in missing) / 1e6:.1f} MB")
        for descriptor in dict.fromkeys(missing):
            _fetch(client, descriptor, store)
        return store.image(store.add(found.raw))


def _fetch(client: RegistryClient, descriptor: Descriptor, store: Store) -> None:
    with store.writing(descriptor.digest) as blob:
        for block in client.blob(descriptor):
            blob.write(block)


def _check_layers(found: Resolved) -> None:
    for layer in found.layers:
        if not layer.media_type.endswith(_READABLE):
            raise InputError(
                "base-unsuitable",
                f"{found.reference} has a layer of type {layer.media_type}, which mpack cannot read.",
                "Use an image with tar or tar+gzip layers.",
            )
