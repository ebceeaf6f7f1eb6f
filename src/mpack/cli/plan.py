"""`mpack plan ARTIFACT`: the image plan, or the spec before anything is resolved, as JSON."""

from __future__ import annotations

import json
from typing import Any

import click

from mpack.cli.options import artifact_options, build_request, plan_options


@click.command("plan")
@artifact_options
@plan_options
@click.option("--spec", is_flag=True, help="The ImageSpec instead, without network.")
def command(spec: bool, **values: Any) -> None:
    """Print what an image of ARTIFACT would be made of."""
    request = build_request(**values)
    from mpack.describe import described
    from mpack.pipeline import Workshop, resolve_request
    from mpack.progress import Progress

    progress = Progress(2)
    with described(request, progress) as found:
        if spec:
            value = found.spec.to_json()
        else:
            value = resolve_request(request, found, Workshop.of_this_machine(), progress).plan.to_json()
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
