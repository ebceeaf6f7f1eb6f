"""Which builder a build takes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from mpack.errors import EnvironmentFault
from mpack.plan import ImagePlan

if TYPE_CHECKING:
    from mpack.engine import Docker

#: What `--builder` takes beside "auto".
BUILDERS = ("embedded", "docker", "buildah")


def choose_builder(asked: str, plan: ImagePlan, template: Path, docker: Docker | None) -> str:
    """The builder asked for. For "auto" embedded wherever the plan needs no engine, else docker, else buildah.

    Raises InputError plan-not-embeddable when embedded was asked for, EnvironmentFault engine-unavailable when none of
    them can build the plan here.
    """
    from mpack.dockerfile import beyond_plan, not_embeddable

    if asked not in ("auto", "embedded"):
        return asked
    extra = beyond_plan(plan, template)
    if extra is None:
        return "embedded"
    if asked == "embedded":
        raise not_embeddable(template, extra)
    if docker is not None and docker.buildkit:
        return "docker"
    if shutil.which("buildah"):
        return "buildah"
    found = "no container engine answers" if docker is None else f"the docker client {docker.client} has no BuildKit"
    raise EnvironmentFault(
        "engine-unavailable",
        f"The Dockerfile template {template} adds a step that only an engine or buildah can run: {extra[:200]}; "
        f"{found}, and buildah is not installed.",
        "Start docker or install buildah, or leave the step out of the template.",
    )
