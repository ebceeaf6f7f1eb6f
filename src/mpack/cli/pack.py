"""`mpack pack`: packagings that manifests describe go in, references come out; what came of them is kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from mpack.cli.build import command as build
from mpack.errors import UsageError

#: What a manifest says, or what has no meaning here.
_NOT_OF_BUILD = ("artifact", "packager", "arguments", "base", "tag", "outputs", "sign_key", "as_json")
_PATH = click.Path(path_type=Path)
_OPTIONS: list[click.Parameter] = [
    click.Option(
        ["-f", "--manifest-file", "files"], multiple=True, metavar="FILE|DIR", type=_PATH, help="Manifests; repeatable."
    ),
    click.Option(
        ["-d", "--manifest-dir", "directories"],
        multiple=True,
        metavar="DIR",
        type=_PATH,
        help="A directory with manifests; repeatable.",
    ),
    click.Option(["--id", "--pack-id", "identifier"], metavar="ID", help="Which ModelPackaging, if there are several."),
    click.Option(
        ["--artifact-path"],
        type=_PATH,
        metavar="DIR",
        help="Where the artifact is.  [default: spec.outputConnection, else the working directory, else ODAHU's]",
    ),
    click.Option(["-a", "--artifact-name"], metavar="NAME", help="Instead of the manifest's spec.artifactName."),
    click.Option(["--disable-target", "disabled"], multiple=True, metavar="NAME", help="Use all targets but this one."),
    click.Option(["--keep-local"], is_flag=True, help="Keep the image here, too, once it is pushed."),
    click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON object."),
    *(item for item in build.params if item.name not in _NOT_OF_BUILD),
]
_DISABLE = click.Option(
    ["--disable-package-targets/--no-disable-package-targets", "disable_targets"],
    default=None,
    help="Whether the image stays here whatever targets the manifest names.  [default: it does]",
)


@click.group("pack")
def command() -> None:
    """Package models as manifests describe it, and look at what came of it."""


@command.command("run", params=[_DISABLE, *_OPTIONS])
def run(disable_targets: bool | None, disabled: tuple[str, ...], **values: Any) -> None:
    """Package a model by its manifest, and print the image's name.

    \b
    mpack pack run -f wine.yaml                              # the image stays here
    mpack pack run -d manifests --id wine --no-disable-package-targets
    """
    _run(targets=bool(disabled) if disable_targets is None else not disable_targets, disabled=disabled, **values)


@command.command("create", params=[*_OPTIONS])
def create(**values: Any) -> None:
    """As `run` with the targets: what creating one on a server does."""
    _run(targets=True, **values)


@command.command("edit", params=[*_OPTIONS])
def edit(**values: Any) -> None:
    """As `create`: the packaging runs again, by its manifest of now."""
    _run(targets=True, **values)


@command.command("get")
@click.option("--id", "--pack-id", "identifier", metavar="ID", help="Only this packaging.")
@click.option(
    "-o", "--output-format", "form", default="yaml", show_default=True, help="json, yaml, table or jsonpath=EXPRESSION."
)
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Most packagings.")
def get(identifier: str | None, form: str, limit: int) -> None:
    """Print packagings with their last run's status, as documents.

    \b
    mpack pack get --id wine -o 'jsonpath=$[0].status.results[0].value'
    mpack pack get -o 'jsonpath=[*].spec.arguments'
    """
    from mpack.cli.packprint import parse_format, print_documents
    from mpack.packing.documents import run_document
    from mpack.results import Results

    write = parse_format(form)
    results = Results.default()
    if identifier is not None:
        found = results.runs(1, identifier)
        if not found:
            raise _unknown(identifier)
    else:
        found = results.packagings(limit + 1)
        if len(found) > limit:
            click.echo(f"the newest {limit} packagings; --limit shows more", err=True)
    print_documents([run_document(item) for item in found[:limit]], write)


@command.command("list")
@click.option("--id", "--pack-id", "identifier", metavar="ID", help="Only runs of this packaging.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Most runs.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def list_runs(identifier: str | None, limit: int, as_json: bool) -> None:
    """List runs, newest first: id, state, image, when."""
    from mpack.cli.packprint import table
    from mpack.packing.documents import run_document
    from mpack.results import Results

    documents = [run_document(item) for item in Results.default().runs(limit, identifier)]
    if as_json:
        click.echo(json.dumps(documents))
        return
    for line in table(documents):
        click.echo(line)


@command.command("logs")
@click.option("--id", "--pack-id", "identifier", metavar="ID", required=True, help="The packaging.")
def logs(identifier: str) -> None:
    """Print what a packaging's last run said: the last 64 KiB of it."""
    from mpack.results import Results

    text = Results.default().log(identifier)
    if text is None:
        raise _unknown(identifier)
    click.echo(text, nl=False)


@command.command("delete")
@click.option("--id", "--pack-id", "identifier", metavar="ID", help="The packaging.")
@click.option("-f", "--file", type=click.Path(path_type=Path), help="A file with one ModelPackaging, which has the id.")
@click.option("--ignore-not-found", is_flag=True, help="One that is not there is no error.")
def delete(identifier: str | None, file: Path | None, ignore_not_found: bool) -> None:
    """Forget all runs of a packaging. Images stay (`mpack rm` removes them)."""
    from mpack.results import RUNNING, Results

    if (identifier is None) == (file is None):
        raise UsageError("usage", "`mpack pack delete` takes --id ID or -f FILE.", "Give one of them.")
    if file is not None:
        identifier = _only_one(file)
    assert identifier is not None
    results = Results.default()
    latest = results.latest(identifier)
    if latest is not None and latest.state == RUNNING:
        raise UsageError("usage", f"The packaging {identifier} is running.", "Delete it when it has ended.")
    count = results.delete(identifier)
    if not count and not ignore_not_found:
        raise _unknown(identifier)
    click.echo(f"forgot {count} runs of {identifier}", err=True)


def _run(
    *,
    files: tuple[Path, ...],
    directories: tuple[Path, ...],
    identifier: str | None,
    artifact_path: Path | None,
    artifact_name: str | None,
    targets: bool,
    disabled: tuple[str, ...],
    as_json: bool,
    keep_local: bool,
    **values: Any,
) -> None:
    if not files and not directories:
        raise UsageError("usage", "There is no manifest to package by.", "Name one with -f FILE or -d DIR.")
    from mpack.cli.build import BUILD_PHASES
    from mpack.cli.options import build_request
    from mpack.cli.report import as_mpack_error
    from mpack.manifests import read_manifests
    from mpack.packing.flow import Asked, pack, packed_image
    from mpack.packing.record import LoggedProgress

    request = build_request(several=True, artifact="", packager="auto", arguments=(), base=None, **values)
    request = replace(request, keep_local=keep_local)
    manifests = read_manifests(*_sorted(files, directories))
    asked = Asked(identifier, artifact_path, artifact_name, targets, disabled)
    name, result = pack(manifests, asked, request, LoggedProgress(BUILD_PHASES), as_mpack_error)
    image = packed_image(result)
    if as_json:
        results = [{"name": "image", "value": image}]
        click.echo(json.dumps({"id": name, "results": results, "build": result.to_json()}))
    else:
        click.echo(image)


def _sorted(files: Sequence[Path], directories: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Files and directories: -f takes both."""
    found = [path for path in files if path.is_dir()]
    return [path for path in files if path not in found], [*directories, *found]


def _only_one(file: Path) -> str:
    """The id of the only ModelPackaging in a file. Raises ManifestError, UsageError."""
    from mpack.manifests import read_manifests

    found = list(read_manifests([file], []).packagings)
    if len(found) != 1:
        raise UsageError("usage", f"{file} has {len(found)} documents of kind ModelPackaging.", "Give --id ID instead.")
    return found[0]


def _unknown(identifier: str) -> UsageError:
    return UsageError(
        "packaging-unknown", f"No packaging {identifier} was run here.", "`mpack pack list` shows those that were."
    )
