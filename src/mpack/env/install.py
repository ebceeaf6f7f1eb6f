"""Installing a locked environment: a venv as it stands in the image, or a base's site directory."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpack.contents import Contents
from mpack.env.assemble import AssembleError, assemble
from mpack.env.index import IndexSettings
from mpack.env.process import child_environment, fault, run, short, uv_binary
from mpack.env.wheels import local_wheels
from mpack.errors import InputError, InternalError, MpackError, disk_fault
from mpack.plan import BaseImage, Environment


@dataclass(frozen=True)
class Installed:
    """What an installation made: bytes before and after trimming, number of files, and notes on wheels at odds."""

    size_before: int
    size: int
    files: int
    notes: tuple[str, ...] = ()


def install_venv(
    environment: Environment,
    base: BaseImage,
    target: Path,
    *,
    index: IndexSettings,
    contents: Contents | None = None,
) -> Installed:
    """Fills `target` (absent or empty) with exactly what stands under /opt/mpack/venv in the image.

    Raises EnvironmentFault (index-unreachable, disk-full, disk-unwritable, tool-missing) or InputError
    (requirements-unavailable, lock-mismatch); `target` is then as it was.
    """
    return _install(environment, base, target, "venv", index, contents or Contents())


def install_site(
    environment: Environment,
    base: BaseImage,
    target: Path,
    *,
    index: IndexSettings,
    contents: Contents | None = None,
) -> Installed:
    """Fills `target` with what goes into a site directory of the base: packages, no scripts. Raises as the other."""
    return _install(environment, base, target, "site", index, contents or Contents())


def assemble_job(
    environment: Environment,
    base: BaseImage,
    destination: str,
    *,
    layout: str = "venv",
    uv: str,
    interpreter: str,
    wheels: str | None = None,
    files: Mapping[str, str] | None = None,
    settings: str | None = None,
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """A job for `mpack.env.assemble`; `files` maps package names to wheel file names in the directory `wheels`."""
    files = files or {}
    return {
        "packages": [
            {
                "name": package.name,
                "version": package.version,
                "hashes": list(package.hashes),
                "file": files.get(package.name),
                "url": package.url if package.source == "url" else None,
            }
            for package in environment.to_install
        ],
        "wheels": wheels,
        "uv": uv,
        "interpreter": interpreter,
        "settings": settings,
        "options": list(options),
        "platform": environment.platform,
        "python": {"version": base.python_version, "path": base.python, "site_dirs": list(base.site_dirs)},
        "layout": layout,
        "trim": environment.trim,
        "destination": destination,
    }


def _install(
    environment: Environment, base: BaseImage, target: Path, layout: str, index: IndexSettings, contents: Contents
) -> Installed:
    def run_uv(command: Sequence[str], settings: Mapping[str, str], directory: str) -> tuple[int, str]:
        env = child_environment({**index.uv_env(), "UV_PYTHON_DOWNLOADS": "never", **settings})
        code, output = run(command, env, Path(directory))
        return code, index.redact(output)

    what = f"Installing {len(environment.to_install)} packages for Python {environment.python}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".mpack-wheels-") as scratch:
            files = local_wheels(environment, Path(scratch), index=index, contents=contents)
            job = assemble_job(
                environment,
                base,
                str(target),
                layout=layout,
                uv=uv_binary(),
                interpreter=sys.executable,
                wheels=scratch,
                files=files,
                options=index.uv_options(),
            )
            report = assemble(job, run_uv)
    except AssembleError as error:
        raise install_error(str(error), what) from error
    except OSError as error:
        raise disk_fault(error, what, "Name a directory that can be written.") from error
    return Installed(report["size_before"], report["size"], report["files"], tuple(report["notes"]))


def install_error(output: str, what: str) -> MpackError:
    """What uv's (redacted) output means for the user: of a local installation or of a docker build stage."""
    found = fault(output, what)
    if found is not None:
        return found
    if "Hash mismatch" in output or "hash mismatch" in output.lower():
        return InputError(
            "lock-mismatch",
            f"{what} failed: the index serves other files than the lock names. {short(output)}",
            "Lock again with --update-lock if the index is trusted.",
        )
    if "No solution found" in output or "no wheels" in output or "not found in" in output:
        return InputError(
            "requirements-unavailable",
            f"{what} failed: the index lacks a wheel that the lock names. {short(output)}",
            "Use the index that the lock was made with, or lock again with --update-lock.",
        )
    return InternalError("internal", f"{what} failed: {short(output)}", "Please report it with this output.")
