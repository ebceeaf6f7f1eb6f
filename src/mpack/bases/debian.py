"""A root file system from Debian packages by extraction alone: no root, no maintainer script, the same bytes twice."""

from __future__ import annotations

import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mpack.bases.apt import ARCHITECTURES, Apt, AptPackage
from mpack.bases.recipe import CA_BUNDLE, NONROOT, Recipe
from mpack.errors import EnvironmentFault, InputError
from mpack.oci import tar
from mpack.oci.layer import Directory, Entry

#: Directories that a package may ship under / and that are links into /usr.
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_CERTIFICATES = "usr/share/ca-certificates/"
_DIRECTORIES = {
    "/tmp": Directory(0o1777),  # noqa: S108 (the image's)
    "/var/tmp": Directory(0o1777),  # noqa: S108
    "/root": Directory(0o700),
    "/home/nonroot": Directory(0o755, NONROOT, NONROOT),
}


@dataclass(frozen=True)
class Rootfs:
    """What goes into the layer: entries, the directories that are not root's 0755, and `python`'s package version."""

    entries: tuple[Entry, ...]
    directories: dict[str, Directory]
    python_version: str
    packages: tuple[tuple[str, str], ...]


@dataclass
class _Assembly:
    """The growing file system: path without leading slash -> entry, and the package's certificates by path."""

    recipe: Recipe
    scratch: Path
    entries: dict[str, Entry] = field(default_factory=dict)
    certificates: dict[str, bytes] = field(default_factory=dict)
    packages: list[tuple[str, str]] = field(default_factory=list)
    count: int = 0

    def put(self, entry: Entry) -> None:
        self.entries[entry.path.lstrip("/")] = entry


@contextmanager
def debian_rootfs(recipe: Recipe, platform: str) -> Iterator[Rootfs]:
    """Resolves, downloads and reads the recipe's packages; the entries can be read until the context is left.

    Raises EnvironmentFault (tool-missing, base-unavailable, download-failed) and InputError for unknown packages.
    """
    architecture = debian_architecture(platform)
    with tempfile.TemporaryDirectory(prefix="mpack-base-") as scratch:
        apt = Apt(Path(scratch) / "apt", recipe.suite, architecture, recipe.stand_ins)
        apt.update()
        own = packages = apt.closure(recipe.own)
        wanted = (*recipe.own, *recipe.extra)
        if recipe.extra:
            packages = apt.closure(wanted)
        archives = apt.download(wanted)
        yield assemble(recipe, [(item, item in own) for item in packages], archives, Path(scratch))


def debian_architecture(platform: str) -> str:
    """Debian's name for the architecture of "linux/amd64". Raises InputError base-unsuitable for others."""
    system, _, architecture = platform.partition("/")
    name = ARCHITECTURES.get(architecture.partition("/")[0])
    if system != "linux" or name is None:
        raise InputError(
            "base-unsuitable",
            f"mpack has no base image recipe for {platform}.",
            "Give a base for this platform with --base REF.",
        )
    return name


def assemble(recipe: Recipe, packages: Iterable[tuple[AptPackage, bool]], archives: Path, scratch: Path) -> Rootfs:
    """The file system of downloaded packages; the flag says whether the recipe's drop rules for programs apply."""
    files = scratch / "files"
    files.mkdir()
    assembly = _Assembly(recipe, files)
    for package, own in packages:
        archive = archives / package.file
        _read_control(assembly, archive)
        _read_archive(assembly, archive, own)
    _write_own_files(assembly)
    _link_merged(assembly)
    versions = dict(assembly.packages)
    python = re.match(r"\d+\.\d+\.\d+", versions.get(f"python{recipe.python}", ""))
    if python is None:
        raise EnvironmentFault("base-unavailable", f"Debian {recipe.suite} has no Python {recipe.python}.")
    entries = tuple(assembly.entries[path] for path in sorted(assembly.entries))
    return Rootfs(entries, _DIRECTORIES, python[0], tuple(sorted(assembly.packages)))


def _read_control(assembly: _Assembly, archive: Path) -> None:
    """Keeps the package's control fields where scanners look for them: /var/lib/dpkg/status.d/NAME."""
    control = _dpkg_deb("--field", archive)
    fields = dict(re.findall(rb"^(Package|Version): (.*)$", control, re.MULTILINE))
    name, version = fields[b"Package"].decode(), fields[b"Version"].decode()
    assembly.packages.append((name, version.partition(":")[2] or version))
    assembly.put(Entry(f"/var/lib/dpkg/status.d/{name}", size=len(control), source=control))


def _read_archive(assembly: _Assembly, archive: Path, own: bool) -> None:
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as data:
                for member in data:
                    _take(assembly, data, member, own)
        except tarfile.TarError as error:
            raise _damaged(archive) from error
        process.stdout.read()  # padding after the last entry: dpkg-deb would else die of a closed pipe
    if process.returncode != 0:
        raise _damaged(archive)


def _take(assembly: _Assembly, data: tarfile.TarFile, member: tarfile.TarInfo, own: bool) -> None:
    path = _merged(member.name.removeprefix("./").strip("/"))
    if path.startswith(_CERTIFICATES) and member.isfile():
        assembly.certificates[path] = _content(data, member)
        return
    if path in ("", *_MERGED) or assembly.recipe.leaves_out(path, own=own):
        return
    place = f"/{path}"
    if member.isdir():
        assembly.put(Entry(place, tar.DIRECTORY, 0o755))
    elif member.issym():
        assembly.put(Entry(place, tar.LINK, 0o777, target=member.linkname))
    elif member.islnk():
        first = assembly.entries.get(_merged(member.linkname.removeprefix("./").strip("/")))
        if first is not None:
            assembly.put(Entry(place, mode=first.mode, size=first.size, source=first.source))
    elif member.isfile():
        content = assembly.scratch / str(assembly.count)
        assembly.count += 1
        content.write_bytes(_content(data, member))
        # No set-uid bits: nothing in an image changes its user.
        mode = 0o755 if member.mode & 0o100 else 0o644
        assembly.put(Entry(place, mode=mode, size=member.size, source=content))


def _content(data: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = data.extractfile(member)
    assert stream is not None
    return stream.read()


def _merged(path: str) -> str:
    head, slash, _ = path.partition("/")
    return f"usr/{path}" if slash and head in _MERGED else path


def _write_own_files(assembly: _Assembly) -> None:
    recipe = assembly.recipe
    bundle = b"".join(content.rstrip() + b"\n" for _, content in sorted(assembly.certificates.items()))
    texts = {path: text.encode() for path, text in recipe.files}
    for path, content in {**texts, CA_BUNDLE: bundle}.items():
        assembly.put(Entry(f"/{path}", size=len(content), source=content))
    for path, target in recipe.links:
        assembly.put(Entry(f"/{path}", tar.LINK, 0o777, target=target))
    sites = (f"/usr/local/lib/python{recipe.python}/dist-packages", "/usr/lib/python3/dist-packages")
    for place in (*_DIRECTORIES, *sites, "/usr/local/bin", "/usr/sbin", "/run", "/proc", "/sys", "/dev", "/opt"):
        assembly.put(Entry(place, tar.DIRECTORY, 0o755))


def _link_merged(assembly: _Assembly) -> None:
    present = {path.split("/")[1] for path in assembly.entries if path.startswith("usr/") and path.count("/") > 1}
    for name in _MERGED:
        if name in present or name in ("bin", "sbin", "lib"):
            assembly.put(Entry(f"/{name}", tar.LINK, 0o777, target=f"usr/{name}"))


def _dpkg_deb(option: str, archive: Path) -> bytes:
    done = subprocess.run(["dpkg-deb", option, str(archive)], capture_output=True, check=False, timeout=300)
    if done.returncode != 0:
        raise _damaged(archive)
    return done.stdout


def _damaged(archive: Path) -> EnvironmentFault:
    return EnvironmentFault("download-failed", f"The Debian package {archive.name} cannot be read.", "Try again.")
