"""Why a resolution failed, in words for the user, and what versions would do instead."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mpack.env.process import short
from mpack.env.resolution import Resolver, Unsatisfiable
from mpack.errors import InputError
from mpack.spec import Requirement

_AT_ONCE = 4


@dataclass(frozen=True)
class Unavailable:
    """A requirement that nothing on the index fulfils by itself; `nearest`: versions that have a wheel, best first."""

    requirement: Requirement
    reason: str
    nearest: tuple[str, ...]


def unavailable(requirements: Iterable[Requirement], resolver: Resolver) -> list[Unavailable]:
    """The requirements that cannot be had even alone, each asked by itself and without its dependencies."""

    def ask(requirement: Requirement) -> Unavailable | None:
        try:
            resolver.resolve([requirement.line], dependencies=False)
        except Unsatisfiable as error:
            return Unavailable(requirement, _reason(str(error), resolver), nearest(requirement.line, resolver))
        return None

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [found for found in pool.map(ask, requirements) if found is not None]


def nearest(line: str, resolver: Resolver) -> tuple[str, ...]:
    """Versions with a wheel near the one that `line` pins: of the same minor series first, the next higher before the
    next lower, for wheels for a newer Python are made of newer versions."""
    from packaging.requirements import Requirement as Parsed
    from packaging.version import Version

    parsed = Parsed(line)
    versions = [spec.version.removesuffix(".*") for spec in parsed.specifier]
    if not versions:
        return ()
    version = Version(versions[0])
    series = f",=={version.major}.{version.minor}.*"
    bounds = [(f">{version}{series}", True), (f"<{version}{series}", False), (f">{version}", True)]
    bounds.append((f"<{version}", False))
    found = []
    for bound, lowest in bounds:
        try:
            packages, _ = resolver.resolve([parsed.name + bound], dependencies=False, lowest=lowest)
        except Unsatisfiable:
            continue
        found += [package.version for package in packages]
    return tuple(dict.fromkeys(found))


def unavailable_error(found: Sequence[Unavailable], resolver: Resolver) -> InputError:
    """InputError requirements-unavailable that names each requirement, why, and the nearest versions."""
    sentences = []
    for item in found:
        near = f" Nearest with one: {', '.join(item.nearest[:3])}." if item.nearest else ""
        sentences.append(f"{_cite(item.requirement)}: {item.reason}.{near}")
    return InputError(
        "requirements-unavailable",
        f"Not to be had for Python {resolver.python} on {resolver.platform}: " + " ".join(sentences),
        "Change the pin, build for the model's own Python version, or put a wheel into the artifact. "
        "--python X.Y names another Python and lets such pins move to the nearest version.",
    )


def clash_error(output: str, requirements: Sequence[Requirement]) -> InputError:
    """InputError requirements-clash that names the lines of both sides and uv's reason."""
    involved = [item for item in requirements if _mentioned(item.line, output)]
    model = [_cite(item) for item in involved if item.origin == "model"]
    runtime = [_cite(item) for item in involved if item.origin == "runtime"]
    reason = short(output.replace("No solution found when resolving dependencies", ""), 300).lstrip("; ")
    if model and runtime:
        text = f"The model asks for {', '.join(model)} and the runtime for {', '.join(runtime)}: no versions fit both."
        hint = "Loosen the model's requirement; the runtime's ranges are as wide as it can work with."
    elif runtime and not model:
        text = f"The runtime's requirements ({', '.join(runtime)}) cannot be met."
        hint = "Check that the index has these packages for the image's Python."
    else:
        named = ", ".join(model) or "them"
        text = f"The model's requirements contradict each other or cannot be met: {named}."
        hint = "Change one of them so that they fit."
    return InputError("requirements-clash", f"{text} uv: {reason}", hint)


def pins_error(output: str) -> InputError:
    """InputError lock-mismatch for requirements that cannot be met with the pins of a pylock.toml."""
    reason = short(output.replace("No solution found when resolving dependencies", ""), 600).lstrip("; ")
    return InputError(
        "lock-mismatch",
        f"What the model and the runtime need cannot be had with the versions that pylock.toml pins. uv: {reason}",
        "Make it anew for this artifact, or leave it out.",
    )


def _cite(requirement: Requirement) -> str:
    return f"{requirement.line} ({requirement.source})" if requirement.source else requirement.line


def _mentioned(line: str, output: str) -> bool:
    match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line)
    if match is None:
        return False
    name = re.sub(r"[-_.]+", "[-_.]+", re.escape(match[0].rstrip(".-_")).replace(r"\-", "-").replace(r"\.", "."))
    return re.search(rf"(?<![\w.-]){name}(?![\w-])", output, re.IGNORECASE) is not None


_REASONS: tuple[tuple[str, Callable[[Resolver], str]], ...] = (
    ("was not found in the p", lambda _: "no such package on the index"),  # "package registry", "provided locations"
    ("there is no version of", lambda _: "the index has no such version"),
    ("there are no versions of", lambda _: "the index has no such version"),
    ("no usable wheels", lambda _: "only a source distribution, no wheel"),
    ("matching Python ABI tag", lambda resolver: f"no wheel for Python {resolver.python}"),
    ("matching Python version tag", lambda resolver: f"no wheel for Python {resolver.python}"),
    ("matching Python implementation tag", lambda resolver: f"no wheel for Python {resolver.python}"),
    ("matching platform tag", lambda resolver: f"no wheel for {resolver.platform}"),
    ("does not satisfy Python", lambda resolver: f"it does not support Python {resolver.python}"),
)


def _reason(output: str, resolver: Resolver) -> str:
    flat = " ".join(output.split())
    return next((words(resolver) for text, words in _REASONS if text in flat), short(output).rstrip("."))
