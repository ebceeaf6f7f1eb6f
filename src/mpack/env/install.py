"""Installing a locked environment: a venv as it stands in the image, or a base's site directory."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpack.contents import Contents
from mpack.env.assemble import assemble
from mpack.env.assemble import install as install_wheels
from mpack.env.index import IndexSettings
from mpack.env.layout import AssembleError, Item, contested, key, lay_out, venv_items
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


def install(
    environment: Environment,
    base: BaseImage,
    target: Path,
    layout: str,
    *,
    index: IndexSettings,
    contents: Contents | None = None,
) -> Installed:
    """Fills `target` (absent or empty). Layout "venv": exactly what stands under /opt/mpack/venv in the image; "site":
    what goes into a site directory of the base, packages without scripts.

    Raises EnvironmentFault (index-unreachable, disk-full, disk-unwritable, tool-missing) or InputError
    (requirements-unavailable, lock-mismatch); `target` is then as it was.
    """
    with _job(environment, base, target, layout, index, contents or Contents()) as job:
        report = assemble(job, _runner(index))
    return Installed(report["size_before"], report["size"], report["files"], tuple(report["notes"]))


@contextmanager
def wheel_files(
    environment: Environment,
    base: BaseImage,
    scratch: Path,
    *,
    index: IndexSettings,
    contents: Contents,
    apart: bool = False,
) -> Iterator[dict[str, list[Item]]]:
    """The files of each package that is to be installed, as its wheel alone has them: normalised name -> items with
    paths relative to /opt/mpack/venv. They are there until the context is left; nothing may write to them, for they
    may be links to uv's cache. Raises as `install`.

    uv installs all at once, and where two wheels write one path nobody can tell whose bytes stand there but by what
    their RECORDs say. `apart` installs each by itself and past uv's cache, for wheels whose RECORDs do not hold.
    """
    with _job(environment, base, scratch / "wheels", "venv", index, contents) as job:
        run_uv, flat = _runner(index), str(scratch / "flat")
        install_wheels(job, job["packages"], flat, run_uv, "hardlink")
        found = lay_out(job, flat)
        alone_too = {name for names in contested(flat).values() for name in names}
        # What no RECORD lists may be any package's.
        if found.pop("", None) or apart:
            alone_too = set(found)
        if apart:
            job["options"] = [*job["options"], "--no-cache"]
        for name in sorted(alone_too):
            alone = f"{flat}.{name}"
            install_wheels(job, [item for item in job["packages"] if key(item["name"]) == name], alone, run_uv)
            found[name] = [item for items in lay_out(job, alone).values() for item in items]
        yield found


def venv_files(environment: Environment, base: BaseImage) -> list[Item]:
    """What makes /opt/mpack/venv a venv, besides its packages."""
    return venv_items(assemble_job(environment, base, "", uv="", interpreter=""))


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


def _runner(index: IndexSettings) -> Callable[[Sequence[str], Mapping[str, str], str], tuple[int, str]]:
    def run_uv(command: Sequence[str], settings: Mapping[str, str], directory: str) -> tuple[int, str]:
        env = child_environment({**index.uv_env(), "UV_PYTHON_DOWNLOADS": "never", **settings})
        code, output = run(command, env, Path(directory))
        return code, index.redact(output)

    return run_uv


@contextmanager
def _job(
    environment: Environment, base: BaseImage, target: Path, layout: str, index: IndexSettings, contents: Contents
) -> Iterator[dict[str, Any]]:
    """A job for this machine; what goes wrong while the context is open is told in mpack's words."""
    what = f"Installing {len(environment.to_install)} packages for Python {environment.python}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".mpack-wheels-") as wheels:
            files = local_wheels(environment, Path(wheels), index=index, contents=contents)
            yield assemble_job(
                environment,
                base,
                str(target),
                layout=layout,
                uv=uv_binary(),
                interpreter=sys.executable,
                wheels=wheels,
                files=files,
                options=index.uv_options(),
            )
    except AssembleError as error:
        raise install_error(str(error), what) from error
    except OSError as error:
        raise disk_fault(error, what, "Name a directory that can be written.") from error


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
    if "which is the environment's own" in output:
        return InputError(
            "requirements-invalid",
            f"{what} failed: {short(output)}.",
            "No well-meant package does this. Leave it out, or pin another version of it.",
        )
    if "No solution found" in output or "no wheels" in output or "not found in" in output:
        return InputError(
            "requirements-unavailable",
            f"{what} failed: the index lacks a wheel that the lock names. {short(output)}",
            "Use the index that the lock was made with, or lock again with --update-lock.",
        )
    return InternalError("internal", f"{what} failed: {short(output)}", "Please report it with this output.")
