"""An image's root file system: unpacked into a directory, or read in part without unpacking.

Layers are hostile input: nothing outside the directory is ever touched, whatever paths and links they hold. Links
inside are followed as in the running image, with the directory as root.
"""

from __future__ import annotations

import errno
import os
import shutil
import tarfile
from pathlib import Path
from typing import IO

from mpack.errors import InputError
from mpack.oci.files import disk_faults
from mpack.oci.image import OciImage
from mpack.oci.members import layer_members, path_parts, require_depth, tar_faults
from mpack.oci.rootindex import Files, read_files

__all__ = ["Files", "read_files", "unpack", "unpack_layer"]

#: Bytes and entries that an image may unpack to.
BYTES_LIMIT = 100 << 30
ENTRIES_LIMIT = 1_000_000
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_MAX_LINKS = 40
#: Names that may be looked up to find where entries go: an image of 200,000 files needs about a fifth.
_MAX_STEPS = 10_000_000


def unpack(image: OciImage, directory: Path) -> None:
    """Unpacks all layers into an existing, empty directory. Ownership is kept only as root; devices and the
    set-uid bits of files are left out.

    Raises InputError base-unsuitable for a layer that no image may hold, EnvironmentFault store-corrupt for damage.
    """
    root = _Root(directory.resolve())
    with disk_faults("Unpacking an image", directory):
        for number in range(len(image.layers)):
            with tar_faults(image, number):
                root.apply(image, number)
        root.finish()


def unpack_layer(image: OciImage, number: int, directory: Path) -> bool:
    """Unpacks one layer alone into an existing, empty directory, as `unpack` does.

    False: such directories, one upon another, would not be the image, for the layer takes something away or counts on
    what lies below it. Raises as `unpack` does.
    """
    root = _Root(directory.resolve())
    with disk_faults("Unpacking a layer", directory), tar_faults(image, number):
        try:
            root.apply(image, number)
        except MissingLink:
            root.alone = False
        root.finish()
    return root.alone


class MissingLink(InputError):
    """A hard link to what is no file there."""


class _Root:
    """The directory under way. Paths inside it are tuples of names."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._owner = os.getuid() == 0
        #: Directory modes are set last: one without write permission must still take its files.
        self._modes: dict[Path, int] = {}
        self._resolved: dict[tuple[str, ...], Path] = {}
        self._bytes = 0
        self._entries = 0
        self._steps = 0
        #: Directories in which the layer under way has hidden what was below it.
        self._cleared: set[Path] = set()
        #: Nothing yet that only makes sense on top of other layers.
        self.alone = True

    def apply(self, image: OciImage, number: int) -> None:
        fresh: set[Path] = set()
        self._cleared.clear()
        for member, stream, parts in layer_members(image, number):
            self._count(member, image)
            if not parts:
                self._modes[self._directory] = member.mode & 0o7777
                continue
            parent = self._parent(parts[:-1], fresh, image)
            if parts[-1].startswith(_WHITEOUT):
                self.alone = False
            if parts[-1] == _OPAQUE:
                self._clear(parent, fresh)
            elif parts[-1].startswith(_WHITEOUT):
                self._white_out(parent, parts[-1].removeprefix(_WHITEOUT), fresh)
            else:
                place = parent / parts[-1]
                self._write(member, stream, place, image)
                fresh.add(place)

    def finish(self) -> None:
        for place, mode in sorted(self._modes.items(), reverse=True):
            if place.is_dir() and not place.is_symlink():
                place.chmod(mode)

    def _count(self, member: tarfile.TarInfo, image: OciImage) -> None:
        self._bytes += member.size
        self._entries += 1
        if self._bytes > BYTES_LIMIT or self._entries > ENTRIES_LIMIT:
            raise InputError(
                "base-unsuitable",
                f"The image {image.id} unpacks to more than {BYTES_LIMIT} bytes or {ENTRIES_LIMIT} files.",
            )

    def _parent(self, parts: tuple[str, ...], fresh: set[Path], image: OciImage) -> Path:
        """The real directory of a path in the image, made where it is missing."""
        known = self._resolved.get(parts)
        if known is not None:
            return known
        place = self._follow(parts, image)
        missing = place
        while not missing.is_dir():
            self.alone = False
            self._entries += 1
            fresh.add(missing)
            if missing.is_symlink() or missing.exists():
                missing.unlink()
            missing = missing.parent
        place.mkdir(parents=True, exist_ok=True)
        self._resolved[parts] = place
        return place

    def _follow(self, parts: tuple[str, ...], image: OciImage) -> Path:
        """Where a path leads with the directory as root; ".." stops there."""
        done: list[str] = []
        todo = list(reversed(parts))
        links = 0
        base = str(self._directory)
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":
                del done[-1:]
                continue
            self._steps += 1
            if self._steps > _MAX_STEPS:
                raise InputError("base-unsuitable", f"The image {image.id} has too many links and levels to unpack.")
            target = _target("/".join((base, *done, name)))
            if target is None:
                done.append(name)
                require_depth(len(done), image.id)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise InputError("base-unsuitable", f"The links at /{'/'.join(parts)} in the image form a circle.")
            if target.startswith("/"):
                done.clear()
            todo.extend(reversed(target.split("/")))
        return self._directory.joinpath(*done)

    def _write(self, member: tarfile.TarInfo, stream: IO[bytes] | None, place: Path, image: OciImage) -> None:
        is_directory = place.is_dir() and not place.is_symlink()
        if member.isdir():
            if not is_directory:
                self._remove(place)
                place.mkdir()
            self._own(member, place)
            self._modes[place] = member.mode & 0o7777
            place.chmod((member.mode & 0o7777) | 0o700)
            return
        if member.islnk():
            self._link(member, place, image)
            return
        self._remove(place)
        if member.issym():
            place.symlink_to(member.linkname)
            self._resolved.clear()
            self._own(member, place)
        elif stream is not None:
            descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                shutil.copyfileobj(stream, file, 1 << 20)
            self._own(member, place)
            # No set-uid bit: another user of this machine could run the file where it is unpacked, as its owner.
            place.chmod(member.mode & 0o777)
            os.utime(place, (member.mtime, member.mtime))

    def _link(self, member: tarfile.TarInfo, place: Path, image: OciImage) -> None:
        parts = path_parts(member.linkname, image)
        target = self._follow(parts[:-1], image) / parts[-1] if parts else self._directory
        if target == place:
            return
        if target.is_symlink() or not target.is_file():
            raise MissingLink(
                "base-unsuitable",
                f"The image {image.id} has a hard link to /{'/'.join(parts)}, which is no file of it.",
            )
        self._remove(place)
        place.hardlink_to(target)

    def _own(self, member: tarfile.TarInfo, place: Path) -> None:
        if not self._owner:
            return
        try:
            os.chown(place, member.uid, member.gid, follow_symlinks=False)
        except OSError as error:
            # Root of a user namespace can give files only to the ids that are mapped into it.
            if error.errno not in (errno.EINVAL, errno.EPERM):
                raise

    def _white_out(self, parent: Path, name: str, fresh: set[Path]) -> None:
        if name not in ("", ".", "..") and not name.startswith(_WHITEOUT) and parent / name not in fresh:
            self._remove(parent / name)

    def _clear(self, directory: Path, fresh: set[Path]) -> None:
        """Removes what lower layers put into a directory."""
        if directory in self._cleared:
            return
        self._cleared.add(directory)
        for place in list(directory.iterdir()):
            if place not in fresh:
                self._remove(place)
            elif place.is_dir() and not place.is_symlink():
                self._clear(place, fresh)

    def _remove(self, place: Path) -> None:
        if place.is_symlink() or not place.is_dir():
            if place.is_symlink():
                self._resolved.clear()
            place.unlink(missing_ok=True)
            return
        self._resolved.clear()
        shutil.rmtree(place)


def _target(path: str) -> str | None:
    """What a symbolic link says; None for anything else, or nothing."""
    try:
        return os.readlink(path)  # noqa: PTH115 - once for each name of each path
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):
            raise
        return None
