"""An address -> its store, and a manifest's name in a connection -> an address."""

from __future__ import annotations

from importlib import import_module

from mpack import address
from mpack.connections import Connection
from mpack.errors import InputError
from mpack.stores import faults
from mpack.stores.model import Bounds, Remote

_BY_SCHEME = {"s3": "s3", "gs": "gs", "abfs": "abfs", "models": "mlflow", "runs": "mlflow"}
_BY_TYPE = {"s3": "s3", "gcs": "gs", "azureblob": "abfs"}


def locate(location: str, bounds: Bounds, connection: Connection | None = None) -> Remote:
    """What is at an address: its files with sizes and versions; nothing of them is fetched.

    Raises InputError artifact-missing or artifact-too-large, EnvironmentFault artifact-denied, download-failed or
    tool-missing, UsageError.
    """
    kind = address.scheme(location)
    if kind == "https":
        from mpack.stores import http

        if connection is not None:
            raise faults.failed(address.public(location), f"the connection {connection.id} is for an object store", "")
        return http.locate(location, bounds)
    module = import_module(f"mpack.stores.{_BY_SCHEME[kind]}")
    remote: Remote = module.locate(location, bounds, connection)
    return remote


def location_in(connection: Connection, name: str, bounds: Bounds) -> str:
    """The address of an artifact of that name in a connection's bucket: NAME, else NAME.zip.

    Raises InputError artifact-missing, and as `locate`.
    """
    base = base_of(connection)
    if ".." in name.split("/"):
        raise InputError("artifact-missing", f"The artifact's name {name!r} leads out of {base}.", "Name one inside.")
    first = f"{base}/{name.strip('/')}"
    try:
        locate(first, bounds, connection)
    except InputError as error:
        if error.code != "artifact-missing" or name.endswith(".zip"):
            raise
        try:
            locate(f"{first}.zip", bounds, connection)
        except InputError:
            raise error from None
        return f"{first}.zip"
    return first


def base_of(connection: Connection) -> str:
    """s3://BUCKET/PREFIX and the like of a connection, whose uri may have a scheme, an endpoint, or neither."""
    kind = _BY_TYPE.get(connection.type)
    if kind is None:
        raise InputError(
            "artifact-missing",
            f"No artifact is read by the connection {connection.id}, of the type {connection.type}.",
            f"Name one of the types {', '.join(_BY_TYPE)}.",
        )
    before, mark, rest = connection.uri.partition("://")
    if not mark:
        rest = before
    elif before in ("http", "https"):
        rest = rest.partition("/")[2]
    return f"{kind}://{rest.split('?')[0].strip('/')}"
