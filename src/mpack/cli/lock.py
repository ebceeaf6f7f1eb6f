"""`mpack lock ARTIFACT`: the artifact's lock file, without a build; or whether the one that is there fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpack.cli.options import artifact_options, build_request, plan_options

if TYPE_CHECKING:
    from mpack.env.lockfile import LockFile
    from mpack.locking import Locked
    from mpack.progress import Progress
    from mpack.request import BuildRequest


@click.command("lock")
@artifact_options
@plan_options
@click.option(
    "-o",
    "--output",
    metavar="FILE|-",
    help="Where to write; - is stdout.  [default: ARTIFACT.mpack.lock, as build; of other formats stdout]",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["mpack", "pylock", "requirements", "conda-lock"]),
    default="mpack",
    show_default=True,
    help="mpack's lock file, pylock.toml (PEP 751), requirements.txt with hashes, or conda-lock.yml.",
)
@click.option("--check", is_flag=True, help="Write nothing; exit code 0 if the lock fits, 1 and the reason if not.")
def command(output: str | None, form: str, check: bool, **values: Any) -> None:
    """Resolve what images of ARTIFACT are made of, and write the lock file alone.

    Entries that the file has are kept, unless --update-lock makes them anew; entries for other packagers, platforms and
    bases stay. The first build adds the byte code that it learns. Other formats hold the packages alone.
    """
    from mpack.env.lockfile import lock_path
    from mpack.locking import check_lock, locked, read_lock
    from mpack.progress import Progress

    request = build_request(several=True, **values)
    _require_sense(request, output, form, check)
    sink = Path(output) if output not in (None, "-") else None
    source = request.lock or (sink if form == "mpack" else None) or lock_path(request.location)
    lock = read_lock(source, closed=request.lock is not None, update=request.update_lock)
    progress = Progress(1 + len(request.each()))
    if check:
        check_lock(request, lock, progress)
        progress.say("the lock fits")
        click.echo(str(source))
        return
    with locked(request, lock, progress) as made:
        if form != "mpack":
            _write_other(made, form, sink, progress)
        elif output == "-":
            click.echo(_entries_alone(made).text, nl=False)
        else:
            click.echo(str(_write(request, sink or source, lock, made, progress)))


def _require_sense(request: BuildRequest, output: str | None, form: str, check: bool) -> None:
    """Raises UsageError for options that contradict each other."""
    from mpack.env.lockpath import is_pylock
    from mpack.errors import UsageError

    if check and (request.update_lock or form != "mpack"):
        other = "--update-lock" if request.update_lock else f"--format {form}"
        raise UsageError("usage", f"--check does not go with {other}: it writes nothing.", "Leave one of them out.")
    if form in ("pylock", "requirements") and len(request.each()) > 1:
        raise UsageError("usage", f"--format {form} is for one platform.", "Name one with --platform.")
    name = Path(output or "-").name
    if form == "pylock" and name != "-" and not is_pylock(Path(name)):
        raise UsageError(
            "usage",
            f"{name} is no name for --format pylock.",
            "Call it pylock.toml or pylock.NAME.toml, as PEP 751 has it.",
        )


def _entries_alone(made: Locked) -> LockFile:
    from mpack.env.lockfile import LockFile

    return LockFile({entry.key: entry for entry in made.entries})


def _write(request: BuildRequest, target: Path, lock: LockFile, made: Locked, progress: Progress) -> Path:
    from mpack.pipeline import write_lock

    if target == lock.path and not made.changes(lock):
        progress.say("nothing has changed")
        return target
    return write_lock(replace(request, lock=target), *made.entries)


def _write_other(made: Locked, form: str, sink: Path | None, progress: Progress) -> None:
    if form == "conda-lock":
        from mpack.conda.condalock import conda_lock_text

        _write_text(conda_lock_text(made.entries), sink)
        return
    from mpack.env import lockformats
    from mpack.env.locations import locate_wheels

    environment = made.entries[0].environment
    packages = [item for item in environment.packages if form == "pylock" or item.source == "base"]
    wheels = locate_wheels(
        packages, python=environment.python, platform=environment.platform, index=made.workshop.index
    )
    text = {"pylock": lockformats.pylock, "requirements": lockformats.requirements}[form](environment, wheels)
    for note in lockformats.notes(environment):
        progress.warn(note)
    _write_text(text, sink)


def _write_text(text: str, sink: Path | None) -> None:
    from mpack.errors import disk_fault
    from mpack.oci.files import write_whole

    if sink is None:
        click.echo(text, nl=False)
        return
    try:
        sink.parent.mkdir(parents=True, exist_ok=True)
        write_whole(sink, text.encode())
    except OSError as error:
        raise disk_fault(error, f"Writing {sink}", "Name another with -o FILE.") from error
    click.echo(str(sink))
