"""A packaging's arguments: the integration's defaults, then the manifest's, as the packager takes them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from mpack.manifests.faults import nearest, shown
from mpack.manifests.model import PackagingIntegration
from mpack.plugins import load_packager

if TYPE_CHECKING:
    from mpack.manifests.checking import Checking

#: Arguments that old integrations declare and whose packagers no longer read.
LEFT_OVER = ("dockerfileAddCondaInstallation", "dockerfileCondaEnvsLocation", "dockerfilePush")
#: Defaults of ODAHU's own integrations that no image of mpack's has a use for: the base with conda, whatever registry
#: and tag it has, and a server older than today's models' Python.
_THEIR_DEFAULTS = {
    "dockerfileBaseImage": re.compile(r"(?:.*/)?odahu-flow-docker-packager-base(?:[:@].*)?"),
    "triton_base_image_tag": re.compile(r"20\.11-py3"),
}
_ARGUMENTS, _PROPERTIES = "spec.arguments", "spec.schema.arguments.properties"


def merged_arguments(integration: PackagingIntegration, checking: Checking) -> dict[str, Any]:
    """The values for the packager, by its names; what is wrong is told. Raises UsageError plugin-broken."""
    given = dict(checking.packaging.arguments)
    schema = integration.arguments
    places = {name: f"{_ARGUMENTS}.{name}" for name in given}
    values: dict[str, Any] = {}
    if schema is not None:
        before = len(checking.faults)
        _against_schema(integration, schema, given, checking)
        if len(checking.faults) > before:
            return {}
        values = _defaults(integration, schema, checking)
        places = {name: f"{_PROPERTIES}[{index}]" for index, name in enumerate(schema["properties"])} | places
    values |= given
    if values:
        values = _without_left_overs(integration, values, checking)
        _against_packager(integration, values, set(given), places, checking)
    return values


def _against_schema(integration: PackagingIntegration, schema: Any, given: dict[str, Any], checking: Checking) -> None:
    from mpack.manifests.jsonschemas import reasons

    properties: dict[str, dict[str, Any]] = schema["properties"]
    for name, value in given.items():
        if name not in properties:
            said = f"the integration {integration.id} has no argument {name}{nearest(name, properties)}"
            checking.add(f"{_ARGUMENTS}.{name}", said)
            continue
        for at, reason in reasons(properties[name], value):
            inside = value
            for part in at:
                inside = inside[part]
            path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at)
            checking.add(f"{_ARGUMENTS}.{name}{path}", f"{shown(inside)} {reason}")
    for name in schema["required"]:
        if name not in given and properties.get(name, {}).get("default") is None:
            checking.add(f"{_ARGUMENTS}.{name}", f"the integration {integration.id} requires it")


def _defaults(integration: PackagingIntegration, schema: Any, checking: Checking) -> dict[str, Any]:
    """The defaults that there are; a property without one contributes nothing."""
    found = {}
    for name, keywords in schema["properties"].items():
        value = keywords.get("default")
        if value is None:
            continue
        theirs = _THEIR_DEFAULTS.get(name)
        if theirs is not None and theirs.fullmatch(str(value)):
            said = f"the default of {name}, {value}, is left out: mpack picks what fits the model"
            checking.warnings.append(f"{integration.where}: {said}.")
            continue
        found[name] = value
    return found


def _without_left_overs(
    integration: PackagingIntegration, values: dict[str, Any], checking: Checking
) -> dict[str, Any]:
    """Without arguments that a custom integration declares and that no packager reads any more."""
    left = [name for name in values if name in LEFT_OVER and integration.arguments is not None]
    if left:
        checking.warnings.append(
            f"{checking.packaging.where}: left out, for mpack has no use for it: {', '.join(left)}."
        )
    return {name: value for name, value in values.items() if name not in left}


def _against_packager(
    integration: PackagingIntegration,
    values: dict[str, Any],
    given: set[str],
    places: dict[str, str],
    checking: Checking,
) -> None:
    from pydantic import ValidationError

    packager = load_packager(integration.packager)
    model = packager.arguments
    try:
        model.model_validate_json(json.dumps(values), strict=True)
        return
    except ValidationError as error:
        faults = error.errors()
    told = set()
    for fault in faults:
        name = str(fault["loc"][0]) if fault["loc"] else ""
        field = places.get(name, _ARGUMENTS)
        where = None if not name or name in given else integration.where
        if fault["type"] == "extra_forbidden":
            said = f"the packager {integration.packager} has no argument {name}{nearest(name, model.model_fields)}"
        else:
            reason = fault["msg"].removeprefix("Value error, ").replace("Input should be", "it must be")
            said = f"{shown(fault['input'])}: {reason}" if name and not isinstance(fault["input"], dict) else reason
        if (field, said) not in told:
            told.add((field, said))
            checking.add(field, said, where)
