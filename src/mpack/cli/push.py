"""`mpack push IMAGE REF…`: an image goes in, its name by digest at each registry comes out."""

from __future__ import annotations

import json

import click

from mpack.cli.options import attest_options


@click.command("push")
@click.argument("image")
@click.argument("references", nargs=-1, required=True, metavar="REF...")
@attest_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(image: str, references: tuple[str, ...], no_attest: bool, sign_key: str | None, as_json: bool) -> None:
    """Push IMAGE (of the store, the engine or the registry that it names) to registries.

    An image index of the store goes whole, with all its platforms. One that only a registry has is refused: mpack takes
    one platform's image out of a registry.

    REF is HOST[:PORT]/NAME[:TAG]; credentials are Docker's (`docker login`). The SBOM and the provenance of an image
    that was built here are attached to it there.
    """
    from mpack.images import locate
    from mpack.oci.store import Store
    from mpack.sandbox import this_platform
    from mpack.targets.files import fetched
    from mpack.targets.registry import RegistryTarget

    targets = [RegistryTarget.parse(reference, not no_attest, sign_key) for reference in references]
    store, outputs = Store.default(), []
    with store.lease():
        oci = store.find_any(image)
        if oci is None:
            found, docker = locate(image, store, this_platform(), lambda text: click.echo(text, err=True))
            oci = fetched(found, store, docker)
        for target in targets:
            pushed = target.push(oci, store)
            outputs.append(target.named(pushed))
            click.echo(f"{target.reference}: {pushed}", err=True)
            if not as_json:
                click.echo(outputs[-1])
    if as_json:
        click.echo(json.dumps({"id": oci.id, "digest": oci.digest, "outputs": outputs}))
