"""`mpack export ARTIFACT DIR`: Dockerfile and self-contained build context."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from mpack.cli.options import artifact_options, build_request, plan_options


@click.command("export")
@artifact_options
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@plan_options
@click.option(
    "--dockerfile-template",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help='Your own template instead of the packager\'s; it extends "base.j2".',
)
def command(directory: Path, **values: Any) -> None:
    """Write a Dockerfile and a self-contained build context of ARTIFACT into DIRECTORY.

    docker, buildah or kaniko build it without a network: base, wheels and uv are inside.
    """
    # uv and docker run in directories of their own: a relative path would mean another place to them.
    directory = directory.absolute()
    require_empty(directory)
    request = build_request(**values)
    from mpack.builders.export import export_context
    from mpack.describe import described
    from mpack.errors import disk_fault
    from mpack.pipeline import Workshop, resolve_request
    from mpack.progress import Progress

    progress = Progress(3)
    with described(request, progress) as found:
        workshop = Workshop.of_this_machine()
        plan = resolve_request(request, found, workshop, progress).plan
        template = request.template or found.packager.template
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            # Beside the target, so that it comes into being whole or not at all.
            with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as scratch:
                context = Path(scratch) / "context"
                context.mkdir(mode=0o755)
                with progress.phase("export", f"writing the build context to {directory}"):
                    export_context(
                        plan,
                        found.spec.contents,
                        context,
                        bases=workshop.bases,
                        store=workshop.store,
                        index=workshop.index,
                        template=template,
                    )
                    context.rename(directory)
        except OSError as error:
            raise disk_fault(error, f"Writing {directory}", "Name a directory that can be written.") from error
    click.echo(str(directory))


def require_empty(directory: Path) -> None:
    """Raises UsageError for a directory that holds something already."""
    if directory.is_dir() and any(directory.iterdir()):
        from mpack.errors import UsageError

        raise UsageError("usage", f"{directory} is not empty.", "Name a new directory, or empty this one.")
