"""`mpack doctor`: what works on this machine, and what to do about what does not. It changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import click

OK, WARN, MISSING = "ok", "warn", "missing"
#: Bytes: a build of a common model needs about one gigabyte, a second image of it next to nothing.
ENOUGH_DISK = 5 << 30
LITTLE_DISK = 1 << 30


@dataclass(frozen=True)
class Check:
    """One line: `status` is ok, warn or missing; `todo` says what to do. Without a `vital` one nothing can be built."""

    name: str
    status: str
    detail: str
    todo: str = ""
    vital: bool = False


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--offline", is_flag=True, help="Do not ask the index.")
def command(as_json: bool, offline: bool) -> None:
    """Say what works on this machine, and what to do about what does not; exit 3 if nothing can be built."""
    parts: list[Callable[[], list[Check]]] = [
        check_python,
        check_uv,
        check_docker,
        check_other_engines,
        check_buildah,
        check_store,
        check_bases,
        check_ca_bundle,
    ]
    if not offline:
        parts.append(check_index)
    checks = [check for part in parts for check in part()]
    can_build = not any(check.vital and check.status == MISSING for check in checks)
    if as_json:
        click.echo(json.dumps({"can_build": can_build, "checks": [asdict(check) for check in checks]}))
    else:
        for check in checks:
            click.echo(f"{check.status:<8}{check.name:<12}{check.detail}")
            if check.todo and check.status != OK:
                click.echo(f"{'':<20}{check.todo}")
    if not can_build:
        from mpack.errors import EnvironmentFault

        sys.exit(EnvironmentFault.exit_code)


def check_python() -> list[Check]:
    """The Python that runs mpack."""
    return [Check("python", OK, ".".join(str(part) for part in sys.version_info[:3]), vital=True)]


def check_uv() -> list[Check]:
    """uv resolves and installs what goes into images."""
    from mpack.env.process import uv_binary
    from mpack.errors import MpackError

    try:
        return [Check("uv", OK, _version([uv_binary(), "--version"]), vital=True)]
    except MpackError as error:
        return [Check("uv", MISSING, error.message, error.hint, vital=True)]


def check_docker() -> list[Check]:
    """The docker engine, and whether a client can build with BuildKit."""
    from mpack.engine import Docker
    from mpack.errors import MpackError

    try:
        docker = Docker.find()
    except MpackError as error:
        return [Check("docker", WARN, error.message, error.hint)]
    found = [Check("docker", OK, f"{docker.client} {docker.client_version}, engine {docker.server_version}")]
    if docker.buildkit:
        return [*found, Check("buildkit", OK, f"by {docker.builder}")]
    todo = "Install docker-buildx for --builder docker; the embedded builder does without."
    return [*found, Check("buildkit", WARN, f"{docker.client} has no buildx plugin", todo)]


def check_other_engines() -> list[Check]:
    """podman and runc for `mpack run`, runc as a sandbox for verification."""
    checks = []
    for name, purpose in (("podman", "run images without docker"), ("runc", "verify and run images without docker")):
        if shutil.which(name):
            checks.append(Check(name, OK, _version([name, "--version"])))
        else:
            checks.append(Check(name, WARN, "not installed", f"Install it to {purpose}."))
    return checks


def check_buildah() -> list[Check]:
    """buildah, for steps of Dockerfile templates without docker."""
    from mpack.engine.buildah import Buildah
    from mpack.errors import MpackError

    if shutil.which("buildah") is None:
        todo = "Install it to run steps of Dockerfile templates without docker."
        return [Check("buildah", WARN, "not installed", todo)]
    try:
        return [Check("buildah", OK, f"{Buildah.find().version}")]
    except MpackError as error:
        return [Check("buildah", WARN, error.message, error.hint)]


def check_store() -> list[Check]:
    """The store's place and the room there."""
    from mpack.oci.store import Store

    root = Store.default().root
    place = _existing(root)
    if not os.access(place, os.W_OK):
        return [
            Check("store", MISSING, f"{root} cannot be written", "Set MPACK_HOME to a directory that can.", vital=True)
        ]
    free = shutil.disk_usage(place).free
    detail = f"{root}, {free / 1e9:.1f} GB free"
    todo = "Free some space: `mpack rm --older-than 7d`, `mpack cache prune`, or set MPACK_HOME to a larger disk."
    status = OK if free >= ENOUGH_DISK else WARN if free >= LITTLE_DISK else MISSING
    return [Check("store", status, detail, todo, vital=True)]


def check_bases() -> list[Check]:
    """Base images in the store, and whether this machine can build them."""
    from mpack.bases.apt import find_mirror, require_tools
    from mpack.bases.recipe import minors
    from mpack.errors import MpackError
    from mpack.oci.store import Store

    try:
        names = [name for item in Store.default().records() if item.role == "base" for name in item.names]
    except MpackError as error:
        return [Check("bases", MISSING, error.message, error.hint, vital=True)]
    built = f"in the store: {', '.join(names)}" if names else "none in the store yet"
    try:
        require_tools()
        find_mirror()
    except MpackError as error:
        todo = f"{error.hint} Other bases come from docker or a registry."
        return [Check("bases", WARN, f"{built}; mpack cannot build its own: {error.message}", todo)]
    return [Check("bases", OK, f"{built}; mpack can build Python {', '.join(minors())}")]


def check_ca_bundle() -> list[Check]:
    """The certificates that the index and registries are checked with."""
    import ssl

    from mpack.env.index import IndexSettings
    from mpack.errors import MpackError

    for variable in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE"):
        value = os.environ.get(variable)
        if value and not Path(value).expanduser().is_file():
            todo = f"Correct {variable}, or unset it: it is passed over."
            return [Check("ca", WARN, f"{variable} names {value}, which is no file", todo)]
    try:
        named = IndexSettings.from_host().ca_bundle
    except MpackError as error:
        return [Check("ca", WARN, error.message, error.hint)]
    try:
        context = ssl.create_default_context(cafile=str(named) if named else None)
    except (OSError, ssl.SSLError) as error:
        todo = "Correct SSL_CERT_FILE (or PIP_CERT): it names a file of PEM certificates."
        return [Check("ca", WARN, f"{named} cannot be read: {error}", todo)]
    count = context.cert_store_stats()["x509_ca"]
    if named is None and count == 0:
        return [Check("ca", WARN, "the platform's trust store shows no certificate", "Name a bundle in SSL_CERT_FILE.")]
    return [Check("ca", OK, f"{count} certificates of {named or 'the platform'}")]


def check_index() -> list[Check]:
    """The Python index, asked with the host's settings for one small package."""
    from mpack.env.index import IndexSettings
    from mpack.env.lock import lock_environment
    from mpack.errors import MpackError
    from mpack.sandbox import this_platform
    from mpack.spec import Requirement

    wanted = Requirement("packaging", "runtime", "mpack doctor")
    try:
        index = IndexSettings.from_host()
        found = lock_environment([wanted], python="3.11", platform=this_platform(), index=index)
    except MpackError as error:
        return [
            Check("index", WARN, error.message, f"{error.hint} Without an index only locked wheels at hand install.")
        ]
    return [Check("index", OK, f"answers ({found.packages[0].name} {found.packages[0].version})")]


def _existing(path: Path) -> Path:
    """The path, or the nearest directory above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _version(argv: list[str]) -> str:
    """The first line of what a program says of its version; "installed" where it says nothing."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=15, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"installed, but does not answer ({error})"
    return next(iter(done.stdout.splitlines()), "installed")
