"""One packaging against the integration, the connections and the packager that it names."""

from __future__ import annotations

from collections.abc import Collection

from mpack.connections import Connection
from mpack.errors import UsageError
from mpack.manifests.builtin import BUILT_IN, PULL, PUSH
from mpack.manifests.faults import Fault, ManifestError, nearest
from mpack.manifests.model import (
    CheckedPackaging,
    Manifests,
    ModelPackaging,
    PackagingIntegration,
    PackagingTarget,
    Where,
)
from mpack.manifests.values import merged_arguments
from mpack.plugins import packager_names

#: Where a model's artifact may be: the types of `spec.outputConnection`.
STORES = ("s3", "gcs", "azureblob")


class Checking:
    """The faults and warnings of one packaging."""

    def __init__(self, packaging: ModelPackaging) -> None:
        self.packaging = packaging
        self.faults: list[Fault] = []
        self.warnings: list[str] = []

    def add(self, field: str, message: str, where: Where | None = None) -> None:
        """A fault of a field of the packaging, or of the document at `where`."""
        place = where or self.packaging.where
        self.faults.append(Fault(place.file, message, field, place.document, place.line_of(field)))


def check_packaging(
    manifests: Manifests,
    name: str | None = None,
    *,
    artifact_name: str | None = None,
    targets: bool = True,
    disabled_targets: Collection[str] = (),
    output: bool = True,
) -> CheckedPackaging:
    """The packaging of that id (None: the only one) with all that it names. `artifact_name` stands in for the
    manifest's. Without `targets`, none is looked at; `disabled_targets` are left out, also required ones. Without
    `output`, the connection of the artifact's store is not looked for.

    Raises ManifestError with every fault; UsageError packaging-unknown or, for a disabled target that is none, usage;
    plugin-broken or plugin-duplicate.
    """
    packaging = _packaging(manifests, name)
    checking = Checking(packaging)
    where = packaging.where
    artifact = artifact_name if artifact_name is not None else packaging.artifact_name
    if not artifact:
        checking.add("spec.artifactName", "it is required")
    found = _integration(manifests, checking)
    arguments = merged_arguments(found, checking) if found is not None else {}
    connections = _targets(manifests, found, set(disabled_targets), checking) if targets and found is not None else {}
    store = _output(manifests, checking) if output and packaging.output_connection else None
    if checking.faults or found is None:
        raise ManifestError(checking.faults)
    if packaging.not_used:
        checking.warnings.append(f"{where}: {', '.join(packaging.not_used)} is kept, and means nothing here.")
    return CheckedPackaging(
        packaging=packaging,
        integration=found,
        packager=found.packager,
        artifact_name=artifact,
        arguments=arguments,
        push=connections.get(PUSH.name),
        pull=connections.get(PULL.name),
        output=store,
        resources=packaging.resources,
        warnings=tuple(checking.warnings),
    )


def _packaging(manifests: Manifests, name: str | None) -> ModelPackaging:
    known = manifests.packagings
    if name is None and len(known) == 1:
        return next(iter(known.values()))
    if name is not None and name in known:
        return known[name]
    ids = f"There are: {', '.join(sorted(known)[:20])}." if known else "There is none in the files that were given."
    if name is None:
        said = "No ModelPackaging was found." if not known else f"{len(known)} ModelPackagings were found."
        raise UsageError("packaging-unknown", said, f"Name one with --id. {ids}" if known else ids)
    raise UsageError("packaging-unknown", f"No ModelPackaging has the id {name}.", ids)


def _integration(manifests: Manifests, checking: Checking) -> PackagingIntegration | None:
    """The integration that is named: of the manifests, built in, or an installed packager of that name."""
    name = checking.packaging.integration
    installed = packager_names()
    found = manifests.integrations.get(name) or BUILT_IN.get(name)
    if found is None and name in installed:
        found = PackagingIntegration(name, name, "", None, (PUSH, PULL))
    if found is None:
        known = {*manifests.integrations, *installed}
        checking.add("spec.integrationName", f"no packaging integration is called {name}{nearest(name, known)}")
    elif found.packager not in installed:
        entrypoint = found.document.get("spec", {}).get("entrypoint", found.packager)
        has = f"; installed {'are' if len(installed) > 1 else 'is'} {', '.join(installed)}" if installed else ""
        checking.add("spec.entrypoint", f"{entrypoint} is no packager that is installed{has}", found.where)
        return None
    return found


def _targets(
    manifests: Manifests, integration: PackagingIntegration, disabled: set[str], checking: Checking
) -> dict[str, Connection]:
    """Target -> connection, for what is named and for what has a default."""
    schemas = {schema.name: schema for schema in integration.targets}
    named = [(f"spec.targets[{i}]", target, None) for i, target in enumerate(checking.packaging.targets)]
    have = {target.name for _, target, _ in named}
    defaults = [
        (f"spec.schema.targets[{i}].default", PackagingTarget(schema.name, schema.default), integration.where)
        for i, schema in enumerate(integration.targets)
        if schema.default and schema.name not in have
    ]
    found: dict[str, Connection] = {}
    for place, target, where in [*named, *defaults]:
        schema = schemas.get(target.name)
        if target.name in disabled:
            continue
        if schema is None:
            said = f"the integration {integration.id} has no target {target.name}{nearest(target.name, schemas)}"
            checking.add(f"{place}.name", said)
            continue
        field = place if where else f"{place}.connectionName"
        connection = _connection(manifests, target.connection, field, checking, where)
        if connection is not None and connection.type not in schema.connection_types:
            wanted = " or ".join(schema.connection_types)
            said = f"{connection.id} is a connection of type {connection.type}, and {target.name} wants {wanted}"
            checking.add(field, said, where)
        elif connection is not None:
            found[target.name] = connection
    for schema in integration.targets:
        if schema.required and schema.name not in {*have, *disabled} and not schema.default:
            checking.add("spec.targets", f"the target {schema.name} is required")
    strange = sorted(set(found) - {PUSH.name, PULL.name})
    if strange:
        checking.warnings.append(f"{checking.packaging.where}: the targets {', '.join(strange)} mean nothing here.")
    for name in sorted(disabled - set(schemas)):
        message = f"The integration {integration.id} has no target {name} to disable."
        raise UsageError("usage", message, f"Its targets are {', '.join(schemas)}." if schemas else "It has none.")
    return found


def _connection(
    manifests: Manifests, name: str, field: str, checking: Checking, where: Where | None = None
) -> Connection | None:
    found = manifests.connections.get(name)
    if found is None:
        checking.add(field, f"no connection is called {name}{nearest(name, manifests.connections)}", where)
    return found


def _output(manifests: Manifests, checking: Checking) -> Connection | None:
    name, field = checking.packaging.output_connection or "", "spec.outputConnection"
    found = _connection(manifests, name, field, checking)
    if found is not None and found.type not in STORES:
        wanted = " or ".join(STORES)
        checking.add(field, f"{name} is a connection of type {found.type}, and artifacts come from {wanted}")
    return found
