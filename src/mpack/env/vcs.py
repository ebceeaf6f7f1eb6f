"""Wheels from git URLs: cloned, pinned to a commit and built on this machine, which the user has consented to.

The build is made reproducible as far as its backend allows: SOURCE_DATE_EPOCH is the commit's time.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import parse_qs, urlsplit, urlunsplit

from mpack.env.index import IndexSettings
from mpack.env.lockcheck import holds_credentials
from mpack.env.process import child_environment, fault, run, short
from mpack.errors import EnvironmentFault, InputError

_GIT = {"GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": "https:http:ssh:file", "GIT_CONFIG_NOSYSTEM": "0"}


def is_vcs(line: str) -> bool:
    """True for a requirement on a git URL, with or without "NAME @"."""
    return re.match(r"(?:[A-Za-z0-9._\[\], -]+@\s*)?git\+", line.strip()) is not None


def build_wheel(line: str, directory: Path, index: IndexSettings) -> tuple[Path, str]:
    """Builds the wheel of "NAME @ git+URL@REF" into `directory`: (its path, the URL pinned to the commit).

    Raises InputError requirements-invalid or requirements-unavailable, EnvironmentFault tool-missing.
    """
    url, ref, subdirectory = _parse(line)
    if shutil.which("git") is None:
        raise EnvironmentFault("tool-missing", f"{line} needs git, which is not installed.", "Install git.")
    with tempfile.TemporaryDirectory(dir=directory, prefix=".mpack-vcs-") as name:
        scratch = Path(name)
        source = scratch / "source"
        _git(["clone", "--quiet", "--", url, str(source)], scratch, line)
        if ref:
            _git(["checkout", "--quiet", "--detach", ref], source, line)
        commit = _git(["rev-parse", "HEAD"], source, line).strip()
        epoch = _git(["log", "-1", "--format=%ct"], source, line).strip()
        _git(["submodule", "update", "--quiet", "--init", "--recursive"], source, line)
        project = (source / subdirectory).resolve()
        if not project.is_relative_to(source.resolve()) or not project.is_dir():
            raise InputError("requirements-invalid", f"{line}: the repository has no directory {subdirectory!r}.")
        wheel = _pip_wheel(project, scratch, {"SOURCE_DATE_EPOCH": epoch}, line, index)
        target = directory / wheel.name
        shutil.move(wheel, target)
    fragment = f"#subdirectory={subdirectory}" if subdirectory else ""
    return target, f"git+{url}@{commit}{fragment}"


def _parse(line: str) -> tuple[str, str, str]:
    """(clone URL, ref or "", subdirectory or "") of a requirement on a git URL."""
    match = re.search(r"git\+\S+", line)
    parts = urlsplit(match[0].removeprefix("git+") if match else "")
    if parts.scheme not in ("https", "http", "ssh", "file"):
        raise InputError(
            "requirements-invalid",
            f"{line!r} is not a git URL that mpack can fetch.",
            "Use NAME @ git+https://HOST/PATH@COMMIT, git+ssh://… or git+file://…",
        )
    if holds_credentials(parts.geturl()):
        raise InputError(
            "requirements-invalid",
            f"The git URL of {line.split('@')[0].strip()} holds credentials, which would end up in the lock file.",
            "Take them out; git asks its credential helper and ~/.netrc.",
        )
    path, _, ref = parts.path.rpartition("@") if "@" in parts.path else (parts.path, "", "")
    if ref.startswith("-"):
        raise InputError("requirements-invalid", f"{ref!r} in {line!r} is not a commit, tag or branch.")
    subdirectory = parse_qs(parts.fragment).get("subdirectory", [""])[0]
    return urlunsplit((parts.scheme, parts.netloc, path, "", "")), ref, subdirectory


def _git(arguments: Sequence[str], cwd: Path, line: str) -> str:
    code, output = run(["git", *arguments], child_environment(_GIT), cwd)
    if code:
        raise InputError(
            "requirements-unavailable",
            f"git {arguments[0]} failed for {line!r}: {short(output)}",
            "Check the URL and the commit, and that git on this machine may read it.",
        )
    return output


def _pip_wheel(project: Path, scratch: Path, settings: Mapping[str, str], line: str, index: IndexSettings) -> Path:
    made = scratch / "wheel"
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-cache-dir", "--quiet", "--progress-bar", "off"]
    command += ["--wheel-dir", str(made), str(project)]
    code, output = run(command, child_environment({**index.pip_env(), **settings}), scratch)
    wheels = sorted(made.glob("*.whl")) if made.is_dir() else []
    if code or len(wheels) != 1:
        output = index.redact(output)
        raise fault(output, f"Building {line!r}") or InputError(
            "requirements-unavailable",
            f"The wheel of {line!r} could not be built: {short(output)}",
            "Build it yourself, put the wheel into the artifact and name it in requirements.txt.",
        )
    return wheels[0]
