"""`mpack lock`: what an artifact's images will be made of, resolved without a build, or compared with a lock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mpack.describe import Described, described
from mpack.env.lockfile import LockEntry, LockFile
from mpack.errors import EnvironmentFault, InputError
from mpack.pipeline import Workshop
from mpack.platforms import require_platforms
from mpack.progress import Progress
from mpack.records import dataclass
from mpack.request import BuildRequest
from mpack.resolve import Resolution, resolve


@dataclass(frozen=True)
class Locked:
    """An artifact with the resolution for each platform that was asked for, and what of this machine that took."""

    found: Described
    resolutions: tuple[Resolution, ...]
    workshop: Workshop

    @property
    def entries(self) -> tuple[LockEntry, ...]:
        return tuple(item.entry for item in self.resolutions)

    def changes(self, lock: LockFile) -> bool:
        """True unless the lock has these very entries."""
        return any(lock.entries.get(entry.key) != entry for entry in self.entries)


@contextmanager
def locked(request: BuildRequest, lock: LockFile, progress: Progress) -> Iterator[Locked]:
    """The resolutions: from the lock where it has entries, unless the request is to make them anew. Writes nothing.

    Raises what reading an artifact, a packager and `resolve` raise.
    """
    with described(request, progress) as found:
        workshop = Workshop.of_this_machine()
        requests = request.each()
        require_platforms([item.options.platform for item in requests], found.spec, (), workshop.docker)
        old = LockFile({}) if request.update_lock else lock
        made = []
        for item in requests:
            with progress.phase("resolve", f"resolving the environment for {item.options.platform}"):
                resolution = resolve(
                    *(found.spec, item.options),
                    bases=workshop.bases,
                    index=workshop.index,
                    lock=old,
                    pins=request.pins,
                    say=progress.say,
                )
            made.append(_with_what_was_learnt(resolution, lock))
        yield Locked(found, tuple(made), workshop)


def check_lock(request: BuildRequest, lock: LockFile, progress: Progress) -> None:
    """Returns if a lock has an entry that fits for each platform. The index is not asked; a base that is not at hand is
    fetched by its digest.

    Raises InputError lock-mismatch telling what does not fit, and EnvironmentFault base-unavailable.
    """
    with described(request, progress) as found:
        workshop = Workshop.of_this_machine()
        for item in request.each():
            try:
                resolve(
                    *(found.spec, item.options),
                    bases=workshop.bases,
                    index=workshop.index,
                    lock=lock.require(),
                    pins=request.pins,
                )
            except EnvironmentFault as error:
                if error.code != "lock-mismatch":
                    raise
                raise InputError(error.code, error.message, error.hint) from error


def read_lock(path: Path, *, closed: bool, update: bool) -> LockFile:
    """The lock file; where it is to be made anew a damaged one counts as none. Raises InputError lock-invalid."""
    try:
        return LockFile.read(path, closed=closed)
    except InputError:
        if not update:
            raise
        return LockFile({}, path)


def _with_what_was_learnt(resolution: Resolution, lock: LockFile) -> Resolution:
    """Resolved anew to what it was: with the byte code that a build learnt for that."""
    old = lock.entries.get(resolution.entry.key)
    if old is None or replace(old, bytecode=None, product=None, draft=True) != resolution.entry:
        return resolution
    return replace(resolution, entry=old)
