"""`mpack diff A B`: why two images differ, by configuration field, package, layer and file."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mpack.diff import ImageDiff


@click.command("diff")
@click.argument("a")
@click.argument("b")
@click.option("--all", "everything", is_flag=True, help="Every file, package and field, and values in full.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with everything.")
def command(a: str, b: str, everything: bool, as_json: bool) -> None:
    """Say why images A and B differ: configuration, packages, layers, files.

    A and B are images of the store, the engine or the registry that they name, or oci:DIR, oci-archive:FILE,
    docker-archive:FILE. The exit code is 0 if they are the same, 1 if not, 2 or more for an error.
    """
    from mpack.cli.difftext import text
    from mpack.errors import EnvironmentFault, InputError

    try:
        found = _compare(a, b)
    except InputError as error:  # its exit code 1 says here that the images differ
        raise EnvironmentFault("image-unreadable", error.message, error.hint) from error
    if as_json:
        click.echo(json.dumps(found.to_json()))
    else:
        click.echo("\n".join(text(found, everything)))
    sys.exit(0 if found.same else 1)


def _compare(a: str, b: str) -> ImageDiff:
    from mpack.diff import Side, compare
    from mpack.engine import Docker
    from mpack.images import open_image
    from mpack.oci.store import Store
    from mpack.sandbox import this_platform

    store, docker = Store.default(), Docker.answering()
    copied = False
    try:
        with store.lease():
            opened = [open_image(reference, store, docker, this_platform(), _say) for reference in (a, b)]
            copied = not all(item.listed for item in opened)
            first, second = (Side(name, item.image, item.digest) for name, item in zip((a, b), opened, strict=True))
            return compare(first, second)
    finally:
        if copied:
            store.gc()


def _say(line: str) -> None:
    click.echo(line, err=True)
