"""Unpacked layers, kept: an image that shares layers with one that ran here unpacks only what is new.

    <cache>/trees/<uid>/<key>/root, tree.json   one layer by its blob's digest, or a whole image whose layers cannot be
                                                laid one upon another
    <cache>/trees/<uid>/run-…                   work under way (`mpack.sandbox.scratch`)

A tree appears whole or not at all, and each use compares its listing (kinds, modes, owners, sizes, times) with the
recorded one; a tree that is not as it was is made again. Whoever uses one holds a shared lock on it, and pruning passes
it over.
"""

# ruff: noqa: PTH112, PTH114 - os.path, not pathlib: thousands of files
from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mpack.errors import EnvironmentFault
from mpack.oci.files import disk_faults
from mpack.oci.image import OciImage
from mpack.oci.rootfs import unpack, unpack_layer
from mpack.pruning import Prunable
from mpack.sandbox.scratch import PREFIX, locked, remove, scratch, sweep

_ROOT, _NOTE = "root", "tree.json"
#: Two to make a tree and use it; more where others make or discard it at the same time.
_ATTEMPTS = 8


@dataclass(frozen=True)
class _Tree:
    root: Path
    #: False: it stands for nothing by itself, and is empty.
    alone: bool
    #: Its symbolic links, relative.
    links: tuple[str, ...]


class Trees:
    """The trees below `directory`; any number of processes may use it at once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def default(cls) -> Trees:
        """The user's: owners of files differ between root's and another's."""
        from mpack.paths import cache_dir

        return cls(cache_dir() / "trees" / str(os.getuid()))

    @contextmanager
    def hold(self, image: OciImage) -> Iterator[tuple[Path, ...]]:
        """Directories that, each laid upon the one before, are the image. They stay while the context lasts.

        Raises what unpacking raises (`mpack.oci.rootfs.unpack`).
        """
        with ExitStack() as held:
            trees: list[_Tree] = []
            for number, layer in enumerate(image.layers):
                tree = held.enter_context(
                    self._tree(layer.digest, lambda root, number=number: unpack_layer(image, number, root))  # type: ignore[misc]
                )
                trees.append(tree)
                if not tree.alone:
                    break
            if not all(tree.alone for tree in trees) or _clash(trees):
                trees = [
                    held.enter_context(
                        self._tree("\n".join(["image", *(layer.digest for layer in image.layers)]), _all(image))
                    )
                ]
            yield tuple(tree.root for tree in trees)

    def entries(self) -> list[Prunable]:
        """One a tree; removing one that is in use does nothing. What killed processes left goes at once."""
        sweep(self.directory)
        places = [place for place in self.directory.glob("*") if not place.name.startswith(PREFIX)]
        return [Prunable(_bytes(place), _last_use(place), partial(_prune, place)) for place in places]

    @contextmanager
    def _tree(self, name: str, make: Callable[[Path], bool]) -> Iterator[_Tree]:
        place = self.directory / hashlib.sha256(name.encode()).hexdigest()[:32]
        for _ in range(_ATTEMPTS):
            lock = locked(place, fcntl.LOCK_SH)
            if lock is None:
                self._add(place, make)
                continue
            try:
                tree = _read(place)
                if tree is not None:
                    with suppress(OSError):
                        os.utime(place / _NOTE)
                    yield tree
                    return
            finally:
                os.close(lock)
            self._discard(place)
        raise EnvironmentFault(
            "store-corrupt",
            f"Layers unpacked below {self.directory} are not as they were written, however often they are unpacked.",
            "Another program may change them, or the file system does; MPACK_HOME names another place.",
        )

    def _add(self, place: Path, make: Callable[[Path], bool]) -> None:
        with scratch(self.directory) as work:
            made = work / "tree"
            root = made / _ROOT
            root.mkdir(parents=True)
            # Whatever the umask: another user than root must be able to walk into the image.
            root.chmod(0o755)
            alone = make(root)
            if not alone:
                remove(root)
                root.mkdir()
            listing, _, size = _listing(root)
            note = {"alone": alone, "listing": listing, "bytes": size}
            with disk_faults("Keeping an unpacked layer", self.directory):
                (made / _NOTE).write_text(json.dumps(note))
                with suppress(FileExistsError):
                    _rename(made, place)

    def _discard(self, place: Path) -> None:
        with scratch(self.directory) as work, suppress(OSError):
            place.rename(work / "old")


def _all(image: OciImage) -> Callable[[Path], bool]:
    def make(root: Path) -> bool:
        unpack(image, root)
        return True

    return make


def _rename(made: Path, place: Path) -> None:
    """Raises FileExistsError where another was faster."""
    try:
        made.rename(place)
    except OSError as error:
        if place.is_dir():
            raise FileExistsError from error
        raise


def _read(place: Path) -> _Tree | None:
    try:
        note = json.loads((place / _NOTE).read_bytes())
        listing, links, _ = _listing(place / _ROOT)
        if listing != note["listing"]:
            return None
        return _Tree(place / _ROOT, bool(note["alone"]), links)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _listing(root: Path) -> tuple[str, tuple[str, ...], int]:
    """A digest over every entry's path, mode, owner, size and time of change of content; the symbolic links; the bytes
    of all files."""
    lines: list[str] = []
    links: list[str] = []
    size = 0
    todo = [(str(root), "")]
    while todo:
        directory, inside = todo.pop()
        try:
            with os.scandir(directory) as items:
                found = list(items)
        except PermissionError:
            continue  # without root, a directory that its image closed to its owner
        for item in found:
            status, path = item.stat(follow_symlinks=False), inside + item.name
            mode = status.st_mode
            line = f"{path} {mode} {status.st_uid} {status.st_gid}"
            if stat.S_ISDIR(mode):
                todo.append((item.path, path + "/"))
                lines.append(line)
                continue
            size += status.st_size
            lines.append(f"{line} {status.st_size} {status.st_mtime_ns}")
            if stat.S_ISLNK(mode):
                links.append(path)
    text = "\0".join(sorted(lines)).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest(), tuple(links), size


def _clash(trees: Sequence[_Tree]) -> bool:
    """True if a tree has a directory where a lower one has a link: it would hide what the link leads to."""
    return any(
        os.path.isdir(path) and not os.path.islink(path)
        for number, tree in enumerate(trees)
        for link in tree.links
        for upper in trees[number + 1 :]
        if (path := f"{upper.root}/{link}")
    )


def _prune(place: Path) -> None:
    lock = locked(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if lock is not None:
        try:
            remove(place)
        finally:
            os.close(lock)


def _bytes(place: Path) -> int:
    """Bytes of a tree's files, as they were when it was made."""
    try:
        return int(json.loads((place / _NOTE).read_bytes())["bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _last_use(place: Path) -> float:
    try:
        return (place / _NOTE).stat().st_mtime
    except OSError:
        return 0.0
