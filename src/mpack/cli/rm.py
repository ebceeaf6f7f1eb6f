"""`mpack rm IMAGE…`: take names or images out of the store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from mpack.cli.durations import seconds
from mpack.cli.images import size

if TYPE_CHECKING:
    from mpack.oci.store import Record, Store


@click.command("rm")
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@click.option("--older-than", callback=seconds, help="Only images added longer ago than this: 12h, 7d, 2w.")
@click.option("--all-tags", is_flag=True, help="IMAGE is a name without a tag: remove all its tags.")
def command(images: tuple[str, ...], older_than: float | None, all_tags: bool) -> None:
    """Remove images from the store (not from docker) and free their space.

    IMAGE is a name, digest or id; removing one of several names keeps the image. Without IMAGE, --older-than takes all
    old images but bases (see `mpack base prune`).
    """
    from mpack.errors import UsageError
    from mpack.oci.store import Store

    if not images and (older_than is None or all_tags):
        raise UsageError(
            "usage", "No image was named.", "Name one (`mpack images` lists them), or give --older-than 7d."
        )
    store = Store.default()
    limit = time.time() - (older_than or 0.0)
    if images:
        going = [item for reference in dict.fromkeys(images) for item in _named(store, reference, all_tags)]
    else:
        going = [(record, record.names) for record in store.records() if record.role == "image"]
    for record, names in going:
        if older_than is not None and record.added > limit:
            continue
        whole = set(names) >= set(record.names)
        store.forget(record.digest, None if whole else names)
        for line in names or (record.digest,):
            click.echo(line)
    freed = store.gc()
    if freed is None:
        click.echo(
            "another mpack is at work; the space is freed by the next `mpack rm` or `mpack cache prune`", err=True
        )
    else:
        for digest in store.unreadable():
            click.echo(f"blobs stay: the manifest of {digest} cannot be read; `mpack rm {digest}` first", err=True)
        click.echo(f"freed {size(freed)}", err=True)


def _named(store: Store, reference: str, all_tags: bool) -> list[tuple[Record, tuple[str, ...]]]:
    """What a reference means: images, each with the names that go. An image named by digest goes with all its names."""
    from mpack.oci.store import unknown, with_tag

    if all_tags:
        found = []
        for record in store.records():
            names = tuple(name for name in record.names if name.rpartition(":")[0] == reference)
            if names:
                found.append((record, names))
    else:
        record_found = store.find_record(reference)
        name = with_tag(reference)
        found = [(record_found, (name,) if name in record_found.names else record_found.names)] if record_found else []
    if not found:
        raise unknown(reference)
    return found
