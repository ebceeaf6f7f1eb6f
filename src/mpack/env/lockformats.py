"""A locked environment in the forms of other tools: pylock.toml (PEP 751) and requirements.txt with hashes.

Both are for one Python and platform, as the lock is, and hold everything that the model sees, the base's packages too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from urllib.parse import parse_qs, urldefrag

from mpack.env.locations import Wheel
from mpack.env.wheels import wheel_file_name
from mpack.plan import Environment, LockedPackage

_MACHINES = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}
Wheels = Mapping[tuple[str, str], Wheel]


def pylock(environment: Environment, wheels: Wheels) -> str:
    """pylock.toml, version 1.0: every package with its wheel's URL and hash."""
    machine = _MACHINES[environment.platform]
    marker = f"implementation_name == 'cpython' and platform_machine == '{machine}' and sys_platform == 'linux'"
    lines = [
        'lock-version = "1.0"',
        f"environments = [{_text(marker)}]",
        f"requires-python = {_text(f'=={environment.python}.*')}",
        'created-by = "mpack"',
    ]
    for package in environment.packages:
        lines += ["", "[[packages]]", f"name = {_text(package.name)}", *_source(package, wheels)]
    return "\n".join(lines) + "\n"


def requirements(environment: Environment, wheels: Wheels) -> str:
    """requirements.txt: every package with its wheel's hash."""
    lines = [f"# Python {environment.python} on {environment.platform}"]
    for package in environment.packages:
        if package.source == "vcs":
            lines.append(f"{package.name} @ {package.url}")
            continue
        digest = package.hashes[0] if package.hashes else f"sha256:{wheels[package.name, package.version].sha256}"
        name = {"artifact": f"./{package.url}", "url": f"{package.name} @ {package.url}"}.get(package.source)
        lines += [f"{name or f'{package.name}=={package.version}'} \\", f"    --hash={digest}"]
    return "\n".join(lines) + "\n"


def notes(environment: Environment) -> Iterator[str]:
    """What a user of either form must see to himself."""
    own = [wheel_file_name(package) for package in environment.packages if package.source == "artifact"]
    if own:
        yield f"{', '.join(own)}: of the artifact; put {'it' if len(own) == 1 else 'them'} beside this file"
    built = [package.name for package in environment.packages if package.source == "vcs"]
    if built:
        yield f"{', '.join(built)}: built from git where this is installed, so without a hash"


def _source(package: LockedPackage, wheels: Wheels) -> Iterator[str]:
    if package.source == "vcs":
        url, fragment = urldefrag(str(package.url).removeprefix("git+"))
        place, _, commit = url.rpartition("@")
        folder = parse_qs(fragment).get("subdirectory")
        more = f", subdirectory = {_text(folder[0])}" if folder else ""
        yield f'vcs = {{ type = "git", url = {_text(place)}, commit-id = {_text(commit)}{more} }}'
        return
    yield f"version = {_text(package.version)}"
    if package.source == "artifact":
        digest = package.hashes[0].removeprefix("sha256:")
        path = _text(wheel_file_name(package))
        yield f"archive = {{ path = {path}, hashes = {{ sha256 = {_text(digest)} }} }}"
        return
    wheel = wheels[package.name, package.version]
    size = f", size = {wheel.size}" if wheel.size is not None else ""
    fields = f"url = {_text(wheel.url)}{size}, hashes = {{ sha256 = {_text(wheel.sha256)} }}"
    if package.source == "url":
        yield f"archive = {{ {fields} }}"
    else:
        yield f"wheels = [{{ name = {_text(wheel.file)}, {fields} }}]"


def _text(value: str) -> str:
    """A TOML string: JSON's, in which a delete character is escaped too."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
