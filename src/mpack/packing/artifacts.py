"""Where the artifact is that a packaging names."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from mpack.address import is_remote, split_digest
from mpack.connections import Connection
from mpack.errors import InputError
from mpack.request import BuildRequest

#: Where ODAHU's local training leaves its artifacts.
TRAINED = Path("~/.odahuflow/training_output")


def with_artifact(request: BuildRequest, name: str, directory: Path | None, store: Connection | None) -> BuildRequest:
    """The request for the artifact `name`, which may end in @sha256:… and may be an address: in the bucket of `store`,
    else in a directory. Raises InputError artifact-missing, UsageError, and what a store raises."""
    name, digest = split_digest(name)
    if is_remote(name):
        return replace(request, location=name, digest=digest)
    if store is None:
        return replace(request, location=local_artifact(name, directory), digest=digest)
    from mpack.stores.model import Bounds
    from mpack.stores.places import location_in

    place = location_in(store, name, Bounds(request.limits.total, request.limits.entries))
    return replace(request, location=place, digest=digest, artifact_connection=store)


def local_artifact(name: str, directory: Path | None) -> str:
    """The path of the artifact `name` in a directory (default: the working directory, else ODAHU's own): as it is
    named, without one trailing .zip, or with one. Raises InputError artifact-missing that says where it was looked for.
    """
    names = [name, name.removesuffix(".zip") if name.endswith(".zip") else f"{name}.zip"]
    places = [directory] if directory is not None else [Path()]
    if directory is None:
        # A user id without an entry in passwd, as containers often run, has no home.
        with suppress(RuntimeError):
            places.append(TRAINED.expanduser())
    tried = [place / item for place in places for item in names]
    for path in tried:
        if path.exists():
            return str(path)
    raise InputError(
        "artifact-missing",
        f"There is no artifact {name}: neither {', '.join(map(str, tried[:-1]))} nor {tried[-1]} exists.",
        "Give its directory with --artifact-path, or another name with -a.",
    )
