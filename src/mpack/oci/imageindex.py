"""ImageIndex: one image for several platforms, which is a list of images and no more."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from mpack.errors import EnvironmentFault
from mpack.oci.blobs import Blobs, BlobSource
from mpack.oci.image import MANIFEST, OciImage, canonical_json
from mpack.records import dataclass

INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True)
class ImageIndex:
    """An index in some blob source, and the images in it. `manifest_size` is bytes of the index itself."""

    blobs: BlobSource
    digest: str
    images: tuple[OciImage, ...]
    manifest_size: int
    media_type: str = INDEX

    @property
    def id(self) -> str:
        """The index's digest: it has no configuration of its own."""
        return self.digest

    @property
    def platform(self) -> str:
        """All platforms, joined by commas."""
        return ",".join(image.platform for image in self.images)

    @property
    def size(self) -> int:
        """Bytes of all that it names, each once."""
        return sum(size for _, size in blobs_of(self))

    def image_for(self, platform: str) -> OciImage | None:
        """The image that runs on a platform."""
        return next((image for image in self.images if same_platform(image.platform, platform)), None)


#: What a name in the store, a layout or a registry may stand for. Both have `images`, `digest`, `id` and sizes.
AnyImage: TypeAlias = OciImage | ImageIndex


def load_any(blobs: BlobSource, digest: str) -> AnyImage:
    """The image or index of a digest. Raises EnvironmentFault store-corrupt."""
    raw = blobs.read(digest)
    try:
        value = json.loads(raw)
        if "manifests" not in value:
            return OciImage.load(blobs, digest)
        members = [str(item["digest"]) for item in value["manifests"]]
        kind = str(value.get("mediaType", INDEX))
    except (ValueError, KeyError, TypeError) as error:
        raise EnvironmentFault(
            "store-corrupt",
            f"The manifest {digest} is neither that of an image nor an image index ({error}).",
            f"`mpack rm {digest}` removes it; then build or pull the image again.",
        ) from error
    return ImageIndex(blobs, digest, tuple(OciImage.load(blobs, item) for item in members), len(raw), kind)


def put_index(blobs: Blobs, images: Sequence[OciImage]) -> ImageIndex:
    """Stores the index of some images, sorted by platform, so that it depends on nothing but them."""
    ordered = sorted(images, key=lambda image: image.platform)
    value = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [member_entry(image) for image in ordered]}
    raw = canonical_json(value)
    return ImageIndex(blobs, blobs.add(raw), tuple(ordered), len(raw))


def member_entry(image: OciImage) -> dict[str, Any]:
    """An image's descriptor in an index, with its platform."""
    system, architecture, variant = (*image.platform.split("/"), "", "")[:3]
    platform: Mapping[str, str] = {"architecture": architecture, "os": system}
    return {
        "mediaType": image.manifest.get("mediaType", MANIFEST),
        "digest": image.digest,
        "size": image.manifest_size,
        "platform": {**platform, "variant": variant} if variant else platform,
    }


def blobs_of(image: AnyImage) -> list[tuple[str, int]]:
    """(digest, size) of every blob, each once; a manifest comes after all that it names."""
    found: dict[str, int] = {}
    for member in image.images:
        found.update((layer.digest, layer.size) for layer in member.layers)
        found[member.id] = int(member.manifest["config"]["size"])
        found[member.digest] = member.manifest_size
    found[image.digest] = image.manifest_size
    return list(found.items())


def same_platform(has: str, wanted: str) -> bool:
    """True if an image of platform `has` runs as `wanted`; a variant counts where both name one."""
    ours, theirs = has.split("/"), wanted.split("/")
    return ours[:2] == theirs[:2] and (len(ours) < 3 or len(theirs) < 3 or ours[2] == theirs[2])
