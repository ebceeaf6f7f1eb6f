"""Which conda packages satisfy a model's wish on a base, and what Python packages they bring."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from email.parser import HeaderParser

from mpack.conda.asking import PATIENCE, RattlerError, ask, fault
from mpack.conda.channels import Channels
from mpack.conda.packages import PackageCache, jobs_of, repodata_dir
from mpack.errors import InputError
from mpack.plan import CondaEnvironment, CondaPackage
from mpack.records import dataclass
from mpack.spec import CondaWish

SUBDIRS = {"linux/amd64": "linux-64", "linux/arm64": "linux-aarch64"}
_ARCHSPEC = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}
#: What containers run on is not known; this is the oldest that distributions still keep up.
_LINUX = "4.18"
_SPEC = re.compile(r"(?:(?P<channel>.+?)(?:/(?:linux-\w+|noarch))?::)?(?P<rest>.+)")


@dataclass(frozen=True)
class Solved:
    """A locked environment, the Python packages in it (canonical name -> version), and scripts that nobody runs."""

    environment: CondaEnvironment
    provided: Mapping[str, str]
    scripts: tuple[str, ...] = ()


def solve_conda(
    wish: CondaWish,
    *,
    platform: str,
    python: str | None,
    consent: bool,
    glibc: str | None,
    channels: Channels,
    pins: Sequence[CondaPackage] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Solved:
    """The newest packages of the wish's channels that fit together, for a base with `glibc` ("2.36").

    `python` is the minor version that theirs must be; with `consent` whatever the wish says of it. Those of `pins` are
    taken in that version and build. Raises InputError
    requirements-clash, requirements-invalid or conda-package-refused, EnvironmentFault index-unreachable.
    """
    virtual = [("__unix", "0", "0"), ("__linux", _LINUX, "0"), ("__archspec", "1", _ARCHSPEC[platform])]
    virtual += [("__glibc", glibc, "0")] if glibc else []
    specs = [_split(item) for item in wish.specs]
    asked = [*channels.wanted(wish.channels), *(channel for channel, _ in specs if channel)]
    access = channels.access(dict.fromkeys(asked))
    if consent and python:
        specs = [("", f"python {python}.*") if _is_python(text) else (channel, text) for channel, text in specs]
    job = {
        "do": "solve",
        "specs": [[channel or None, text] for channel, text in specs],
        "constraints": [
            *([f"python {python}.*"] if python else []),
            *(f"{item.name} =={item.version} {item.build}" for item in pins),
        ],
        "virtual": virtual,
        "subdirs": [SUBDIRS[platform], "noarch"],
        "priority": channels.priority,
        "repodata": str(repodata_dir()),
        "access": access,
        "patience": PATIENCE,
    }
    say(f"solving {len(specs)} conda packages from {', '.join(access['channels'])}")
    try:
        answer = ask(job, channels)
    except RattlerError as error:
        if error.kind == "clash":
            raise _clash(error, python, pinned=bool(pins)) from None
        raise fault(error, "Solving the conda environment") from None
    found = [CondaPackage.from_json(item) for item in answer["packages"]]
    return read_conda(tuple(sorted(found, key=lambda item: item.name)), channels)


def read_conda(packages: tuple[CondaPackage, ...], channels: Channels) -> Solved:
    """What packages bring, which are fetched for it. Raises as `solve_conda`."""
    cache = PackageCache.default()
    cache.bring(packages, channels)
    try:
        answer = ask({"do": "read", **jobs_of(packages, cache)}, channels)
    except RattlerError as error:
        raise fault(error, "Reading the conda packages") from None
    site = str(answer["site"])
    provided: dict[str, str] = {}
    scripts: list[str] = []
    for package, facts in zip(packages, answer["packages"], strict=True):
        if facts["noarch"] and not site:
            raise InputError(
                "requirements-clash",
                f"The conda package {package.name} is for Python, and no python is among the packages.",
                "Name python in the environment file.",
            )
        provided |= dict(filter(None, map(_distribution, facts["metadata"])))
        scripts += [f"{package.name}: {path}" for path in facts["scripts"]]
    return Solved(CondaEnvironment(packages, site), provided, tuple(scripts))


def _split(spec: str) -> tuple[str, str]:
    """(channel or "", the rest) of "channel/subdir::name=1.0"."""
    match = _SPEC.fullmatch(spec)
    assert match is not None
    channel = (match["channel"] or "").rstrip("/")
    return "" if channel == "defaults" else channel, match["rest"]


def _is_python(spec: str) -> bool:
    return re.match(r"[\w.-]+", spec.strip().lower() + " ").group() == "python"  # type: ignore[union-attr]


def _distribution(metadata: str) -> tuple[str, str] | None:
    from packaging.utils import canonicalize_name, is_normalized_name

    headers = HeaderParser().parsestr(metadata, headersonly=True)
    name, version = headers.get("Name"), headers.get("Version")
    if not is_normalized_name(name := canonicalize_name(str(name))) or not version:
        return None
    return str(name), str(version)


def _clash(error: RattlerError, python: str | None, *, pinned: bool) -> InputError:
    lines = [line.rstrip() for line in str(error).strip().splitlines()]
    reason = "\n".join(lines).removeprefix("Cannot solve the request because of: ")
    wanted = f" with Python {python}" if python else ""
    if pinned:
        return InputError(
            "lock-mismatch",
            f"The conda-lock.yml does not fit the model's environment{wanted}: {reason}",
            "Lock again with conda-lock, or leave it out.",
        )
    return InputError(
        "requirements-clash",
        f"No set of conda packages satisfies the model's environment{wanted}: {reason}",
        "Loosen a version in the environment file, name a channel that has the package, or change --python.",
    )
