"""`mpack verify IMAGE`: the image's own self-check, run in a sandbox."""

from __future__ import annotations

import json
import sys

import click


@click.command("verify")
@click.argument("image")
@click.option(
    "--key", metavar="KEY", help="First check the registry's signature of IMAGE with this public key (cosign)."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def command(image: str, key: str | None, as_json: bool) -> None:
    """Run the self-check of IMAGE (of the store, the engine or the registry that it names) without network."""
    from mpack.errors import EnvironmentFault, VerificationError
    from mpack.images import find_image
    from mpack.pipeline import Workshop
    from mpack.sandbox import pick_sandbox, this_platform
    from mpack.verify import skip_reason, verify

    if key is not None:
        image = _signed(image, key)
    workshop = Workshop.of_this_machine()
    found = find_image(image, workshop.store, workshop.docker, this_platform(), lambda text: click.echo(text, err=True))
    with pick_sandbox(workshop.store, workshop.docker, prefer_docker=found.location == "docker") as sandbox:
        reason = skip_reason(found.platform, sandbox)
        if reason is not None or sandbox is None:
            raise EnvironmentFault(
                "sandbox-unavailable", f"The image {image} cannot be verified here: {reason}.", "See `mpack doctor`."
            )
        result = verify(found, sandbox).verification
    if as_json:
        click.echo(json.dumps(result.to_json()))
    else:
        difference = "" if result.max_rel_diff is None else f", largest relative difference {result.max_rel_diff:.3g}"
        click.echo(f"{result.status} (against {result.against or 'nothing'}{difference})")
    if result.status == "failed":
        error = VerificationError("verification-failed", f"The image {image} failed its self-check: {result.reason}.")
        if not as_json:
            raise error
        # The result is the one object on stdout.
        click.echo(f"mpack: {error.message}", err=True)
        sys.exit(error.exit_code)


def _signed(image: str, key: str) -> str:
    """The image by the digest that its registry has under this name and that the key signed."""
    from mpack.errors import UsageError
    from mpack.registry import RegistryClient, parse_reference
    from mpack.registry.reference import names_registry
    from mpack.supply.cosign import require_cosign, verify

    if not names_registry(image):
        raise UsageError(
            "usage", f"{image!r} names no registry; signatures are there.", "Write HOST[:PORT]/NAME[:TAG]."
        )
    require_cosign()
    reference = parse_reference(image)
    with RegistryClient(reference) as client:
        pinned = f"{reference.name}@{client.digest()}"
    verify(pinned, key)
    click.echo(f"{pinned} is signed with {key}", err=True)
    return pinned
