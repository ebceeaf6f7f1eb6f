"""`mpack base build|list|suggest|prune`: base images, and dependency-cache images."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpack.cli.options import reading_options, wish_options

if TYPE_CHECKING:
    from mpack.engine import Docker
    from mpack.oci.image import OciImage
    from mpack.oci.store import Store
    from mpack.spec import BaseWish

DEPENDENCIES_NAME = "packaging-model-cache:latest"


@click.group("base")
def command() -> None:
    """Build, list and remove base images."""


@command.command("build")
@click.option("--python", metavar="X.Y", help="Python of the image.  [default: the dependencies', else mpack's]")
@click.option("--server", type=click.Choice(["triton"]), help="With that inference server.  [default: none]")
@click.option("--shell", is_flag=True, help="With a shell, core utilities and pip, for Dockerfiles of one's own.")
@click.option("--package", "packages", multiple=True, metavar="NAME", help="A further Debian package (extracted only).")
@click.option("--platform", metavar="OS/ARCH", help="Platform of the image.  [default: this machine's]")
@click.option(
    "--deps",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="conda.yaml or requirements.txt: make a dependency-cache image of it.",
)
@click.option("--base", metavar="REF", help="What a dependency-cache image is made from.  [default: mpack picks]")
@click.option("-t", "--tag", metavar="NAME:TAG", help=f"Its name.  [default: {DEPENDENCIES_NAME}]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def build(
    python: str | None,
    server: str | None,
    shell: bool,
    packages: tuple[str, ...],
    platform: str | None,
    deps: Path | None,
    base: str | None,
    tag: str | None,
    as_json: bool,
) -> None:
    """Build a base image anew, or with --deps a dependency-cache image; print its name.

    \b
    mpack base build --python 3.11
    mpack base build --server triton --python 3.11
    mpack base build --deps conda.yaml -t packaging-model-cache:1.0.0
    """
    from mpack.engine import Docker
    from mpack.errors import UsageError
    from mpack.sandbox import this_platform
    from mpack.spec import BaseWish

    target = platform or this_platform()
    if deps is None:
        if base or tag:
            raise UsageError("usage", "--base and --tag need --deps.", "A base image has the name of its recipe.")
        name, image = _build_recipe(python, server, shell, packages, target)
    else:
        wish = BaseWish(base, shell, packages, server or "python")
        name, image = _build_dependencies(deps, tag or DEPENDENCIES_NAME, wish, python, target)
    docker = Docker.answering()
    if docker is not None:
        _load(docker, image, name)
    if as_json:
        value = {
            "image": name,
            "digest": image.digest,
            "id": image.id,
            "size": image.size,
            "docker": docker is not None,
        }
        click.echo(json.dumps({**value, "platform": image.platform}))
    else:
        click.echo(name)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def list_bases(as_json: bool) -> None:
    """List the base images of the store, and what mpack can build."""
    from itertools import product

    from mpack.bases.recipe import KINDS, make_recipe, minors
    from mpack.oci.store import Store

    store = Store.default()
    rows: list[dict[str, Any]] = []
    for record in store.records():
        if record.role != "base":
            continue
        facts = _facts(store, record.digest)
        rows += [{"image": name, "digest": record.digest, **facts} for name in record.names or ("",)]
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        detail = f"{row['platform']}  {row['size'] / 1e6:.0f} MB" if row["size"] is not None else row["error"]
        click.echo(f"{row['image'] or row['digest']}  {row['kind']}  {detail}")
    held = {row["image"] for row in rows}
    for kind, minor, shell in product(KINDS, minors(), (False, True)):
        recipe = make_recipe(minor, kind=kind, shell=shell)
        name = f"{recipe.name}:{recipe.variant}"
        if name not in held:
            click.echo(f"{name}  not built yet", err=True)


def _facts(store: Store, digest: str) -> dict[str, Any]:
    """What is listed of a base; a damaged one has an `error` and no size."""
    from mpack.bases.build import RECIPE_LABEL
    from mpack.bases.deps import DEPENDENCIES_LABEL
    from mpack.errors import EnvironmentFault

    try:
        image = store.load(digest)
    except EnvironmentFault as fault:
        return {"kind": "damaged", "platform": None, "size": None, "error": fault.message}
    kinds = {DEPENDENCIES_LABEL: "dependencies", RECIPE_LABEL: "recipe"}
    kind = next((kind for label, kind in kinds.items() if label in image.images[0].labels), "copy")
    return {"kind": kind, "platform": image.platform, "size": image.size, "error": None}


@command.command("suggest")
@click.argument("artifacts", nargs=-1, required=True)
@reading_options
@wish_options
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write it there, not to stdout.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def suggest(artifacts: tuple[str, ...], output: Path | None, as_json: bool, **values: Any) -> None:
    """Write the requirements file of the dependency cache that would save most for ARTIFACTS.

    A directory that is no artifact is looked through. Locks beside artifacts count; others are resolved. Nothing is
    run, and no base is chosen. An artifact that cannot be read is told and skipped; the exit code is then 1.

    \b
    mpack base suggest models/ -o requirements.txt
    mpack base build --deps requirements.txt -t packaging-model-cache:1.0.0
    """
    from mpack.cli.suggest import run_suggest

    sys.exit(run_suggest(artifacts, output, as_json, values))


@command.command("prune")
def prune() -> None:
    """Remove all base images from the store; images made from them keep the layers that they need."""
    from mpack.oci.store import Store

    store = Store.default()
    going = [record for record in store.records() if record.role == "base"]
    for record in going:
        store.forget(record.digest)
        click.echo(", ".join(record.names) or record.digest)
    freed = store.gc()
    click.echo(_freed(len(going), freed), err=True)


def _freed(count: int, freed: int | None) -> str:
    if freed is None:
        return f"removed {count} base images; another mpack is at work, so their space is freed by the next prune"
    return f"removed {count} base images, freed {freed / 1e6:.0f} MB"


def _build_recipe(
    python: str | None, server: str | None, shell: bool, packages: tuple[str, ...], platform: str
) -> tuple[str, OciImage]:
    from mpack.bases.build import build_recipe_image, recipe_name
    from mpack.bases.recipe import default_minor, make_recipe, minors
    from mpack.errors import InputError
    from mpack.oci.store import Store

    minor = python or default_minor()
    if minor not in minors():
        raise InputError(
            "python-unavailable",
            f"There is no recipe of a base image with Python {minor}; there is one for {', '.join(minors())}.",
            f"Use --python {default_minor()}, or give models another base with --base REF.",
        )
    recipe = make_recipe(minor, kind=server or "python", shell=shell, system_packages=packages)
    image = build_recipe_image(Store.default(), recipe, platform, lambda text: click.echo(text, err=True))
    return recipe_name(recipe, platform), image


def _build_dependencies(
    deps: Path, tag: str, wish: BaseWish, python: str | None, platform: str
) -> tuple[str, OciImage]:
    from mpack.bases import Bases
    from mpack.bases.deps import build_dependency_image, read_dependencies
    from mpack.engine import Docker
    from mpack.env.index import IndexSettings
    from mpack.naming import legal_reference
    from mpack.oci.store import Store

    name = legal_reference(tag)
    store = Store.default()
    found = read_dependencies(deps)
    for note in found.notes:
        click.echo(f"warning: {note}", err=True)
    image = build_dependency_image(
        store,
        Bases(store, Docker.answering()),
        IndexSettings.from_host(),
        found,
        name=name,
        python=python,
        platform=platform,
        wish=wish,
        say=lambda text: click.echo(text, err=True),
    )
    return name, image


def _load(docker: Docker, image: OciImage, name: str) -> None:
    """Loads into the daemon too, where a Dockerfile's FROM and `docker run` look for it."""
    from io import BufferedReader

    from mpack.oci.archive import Pieces, docker_archive

    docker.load(BufferedReader(Pieces(docker_archive(image, [name]))))
