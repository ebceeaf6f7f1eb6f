"""`mpack verify IMAGE`: the image's own self-check, run in a sandbox."""

from __future__ import annotations

import json
import sys

import click


@click.command("verify")
@click.argument("image")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def command(image: str, as_json: bool) -> None:
    """Run the self-check of IMAGE (of the store, the engine or the registry that it names) without network."""
    from mpack.errors import EnvironmentFault, VerificationError
    from mpack.images import find_image
    from mpack.pipeline import Workshop
    from mpack.sandbox import pick_sandbox, this_platform
    from mpack.verify import skip_reason, verify

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
