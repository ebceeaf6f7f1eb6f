"""What stores of keys share: a key that is one object, else all objects below it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from mpack.connections import Connection, Secret
from mpack.errors import InputError
from mpack.stores import faults
from mpack.stores.model import Bounds, Remote, RemoteFile, Store


def found(
    uri: str,
    key: str,
    bounds: Bounds,
    *,
    one: Callable[[], RemoteFile | None],
    below: Callable[[str], Iterable[RemoteFile]],
    store: Store,
    identity: str,
) -> Remote:
    """The artifact at `key`: `one` answers the object of that very name, `below` lists those with a prefix, whose paths
    are their whole keys. Raises InputError artifact-missing or artifact-too-large."""
    title = key.rstrip("/").rpartition("/")[2]
    if key and not key.endswith("/") and (file := faults.patient(one, uri)) is not None:
        if (file.size or 0) > bounds.total:
            raise faults.too_large(uri, bounds)
        return Remote(uri, title, (file,), False, store, identity)
    prefix = f"{key.rstrip('/')}/" if key else ""
    files = faults.patient(lambda: tuple(_bounded(uri, below(prefix), prefix, bounds)), uri)
    if not files:
        raise faults.missing(uri, "there is no object of that name, and none below it", "Check bucket and name.")
    return Remote(uri, title or uri.rstrip("/").rpartition("/")[2], files, True, store, identity)


def _bounded(uri: str, files: Iterable[RemoteFile], prefix: str, bounds: Bounds) -> Iterator[RemoteFile]:
    """The files with paths below the prefix; markers of directories are none, but are counted."""
    total = count = 0
    for file in files:
        total, count = total + (file.size or 0), count + 1
        if total > bounds.total:
            raise faults.too_large(uri, bounds)
        if count > bounds.entries:
            raise faults.too_large(uri, bounds, entries=True)
        if file.path.endswith("/") or not file.path.startswith(prefix):
            continue
        yield replace(file, path=file.path[len(prefix) :])


def revealed(secret: Secret | None) -> str | None:
    """The secret, if there is one. Raises as `Secret.reveal`."""
    return None if secret is None else secret.reveal()


def of_type(connection: Connection | None, wanted: str, uri: str) -> Connection | None:
    """The connection, if it is one for this kind of store. Raises InputError for another."""
    if connection is not None and connection.type != wanted:
        raise InputError(
            "artifact-missing",
            f"{uri} is no place that the connection {connection.id}, of the type {connection.type}, reaches.",
            f"Name a connection of the type {wanted}.",
        )
    return connection
