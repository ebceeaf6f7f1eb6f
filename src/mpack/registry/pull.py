"""Pulling one platform's image into the store, several blobs at once; what the store has is not fetched again."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event

from mpack.errors import EnvironmentFault, InputError
from mpack.oci.image import OciImage, measure_layer
from mpack.oci.store import Store
from mpack.registry.client import Descriptor, RegistryClient, Resolved
from mpack.registry.credentials import Login
from mpack.registry.faults import refused
from mpack.registry.parallel import in_parallel
from mpack.registry.reference import Reference
from mpack.registry.upload import Stopped

_READABLE = ("tar", "tar.gzip", "tar+gzip")


def pull(
    reference: Reference,
    platform: str,
    store: Store,
    *,
    say: Callable[[str], None] = lambda text: None,
    login: Login | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> OciImage:
    """The image of a reference, whole in the store but not listed there: the caller does that. `login` has the
    credentials, else Docker's; `sleep` takes seconds.

    Every layer's diff id is measured, unless the store lists the image, of which it then was.

    Raises EnvironmentFault registry-failed or image-unknown, InputError base-unsuitable for another platform or form.
    """
    with RegistryClient(reference, login=login, sleep=sleep) as client, store.lease():
        found = client.resolve(platform)
        _check_layers(found)
        missing = [item for item in (found.config, *found.layers) if not store.has(item.digest, item.size)]
        if missing:
            say(f"pulling {reference}: {len(missing)} blobs, {sum(item.size for item in missing) / 1e6:.1f} MB")
        stop = Event()
        if found.config in missing:
            _fetch(client, found.config, store, stop)
        listed = any(record.digest == found.digest for record in store.records())
        image = OciImage.parse(store, found.digest, found.raw)
        layers = {(layer.digest, layer.diff_id): number for number, layer in enumerate(image.layers)}

        def bring(number: int) -> None:
            fetched = found.layers[number] in missing
            if fetched:
                _fetch(client, found.layers[number], store, stop)
            if fetched or not listed:
                _check_diff_id(image, number, reference, fetched)

        in_parallel(bring, list(layers.values()), stop)
        store.add(found.raw)
        return image


def _check_diff_id(image: OciImage, number: int, reference: Reference, fetched: bool) -> None:
    """Caches are keyed by diff ids, so a configuration must not give a layer another's."""
    layer = image.layers[number]
    try:
        diff_id, _ = measure_layer(image, number)
    except EnvironmentFault as error:
        if not fetched or error.code != "store-corrupt":
            raise
        raise refused(reference, f"its layer {layer.digest} is not whole gzip data") from error
    if diff_id != layer.diff_id:
        why = f"its layer {layer.digest} has the diff id {diff_id}; its configuration says {layer.diff_id}"
        raise refused(reference, why, "Use another image: this one is damaged, or made to deceive.")


def _fetch(client: RegistryClient, descriptor: Descriptor, store: Store, stop: Event) -> None:
    with store.writing(descriptor.digest) as blob:
        for block in client.blob(descriptor):
            if stop.is_set():
                raise Stopped
            blob.write(block)


def _check_layers(found: Resolved) -> None:
    for layer in found.layers:
        if not layer.media_type.endswith(_READABLE):
            raise InputError(
                "base-unsuitable",
                f"{found.reference} has a layer of type {layer.media_type}, which mpack cannot read.",
                "Use an image with tar or tar+gzip layers.",
            )
