"""The integrations that come with mpack: the packagers' own arguments, and ODAHU's targets."""

from __future__ import annotations

from mpack.manifests.model import PackagingIntegration, TargetSchema

_REGISTRIES = ("docker", "ecr")
PUSH = TargetSchema("docker-push", _REGISTRIES, default="", required=True)
PULL = TargetSchema("docker-pull", _REGISTRIES, default="", required=False)

#: id -> integration. Any other packager that is installed has the targets of docker-rest.
BUILT_IN = {
    name: PackagingIntegration(name, name, "", None, targets)
    for name, targets in {
        "docker-rest": (PUSH, PULL),
        "docker-cli": (PUSH, PULL),
        "docker-triton": (PUSH,),
    }.items()
}
