"""An artifact out of a store: its files in the cache, by the names that the store has, checked as any are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from mpack import address
from mpack.artifact.archive import is_junk, safe_path, shown, unsafe
from mpack.artifact.limits import Limits, Meter
from mpack.artifact.model import ArtifactFile
from mpack.records import dataclass
from mpack.stores.model import Access, Bounds, Origin, Remote, RemoteFile


@dataclass(frozen=True)
class Fetched:
    """Path in the artifact -> file; `one`: the artifact is a single file, perhaps an archive. `name`: its address."""

    name: str
    title: str
    files: dict[str, ArtifactFile]
    one: bool
    origin: Origin


@contextmanager
def held(location: str) -> Iterator[None]:
    """While it is held nobody prunes what was fetched; of use for addresses only."""
    if not address.is_remote(location):
        yield
        return
    from mpack.errors import disk_fault
    from mpack.stores.cache import ArtifactCache

    stack = ExitStack()
    cache = ArtifactCache.default()
    try:
        cache.forget_stale()
        stack.enter_context(cache.held())
    except OSError as error:
        raise disk_fault(error, "Keeping what is fetched", "Choose another place with MPACK_HOME.") from error
    with stack:
        yield


def fetch_artifact(location: str, limits: Limits, access: Access | None) -> Fetched:
    """Fetches what the cache lacks of it. The caller holds the cache, as long as the files are read.

    Raises InputError artifact-missing, artifact-unsafe, artifact-too-large or artifact-changed, UsageError, and
    EnvironmentFault artifact-denied, download-failed, tool-missing, disk-full or disk-unwritable.
    """
    from mpack.progress import Progress
    from mpack.stores.cache import ArtifactCache
    from mpack.stores.fetch import Fetch
    from mpack.stores.places import locate

    bounds = Bounds(limits.total, limits.entries)
    access = access or Access()
    remote = locate(location, bounds, access.connection)
    paths = _paths(remote, limits)
    total = sum(file.size or 0 for file in paths.values())
    progress = access.progress or Progress(1, quiet=True)
    cache = ArtifactCache.default()
    with progress.transfer(f"fetching {remote.uri}", total or None) as transfer:
        blobs = Fetch(remote, bounds, cache, transfer).all(list(paths.values()))
    files = {
        path: ArtifactFile(path, blob.path.stat().st_size, blob.sha256, blob.path)
        for path, blob in zip(paths, blobs, strict=True)
    }
    one = None if remote.directory else remote.files[0]
    version, sha256 = ("", None) if one is None else (one.version, blobs[0].sha256)
    return Fetched(remote.uri, remote.title, files, one is not None, Origin(remote.uri, version, sha256, remote.facts))


def _paths(remote: Remote, limits: Limits) -> dict[str, RemoteFile]:
    """Path in the artifact -> file. Raises InputError for names that no archive could have either."""
    found: dict[str, RemoteFile] = {}
    meter = Meter(limits)
    folders: set[str] = set()
    for file in remote.files:
        meter.entry()
        meter.data(file.size or 0)
        path = safe_path(file.path)
        if remote.directory and is_junk(path):
            continue
        if not path or path in found:
            raise unsafe(f"The name {shown(file.path)} occurs twice." if path else "An object has no name.", _HINT)
        found[path] = file
        folders.update(path[:i] for i, char in enumerate(path) if char == "/")
    for path in found.keys() & folders:
        raise unsafe(f"{shown(path)} is both a file and a directory.", _HINT)
    return found


_HINT = "Take the object away, or give the address of the model's own directory."
