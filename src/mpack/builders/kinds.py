"""What the layers are that come of a Dockerfile."""

from __future__ import annotations

from collections.abc import Sequence

from mpack.dockerfile.render import EARLY
from mpack.plan import ImagePlan
from mpack.spec import LAYER_KINDS


def layer_kinds(plan: ImagePlan, count: int, base: int) -> Sequence[str]:
    """The kinds of an image's `count` layers, the lowest `base` of which are the base's; what a template of its own
    added counts as dependencies."""
    kinds = sorted((tree.kind for tree in plan.trees if tree.files), key=LAYER_KINDS.index)
    early = [kind for kind in kinds if kind in EARLY]
    compiled = ["bytecode"] if plan.bytecode and plan.bytecode.sources else []
    own = ["dependencies", *early, *compiled, *kinds[len(early) :]]
    extra = count - base - len(own)
    if extra < 0:
        return ["base"] * min(base, count) + ["dependencies"] * (count - base)
    return ["base"] * base + ["dependencies"] * extra + own
