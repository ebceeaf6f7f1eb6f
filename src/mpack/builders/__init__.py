"""Builders turn a plan into an image. All are equal under `mpack.testing.builder_contract`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from mpack.errors import UsageError
from mpack.oci.imageindex import same_platform
from mpack.records import dataclass

if TYPE_CHECKING:
    from mpack.contents import Contents
    from mpack.plan import ImagePlan


@dataclass(frozen=True)
class BuiltLayer:
    """One layer. `digest` and `size` (compressed bytes) are None where an engine built it; `cached`: made earlier."""

    diff_id: str
    kind: str
    digest: str | None = None
    size: int | None = None
    cached: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "diff_id": self.diff_id,
            "digest": self.digest,
            "size": self.size,
            "kind": self.kind,
            "cached": self.cached,
        }


@dataclass(frozen=True)
class BuiltImage:
    """A finished, untagged image. `id` is the config digest ("sha256:…"), `digest` the OCI manifest digest or None.

    With `members` it is an index of them in the store: id and digest are the index's, it has no layers of its own.

    `location` is "store" (the local OCI store holds it under `digest`) or "docker" (the engine holds it under `id`).
    Sizes are bytes; `size` is compressed, None where unknown. `notes` are what the user should know of the build.
    """

    id: str
    platform: str
    builder: str
    location: str
    layers: tuple[BuiltLayer, ...]
    size_unpacked: int
    digest: str | None = None
    size: int | None = None
    notes: tuple[str, ...] = ()
    members: tuple[BuiltImage, ...] = ()

    def for_platform(self, platform: str) -> BuiltImage:
        """The image of an index for a platform; any other image itself. Raises UsageError for an index without it."""
        if not self.members:
            return self
        for member in self.members:
            if same_platform(member.platform, platform):
                return member
        raise UsageError("usage", f"The image is for {self.platform}, not for {platform}.", "Add it to --platform.")


class Builder(Protocol):
    """`build(plan)` either returns a whole image or raises and leaves nothing behind."""

    name: str

    def build(self, plan: ImagePlan, contents: Contents) -> BuiltImage: ...
