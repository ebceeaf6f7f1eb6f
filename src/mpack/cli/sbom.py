"""`mpack sbom IMAGE`: what an image is made of, as CycloneDX JSON."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("sbom")
@click.argument("image")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="The file to write.  [default: stdout]"
)
def command(image: str, output: Path | None) -> None:
    """Print the SBOM of IMAGE: its packages with licences and hashes, its base, its model. CycloneDX 1.6, JSON.

    IMAGE is of the store, the engine or the registry that it names, or oci:DIR, oci-archive:FILE, docker-archive:FILE.
    An image that mpack did not build is described by the Python and Debian packages in it.
    """
    from mpack.engine import Docker
    from mpack.images import open_image
    from mpack.oci.files import disk_faults, write_whole
    from mpack.oci.store import Store
    from mpack.sandbox import this_platform
    from mpack.supply.lookup import find_sbom

    store, copied = Store.default(), False
    docker = None if store.find_record(image) else Docker.answering()
    try:
        with store.lease():
            opened = open_image(image, store, docker, this_platform(), lambda text: click.echo(text, err=True))
            copied = not opened.listed
            document = find_sbom(image, opened.image, store)
    finally:
        if copied:
            store.gc()
    if output is None:
        click.echo(document.data)
        return
    with disk_faults(f"Writing {output}", output.absolute().parent):
        write_whole(output.absolute(), document.data + b"\n")
