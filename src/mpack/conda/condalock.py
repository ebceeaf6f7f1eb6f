"""conda-lock's own format (version 1, conda-lock.yml), written and read: what other tools make environments of.

It has the conda packages alone. Those of the pip section have no address in a lock of mpack's, for each machine has its
own index; they are in its pylock.toml.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mpack.conda.channels import NAME
from mpack.conda.solve import SUBDIRS
from mpack.env.lockcheck import check_conda_package
from mpack.env.lockfile import LockEntry
from mpack.errors import InputError
from mpack.plan import CondaPackage, Environment, canonical_digest
from mpack.records import dataclass

_PUBLIC = "https://conda.anaconda.org/"
_MANAGED = "conda"


def conda_lock_text(entries: Sequence[LockEntry]) -> str:
    """The conda packages of a lock's entries, of one platform each. Raises InputError lock-mismatch without any."""
    import yaml

    found = {
        SUBDIRS[entry.environment.platform]: entry.environment.conda.packages
        for entry in entries
        if entry.environment.conda is not None
    }
    if not found:
        raise InputError(
            "lock-mismatch",
            "The lock has no conda packages: all that the model asks for is on a Python index.",
            "Use --format pylock or requirements, or take them from conda's channels with --conda.",
        )
    channels = dict.fromkeys(package.channel for packages in found.values() for package in packages)
    value = {
        "version": 1,
        "metadata": {
            "content_hash": {
                platform: canonical_digest([package.to_json() for package in packages]).removeprefix("sha256:")
                for platform, packages in found.items()
            },
            "channels": [{"url": channel, "used_env_vars": []} for channel in channels],
            "platforms": list(found),
            "sources": ["conda.yaml"],
        },
        "package": [_written(package, platform) for platform, packages in found.items() for package in packages],
    }
    return "# Written by mpack; conda-lock and micromamba install it.\n" + yaml.safe_dump(value, sort_keys=False)


def _written(package: CondaPackage, platform: str) -> dict[str, Any]:
    parts = (item.partition(" ") for item in package.depends)
    return {
        "name": package.name,
        "version": package.version,
        "manager": _MANAGED,
        "platform": platform,
        "dependencies": {name: rest.strip() for name, _, rest in parts},
        "url": f"{address(package.channel)}/{package.subdir}/{package.file}",
        "hash": {"sha256": package.sha256},
        "category": "main",
        "optional": False,
    }


def address(channel: str) -> str:
    """Where a channel is in public."""
    return _PUBLIC + channel if NAME.fullmatch(channel) else channel


@dataclass(frozen=True)
class CondaPins:
    """What a conda-lock.yml says for one platform."""

    name: str
    packages: tuple[CondaPackage, ...]

    @classmethod
    def read(cls, path: Path, platform: str) -> CondaPins:
        """Raises InputError lock-invalid."""
        try:
            text = path.read_text("utf-8")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise InputError("lock-invalid", f"{path} cannot be read: {reason}.", "Name another file.") from error
        packages = read_conda_lock(text).get(platform, ())
        if not packages:
            raise InputError(
                "lock-invalid", f"{path.name} has no conda packages for {platform}.", "Lock again for that platform."
            )
        return cls(path.name, packages)

    def require(self, environment: Environment) -> None:
        """Raises InputError lock-mismatch naming what an environment has otherwise than the pins."""
        found = environment.conda.packages if environment.conda else ()
        if not found:
            raise InputError(
                "lock-mismatch",
                f"{self.name} pins conda packages, and all that the model asks for is taken from a Python index.",
                "Take it from conda's channels with --conda, or leave that file out.",
            )
        pinned = {item.name: item for item in self.packages}
        wrong = [
            f"{item.name} {item.version} {item.build} is locked, {pin.version} {pin.build} pinned"
            if (item.version, item.build) != (pin.version, pin.build)
            else f"{item.file} is locked with another SHA-256 than is pinned"
            for item in found
            if (pin := pinned.get(item.name)) is not None and pin.sha256 != item.sha256
        ]
        if wrong:
            raise InputError(
                "lock-mismatch",
                f"The lock is at odds with {self.name}: {'; '.join(wrong[:10])}.",
                "Lock again with --update-lock, or leave one of them out.",
            )


def read_conda_lock(text: str) -> Mapping[str, tuple[CondaPackage, ...]]:
    """Platform ("linux/amd64") -> the conda packages of a conda-lock.yml, by name; other managers' are left out.

    Raises InputError lock-invalid.
    """
    import yaml

    try:
        value = yaml.safe_load(text)
        if value["version"] != 1:
            raise ValueError(f"its version is {value['version']!r}, mpack reads 1")
        found: dict[str, list[CondaPackage]] = {}
        names = {subdir: platform for platform, subdir in SUBDIRS.items()}
        for item in value["package"]:
            if item["manager"] == _MANAGED and item["platform"] in names:
                found.setdefault(names[item["platform"]], []).append(_read(item))
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = f"the field {error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise InputError(
            "lock-invalid", f"The file is no conda-lock.yml that mpack can use: {why}.", "Lock again with conda-lock."
        ) from error
    return {platform: tuple(sorted(items, key=lambda item: item.name)) for platform, items in found.items()}


def _read(item: Mapping[str, Any]) -> CondaPackage:
    place, _, file = str(item["url"]).partition("#")[0].rpartition("/")
    channel, _, subdir = place.rpartition("/")
    file, name = unquote(file), str(item["name"])
    stem = re.sub(r"\.(conda|tar\.bz2)$", "", file)
    version = str(item["version"])
    if not stem.startswith(f"{name}-{version}-"):
        raise ValueError(f"{file!r} is not a file of {name} {version}")
    if urlsplit(channel).hostname == urlsplit(_PUBLIC).hostname:
        channel = urlsplit(channel).path.strip("/")
    package = CondaPackage(
        name,
        version,
        stem.removeprefix(f"{name}-{version}-"),
        subdir,
        channel,
        file,
        str(item["hash"]["sha256"]),
        0,
        tuple(f"{key} {rest}".strip() for key, rest in (item.get("dependencies") or {}).items()),
    )
    check_conda_package(package, ("noarch", str(item["platform"])))
    return package
