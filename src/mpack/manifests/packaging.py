"""Kind ModelPackaging: what is packaged, how, and where it goes."""

from __future__ import annotations

from typing import Any

from mpack.manifests import quantity
from mpack.manifests.fields import ID, ID_SAYS, Field, Report, spec_of, unused
from mpack.manifests.model import ModelPackaging, PackagingTarget, Resources

_ID_SAYS = f"an id: {ID_SAYS}"
_TARGET = (
    Field("name", "text", "docker-push, docker-pull, or another of the integration's.", required=True),
    Field("connectionName", "text", "The id of a connection.", required=True, pattern=ID, says=_ID_SAYS),
)
FIELDS = spec_of(
    "ModelPackaging",
    (
        Field(
            "integrationName", "text", "docker-rest, docker-cli, docker-triton, or a PackagingIntegration's id.", True
        ),
        Field("artifactName", "text", "The artifact: its name in the artifacts' directory or store."),
        Field("arguments", "arguments", "The packager's arguments."),
        Field("targets", "objects", "What the image is pulled and pushed with.", fields=_TARGET),
        Field(
            "outputConnection", "text", "The id of the connection of the artifacts' store.", pattern=ID, says=_ID_SAYS
        ),
        Field("resources", "object", "Bounds of the build.", fields=quantity.FIELDS),
        Field("image", "text", "The packager's own image; kept, not used here.", used=False),
        Field("nodeSelector", "labels", "Where a cluster runs it; kept, not used here.", used=False),
    ),
)


def read_packaging(found: dict[str, Any], document: Any, report: Report) -> ModelPackaging:
    """The packaging; what its fields cannot say of each other is reported."""
    spec = found.get("spec", {})
    targets = tuple(
        PackagingTarget(item.get("name", ""), item.get("connectionName", "")) for item in spec.get("targets", ())
    )
    names: set[str] = set()
    for index, target in enumerate(targets):
        if target.name in names:
            report.add(f"spec.targets[{index}].name", f"the target {target.name} is there twice")
        names |= {target.name} - {""}
    resources = spec.get("resources")
    return ModelPackaging(
        id=found.get("id", ""),
        artifact_name=spec.get("artifactName", "").strip(),
        integration=spec.get("integrationName", ""),
        arguments=spec.get("arguments", {}),
        targets=targets,
        resources=quantity.read_resources(resources, "spec.resources", report) if resources else Resources(),
        output_connection=spec.get("outputConnection") or None,
        image=spec.get("image") or None,
        not_used=tuple(name for name in unused(found, FIELDS) if name.startswith("spec.")),
        document=document,
        where=report.where,
    )
