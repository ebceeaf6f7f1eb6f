"""What a build made, and the JSON object that tells of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpack.builders import BuiltImage
from mpack.plan import ImagePlan
from mpack.records import dataclass
from mpack.verify import Verification


@dataclass(frozen=True)
class PlatformImage:
    """What a build made for one platform."""

    image: BuiltImage
    plan: ImagePlan
    verification: Verification

    def to_json(self) -> dict[str, Any]:
        image, plan = self.image, self.plan
        return {
            "platform": plan.platform,
            "id": image.id,
            "digest": image.digest,
            "size": image.size,
            "size_unpacked": image.size_unpacked,
            "base": {"reference": plan.base.reference, "digest": plan.base.digest},
            "layers": [layer.to_json() for layer in image.layers],
            "relaxed": list(plan.environment.relaxed),
            "verified": self.verification.to_json(),
        }


@dataclass(frozen=True)
class BuildResult:
    """What a build made: `image` is the index if there are several `platforms`. `outputs` are the references, one for
    each output in order."""

    name: str
    image: BuiltImage
    platforms: tuple[PlatformImage, ...]
    outputs: tuple[str, ...]
    lock: Path
    timings: Mapping[str, float]
    #: The artifact's digest.
    artifact_digest: str = ""
    #: What came of converting the model, where that was asked for.
    optimized: Mapping[str, Any] | None = None
    #: Where the artifact was fetched from, if it was.
    origin: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Of an index `digest` is the index's; what else is of one image is the first platform's."""
        first = self.platforms[0]
        plan, facts = first.plan, first.to_json()
        value = {
            "image": self.name,
            "model": {"name": plan.model_name, "version": plan.model_version},
            "artifact_digest": self.artifact_digest,
            "plan": plan.digest,
            "id": facts["id"],
            "digest": self.image.digest,
            "size": facts["size"],
            "size_unpacked": facts["size_unpacked"],
            "packager": plan.packager,
            "builder": self.image.builder,
            "base": facts["base"],
            "layers": facts["layers"],
            "outputs": list(self.outputs),
            "lock": str(self.lock),
            "relaxed": facts["relaxed"],
            "verified": facts["verified"],
            "timings": dict(self.timings),
        }
        if self.origin is not None:
            value["artifact"] = dict(self.origin)
        if self.optimized is not None:
            value["optimized"] = dict(self.optimized)
        if len(self.platforms) > 1:
            value["platforms"] = [item.to_json() for item in self.platforms]
        return value
