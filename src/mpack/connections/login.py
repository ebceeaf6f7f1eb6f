"""docker and ecr connections: where images go, and the credentials for that registry alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from mpack.connections.model import Connection
from mpack.connections.secret import Secret
from mpack.errors import InputError
from mpack.records import dataclass
from mpack.registry.credentials import Credentials, DockerLogin, Login
from mpack.registry.reference import Reference, names_registry, parse_reference

if TYPE_CHECKING:
    from mpack.connections.ecr import EcrLogin

REGISTRIES = ("docker", "ecr")


class RegistryLogin(Login, Protocol):
    """What a connection logs in with. Its credentials are for its own registry; any other gets Docker's."""

    def make_repository(self, reference: Reference) -> None:
        """Makes the reference's repository where the registry wants that done first. Raises EnvironmentFault."""


@dataclass(frozen=True)
class ConnectionLogin:
    """The user and password of a docker connection; of one that has none, what `docker login` left."""

    name: str
    registry: str
    username: str
    password: Secret | None

    def credentials(self, reference: Reference) -> Credentials | None:
        if self.password is None or reference.registry != self.registry:
            return DockerLogin().credentials(reference)
        return Credentials(self.username, self.password.reveal())

    def remedy(self, reference: Reference) -> str:
        if self.password is None or reference.registry != self.registry:
            return DockerLogin().remedy(reference)
        also = ""
        if self.password.reveal().endswith(("\n", "\r")):
            also = ", which ends with a newline (`echo -n`, `printf %s`)"
        return f"Correct the user {self.username!r} or the password of the connection {self.name}{also}"

    def make_repository(self, reference: Reference) -> None:
        return None


def login_of(connection: Connection) -> ConnectionLogin | EcrLogin:
    """The login of a docker or ecr connection. No secret is looked up yet. Raises InputError connection-invalid."""
    place = place_of(connection)
    if connection.type == "ecr":
        from mpack.connections.ecr import EcrLogin

        return EcrLogin(connection, place.registry)
    if (connection.password is None) != (not connection.username):
        raise invalid(connection, "spec.password", "goes with spec.username: give both, or none for Docker's own login")
    return ConnectionLogin(connection.id, place.registry, connection.username, connection.password)


def reference_of(connection: Connection, image: str) -> Reference:
    """<uri>/<image>: where the connection's registry has an image. Raises InputError connection-invalid, or
    image-name-invalid for a name that cannot stand there."""
    return parse_reference(f"{_uri(connection)}/{image}")


def place_of(connection: Connection) -> Reference:
    """The connection's registry, and what goes before an image's name there, as a reference to an image "x".

    Raises InputError connection-invalid.
    """
    if connection.type not in REGISTRIES:
        why = f"is {connection.type}, and images go through connections of the types {' and '.join(REGISTRIES)}"
        raise invalid(connection, "spec.type", why)
    uri = _uri(connection)
    if not names_registry(f"{uri}/x"):
        raise invalid(connection, "spec.uri", "does not begin with a registry's host")
    try:
        return parse_reference(f"{uri}/x")
    except InputError as error:
        raise invalid(
            connection, "spec.uri", f"cannot stand before an image's name ({error.message.rstrip('.')})"
        ) from error


def _uri(connection: Connection) -> str:
    """The uri as the beginning of a reference. Raises InputError connection-invalid, which repeats no password."""
    uri = connection.uri.strip().removeprefix("https://").rstrip("/")
    if "@" in uri:
        raise invalid(connection, "spec.uri", "has an @: a user and a password are fields of their own, a digest none")
    if re.match(r"[a-z][a-z0-9+.-]*://", uri, re.IGNORECASE):
        raise invalid(connection, "spec.uri", "has a scheme; mpack speaks TLS, and on loopback also plain HTTP")
    if not uri:
        raise invalid(connection, "spec.uri", "is empty")
    return uri


def invalid(connection: Connection, field: str, why: str) -> InputError:
    """The error for a field that cannot be what it says."""
    return InputError(
        "connection-invalid",
        f"{field} of the connection {connection.id} {why}.",
        "An image registry is HOST[:PORT][/PREFIX], with a user and a password, or at ECR with keys.",
    )
