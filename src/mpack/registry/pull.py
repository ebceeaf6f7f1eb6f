"""Pulling one platform's image into the store, several blobs at once; what the store has is not fetched again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

from mpack.errors import InputError
from mpack.oci.image import OciImage
from mpack.oci.store import Store
from mpack.registry.client import Descriptor, RegistryClient, Resolved
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
    config_dir: Path | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> OciImage:
    """The image of a reference, whole in the store but not listed there: the caller does that. `sleep` takes seconds.

    Raises EnvironmentFault registry-failed or image-unknown, InputError base-unsuitable for another platform or form.
    """
    with RegistryClient(reference, config_dir=config_dir, sleep=sleep) as client, store.lease():
        found = client.resolve(platform)
        _check_layers(found)
        missing = [item for item in (found.config, *found.layers) if not store.has(item.digest, item.size)]
        if missing:
            say(f"pulling {reference}: {len(missing)} blobs, {sum(item.size for item in missing) / 1e6:.1f} MB")
        stop = Event()
        in_parallel(lambda item: _fetch(client, item, store, stop), list(dict.fromkeys(missing)), stop)
        return store.image(store.add(found.raw))


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
