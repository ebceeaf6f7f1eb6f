"""Wheels as files: the artifact's own, those built from a pinned commit, and all of a lock for `mpack export`."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mpack.contents import Contents, sha256_file
from mpack.env.index import IndexSettings
from mpack.env.process import child_environment, fault, run, short
from mpack.env.vcs import build_wheel
from mpack.errors import InputError, InternalError
from mpack.plan import Environment, LockedPackage


def local_wheels(
    environment: Environment, directory: Path, *, index: IndexSettings, contents: Contents
) -> dict[str, str]:
    """Writes the wheels that no index has into `directory`: package name -> file name.

    Raises InputError lock-mismatch when one is missing or is not the one the lock names.
    """
    found: dict[str, str] = {}
    for package in environment.to_install:
        if package.source == "artifact":
            found[package.name] = _artifact_wheel(package, directory, contents)
        elif package.source == "vcs":
            found[package.name] = _vcs_wheel(package, directory, index)
    return found


def download_wheels(
    environment: Environment, directory: Path, *, index: IndexSettings, contents: Contents | None = None
) -> dict[str, str]:
    """Fills `directory` (made if need be) with exactly the wheels of the lock: package name -> file name.

    Raises EnvironmentFault index-unreachable or InputError (requirements-unavailable, lock-mismatch).
    """
    directory.mkdir(parents=True, exist_ok=True)
    found = local_wheels(environment, directory, index=index, contents=contents or Contents())
    rest = [package for package in environment.to_install if package.name not in found]
    if not rest:
        return found
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".mpack-download-") as name:
        paths = pip_download(rest, environment.python, environment.platform, Path(name), index)
        by_hash = {f"sha256:{sha256_file(path)}": path for path in paths}
        for package in rest:
            path = next((by_hash[item] for item in package.hashes if item in by_hash), None)
            if path is None:
                raise InternalError("internal", f"pip downloaded no wheel for {package.name}=={package.version}.")
            shutil.move(path, directory / path.name)
            found[package.name] = path.name
    return found


def pip_download(
    packages: Sequence[LockedPackage], python: str, platform: str, scratch: Path, index: IndexSettings
) -> list[Path]:
    """Downloads wheels of exactly these versions, checked where they have hashes: their paths under `scratch`."""
    listing, target = scratch / "requirements.txt", scratch / "wheels"
    names = [
        f"{item.name} @ {item.url}" if item.source == "url" else f"{item.name}=={item.version}" for item in packages
    ]
    lines = [
        " ".join([name, *(f"--hash={it}" for it in item.hashes)]) for name, item in zip(names, packages, strict=True)
    ]
    listing.write_text("\n".join(lines) + "\n", "utf-8")
    machine = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}[platform]
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(36, 4, -1)]
    tags += [f"manylinux2014_{machine}", f"manylinux2010_{machine}", f"manylinux1_{machine}", f"linux_{machine}"]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    command += ["--requirement", str(listing), "--dest", str(target), "--progress-bar", "off"]
    command += ["--implementation", "cp", "--python-version", python]
    command += [part for tag in tags for part in ("--platform", tag)]
    code, output = run(command, child_environment(index.pip_env()), scratch)
    if code == 0:
        return sorted(target.iterdir())
    output = index.redact(output)
    what = f"Downloading {len(packages)} wheels"
    raise fault(output, what) or InputError(
        "lock-mismatch" if "HASHES" in output else "requirements-unavailable",
        f"{what} failed: {short(output)}",
        "Use the index that the lock was made with, or lock again with --update-lock.",
    )


def _artifact_wheel(package: LockedPackage, directory: Path, contents: Contents) -> str:
    digest = package.hashes[0].removeprefix("sha256:")
    name = wheel_file_name(package)
    if digest not in contents:
        raise InputError(
            "lock-mismatch",
            f"The lock names the wheel {name} (sha256 {digest[:12]}…), which this artifact does not have.",
            "Lock again with --update-lock.",
        )
    with contents.open(digest) as source, (directory / name).open("wb") as sink:
        shutil.copyfileobj(source, sink)
    _check(package, directory / name, "changed while it was being read")
    return name


def _vcs_wheel(package: LockedPackage, directory: Path, index: IndexSettings) -> str:
    path = build_wheel(f"{package.name} @ {package.url}", directory, index)[0]
    _check(package, path, "built here differs from the one that was locked: its build is not reproducible")
    return path.name


def _check(package: LockedPackage, path: Path, reason: str) -> None:
    if f"sha256:{sha256_file(path)}" not in package.hashes:
        raise InputError(
            "lock-mismatch", f"The wheel of {package.name}=={package.version} {reason}.", "Lock again: --update-lock."
        )


def wheel_file_name(package: LockedPackage) -> str:
    """The file name of an artifact's wheel, which the lock keeps as `url`. Raises InputError lock-invalid."""
    name = package.url or ""
    if not re.fullmatch(r"[A-Za-z0-9_.!+-]+\.whl", name):
        raise InputError(
            "lock-invalid", f"The lock names {name!r} as the wheel of {package.name}; no wheel is called so."
        )
    return name
