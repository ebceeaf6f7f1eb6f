"""Options that several verbs share, and how they become a BuildRequest."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from mpack.errors import UsageError

if TYPE_CHECKING:
    from mpack.request import BuildRequest

F = TypeVar("F", bound=Callable[..., Any])


def _python(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"3\.\d{1,3}(\.\d{1,3})?", value):
        raise click.BadParameter(f"{value!r} is not a version like 3.11", ctx, param)
    return value


def _platforms(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    """The platforms of a list with commas; none where the option was not given."""
    if value is None:
        return ()
    from mpack.plan import PLATFORMS

    found = tuple(item.strip() for item in value.split(","))
    for item in found:
        if item not in PLATFORMS:
            raise click.BadParameter(f"{item!r} is none of {', '.join(PLATFORMS)}", ctx, param)
    return found


_ARTIFACT = [
    click.argument("artifact"),
    click.option("--trust-module", multiple=True, metavar="PKG", help="Let pickles name classes of this package."),
    click.option("--trust-pickle", is_flag=True, help="Let pickles name anything."),
    click.option("--max-size", metavar="SIZE", default="100GB", show_default=True, help="Largest unpacked artifact."),
    click.option("--max-entries", type=click.IntRange(min=1), default=200_000, show_default=True, help="Most files."),
    click.option("--max-ratio", type=click.IntRange(min=1), default=200, show_default=True, help="Compression ratio."),
]

_PACKAGER = click.option("-p", "--packager", default="auto", show_default=True, help="What to package it as.")
_PLACE = [
    click.option("--base", metavar="REF", help="Base image: of the store, the engine or a registry."),
    click.option(
        "--python", metavar="X.Y", callback=_python, help="Another Python than the model's; pins may then be relaxed."
    ),
    click.option(
        "--platform",
        "platforms",
        metavar="OS/ARCH[,…]",
        callback=_platforms,
        help="Platform of the image; `build` takes several and makes an image index.  [default: this machine's]",
    ),
]
_PLAN = [
    _PACKAGER,
    click.option("-a", "--arg", "arguments", multiple=True, metavar="KEY=VALUE", help="An argument of the packager."),
    *_PLACE,
    click.option(
        "--lock",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The lock file to use; or a pylock.toml, whose versions and hashes then hold.",
    ),
    click.option("--update-lock", is_flag=True, help="Resolve anew; `build` then writes the lock."),
    click.option("--no-trim", is_flag=True, help="Keep tests, headers and stubs of the dependencies."),
    click.option("--keep-mlflow", is_flag=True, help="Install mlflow even where the runtime does without."),
    click.option("--gpu", is_flag=True, help="Keep packages that only a GPU needs (xgboost's NCCL)."),
    click.option("--conda", is_flag=True, help="Take a conda.yaml's packages from conda's channels only."),
    click.option("--allow-vcs", is_flag=True, help="Accept git requirements; their wheels are built on this machine."),
]


_ATTEST = [
    click.option("--no-attest", is_flag=True, help="Attach no SBOM and no provenance, and write none."),
    click.option("--sign-key", metavar="KEY", help="Sign what is pushed: a key of cosign's, which must be installed."),
]


def attest_options(function: F) -> F:
    """What goes with an image."""
    return _apply(function, _ATTEST)


def artifact_options(function: F) -> F:
    """The artifact and what may be in it."""
    return _apply(function, _ARTIFACT)


def reading_options(function: F) -> F:
    """What may be in an artifact; the verb has its own word for the artifact."""
    return _apply(function, _ARTIFACT[1:])


def wish_options(function: F) -> F:
    """Packager, base, Python and platform: of what decides the plan that which many artifacts may share."""
    return _apply(function, [_PACKAGER, *_PLACE])


def plan_options(function: F) -> F:
    """What decides the plan."""
    return _apply(function, _PLAN)


def build_request(*, several: bool = False, **values: Any) -> BuildRequest:
    """A BuildRequest from the options' values; `several`: the verb can do more than one platform.

    Raises UsageError on a value that makes no sense.
    """
    from mpack.address import split_digest
    from mpack.artifact.limits import Limits, parse_size
    from mpack.artifact.model import Trust
    from mpack.env.lockpath import is_conda_lock, is_pylock
    from mpack.request import BuildRequest, ResolveOptions
    from mpack.sandbox import in_order, this_platform

    if values.get("optimize_strict") and not values.get("optimize"):
        raise UsageError("usage", "--optimize-strict goes with --optimize.", "Add --optimize onnx.")
    pinned = values["lock"] is not None and (is_pylock(values["lock"]) or is_conda_lock(values["lock"]))
    platforms = in_order(values["platforms"] or [this_platform()])
    if len(platforms) > 1 and not several:
        raise UsageError("usage", f"This takes one platform, not {' and '.join(platforms)}.", "Name one of them.")
    location, digest = split_digest(values["artifact"])
    return BuildRequest(
        location=location,
        digest=digest,
        packager=values["packager"],
        arguments=parse_arguments(values["arguments"]),
        tag=values.get("tag"),
        base=values["base"],
        builder=values.get("builder", "auto"),
        options=ResolveOptions(
            platform=platforms[0],
            python=values["python"],
            trim=not values["no_trim"],
            allow_vcs=values["allow_vcs"],
        ),
        platforms=platforms,
        outputs=tuple(values.get("outputs", ())),
        lock=None if pinned else values["lock"],
        pins=values["lock"] if pinned else None,
        update_lock=values["update_lock"],
        verify=not values.get("no_verify", False),
        template=values.get("dockerfile_template"),
        limits=Limits(total=parse_size(values["max_size"]), entries=values["max_entries"], ratio=values["max_ratio"]),
        trust=Trust(
            frozenset(values["trust_module"]),
            values["trust_pickle"],
            values["keep_mlflow"],
            values["gpu"],
            values.get("conda", False),
        ),
        tolerance=values.get("tolerance"),
        optimize=values.get("optimize"),
        optimize_strict=values.get("optimize_strict", False),
        attest=not values.get("no_attest", False),
        sign_key=values.get("sign_key"),
    )


def parse_arguments(pairs: tuple[str, ...], option: str = "-a", example: str = "port=8080") -> dict[str, str]:
    """KEY=VALUE words as a dict. Raises UsageError on a word without `=` or a key given twice."""
    arguments: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError("usage", f"{option} takes KEY=VALUE, not {pair!r}.", f"For example: {option} {example}.")
        if key in arguments:
            raise UsageError("usage", f"{option} {key} is given twice.", "Give it once.")
        arguments[key] = value
    return arguments


def _apply(function: F, options: Sequence[Callable[[Any], Any]]) -> F:
    decorated: Any = function
    for option in reversed(options):
        decorated = option(decorated)
    return cast(F, decorated)
