"""New images from old ones: layers on top, another configuration; nothing in them that varies between two builds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mpack.oci.image import OciImage, canonical_json
from mpack.oci.layer import Layer
from mpack.oci.store import Store

#: The time of everything that has one.
EPOCH = "1970-01-01T00:00:00Z"
_KEPT = ("architecture", "os", "variant", "os.version", "os.features")


def append_layers(
    store: Store, image: OciImage, layers: Sequence[Layer], *, runtime: Mapping[str, Any] | None = None
) -> OciImage:
    """The image with `layers` on top and, if given, another `config` object; stored, not listed.

    The image's blobs and the layers' are in the store; the caller holds a lease.
    """
    base = tuple(_sized(store, image, number) for number in range(len(image.layers)))
    every = (*base, *layers)
    config = {key: image.config[key] for key in _KEPT if image.config.get(key)}
    config |= {
        "created": EPOCH,
        "config": image.runtime if runtime is None else runtime,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in every]},
        "history": [*_history(image), *(_made(layer) for layer in layers)],
    }
    return store.put_image(canonical_json(config), every)


def _sized(store: Store, image: OciImage, number: int) -> Layer:
    """A base's layer as such, its size known: measured once, then taken from the cache."""
    layer = replace(image.layers[number], kind="base")
    if layer.unpacked_size is not None:
        return layer
    key = f"measured {layer.digest}"
    found = store.cache.get(key)
    if found is None:
        from mpack.oci.load import unpacked_size

        found = replace(layer, unpacked_size=unpacked_size(image, number))
        store.cache.put(key, found)
    return replace(layer, unpacked_size=found.unpacked_size)


def _history(image: OciImage) -> list[dict[str, Any]]:
    """The image's own history, made up where it does not tell of every layer."""
    history = list(image.config.get("history") or ())
    if sum(not item.get("empty_layer") for item in history) == len(image.layers):
        return history
    return [{"created": EPOCH, "created_by": "base"} for _ in image.layers]


def _made(layer: Layer) -> dict[str, Any]:
    return {"created": EPOCH, "created_by": f"mpack: {layer.kind}"}
