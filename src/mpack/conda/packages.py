"""Conda packages as files of the cache, by their SHA-256, fetched where they are missing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from mpack.artifact.limits import Limits
from mpack.conda.asking import PATIENCE, RattlerError, ask, fault
from mpack.conda.channels import Channels
from mpack.contents import sha256_file
from mpack.oci.files import disk_faults
from mpack.paths import cache_dir
from mpack.plan import CondaPackage
from mpack.pruning import Prunable


class PackageCache:
    """The packages below `directory`: SHA-256/file. Each is checked whenever it is used."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def default(cls) -> PackageCache:
        """The user's."""
        return cls(cache_dir() / "conda" / "packages")

    def path(self, package: CondaPackage) -> Path:
        """Where a package is, or would be."""
        return self.directory / package.sha256 / package.file

    def bring(self, packages: Sequence[CondaPackage], channels: Channels) -> None:
        """Sees to it that all packages are here. Raises EnvironmentFault index-unreachable or disk-full, InputError
        lock-mismatch for another file than the lock names."""
        missing = [package for package in packages if not self._use(package)]
        if not missing:
            return
        with disk_faults("Fetching conda packages", self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.directory, prefix=".tmp-") as scratch:
                access = channels.access(dict.fromkeys(package.channel for package in missing))
                jobs = [
                    {
                        "url": f"{access['channels'][package.channel]}/{package.subdir}/{package.file}",
                        "path": str(Path(scratch) / package.sha256),
                        "file": package.file,
                        "sha256": package.sha256,
                        "size": package.size or Limits().total,
                    }
                    for package in missing
                ]
                try:
                    ask({"do": "fetch", "packages": jobs, "access": access, "patience": PATIENCE}, channels)
                except RattlerError as error:
                    raise fault(error, f"Fetching {len(missing)} conda packages") from None
                for package in missing:
                    path = self.path(package)
                    path.parent.mkdir(exist_ok=True)
                    (Path(scratch) / package.sha256).replace(path)

    def _use(self, package: CondaPackage) -> bool:
        """True if a package is here and is what it should be. Asking keeps it from being pruned."""
        path = self.path(package)
        try:
            if sha256_file(path) != package.sha256:
                path.unlink()
                return False
            os.utime(path)
        except OSError:
            return False
        return True

    def entries(self) -> list[Prunable]:
        """One a package, and one for each file of repodata."""
        found = []
        for path in [*self.directory.glob("*/*"), *repodata_dir().rglob("*")]:
            with suppress(OSError):
                if path.is_file():
                    seen, gone = path.stat(), path.parent if path.parent.parent == self.directory else path
                    found.append(Prunable(seen.st_size, seen.st_mtime, partial(_remove, gone)))
        return found


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def repodata_dir() -> Path:
    """Where py-rattler keeps what channels have."""
    return cache_dir() / "conda" / "repodata"


def jobs_of(packages: Sequence[CondaPackage], cache: PackageCache) -> dict[str, Any]:
    """What `read` and `install` of the worker want to know of packages that are here, within the usual limits."""
    limits = Limits()
    size = sum(cache.path(item).stat().st_size for item in packages)
    return {
        "packages": [
            {"path": str(cache.path(item)), "name": item.name, "version": item.version, "build": item.build}
            for item in packages
        ],
        "bytes": min(limits.total, limits.ratio_free + limits.ratio * size),
        "entries": limits.entries * 5,
    }
