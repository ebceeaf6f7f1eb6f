"""`mpack images`: the store's images, one entry a digest."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mpack.oci.store import Record, Store

_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "m"))


@click.command("images")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def command(as_json: bool) -> None:
    """List the images of the store, newest first, with all names of one image together."""
    from mpack.oci.store import Store

    store = Store.default()
    rows = [_row(store, record) for record in store.records() if record.role == "image"]
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        detail = (
            row["error"] or f"{size(row['size'])}  {row['packager']}  {row['model']['name']} {row['model']['version']}"
        )
        if "," in (row["platform"] or ""):
            detail += f"  {row['platform']}"
        click.echo(f"{row['digest'][7:19]}  {age(row['age']):>4}  {detail}")
        for name in row["names"] or ["(no name)"]:
            click.echo(f"    {name}")


def size(count: int) -> str:
    """Bytes for people: decimal megabytes."""
    return f"{count / 1e6:.1f} MB"


def age(seconds: float) -> str:
    """Seconds for people: whole days, hours or minutes."""
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return "now"


def _row(store: Store, record: Record) -> dict[str, Any]:
    """What is printed of an image; a damaged one has an `error` and no size."""
    from mpack.errors import EnvironmentFault

    row: dict[str, Any] = {
        "digest": record.digest,
        "id": record.id,
        "names": list(record.names),
        "age": max(0, round(time.time() - record.added)),
        "size": None,
        "platform": None,
        "packager": None,
        "model": {"name": None, "version": None},
        "error": None,
    }
    try:
        image = store.load(record.digest)
    except EnvironmentFault as fault:
        return {**row, "error": fault.message}
    labels = image.images[0].labels
    title, version = (labels.get(f"org.opencontainers.image.{key}") for key in ("title", "version"))
    return {
        **row,
        "size": image.size,
        "platform": image.platform,
        "packager": labels.get("dev.mpack.packager"),
        "model": {"name": title, "version": version},
    }
