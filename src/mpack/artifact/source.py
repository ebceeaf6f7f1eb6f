"""Opening an artifact by content: zip, tar (plain, gzip, bzip2, xz), directory, single file, here or in a store.

A directory and a single file are used where they are; an archive is unpacked once, hashed on the way. Files of models
that are zips themselves (skops, PyTorch) stay whole.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mpack.address import FORMS, is_remote, public
from mpack.artifact.archive import is_junk, safe_path, shown, unsafe
from mpack.artifact.limits import Limits, Meter
from mpack.artifact.model import ArtifactFile, Tree
from mpack.contents import LARGE, FileState, Hashing, Pending, file_state, hash_file
from mpack.errors import InputError

if TYPE_CHECKING:
    from mpack.artifact.remote import Fetched
    from mpack.stores.model import Access, Origin

_SUFFIX = re.compile(r"(\.tar)?\.[A-Za-z][A-Za-z0-9]*$")


def open_tree(
    location: str,
    limits: Limits,
    scratch: Path,
    hashing: Hashing | None = None,
    *,
    digest: str | None = None,
    access: Access | None = None,
) -> Tree:
    """The artifact's files. What has to be unpacked goes to a new directory below `scratch`, which is gone again when
    this raises. With `hashing`, large files that are used where they are may still be `Pending`. `digest` is the
    "sha256:…" that it must have: a file's own, a directory's `tree_digest`. `access` is for addresses.

    Raises InputError, EnvironmentFault disk-full, and what fetching raises; so do files that were pending."""
    target = Path(tempfile.mkdtemp(prefix="artifact-", dir=scratch))
    name = public(location)
    try:
        with _told(name):
            if is_remote(location):
                from mpack.artifact.remote import fetch_artifact

                tree = _open_fetched(fetch_artifact(location, limits, access), limits, target, digest)
            else:
                path = _existing(location)
                if whole := digest is not None and path.is_file():
                    with steady(path) as stream:
                        _require(hash_file(stream)[1], digest)
                in_place = _InPlace(name, Meter(limits), hashing is not None)
                tree = _open_path(path, Path(location).name, limits, target, in_place)
                digest = None if whole else digest
        if hashing is not None:
            hashing.start([file.content for file in tree.values() if isinstance(file.content, Pending)])
        if digest is not None and (tree.origin is None or tree.origin.sha256 is None):
            with _told(name):
                _require(tree_digest(tree).removeprefix("sha256:"), digest)
        return tree
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _open_fetched(fetched: Fetched, limits: Limits, target: Path, digest: str | None) -> Tree:
    """The tree of what was fetched; of a single file the digest is asked for before anything looks into it."""
    if not fetched.one:
        return _tree(fetched.files, fetched.title, fetched.origin)
    [(path, file)] = fetched.files.items()
    if digest is not None:
        _require(file.sha256, digest)
    tree = _open_path(file.source, path, limits, target, _Known(file))
    return Tree(tree, tree.title, fetched.origin)


def _require(sha256: str, digest: str) -> None:
    """Raises InputError artifact-digest for another digest than the given one."""
    if f"sha256:{sha256}" != digest:
        raise InputError(
            "artifact-digest",
            f"It has the SHA-256 {sha256}, not {digest.removeprefix('sha256:')}.",
            "It was changed or damaged, or the digest is of another version. Of a file `sha256sum` prints it, of a "
            "directory `mpack inspect`.",
        )


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Turns errors into InputErrors that tell which artifact it is."""
    try:
        yield
    except InputError as error:
        raise InputError(error.code, _about(name, error.message), error.hint) from error
    except OSError as error:
        raise _unreadable(name, error) from error


def tree_digest(tree: Tree) -> str:
    """ "sha256:…" over path, size, content hash and executable bit of every file, sorted by path: a zip, a tar and the
    folder that they were made of have the same."""
    digest = hashlib.sha256()
    for file in tree.values():
        digest.update(f"{file.path}\0{file.size}\0{file.sha256}\0{int(file.executable)}\n".encode())
    return "sha256:" + digest.hexdigest()


def _about(name: str, message: str) -> str:
    return message if message.startswith(name) else f"{name}: {message}"


def _unreadable(name: str, error: OSError) -> InputError:
    where = "" if error.filename is None else f": {error.filename}"
    reason = error.strerror or str(error)
    return InputError("artifact-missing", f"{name} cannot be read{where}: {reason}.", "Check its permissions.")


def _existing(location: str) -> Path:
    """The real path. Raises InputError artifact-missing, or OSError where it cannot be looked at."""
    try:
        if location:
            return Path(location).resolve(strict=True)
    except FileNotFoundError:
        pass
    except RuntimeError as error:
        raise unsafe("It is a link that leads round in a loop.", "Give the path of the model itself.") from error
    if re.match(r"[a-z][a-z0-9+.-]+://", location):
        hint = f"Copy it to this machine first: an artifact is a path, or {FORMS}."
        raise InputError("artifact-missing", "This kind of URL is not one that mpack opens.", hint)
    raise InputError("artifact-missing", f"{location or 'The empty path'} does not exist.", "Check the path.")


def _open_path(path: Path, name: str, limits: Limits, target: Path, in_place: _InPlace | _Known) -> Tree:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        assert isinstance(in_place, _InPlace)
        return _tree(_directory_files(path, in_place), name if name not in ("", ".", "..") else path.name)
    if not stat.S_ISREG(mode):
        raise unsafe(f"It is {_kind(mode)}.", "An artifact is a regular file or a directory.")
    from mpack.artifact.packed import archive_files

    title = _SUFFIX.sub("", name) or name
    with steady(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size == 0:
            raise InputError("artifact-empty", "It is empty (0 bytes).", "Copy or download the artifact again.")
        if size > limits.total:
            Meter(limits).data(size)
        files = archive_files(stream, size, limits, target)
        if files is None:
            return _tree({(key := safe_path(name)): in_place.file(path, key)}, title)
    return _tree(files, title)


def _tree(files: dict[str, ArtifactFile], title: str, origin: Origin | None = None) -> Tree:
    if not files:
        raise InputError("artifact-empty", "It holds no file.", "Look for where the model was really saved to.")
    tops = {path.partition("/")[0] for path in files}
    if len(tops) == 1 and (top := tops.pop()) not in files and not top.isdecimal():
        files = {path[len(top) + 1 :]: replace(file, path=path[len(top) + 1 :]) for path, file in files.items()}
    return Tree(files, title, origin)


@contextmanager
def steady(path: Path) -> Iterator[BinaryIO]:
    """A file that must stay as it is while it is read. Raises InputError artifact-changed."""
    with path.open("rb") as stream:
        before = os.fstat(stream.fileno())
        try:
            yield stream
        finally:
            after = os.fstat(stream.fileno())
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                # Raised over whatever the reading ran into: the change is the cause of it.
                raise _changed(path)


def _changed(path: Path) -> InputError:
    return InputError("artifact-changed", f"{path.name} changed while it was being read.", "Wait until it is written.")


class _Known:
    """A file whose hash is known, which stands under another name."""

    def __init__(self, file: ArtifactFile) -> None:
        self._file = file

    def file(self, source: Path, path: str) -> ArtifactFile:
        """The file that stands at `path` in the artifact."""
        return replace(self._file, path=path, source=source)


class _InPlace:
    """Files that are used where they are, of the artifact `name`: hashed now, or with `later` large ones `Pending`."""

    def __init__(self, name: str, meter: Meter, later: bool) -> None:
        self._name = name
        self.meter = meter
        self._later = later

    def file(self, source: Path, path: str) -> ArtifactFile:
        """The file that stands at `path` in the artifact. Raises InputError."""
        with steady(source) as stream:
            found, state = os.fstat(stream.fileno()), file_state(stream.fileno())
            size, executable = found.st_size, bool(found.st_mode & 0o100)
            if not self._later or size < LARGE:
                size, sha256 = hash_file(stream, self.meter.data)
                return ArtifactFile(path, size, sha256, source, executable)
        self.meter.data(size)
        later = Pending(functools.partial(self._hashed, source, state))
        return ArtifactFile(path, size, later, source, executable)

    def _hashed(self, source: Path, state: FileState, counted: Callable[[int], None]) -> str:
        """The hash of the file that was there when the artifact was opened, and that others have read parts of."""
        with _told(self._name), steady(source) as stream:
            if file_state(stream.fileno()) != state:
                raise _changed(source)
            size, sha256 = hash_file(stream, counted)
            if size != state[2] or file_state(stream.fileno()) != state:
                raise _changed(source)
            return sha256


# Directories


def _directory_files(root: Path, in_place: _InPlace) -> dict[str, ArtifactFile]:
    """Every file below `root`, links inside it followed, hashed where it is."""
    files: dict[str, ArtifactFile] = {}
    pending = [("", root, frozenset([root]))]
    while pending:
        prefix, directory, active = pending.pop()
        with os.scandir(directory) as entries:
            for entry in entries:
                in_place.meter.entry()
                path = safe_path(prefix + entry.name)
                if is_junk(path):
                    continue
                real = _real(entry, root, path)
                mode = real.stat(follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    if real in active:
                        raise unsafe(f"The link {shown(path)} leads back to a directory that it stands in.")
                    pending.append((path + "/", real, active | {real}))
                elif not stat.S_ISREG(mode):
                    raise unsafe(f"{shown(path)} is {_kind(mode)}.", "Remove it: an artifact holds regular files only.")
                elif path in files:
                    raise unsafe(f"The name {shown(path)} occurs twice.")
                else:
                    files[path] = in_place.file(real, path)
    return files


def _real(entry: os.DirEntry[str], root: Path, path: str) -> Path:
    """Where an entry really is. Raises InputError on a link that leaves `root`, dangles or loops."""
    if not entry.is_symlink():
        return Path(entry.path)
    try:
        real = Path(entry.path).resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise unsafe(f"The link {shown(path)} leads to nothing.", "Remove the link, or copy what it is for.") from error
    except (RuntimeError, OSError) as error:
        raise unsafe(f"The link {shown(path)} leads round in a loop.", "Remove the link.") from error
    if not real.is_relative_to(root):
        raise unsafe(
            f"The link {shown(path)} leads outside the artifact, to {shown(str(real))}.",
            "Copy the artifact with its links followed (cp -rL) and take the copy.",
        )
    return real


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a character device",
        stat.S_IFBLK: "a block device",
    }
    return kinds.get(stat.S_IFMT(mode), "no regular file")
