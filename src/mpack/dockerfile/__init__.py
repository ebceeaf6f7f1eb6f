"""A plan as a Dockerfile and a self-contained build context."""

from mpack.dockerfile.render import SHARED_TEMPLATE, Stage, beyond_plan, not_embeddable, render

__all__ = ["SHARED_TEMPLATE", "Stage", "beyond_plan", "not_embeddable", "render"]
