"""`mpack lock ARTIFACT`: the artifact's lock file, without a build; or whether the one that is there fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from mpack.cli.options import artifact_options, build_request, plan_options


@click.command("lock")
@artifact_options
@plan_options
@click.option(
    "-o", "--output", metavar="FILE|-", help="Where to write; - is stdout.  [default: as build: ARTIFACT.mpack.lock]"
)
@click.option("--check", is_flag=True, help="Write nothing; exit code 0 if the lock fits, 1 and the reason if not.")
def command(output: str | None, check: bool, **values: Any) -> None:
    """Resolve what images of ARTIFACT are made of, and write the lock file alone.

    Entries that the file has are kept, unless --update-lock makes them anew; entries for other packagers, platforms and
    bases stay. The first build adds the byte code that it learns.
    """
    from mpack.env.lockfile import LockFile, lock_path
    from mpack.errors import UsageError
    from mpack.locking import check_lock, locked, read_lock
    from mpack.pipeline import write_lock
    from mpack.progress import Progress

    request = build_request(several=True, **values)
    if check and request.update_lock:
        raise UsageError("usage", "--check writes nothing, so it does not go with --update-lock.", "Leave one out.")
    sink = Path(output) if output not in (None, "-") else None
    source = request.lock or sink or lock_path(request.location)
    lock = read_lock(source, closed=request.lock is not None, update=request.update_lock)
    progress = Progress(1 + len(request.each()))
    if check:
        check_lock(request, lock, progress)
        progress.say("the lock fits")
        click.echo(str(source))
        return
    with locked(request, lock, progress) as made:
        if output == "-":
            click.echo(LockFile({entry.key: entry for entry in made.entries}).text, nl=False)
            return
        target = sink or source
        if target != source or made.changes(lock):
            write_lock(replace(request, lock=target), *made.entries)
        else:
            progress.say("nothing has changed")
        click.echo(str(target))
