"""One run of uv's resolver: requirement lines in, exact packages with one wheel's hash each out."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from mpack.contents import sha256_file
from mpack.env.assemble import WHEEL_TAGS
from mpack.env.index import IndexSettings
from mpack.env.lockcheck import holds_credentials, is_wheel_url
from mpack.env.process import fault, run_uv
from mpack.errors import InputError, InternalError
from mpack.plan import PLATFORMS, LockedPackage

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the same parser under its older name
    import tomli as tomllib

if TYPE_CHECKING:
    from packaging.tags import Tag


class Unsatisfiable(Exception):
    """uv found no solution: its output, without secrets."""


@dataclass(frozen=True)
class Pin:
    """What a package must be wherever it is needed: a version, and a wheel with one of `hashes` ("sha256:…")."""

    version: str
    hashes: tuple[str, ...]


@dataclass(frozen=True)
class Resolver:
    """uv's resolver for one Python ("3.11" or "3.11.2") and platform. `scratch` is a directory of the caller's."""

    python: str
    platform: str
    index: IndexSettings
    scratch: Path
    pins: Mapping[str, Pin] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.platform not in PLATFORMS:
            raise InputError(
                "requirements-unavailable",
                f"mpack has no wheels for the platform {self.platform!r}.",
                f"Use one of {', '.join(PLATFORMS)}.",
            )

    @property
    def minor(self) -> str:
        """The Python minor version, e.g. "3.11"."""
        return ".".join(self.python.split(".")[:2])

    def resolve(
        self,
        lines: Sequence[str],
        *,
        prefer: Mapping[str, str] | None = None,
        dependencies: bool = True,
        lowest: bool = False,
    ) -> tuple[list[LockedPackage], list[str]]:
        """(packages sorted by name, uv's warnings). `prefer`: versions to take where the requirements allow them.

        Raises Unsatisfiable, and EnvironmentFault index-unreachable or disk-full.
        """
        options = [*([] if dependencies else ["--no-deps"]), *(["--resolution", "lowest"] if lowest else [])]
        if not prefer:
            return self._read(self._run(lines, options))
        try:
            return self._read(self._run(lines, options, prefer=prefer))
        except Unsatisfiable:
            # uv looks for a preferred version in the first index only that has it, even with `unsafe-best-match`, and
            # fails if the fitting wheel is in another. Then: without, and once more with the preferences as bounds.
            plain = self._read(self._run(lines, options))
        names = {package.name for package in plain[0]}
        bounds = [f"{name}=={version}" for name, version in prefer.items() if name in names and _is_version(version)]
        try:
            return self._read(self._run(lines, options, bounds=bounds))
        except Unsatisfiable:
            return plain

    def entries(self, lines: Sequence[str]) -> list[dict[str, Any]]:
        """The packages that `lines` name, without dependencies, as uv's pylock.toml has them. Raises as `resolve`."""
        return self._run(lines, ["--no-deps"])[0]

    def wheel_of(self, entry: Mapping[str, Any], hashes: Sequence[str]) -> tuple[dict[str, Any], str] | None:
        """(wheel, its SHA-256) of an entry: the one with one of `hashes` ("sha256:…"), the best if these are none; None
        where the index has no such wheel."""
        wheels = [entry["archive"]] if "archive" in entry else list(entry.get("wheels", []))
        known = [wheel for wheel in wheels if f"sha256:{wheel.get('hashes', {}).get('sha256')}" in hashes]
        unknown = [wheel for wheel in wheels if not wheel.get("hashes", {}).get("sha256")]
        if not (known or unknown or not hashes):
            return None
        wheel = self._best(known or (unknown if hashes else wheels))
        digest = wheel.get("hashes", {}).get("sha256") or self._hash(entry["name"], entry.get("version", ""), wheel)
        return (wheel, digest) if not hashes or f"sha256:{digest}" in hashes else None

    def _run(
        self,
        lines: Sequence[str],
        options: Sequence[str],
        *,
        prefer: Mapping[str, str] | None = None,
        bounds: Sequence[str] = (),
    ) -> tuple[list[dict[str, Any]], list[str]]:
        output = ""
        bounds = [*bounds, *(f"{name}=={pin.version}" for name, pin in self.pins.items())]
        for tags in WHEEL_TAGS[self.platform]:
            with tempfile.TemporaryDirectory(dir=self.scratch) as name:
                directory = Path(name)
                (directory / "requirements.in").write_text("\n".join(lines) + "\n", "utf-8")
                made = directory / "pylock.toml"
                if prefer:
                    made.write_text(_preferences(prefer), "utf-8")
                command = [*self._command(directory, tags), *options]
                if bounds:
                    (directory / "bounds.txt").write_text("\n".join(bounds) + "\n", "utf-8")
                    command += ["--constraints", str(directory / "bounds.txt")]
                code, output = run_uv(command, self.index, directory, {})
                if code == 0:
                    return tomllib.loads(made.read_text("utf-8")).get("packages", []), _warnings(output)
            if "matching platform tag" not in output:
                break
        # uv goes on without an index that refuses the credentials, and tells of it in a hint only.
        if "could not be queried" not in output and "No solution found" in output:
            raise Unsatisfiable(output)
        raise fault(output, "Resolving the requirements") or _refused(output)

    def _command(self, directory: Path, tags: str) -> list[str]:
        command = ["pip", "compile", str(directory / "requirements.in")]
        command += ["--output-file", str(directory / "pylock.toml"), "--python", sys.executable]
        command += ["--python-version", self.python, "--python-platform", tags]
        command += ["--only-binary", ":all:", "--generate-hashes", "--no-header", *self.index.uv_options()]
        return command

    def _read(self, made: tuple[list[dict[str, Any]], list[str]]) -> tuple[list[LockedPackage], list[str]]:
        found = []
        for item in made[0]:
            name, version = item["name"], item.get("version", "")
            if "archive" in item:
                digest = item["archive"].get("hashes", {}).get("sha256")
                url = item["archive"].get("url") or Path(item["archive"]["path"]).name
                source = "url" if "url" in item["archive"] else "artifact"
                if source == "url" and not is_wheel_url(url):
                    raise _no_wheel(name)
                if source == "url" and holds_credentials(url):
                    raise InputError(
                        "requirements-invalid",
                        f"The URL of the wheel of {name} holds credentials, which would end up in the lock file.",
                        "Take them out; ~/.netrc on this machine holds them.",
                    )
            else:
                pin = self.pins.get(name)
                best = self.wheel_of(item, pin.hashes if pin is not None else ())
                if best is None:
                    raise InputError(
                        "lock-mismatch",
                        f"The index has no wheel of {name}=={version} with a hash that the pins name.",
                        "Use the index that they were made with, or make them anew.",
                    )
                digest, source, url = best[1], "index", None
            hashes = (f"sha256:{digest}",) if digest else ()
            found.append(LockedPackage(name, version, hashes, source, url))
        return sorted(found, key=lambda package: package.name), made[1]

    def _best(self, wheels: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The wheel that uv and pip would install: the one with the best tag; of equals the first."""
        if len(wheels) == 1:
            return wheels[0]
        ranks = {str(tag): rank for rank, tag in enumerate(wheel_tags(self.python, self.platform))}

        def rank(wheel: dict[str, Any]) -> int:
            from packaging.utils import InvalidWheelFilename, parse_wheel_filename

            try:
                tags = parse_wheel_filename(wheel_file(wheel))[3]
            except InvalidWheelFilename:
                return len(ranks)
            return min(ranks.get(str(tag), len(ranks)) for tag in tags)

        return min(wheels, key=rank)

    def _hash(self, name: str, version: str, wheel: dict[str, Any]) -> str:
        """The hash of a wheel whose index gives none: of the file itself."""
        url = urlsplit(wheel.get("url", ""))
        if wheel.get("path"):
            return sha256_file(Path(wheel["path"]))
        if url.scheme == "file":
            return sha256_file(Path(unquote(url.path)))
        from mpack.env.wheels import pip_download

        with tempfile.TemporaryDirectory(dir=self.scratch) as directory:
            package = LockedPackage(name, version)
            return sha256_file(pip_download([package], self.minor, self.platform, Path(directory), self.index)[0])


def wheel_tags(python: str, platform: str) -> list[Tag]:
    """Tags of wheels that CPython `python` ("3.11" or "3.11.2") on a platform can have, best first."""
    from packaging.tags import compatible_tags, cpython_tags

    machine = WHEEL_TAGS[platform][0].split("-")[0]
    numbers = python.split(".")
    version = (int(numbers[0]), int(numbers[1]))
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(36, 4, -1)]
    platforms += [f"manylinux{name}_{machine}" for name in ("2014", "2010", "1")] + [f"linux_{machine}"]
    tags = [*cpython_tags(version, platforms=platforms), *compatible_tags(version, f"cp{version[0]}{version[1]}")]
    return list(dict.fromkeys(tags))


def wheel_file(wheel: Mapping[str, Any]) -> str:
    """The file name of a wheel entry of pylock.toml."""
    return str(
        wheel.get("name") or unquote(urlsplit(wheel.get("url", "") or wheel.get("path", "")).path).split("/")[-1]
    )


def _preferences(prefer: Mapping[str, str]) -> str:
    """A pylock.toml that uv takes for its own earlier output: it keeps these versions where it can."""
    text = 'lock-version = "1.0"\ncreated-by = "mpack"\n'
    for name, version in sorted(prefer.items()):
        if _is_version(version):
            text += f'\n[[packages]]\nname = "{name}"\nversion = "{version}"\n'
    return text


def _is_version(text: str) -> bool:
    """False for a Debian package's version, which no index can have."""
    from packaging.version import InvalidVersion, Version

    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def _warnings(output: str) -> list[str]:
    return [line.removeprefix("warning:").strip() for line in output.splitlines() if line.startswith("warning:")]


def _no_wheel(name: str) -> InputError:
    # uv can resolve a source archive without building it, and pip would then build it here.
    return InputError(
        "requirements-unavailable",
        f"{name} is to come from an address that is no wheel's, and mpack builds no source.",
        "Name the address of a wheel (….whl), or put one into the artifact.",
    )


def _refused(output: str) -> InputError | InternalError:
    from mpack.env.process import short

    if "source distribution" in output or "Failed to build" in output or "Building source" in output:
        return InputError(
            "requirements-unavailable",
            f"A requirement can only be had as source, which mpack does not build: {short(output)}",
            "Give a wheel instead.",
        )
    if "Couldn't parse requirement" in output or "Failed to read" in output or "invalid" in output.lower():
        return InputError("requirements-invalid", f"uv cannot use the requirements: {short(output)}", "Mend the line.")
    return InternalError("internal", f"uv failed: {short(output)}", "Please report it with this output.")
