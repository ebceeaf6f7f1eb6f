"""Kind PackagingIntegration: arguments, defaults and targets over a packager that is installed."""

from __future__ import annotations

from typing import Any

from mpack.connections import TYPES
from mpack.manifests.faults import shown
from mpack.manifests.fields import Field, Report, spec_of, unused
from mpack.manifests.model import PackagingIntegration, TargetSchema

_TARGET = (
    Field("name", "text", "docker-push: where the image goes; docker-pull: where its base comes from.", required=True),
    Field("connectionTypes", "texts", "The types that its connection may have.", required=True, choices=TYPES),
    Field("default", "text", "The id of the connection where a packaging names none."),
    Field("required", "flag", "A packaging must have it, or there is a default."),
)
_PARAMETER = (
    Field("name", "text", "A keyword of JSON Schema: type, default, description, minimum, enum, …", required=True),
    Field("value", "any", "The keyword's value."),
)
_PROPERTY = (
    Field("name", "text", "The argument's name, one of the packager's.", required=True),
    Field("parameters", "objects", "What it may be.", fields=_PARAMETER),
)
_ARGUMENTS = (
    Field("properties", "objects", "The arguments; no others may be given.", fields=_PROPERTY),
    Field("required", "texts", "Names of those that must be given, or have a default."),
)
_SCHEMA = (
    Field("targets", "objects", "The targets that a packaging may name.", fields=_TARGET),
    Field("arguments", "object", "The arguments that a packaging may give.", fields=_ARGUMENTS),
)
FIELDS = spec_of(
    "PackagingIntegration",
    (
        Field("entrypoint", "text", "The packager, by the last part of the path; see below.", required=True),
        Field("defaultImage", "text", "The packager's own image; kept, not used here.", required=True, used=False),
        Field("privileged", "flag", "Kept, not used here.", used=False),
        Field("schema", "object", "Targets and arguments.", fields=_SCHEMA),
    ),
)

#: The last part of an entrypoint's path, as the reference system has them -> the packager. Others are packagers' names.
ENTRYPOINTS = {
    "odahu-flow-pack-to-rest": "docker-rest",
    "odahu-flow-pack-to-flask": "docker-rest",
    "odahu-flow-pack-to-cli": "docker-cli",
    "odahu-flow-pack-to-triton": "docker-triton",
}
_ARGUMENTS_PATH = "spec.schema.arguments"


def read_integration(found: dict[str, Any], document: Any, report: Report) -> PackagingIntegration:
    """The integration; what its fields cannot say of each other is reported."""
    spec = found.get("spec", {})
    schema = spec.get("schema", {})
    name = spec.get("entrypoint", "").rstrip("/").rpartition("/")[2]
    return PackagingIntegration(
        id=found.get("id", ""),
        packager=ENTRYPOINTS.get(name, name),
        default_image=spec.get("defaultImage", ""),
        arguments=_arguments(schema.get("arguments", {}), report),
        targets=_targets(schema.get("targets", ()), report),
        not_used=tuple(name for name in unused(found, FIELDS) if name.startswith("spec.")),
        document=document,
        where=report.where,
    )


def _targets(items: list[dict[str, Any]], report: Report) -> tuple[TargetSchema, ...]:
    found: list[TargetSchema] = []
    names: set[str] = set()
    for index, item in enumerate(items):
        place = f"spec.schema.targets[{index}]"
        target = TargetSchema(
            name=item.get("name", ""),
            connection_types=tuple(item.get("connectionTypes", ())),
            default=item.get("default", ""),
            required=item.get("required", False),
        )
        if item.get("connectionTypes") == []:
            report.add(f"{place}.connectionTypes", "at least one connection type is needed")
        if target.name in names:
            report.add(f"{place}.name", f"the target {target.name} is there twice")
        names |= {target.name} - {""}
        found.append(target)
    return tuple(found)


def _arguments(found: dict[str, Any], report: Report) -> dict[str, Any]:
    """The JSON Schema that the name and value pairs stand for."""
    properties: dict[str, dict[str, Any]] = {}
    for index, item in enumerate(found.get("properties", ())):
        place, name = f"{_ARGUMENTS_PATH}.properties[{index}]", item.get("name", "")
        if name in properties:
            report.add(f"{place}.name", f"the argument {name} is there twice")
        keywords: dict[str, Any] = {}
        for number, pair in enumerate(item.get("parameters", ())):
            keyword = pair.get("name", "")
            where = f"{place}.parameters[{number}]"
            if keyword in keywords:
                report.add(f"{where}.name", f"the keyword {keyword} is there twice")
            if keyword:
                keywords[keyword] = pair.get("value")
        if name:
            properties[name] = keywords
            _checked(keywords, place, report)
    required = found.get("required", [])
    for index, name in enumerate(required):
        if name not in properties:
            report.add(f"{_ARGUMENTS_PATH}.required[{index}]", f"the argument {name} is not among the properties")
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _checked(keywords: dict[str, Any], place: str, report: Report) -> None:
    """Reports keywords that are no JSON Schema, and a default that the schema itself refuses."""
    from mpack.manifests.jsonschemas import reasons, schema_fault

    # A reference may lead anywhere, the network included.
    reference = next((key for key in _keys(keywords) if key.startswith("$")), None)
    if reference is not None:
        report.add(place, f"the keyword {reference} is none that an argument may have")
        return
    fault = schema_fault(keywords)
    if fault is not None:
        keyword, reason = fault
        names = [f"{place}.parameters[{index}].value" for index, name in enumerate(keywords) if name == keyword]
        report.add(names[0] if names else place, f"this is not JSON Schema: {reason}")
    elif keywords.get("default") is not None:
        index = list(keywords).index("default")
        for _, reason in reasons(keywords, keywords["default"]):
            report.add(f"{place}.parameters[{index}].value", f"the default {shown(keywords['default'])} {reason}")


def _keys(value: Any) -> list[str]:
    """Every key, at any depth, except in values that are data."""
    if isinstance(value, list):
        return [key for item in value for key in _keys(item)]
    if not isinstance(value, dict):
        return []
    data = {"default", "const", "enum", "examples", "description"}
    return [*value, *(key for name, item in value.items() if name not in data for key in _keys(item))]
