"""Asking the host's apt for Debian packages, without root and without touching the host's own state.

apt runs on a directory of its own (lists, cache, an almost empty status file) with the host's mirrors, proxies and
credentials. Nothing is installed: packages are resolved and downloaded, their signatures checked by apt as always.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mpack.errors import EnvironmentFault, InputError

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
#: Where the user names a mirror himself: the archive's URL, and the security archive's.
MIRROR_VARIABLE = "MPACK_DEBIAN_MIRROR"
SECURITY_VARIABLE = "MPACK_DEBIAN_SECURITY_MIRROR"
DEBIAN_SUITES = ("bullseye", "bookworm", "trixie", "forky", "sid", "oldoldstable", "oldstable", "stable", "testing")
#: Debian's words for OCI architectures.
ARCHITECTURES = {"amd64": "amd64", "arm64": "arm64", "386": "i386", "ppc64le": "ppc64el", "s390x": "s390x"}
#: Of the host's configuration, what says how to reach a mirror.
_HOST_OPTIONS = re.compile(r"Acquire::(https?|ftp|socks|Retries|ForceIPv[46]|Check-[\w-]+)\b", re.IGNORECASE)
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
#: Virtual packages that stand-ins provide.
_PROVIDES = {"debconf": "debconf-2.0", "mawk": "awk"}
TIMEOUT = 900


@dataclass(frozen=True)
class Mirror:
    """The URLs of Debian's archive and of its security archive (None: that mirror has none)."""

    archive: str
    security: str | None


@dataclass(frozen=True)
class AptPackage:
    """One resolved package: its name and the file name that apt gives its archive."""

    name: str
    file: str


class Apt:
    """apt for one suite and architecture in a directory that the caller owns and removes."""

    def __init__(self, directory: Path, suite: str, architecture: str, stand_ins: Sequence[str]) -> None:
        require_tools()
        self._directory = directory
        self._suite = suite
        self._config = directory / "apt.conf"
        for part in ("state/lists/partial", "cache/archives/partial"):
            (directory / part).mkdir(parents=True, exist_ok=True)
        (directory / "status").write_text("".join(_stand_in(name) for name in stand_ins), encoding="utf-8")
        (directory / "sources.list").write_text(_sources(find_mirror(), suite), encoding="utf-8")
        self._config.write_text(_configuration(directory, architecture), encoding="utf-8")

    def update(self) -> None:
        """Fetches the package lists. Raises EnvironmentFault download-failed."""
        self._run("apt-get", "update", doing=f"fetching the package lists of Debian {self._suite}")

    def closure(self, packages: Sequence[str]) -> tuple[AptPackage, ...]:
        """The packages with all that they depend on, sorted by name. Raises InputError for unknown ones."""
        for name in packages:
            if not _PACKAGE.fullmatch(name):
                raise InputError("base-unsuitable", f"{name!r} is not the name of a Debian package.")
        output = self._run("apt-get", "install", "--print-uris", *packages, doing=f"resolving {', '.join(packages)}")
        files = re.findall(r"^'[^']+' (\S+\.deb) \d+", output, re.MULTILINE)
        return tuple(AptPackage(file.partition("_")[0], file) for file in sorted(files))

    def download(self, packages: Sequence[str]) -> Path:
        """Downloads the closure of the packages; the directory that holds the archives."""
        self._run(
            "apt-get", "install", "--download-only", *packages, doing=f"downloading Debian {self._suite} packages"
        )
        return self._directory / "cache/archives"

    def _run(self, *command: str, doing: str) -> str:
        environment = {
            **os.environ,
            "APT_CONFIG": str(self._config),
            "LC_ALL": "C",
            "DEBIAN_FRONTEND": "noninteractive",
        }
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False, errors="replace"
        )
        if done.returncode == 0:
            return done.stdout
        lines = [line for line in done.stderr.splitlines() if line.startswith("E: ")] or done.stderr.splitlines()
        reason = _without_credentials(" ".join(line.removeprefix("E: ") for line in lines[-4:]))
        missing = re.findall(r"Unable to locate package (\S+)|Package '?(\S+?)'? has no installation cand", reason)
        if missing:
            names = ", ".join(sorted({a or b for a, b in missing}))
            raise InputError(
                "base-unsuitable",
                f"Debian {self._suite} has no package {names}.",
                "Correct system_packages: they are names of Debian packages.",
            )
        raise EnvironmentFault(
            "download-failed",
            f"apt failed while {doing}: {reason or f'exit code {done.returncode}'}",
            f"Check the network and apt's mirrors, or name a mirror in {MIRROR_VARIABLE}.",
        )


def require_tools() -> None:
    """Raises EnvironmentFault tool-missing where this host cannot read Debian packages."""
    missing = [tool for tool in ("apt-get", "apt-config", "dpkg-deb") if shutil.which(tool) is None]
    if not missing and not KEYRING.exists():
        missing = [str(KEYRING)]
    if missing:
        raise EnvironmentFault(
            "tool-missing",
            f"Building a base image needs {', '.join(missing)}, which this machine does not have.",
            "On Debian or Ubuntu install apt, dpkg and debian-archive-keyring; elsewhere give a base with --base REF "
            "(for example python:3.11-slim).",
        )


def find_mirror() -> Mirror:
    """The mirror that the environment names, else the one that the host's apt uses for Debian.

    Raises EnvironmentFault base-unavailable where there is none (Ubuntu, for example, has another archive).
    """
    named = os.environ.get(MIRROR_VARIABLE)
    if named:
        return Mirror(named, os.environ.get(SECURITY_VARIABLE))
    form = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)"
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", form, "Created-By: Packages"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    archive = security = None
    for line in done.stdout.splitlines():
        url, release, component, origin = [*line.split("|"), "", "", ""][:4]
        # Without fetched lists apt does not know the origin; another archive then fails Debian's signature check.
        if component != "main" or origin not in ("", "$(ORIGIN)", "Debian"):
            continue
        suite, _, part = release.partition("-")
        if release in DEBIAN_SUITES:
            archive = archive or url
        elif suite.partition("/")[0] in DEBIAN_SUITES and part == "security":
            security = security or url
    if archive is None:
        raise EnvironmentFault(
            "base-unavailable",
            "This machine's apt has no Debian archive among its sources, so no base image can be built.",
            f"Name a Debian mirror in {MIRROR_VARIABLE} (and {SECURITY_VARIABLE}), or give a base with --base REF.",
        )
    return Mirror(archive, security)


def _sources(mirror: Mirror, suite: str) -> str:
    entries = [(mirror.archive, suite), (mirror.archive, f"{suite}-updates")]
    if mirror.security:
        entries.append((mirror.security, f"{suite}-security"))
    return "".join(f"deb [signed-by={KEYRING}] {url} {release} main\n" for url, release in entries)


def _configuration(directory: Path, architecture: str) -> str:
    # The host's hooks (docker-clean, for one, empties the host's cache) must not run: its own files are not read, and
    # only what says how to reach a mirror is taken over.
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, timeout=60, check=False).stdout
    host = [line for line in dump.splitlines() if _HOST_OPTIONS.match(line)]
    own = {
        "Dir::State": f"{directory}/state",
        "Dir::State::status": f"{directory}/status",
        "Dir::Cache": f"{directory}/cache",
        "Dir::Etc::main": "/dev/null",
        "Dir::Etc::parts": "/dev/null",
        "Dir::Etc::sourcelist": f"{directory}/sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Install-Recommends": "false",
        "APT::Get::Assume-Yes": "true",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    return "\n".join([*host, *(f'{key} "{value}";' for key, value in own.items())]) + "\n"


def _stand_in(name: str) -> str:
    provides = f"Provides: {_PROVIDES[name]}\n" if name in _PROVIDES else ""
    multi = "allowed" if name.startswith("python3") else "foreign"
    return (
        f"Package: {name}\nStatus: install ok installed\nArchitecture: all\nMulti-Arch: {multi}\n"
        f"Version: 9999\n{provides}Maintainer: mpack\nDescription: not in the image\n\n"
    )


def _without_credentials(text: str) -> str:
    return re.sub(r"(\w+://)[^/@\s]+@", r"\1", text)
