"""What an image's own files say of its Python: the interpreter, its full version, its site directories, its packages.

Nothing of the image is run. Understood are Debian's Python, Python built under /usr/local (the official images), Red
Hat's, conda's, virtual environments, and what uv or pyenv put anywhere on PATH.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from posixpath import dirname, join, normpath

from packaging.utils import canonicalize_name

from mpack.oci.image import OciImage
from mpack.oci.rootfs import Files, read_files

#: Looked at after the image's PATH.
BIN_DIRS = ("/usr/local/bin", "/usr/bin", "/bin", "/opt/conda/bin", "/opt/venv/bin", "/opt/mpack/venv/bin")
#: Bytes: interpreters and libpython are read for their version string.
READ_LIMIT = 64 << 20
_PROGRAM = re.compile(r"python(?:3(?:\.(\d+))?)?")
_WANTED = re.compile(
    r"/(?:python3?(?:\.\d+)?|libpython3\.\d+\.so[.\d]*|patchlevel\.h|pyvenv\.cfg|[^/]+\.(?:dist|egg)-info/(?:METADATA|PKG-INFO)"
    r"|[^/]+\.egg-info|var/lib/dpkg/status)$"
)
_VERSION_DIR = re.compile(r"/lib(?:64)?/python3\.(\d+)$")


@dataclass(frozen=True)
class Interpreter:
    """A Python of an image. `path` has no link in it; `site_dirs` are in import order; `packages` name -> version."""

    path: str
    version: str
    site_dirs: tuple[str, ...]
    packages: tuple[tuple[str, str], ...]


def read_base(image: OciImage) -> Files:
    """The image's files with the content of those that tell of a Python; it reads all layers, once.

    Raises EnvironmentFault store-corrupt for damaged layers.
    """
    return read_files(image, lambda path: _WANTED.search(path) is not None, READ_LIMIT)


def find_interpreter(image: OciImage, files: Files | None = None) -> Interpreter | None:
    """The Python that the image's PATH leads to, else one in the usual places; None where there is none.

    `files` are what `read_base` gives; it is called without them.
    """
    files = read_base(image) if files is None else files
    for found in _candidates(files, _search_path(image)):
        path = files.resolve(found)
        if path is None or files[path].kind != "file":
            continue
        venv = _venv_of(files, found)
        prefix = dirname(dirname(path))
        minor = _minor(files, path, prefix)
        if minor is None:
            continue
        site_dirs = _site_dirs(files, prefix, minor, venv)
        version = _full_version(files, image, path, prefix, minor)
        return Interpreter(path, version, site_dirs, _packages(files, site_dirs))
    return None


def _search_path(image: OciImage) -> list[str]:
    env = dict(item.split("=", 1) for item in image.runtime.get("Env") or [] if "=" in item)
    listed = [item for item in env.get("PATH", "").split(":") if item.startswith("/")]
    return list(dict.fromkeys([*map(normpath, listed), *BIN_DIRS]))


def _candidates(files: Files, directories: list[str]) -> Iterator[str]:
    """Paths of interpreters, best first: by directory, `python3` and `python` before the newest `python3.N`."""
    programs: dict[str, list[str]] = {}
    for path in files:
        directory, _, name = path.rpartition("/")
        if name.startswith("python") and _PROGRAM.fullmatch(name):
            programs.setdefault(directory, []).append(name)
    rank = {"python3": -2, "python": -1}
    for directory in directories:
        names = programs.get(files.resolve(directory) or directory, [])
        numbered = {name: 1000 - int(name.rpartition(".")[2]) for name in names if "." in name}
        for name in sorted(names, key={**rank, **numbered}.__getitem__):
            yield f"{directory}/{name}"


def _venv_of(files: Files, found: str) -> str | None:
    """The virtual environment that a path on PATH belongs to: the one whose pyvenv.cfg stands above its bin."""
    place = found
    for _ in range(8):
        prefix = dirname(dirname(place))
        if files.resolve(f"{prefix}/pyvenv.cfg") is not None:
            return prefix
        parent = files.resolve(dirname(place))
        node = files.get(f"{parent}/{place.rpartition('/')[2]}") if parent else None
        if node is None or node.kind != "link":
            return None
        place = normpath(join(parent or "/", node.target))
    return None


def _minor(files: Files, path: str, prefix: str) -> str | None:
    """ "3.11", from the program's name, else from the standard library beside it."""
    named = _PROGRAM.fullmatch(path.rpartition("/")[2])
    if named and named[1]:
        return f"3.{named[1]}"
    found = [
        int(match[1])
        for directory in _children(files, f"{prefix}/lib")
        if (match := _VERSION_DIR.search(directory)) and files.resolve(f"{directory}/os.py")
    ]
    return f"3.{max(found)}" if found else None


def _full_version(files: Files, image: OciImage, path: str, prefix: str, minor: str) -> str:
    """ "3.11.2"; where no file tells more, "3.11"."""
    exact = re.escape(minor).encode() + rb"\.\d+(?:(?:a|b|rc)\d+)?"
    header = files.read(f"{prefix}/include/python{minor}/patchlevel.h") or b""
    if found := re.search(rb'#define PY_VERSION\s+"(' + exact + rb')\+?"', header):
        return found[1].decode()
    for binary in (path, *(f"{prefix}/{lib}/libpython{minor}.so.1.0" for lib in ("lib", "lib64"))):
        # PY_VERSION is a C string of its own in the interpreter or in libpython.
        if found := re.search(rb"\0(" + exact + rb")\+?\0", files.read(binary) or b""):
            return found[1].decode()
    status = files.read("/var/lib/dpkg/status") or b""
    pattern = rb"^Package: (?:lib)?python" + re.escape(minor).encode() + rb"(?:-minimal)?\n(?:.+\n)*?Version: (" + exact
    if found := re.search(pattern + rb")", status, re.MULTILINE):
        return found[1].decode()
    env = dict(item.split("=", 1) for item in image.runtime.get("Env") or [] if "=" in item)
    stated = env.get("PYTHON_VERSION", "")
    return stated if stated.startswith(minor + ".") else minor


def _site_dirs(files: Files, prefix: str, minor: str, venv: str | None) -> tuple[str, ...]:
    own = [f"{prefix}/{lib}/python{minor}/site-packages" for lib in ("lib", "lib64")]
    if prefix == "/usr":
        own = [
            f"/usr/local/{lib}/python{minor}/{kind}"
            for kind in ("dist-packages", "site-packages")
            for lib in ("lib", "lib64")
        ] + own
        own += ["/usr/lib/python3/dist-packages"]
    if venv is not None:
        settings = (files.read(f"{venv}/pyvenv.cfg") or b"").decode("utf-8", "replace")
        sees = re.search(r"^\s*include-system-site-packages\s*=\s*true\s*$", settings, re.MULTILINE | re.IGNORECASE)
        ours = [f"{venv}/{lib}/python{minor}/site-packages" for lib in ("lib", "lib64")]
        own = ours + (own if sees else [])
    # lib64 is often a link to lib: one directory counts once.
    found: dict[str, None] = {}
    for item in own:
        place = files.resolve(item)
        if place is not None and files[place].kind == "directory":
            found.setdefault(place)
    return tuple(found)


def _packages(files: Files, site_dirs: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Canonical name and version of what the site directories hold; of two the first is what Python imports."""
    versions: dict[str, str] = {}
    for directory in site_dirs:
        for path in sorted(_children(files, directory)):
            if not path.endswith((".dist-info", ".egg-info")):
                continue
            metadata = files.read(f"{path}/METADATA") or files.read(f"{path}/PKG-INFO") or files.read(path)
            headers = BytesHeaderParser().parsebytes(metadata or b"")
            name, version = headers.get("Name"), headers.get("Version")
            if name and version:
                versions.setdefault(str(canonicalize_name(str(name))), str(version))
    return tuple(sorted(versions.items()))


def _children(files: Files, directory: str) -> list[str]:
    place = files.resolve(directory)
    if place is None:
        return []
    depth = place.rstrip("/").count("/") + 1
    return [path for path in files if path.startswith(place + "/") and path.count("/") == depth]
