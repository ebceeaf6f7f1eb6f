"""A pylock.toml (PEP 751) of the user's, by whichever tool: the versions and hashes that an environment must have.

It locks a project, not an image: it has no base, and mostly not what the runtime needs. So it says what each package
that is needed must be, and what comes of it stands in the lock file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpack.env.lockmisfit import plain
from mpack.errors import InputError
from mpack.plan import BaseImage, Environment
from mpack.records import dataclass
from mpack.spec import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the same parser under its older name
    import tomli as tomllib

if TYPE_CHECKING:
    from packaging.pylock import Package, Pylock

    from mpack.env.resolution import Pin

_SHOWN = 10


@dataclass(frozen=True)
class Pins:
    """What a pylock.toml says for one base: package -> pin; of those that mpack cannot install, where they are from."""

    name: str
    packages: Mapping[str, Pin]
    refused: Mapping[str, str]

    def require(self, environment: Environment) -> None:
        """Raises InputError lock-mismatch naming what an environment has otherwise than the pins."""
        wrong = list(self._wrong(environment))
        if wrong:
            more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
            raise InputError(
                "lock-mismatch",
                f"The lock is at odds with {self.name}: {'; '.join(wrong[:_SHOWN])}{more}.",
                "Lock again with --update-lock, or leave one of them out.",
            )

    def _wrong(self, environment: Environment) -> Iterator[str]:
        for package in environment.packages:
            pin = self.packages.get(package.name)
            if package.name in self.refused:
                yield f"{package.name} is to come from {self.refused[package.name]}, and mpack installs wheels only"
            elif pin is not None and pin.version != package.version:
                yield f"{package.name} {package.version} is locked, {pin.version} pinned"
            elif pin is not None and package.source == "index" and not set(pin.hashes) & set(package.hashes):
                yield f"{package.name} {package.version} is locked with a hash that is not among the pinned ones"

    def require_fitting(self, requirements: Sequence[Requirement]) -> None:
        """Raises InputError lock-mismatch naming the requirements that a pin does not fulfil."""
        from packaging.requirements import InvalidRequirement
        from packaging.requirements import Requirement as Parsed
        from packaging.utils import canonicalize_name

        wrong = []
        for item in requirements:
            try:
                parsed = Parsed(item.line)
            except InvalidRequirement:
                continue  # a wheel of the artifact
            pin = self.packages.get(canonicalize_name(parsed.name))
            if pin is not None and not parsed.specifier.contains(pin.version, prereleases=True):
                wrong.append(f"{item.line} ({item.source or item.origin}) is asked for, {pin.version} pinned")
        if wrong:
            raise InputError(
                "lock-mismatch",
                f"{self.name} does not fit the requirements: {'; '.join(wrong)}.",
                "Make it anew for this artifact, or leave it out.",
            )

    def beyond(self, environment: Environment) -> list[str]:
        """The packages of an environment that are not pinned."""
        return [item.name for item in environment.to_install if item.name not in self.packages]


def read_pins(path: Path, base: BaseImage) -> Pins:
    """The pins of a pylock.toml for a base's Python and platform, without extras and with its default groups.

    Raises InputError lock-invalid naming the field, lock-mismatch for one that is for other environments.
    """
    from packaging.pylock import PylockSelectError

    from mpack.env.resolution import Pin, wheel_tags

    lock = _read(path)
    packages: dict[str, Pin] = {}
    refused: dict[str, str] = {}
    try:
        for package, _ in lock.select(
            environment=_environment(base), tags=wheel_tags(base.python_version, base.platform)
        ):
            hashes = tuple(
                f"sha256:{item.hashes['sha256']}" for item in package.wheels or () if "sha256" in item.hashes
            )
            if hashes and package.version is not None:
                packages[package.name] = Pin(str(package.version), hashes)
            else:
                refused[package.name] = _kind(package)
    except PylockSelectError as error:
        raise InputError(
            "lock-mismatch",
            f"{path} is not for Python {base.python_version} on {base.platform}: {plain(str(error))}.",
            "Make it for that environment too, or leave it out.",
        ) from error
    return Pins(path.name, packages, refused)


def _read(path: Path) -> Pylock:
    from packaging.pylock import Pylock, PylockValidationError

    hint = "Make it anew, or leave it out."
    try:
        return Pylock.from_dict(tomllib.loads(path.read_text("utf-8")))
    except PylockValidationError as error:
        where = f" at {plain(str(error.context))}" if error.context else ""
        raise InputError(
            "lock-invalid", f"The lock file {path} cannot be read: {plain(error.message)}{where}.", hint
        ) from error
    except FileNotFoundError:
        raise InputError("lock-invalid", f"There is no {path}.", "Give a pylock.toml that exists.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("lock-invalid", f"The lock file {path} cannot be read: {plain(str(error))}.", hint) from error


def _kind(package: Package) -> str:
    for name, text in (("vcs", "a repository"), ("directory", "a directory"), ("archive", "an archive")):
        if getattr(package, name) is not None:
            return text
    return "a source distribution" if package.sdist is not None else "wheels without a SHA-256"


def _environment(base: BaseImage) -> Any:
    """The values of markers in an image."""
    machine = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}[base.platform]
    return {
        "implementation_name": "cpython",
        "implementation_version": base.python_version,
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": base.python_version,
        "python_version": base.minor,
        "sys_platform": "linux",
    }
