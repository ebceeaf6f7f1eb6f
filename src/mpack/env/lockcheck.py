"""What a lock's values may look like. A lock comes along with a model, from whoever made that.

Its packages become lines of a requirements file and its paths stand in tars and Dockerfiles, so a value that is none of
its kind (a second line, an option, a source archive that would be built on this machine) is refused before any use.
"""

from __future__ import annotations

import posixpath
import re
from urllib.parse import urlsplit

from mpack.plan import PLATFORMS, BaseImage, Bytecode, CondaEnvironment, CondaPackage, Environment, LockedPackage

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9.!+_-]*")
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_PYTHON = re.compile(r"\d+\.\d+(\.\d+)?[A-Za-z0-9.+]*")
_PLATFORM = re.compile(r"[a-z0-9]+(/[a-z0-9]+){1,2}")
_REFERENCE = re.compile(r"[^\s$\x00-\x1f\x7f-][^\s$\x00-\x1f\x7f]*")
_SOURCES = ("index", "artifact", "vcs", "url", "base")
_CONDA_NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]*")
_CONDA_VERSION = re.compile(r"[A-Za-z0-9_.!+]+")
_CHANNEL = re.compile(r"[A-Za-z0-9_][\w.-]*(/[\w.-]+)*")
_SITE = re.compile(r"(lib/python3\.\d+t?/site-packages)?")


def check_entry(base: BaseImage, environment: Environment, bytecode: Bytecode | None) -> None:
    """Raises ValueError naming the first value that mpack would not have written, TypeError on one of another type."""
    _match(_REFERENCE, base.reference, "a base's name")
    _match(_HASH, base.digest, "a digest")
    _match(_PLATFORM, base.platform, "a platform")
    if environment.platform not in PLATFORMS:
        raise ValueError(f"{environment.platform!r} is no platform that mpack builds for")
    if not isinstance(environment.trim, bool) or not all(isinstance(item, str) for item in environment.relaxed):
        raise TypeError("trim or relaxed is of another type")
    for version in (base.python_version, environment.python):
        _match(_PYTHON, version, "a version of Python")
    for path in (base.python, *base.site_dirs):
        _check_path(path)
    for package in environment.packages:
        _check_package(package)
    if environment.conda is not None:
        _check_conda(environment.conda, environment.platform)
    if bytecode is not None:
        _match(_PYTHON, bytecode.python_version, "a version of Python")
        for path in bytecode.sources:
            _check_path(path)
            if not path.endswith(".py"):
                raise ValueError(f"{path!r} is no Python source")


def is_wheel_url(url: str) -> bool:
    """True for an address whose file is a wheel by its name: pip builds any other file, whatever it is told."""
    parts = urlsplit(url)
    plain = not re.search(r"[\s\x00-\x1f\x7f]", url)
    return plain and parts.scheme in ("https", "http", "file") and parts.path.endswith(".whl")


def holds_credentials(url: str) -> bool:
    """True for an address with a password, or a user alone, which is a token but for ssh."""
    parts = urlsplit(url.removeprefix("git+"))
    return parts.password is not None or (parts.username is not None and parts.scheme != "ssh")


def _check_package(package: LockedPackage) -> None:
    _match(_NAME, package.name, "a package's name")
    _match(_VERSION, package.version, f"a version of {package.name}")
    if not isinstance(package.url, str | None):
        raise TypeError(f"the URL of {package.name} is no text")
    for item in package.hashes:
        _match(_HASH, item, f"a hash of {package.name}")
    if package.source not in _SOURCES:
        raise ValueError(f"{package.source!r} is no source of packages")
    if package.source != "base" and not package.hashes:
        raise ValueError(f"{package.name} has no hash")
    if package.source in ("url", "vcs") and holds_credentials(package.url or ""):
        raise ValueError(f"the URL of {package.name} holds credentials")
    if package.source == "url" and not is_wheel_url(package.url or ""):
        raise ValueError(f"{package.name} is to come from {package.url!r}, which is no wheel")
    if package.source == "vcs" and not re.fullmatch(r"git\+[^\s\x00-\x1f\x7f]+", package.url or ""):
        raise ValueError(f"{package.name} is to come from {package.url!r}, which is no git URL")


def _check_conda(conda: CondaEnvironment, platform: str) -> None:
    _match(_SITE, conda.site, "a place of Python packages")
    if not isinstance(conda.interpreter, bool) or (conda.interpreter and not conda.site):
        raise TypeError("what tells of conda's Python is of another type")
    if bool(conda.site) != (conda.python_version is not None):
        raise ValueError("conda's site-packages and its Python go together")
    subdirs = {"linux/amd64": "linux-64", "linux/arm64": "linux-aarch64"}
    for package in conda.packages:
        check_conda_package(package, ("noarch", subdirs[platform]))
    if len({package.name for package in conda.packages}) < len(conda.packages):
        raise ValueError("a conda package stands there twice")


def check_conda_package(package: CondaPackage, subdirs: tuple[str, ...]) -> None:
    """Raises ValueError or TypeError for a conda package that mpack would not have locked."""
    _match(_CONDA_NAME, package.name, "a conda package's name")
    _match(_CONDA_VERSION, package.version, f"a version of {package.name}")
    _match(_CONDA_VERSION, package.build, f"a build of {package.name}")
    if package.name == "python":
        _match(_PYTHON, package.version, "a version of Python")
    if package.subdir not in subdirs:
        raise ValueError(f"{package.subdir!r} is no folder of packages for this platform")
    stem = f"{package.name}-{package.version}-{package.build}"
    if package.file not in (f"{stem}.conda", f"{stem}.tar.bz2"):
        raise ValueError(f"{package.file!r} is not the file of {stem}")
    _match(_HASH, f"sha256:{package.sha256}", f"a hash of {package.name}")
    if type(package.size) is not int or package.size < 0:
        raise TypeError(f"the size of {package.name} is none")
    if not all(isinstance(item, str) for item in package.depends):
        raise TypeError(f"what {package.name} depends on is no text")
    if not _CHANNEL.fullmatch(package.channel):
        parts = urlsplit(package.channel)
        odd = re.search(r"[\s\x00-\x1f\x7f]|/t/", package.channel) or holds_credentials(package.channel)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or odd:
            raise ValueError(f"the channel of {package.name} is neither a name nor a public URL")


def _check_path(path: str) -> None:
    odd = re.search(r"[\x00-\x1f\x7f\\]", path)
    if odd or not path.startswith("/") or path.startswith("//") or posixpath.normpath(path) != path:
        raise ValueError(f"{path!r} is no plain absolute path")


def _match(pattern: re.Pattern[str], value: str, what: str) -> None:
    if not pattern.fullmatch(value):
        raise ValueError(f"{value!r} is not {what}")
