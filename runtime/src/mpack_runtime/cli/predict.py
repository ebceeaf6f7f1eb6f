"""`predict INPUT… OUTPUT_DIR`: files in, files out, as the owner of OUTPUT_DIR, all results or none."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from mpack_runtime.cli.errors import Usage, guard
from mpack_runtime.cli.job import Job, check_names, open_all
from mpack_runtime.cli.user import as_nobody_for_root, become_owner
from mpack_runtime.config import ModelConfig
from mpack_runtime.errors import RuntimeFault

if TYPE_CHECKING:
    from mpack_runtime.cli.chunk import Chunk
    from mpack_runtime.cli.journal import Mark
    from mpack_runtime.frame import Prediction
    from mpack_runtime.service import Service


def predict(
    load_config: Callable[[], ModelConfig],
    inputs: Sequence[str],
    output_dir: str,
    out: TextIO,
    *,
    file_name: str | None = None,
    form: str | None = None,
    resume: bool = False,
    verbose: bool = False,
) -> int:
    """Predicts every input file into OUTPUT_DIR and tells `out` where the results are. Returns the exit code.

    `resume`: goes on with what an earlier run did, and leaves it if this one ends early.
    """
    directory = Path(output_dir)
    if not directory.is_dir():
        raise Usage(
            f"The output directory {directory} {'is not a directory' if directory.exists() else 'does not exist'}."
        )
    check_names(inputs, file_name)
    owned = become_owner(directory)
    jobs = open_all(inputs, directory, file_name, form, resume)

    def work() -> int:
        return guard(lambda: _run(load_config(), jobs), verbose)

    def finish(succeeded: bool) -> None:
        for job in jobs:
            job.finish(succeeded)

    if not owned:
        return _announce(as_nobody_for_root(work, finish), jobs, out)
    code = 70
    try:
        code = work()
    finally:
        finish(code == 0)
    return _announce(code, jobs, out)


def preload() -> None:
    """Imports all that any input needs."""
    from mpack_runtime.cli import csv_columns, journal, pipeline, sink, source, source_csv  # noqa: F401

    with suppress(ImportError):
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.parquet  # noqa: F401


def _announce(code: int, jobs: Sequence[Job], out: TextIO) -> int:
    if code == 0:
        for job in jobs:
            print(f"Prediction is successful. Result file: {job.target}", file=out)
    return code


def _run(config: ModelConfig, jobs: Sequence[Job]) -> int:
    """Loads the model once and predicts every job."""
    from mpack_runtime.service import Service

    for form in {job.source_format for job in jobs} | {job.target_format for job in jobs}:
        if form == "parquet":
            from mpack_runtime.cli.source import pyarrow_parquet

            pyarrow_parquet()
    marks = [_begin(config, job) for job in jobs]
    service = Service.load(config)
    for job, mark in zip(jobs, marks):
        _predict(service, job, mark)
    return 0


def _begin(config: ModelConfig, job: Job) -> Mark | None:
    """How far an earlier run came, if this one may go on there. Raises Usage."""
    if job.journal is None:
        return None
    from mpack_runtime.cli.journal import Journal, about

    journal, told = Journal(job.journal), about(config, job.source, job.source_format, job.target_format)
    mark = journal.begin(told, job.journal_path)
    if mark is not None and os.fstat(job.stream.fileno()).st_size < mark.size:
        journal.restart(told)
        return None
    return mark


def _predict(service: Service, job: Job, mark: Mark | None) -> None:
    """Reads, predicts and writes one job, each on a thread."""
    from mpack_runtime.cli.pipeline import Behind, ahead
    from mpack_runtime.cli.progress import Progress
    from mpack_runtime.cli.source import chunks, total

    progress, warned = Progress(job.name), set[str]()
    try:
        progress.total = total(job.source, job.source_format)
        output = _Output(job, mark)
        after, rows = (mark.after, mark.rows) if mark is not None else (0, 0)
        behind = Behind(output.write)
        try:
            with ahead(chunks(service, job.source, job.source_format, after, rows)) as read:
                for chunk in read:
                    for warning in set(chunk.inputs.warnings) - warned:
                        warned.add(warning)
                        print(f"{job.name}: {warning}", file=sys.stderr)
                    behind.put((service.predict(chunk.inputs), chunk))
                    rows += chunk.inputs.rows
                    progress.update(chunk.done, rows)
            behind.end()
            output.close()
        except BaseException:
            behind.stop()
            progress.clear()
            output.keep()
            raise
    except RuntimeFault as error:
        error.message = f"{job.name}: {error.message}"
        raise
    finally:
        progress.clear()


class _Output:
    """The sink of a job and, with --resume, its journal."""

    def __init__(self, job: Job, mark: Mark | None) -> None:
        from mpack_runtime.cli.journal import Journal
        from mpack_runtime.cli.sink import sink

        self._job, self._mark = job, mark
        self._rows, self._whole = (mark.rows, mark.size) if mark is not None else (0, 0)
        job.stream.truncate(self._whole)
        job.stream.seek(self._whole)
        self._sink = sink("rows" if job.rows else job.target_format, job.stream, mark.state if mark else None)
        self._journal = Journal(job.journal) if job.journal else None

    def write(self, done: tuple[Prediction, Chunk]) -> None:
        """Writes the prediction of one chunk."""
        from mpack_runtime.cli.journal import Mark

        prediction, chunk = done
        self._sink.write(prediction)
        self._rows += chunk.inputs.rows
        if self._journal is None:
            return
        state = self._sink.state()
        if state is not None:
            self._mark = Mark(chunk.after, self._rows, self._job.stream.tell(), state)
            if self._journal.due:
                self._note()

    def _note(self) -> None:
        if self._journal is not None and self._mark is not None and self._mark.size > self._whole:
            self._journal.note(self._mark, self._job.stream)
            self._whole = self._mark.size

    def close(self) -> None:
        """Writes what is left; then the result is on the disk."""
        from mpack_runtime.cli.sink import join_rows

        self._note()
        self._sink.close()
        if self._job.rows is not None:
            self._job.rows.flush()
            self._job.rows.seek(0)
            self._job.sink.truncate(0)
            join_rows(self._job.rows, self._job.sink)
        self._job.sink.flush()
        os.fsync(self._job.sink.fileno())

    def keep(self) -> None:
        """After an error: keeps what is whole, if it can be gone on with, and says so."""
        if self._journal is None:
            return
        with suppress(OSError):  # the last mark holds
            self._note()
        if self._whole:
            print(f"{self._job.name}: what is done is kept; the same command goes on with it.", file=sys.stderr)
