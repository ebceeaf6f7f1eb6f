"""Unpacking archives safely: what both zip and tar share.

Entries are written under numbered names of our own, so no name out of an archive ever reaches the file system; the
names are checked all the same, because the image will have them. Links are resolved inside the archive, never on disk.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from mpack.artifact.limits import Meter
from mpack.artifact.model import ArtifactFile
from mpack.errors import EnvironmentFault, InputError
from mpack.records import dataclass

BLOCK = 1 << 20
#: What the image's file systems take: bytes a component, and bytes a path below /opt/mpack/model.
MAX_COMPONENT = 255
MAX_PATH = 2048
#: Links that one path may lead through, as the Linux kernel has it.
MAX_LINKS = 40


class Readable(Protocol):
    """The one thing asked of a stream: up to `size` bytes, b"" at the end."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class Member:
    """One entry as its archive spells it. `target` is a link's: relative to the link, or to the root for a hardlink."""

    name: str
    kind: Literal["file", "directory", "symlink", "hardlink"]
    executable: bool = False
    target: str = ""


def unsafe(message: str, hint: str = "") -> InputError:
    """The error for an entry that is never unpacked."""
    return InputError("artifact-unsafe", message, hint or "Make the archive again with regular files only.")


def shown(name: str) -> str:
    """A name out of an artifact, quoted and escaped for a message."""
    return repr(name if len(name) <= 120 else name[:120] + "…")


def safe_path(name: str) -> str:
    """An entry's name as a relative POSIX path, "" for the root. Raises InputError artifact-unsafe.

    Backslashes separate as slashes do, for tools on Windows write them; "." and empty components are dropped.
    """
    if any(ord(char) < 32 or ord(char) == 127 for char in name):
        raise unsafe(f"The name {shown(name)} has control characters.")
    if any("\ud800" <= char <= "\udfff" for char in name):
        raise unsafe(f"The name {shown(name)} is not UTF-8.")
    path = name.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    # A drive further down becomes the first part where a wrapping folder is taken off.
    if is_absolute(path) or any(is_absolute(part) for part in parts):
        raise unsafe(f"The entry {shown(name)} has an absolute path.")
    if ".." in parts:
        raise unsafe(f"The entry {shown(name)} leads outside the artifact.")
    result = "/".join(parts)
    if len(result.encode()) > MAX_PATH or any(len(part.encode()) > MAX_COMPONENT for part in parts):
        raise unsafe(f"The name {shown(name)} is too long: {MAX_COMPONENT} bytes a part, {MAX_PATH} in all.")
    return result


def is_absolute(path: str) -> bool:
    """True for a rooted path, and for one that names a Windows drive."""
    return path.startswith("/") or (path[1:2] == ":" and path[0].isalpha() and path[2:3] in ("", "/"))


def is_junk(path: str) -> bool:
    """True for what macOS adds to archives and folders: __MACOSX, .DS_Store, AppleDouble files."""
    parts = path.split("/")
    return parts[0] == "__MACOSX" or parts[-1] == ".DS_Store" or parts[-1].startswith("._")


def unpack(members: Iterable[tuple[Member, Readable]], destination: Path, meter: Meter) -> dict[str, ArtifactFile]:
    """Writes every file below `destination`, hashing on the way, and follows the links. Raises InputError, and
    EnvironmentFault disk-full; the caller removes `destination` then."""
    files: dict[str, ArtifactFile] = {}
    directories: set[str] = set()
    links: dict[str, str] = {}
    for member, stream in members:
        meter.entry()
        path = safe_path(member.name)
        if is_junk(path):
            continue
        if member.kind == "directory":
            _claim_directory(path, files, links, directories)
            continue
        _claim_file(path, member, files, links, directories)
        if member.kind == "file":
            source = destination / f"{len(files):06d}"
            size, sha256 = copy(stream, source)
            files[path] = ArtifactFile(path, size, sha256, source, member.executable)
        else:
            links[path] = _target(path, member)
    return follow(files, links, meter) if links else files


def _claim_directory(path: str, files: Mapping[str, object], links: Mapping[str, object], dirs: set[str]) -> None:
    parents = [path[:i] for i, char in enumerate(path) if char == "/"]
    for name in [*parents, path] if path else []:
        if name in files or name in links:
            raise unsafe(f"{shown(name)} is both a file and a directory.")
        dirs.add(name)


def _claim_file(
    path: str, member: Member, files: Mapping[str, object], links: Mapping[str, object], dirs: set[str]
) -> None:
    if not path:
        raise unsafe(f"The entry {shown(member.name)} has no name.")
    if path in files or path in links:
        raise unsafe(f"The name {shown(path)} occurs twice.")
    if path in dirs:
        raise unsafe(f"{shown(path)} is both a file and a directory.")
    _claim_directory(path.rpartition("/")[0], files, links, dirs)


def _target(path: str, member: Member) -> str:
    """A link's target seen from the archive's root, "." and ".." still in it."""
    target = member.target.replace("\\", "/")
    if not target or "\0" in target:
        raise unsafe(f"The link {shown(path)} has no target.")
    if is_absolute(target) or len(target) > MAX_PATH:
        raise unsafe(f"The link {shown(path)} leads outside the artifact, to {shown(target)}.")
    parent = path.rpartition("/")[0]
    return f"{parent}/{target}" if member.kind == "symlink" and parent else target


def copy(stream: Readable, path: Path) -> tuple[int, str]:
    """Writes `stream` to the new file `path`; size in bytes and SHA-256. Raises EnvironmentFault disk-full."""
    digest = hashlib.sha256()
    size = 0
    try:
        output = create(path)
    except OSError as error:
        raise disk_fault(error, path) from error
    with output:
        while block := stream.read(BLOCK):
            digest.update(block)
            size += len(block)
            try:
                output.write(block)
            except OSError as error:
                raise disk_fault(error, path) from error
    return size, digest.hexdigest()


def create(path: Path) -> BinaryIO:
    """A new, unbuffered file: a full disk is then an error of `write`, never of `close`."""
    return path.open("xb", buffering=0)


def disk_fault(error: OSError, path: Path) -> EnvironmentFault:
    """The error for a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnvironmentFault(
            "disk-full",
            f"The disk is full: the artifact cannot be unpacked into {path.parent}.",
            "Free some space, or set TMPDIR to a directory on a larger disk.",
        )
    return EnvironmentFault("disk-full", f"{path.parent} cannot be written to: {error.strerror or error}.")


def follow(files: Mapping[str, ArtifactFile], links: Mapping[str, str], meter: Meter) -> dict[str, ArtifactFile]:
    """The files with every link replaced by what it leads to. Raises InputError on a link out, a loop, a dead end."""
    children: dict[str, set[str]] = {"": set()}
    for path in (*files, *links):
        while path:
            parent, _, name = path.rpartition("/")
            children.setdefault(parent, set()).add(name)
            path = parent
    result: dict[str, ArtifactFile] = {}
    pending: list[tuple[str, str, frozenset[str]]] = [("", "", frozenset([""]))]
    while pending:
        seen_as, directory, active = pending.pop()
        for name in children[directory]:
            path = f"{seen_as}/{name}".lstrip("/")
            real = resolve(f"{directory}/{name}", links)
            if path != real:
                meter.entry()
            if real in files:
                result[path] = replace(files[real], path=path)
            elif real in active:
                raise unsafe(f"The link {shown(path)} leads back to a directory that it stands in.")
            elif real in children:
                pending.append((path, real, active | {real}))
            else:
                raise unsafe(f"The link {shown(path)} leads to {shown(real)}, which is not in the artifact.")
    return result


def resolve(path: str, links: Mapping[str, str]) -> str:
    """`path` with every link in it followed, as a kernel would with the archive as its root."""
    todo = path.split("/")[::-1]
    done: list[str] = []
    followed = 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if not done:
                raise unsafe(f"The link {shown(path.lstrip('/'))} leads outside the artifact.")
            done.pop()
            continue
        done.append(part)
        target = links.get("/".join(done))
        if target is not None:
            followed += 1
            if followed > MAX_LINKS:
                raise unsafe(f"The link {shown(path.lstrip('/'))} leads round in a loop.")
            done.clear()
            todo += target.split("/")[::-1]
    return "/".join(done)
