"""Kind Connection: an endpoint and what it is reached with."""

from __future__ import annotations

import re
from typing import Any

from mpack.connections import TYPES, Connection, Secret, parse_secret
from mpack.errors import InputError
from mpack.manifests.fields import Field, Report, spec_of
from mpack.records import dataclass

_SECRETS = {"password": "password", "keyID": "key_id", "keySecret": "key_secret", "publicKey": "public_key"}
_SECRET = "base64, ${VARIABLE}, file:PATH or keyring:SERVICE/USER."  # noqa: S105
FIELDS = spec_of(
    "Connection",
    (
        Field("type", "text", "What it is a connection to.", required=True, choices=TYPES),
        Field("uri", "text", "Where it is; for docker and ecr the registry and what goes before images' names.", True),
        Field("region", "text", "AWS region or GCP project."),
        Field("username", "text", "User name."),
        Field("password", "secret", f"Password: {_SECRET}"),
        Field("role", "text", "Role to take on."),
        Field("keyID", "secret", f"Key id: {_SECRET}"),
        Field("keySecret", "secret", f"Secret key, service account, or address with its token: {_SECRET}"),
        Field("publicKey", "secret", f"SSH host key: {_SECRET}"),
        Field("reference", "text", "git: branch, tag or commit."),
        Field("description", "text", "For people."),
        Field("webUILink", "text", "For people."),
        Field("vital", "flag", "Kept, not used here.", used=False),
    ),
)


@dataclass(frozen=True)
class TypeRule:
    """What a type of connection must have, must not have, and has only together."""

    required: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    together: tuple[str, ...] = ()


RULES: dict[str, TypeRule] = {
    "docker": TypeRule(together=("username", "password")),
    "ecr": TypeRule(together=("keyID", "keySecret")),
    "s3": TypeRule(required=("region", "keyID", "keySecret"), refused=("role",)),
    "gcs": TypeRule(required=("region", "keySecret"), refused=("role",)),
    "azureblob": TypeRule(required=("keySecret",)),
    "git": TypeRule(),
}
#: A registry's host, port and the beginning of names there.
REGISTRY = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*/*"
#: A registry of ECR, and the beginning of names there; the groups are the region.
ECR = (
    r"[a-zA-Z0-9][a-zA-Z0-9_-]*\.dkr(?:\.ecr(?:-fips)?\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?"
    r"|-ecr(?:-fips)?\.([a-z0-9-]+)\.on\.(?:aws|amazonwebservices\.com\.cn))(?:/.*)?"
)


def read_connection(found: dict[str, Any], _document: Any, report: Report) -> Connection:
    """The connection; what its type wants and has not is reported."""
    spec = found.get("spec", {})
    name, kind = found.get("id", ""), spec.get("type", "")
    _rule(spec, kind, report)
    uri, region = _uri(spec.get("uri", ""), kind, spec.get("region", ""), report)
    return Connection(
        id=name,
        type=kind,
        uri=uri,
        region=region,
        username=spec.get("username", ""),
        role=spec.get("role", ""),
        reference=spec.get("reference", ""),
        description=spec.get("description", ""),
        **{attribute: _secret(spec.get(key, ""), key, name, report) for key, attribute in _SECRETS.items()},
    )


def _rule(spec: dict[str, Any], kind: str, report: Report) -> None:
    rule = RULES.get(kind, TypeRule())
    for key in rule.required:
        # A field that is there and wrong was told of already.
        if not spec.get(key) and f"spec.{key}" not in report.wrong:
            report.add(f"spec.{key}", f"a connection of type {kind} needs it")
    for key in rule.refused:
        if spec.get(key):
            report.add(f"spec.{key}", f"a connection of type {kind} cannot have it")
    there = [key for key in rule.together if spec.get(key) or f"spec.{key}" in report.wrong]
    for key in rule.together if there else ():
        if key not in there:
            report.add(f"spec.{key}", f"a connection of type {kind} with {there[0]} needs it")


def _uri(uri: str, kind: str, region: str, report: Report) -> tuple[str, str]:
    """Where it is, and the region, for ECR that of the registry's name where none is given."""
    if kind == "ecr":
        host = uri.removeprefix("https://").removeprefix("http://").rstrip("/")
        named = re.fullmatch(ECR, host)
        if uri and named is None:
            said = "it is not a registry of ECR: ACCOUNT.dkr.ecr.REGION.amazonaws.com, and perhaps /PREFIX"
            report.add("spec.uri", said)
        there = named[1] or named[2] if named else ""
        if region and there and region != there:
            report.add("spec.region", f"it is {region}, and the registry is in {there}")
        return host, region or there
    if kind == "docker" and uri:
        uri = uri.removeprefix("https://")
        if "://" in uri:
            report.add("spec.uri", f"it must not have a scheme: write it without {uri.partition('://')[0]}://")
        elif not re.fullmatch(REGISTRY, uri):
            report.add("spec.uri", "it must be a registry and what goes before images' names: HOST[:PORT][/NAME]")
        return uri.rstrip("/"), region
    user, at, _ = uri.partition("://")[2].partition("/")[0].rpartition("@")
    if at and ":" in user:
        report.add("spec.uri", "it holds a password: write that into a field of its own")
    return uri, region


def _secret(text: str, key: str, name: str, report: Report) -> Secret | None:
    if not text:
        return None
    try:
        return parse_secret(text, f"spec.{key} of {name}", report.file.parent)
    except InputError as error:
        reason = error.message.removeprefix(f"spec.{key} of {name} ").removesuffix(".")
        report.add(f"spec.{key}", f"it {reason}")
    return None
