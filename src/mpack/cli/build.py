"""`mpack build ARTIFACT`: the artifact's reference goes in, the image's comes out."""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpack.cli.options import artifact_options, attest_options, build_request, plan_options

if TYPE_CHECKING:
    from mpack.again import Repeated
    from mpack.result import BuildResult

#: open, resolve, build, verify, build with byte code, verify, write.
BUILD_PHASES = 7


@click.command("build")
@artifact_options
@plan_options
@click.option("-t", "--tag", metavar="NAME[:TAG]", help="Name of the image; wins over imageName.")
@click.option(
    "--builder",
    type=click.Choice(["auto", "embedded", "docker", "buildah"]),
    default="auto",
    show_default=True,
    help="embedded needs no engine; docker is BuildKit; buildah needs no daemon.",
)
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    metavar="TARGET",
    help="docker, store, oci:DIR, oci-archive:FILE, docker-archive:FILE, registry:REF; repeatable.  "
    "[default: docker if an engine answers, else store]",
)
@click.option(
    "--dockerfile-template",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Your own Dockerfile template.",
)
@click.option("--tolerance", type=click.FloatRange(min=0), help="Relative tolerance of the answers compared.")
@click.option(
    "--optimize", type=click.Choice(["onnx"]), help="Convert the model, if every answer stays; else say why not."
)
@click.option("--optimize-strict", is_flag=True, help="A model that cannot be converted is an error (exit code 4).")
@attest_options
@click.option("--no-verify", is_flag=True, help="Do not ask the image its sample.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(as_json: bool, **values: Any) -> None:
    """Build an image of ARTIFACT, verify it, and write it where -o says.

    For several platforms that is an image index; the images for other platforms than this machine's are not run.
    """
    request = build_request(several=True, **values)
    from mpack.again import build_again
    from mpack.engine.local import Hail
    from mpack.progress import Progress

    progress = Progress(BUILD_PHASES + 4 * (len(request.platforms) - 1) + 2 * bool(request.optimize))
    result: Repeated | BuildResult | None
    with ExitStack() as stack:
        hail = None if request.outputs == ("store",) else stack.enter_context(closing(Hail()))
        result = build_again(request, progress, hail)
        if result is None:
            from mpack.pipeline import build

            result = build(request, progress, hail)
    if as_json:
        click.echo(json.dumps(result.to_json()))
    else:
        for reference in result.outputs:
            click.echo(reference)
