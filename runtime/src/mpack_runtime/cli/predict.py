"""`predict INPUT… OUTPUT_DIR`: files in, files out, as the owner of OUTPUT_DIR, all results or none."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

from mpack_runtime.cli.errors import Unusable, Usage, guard
from mpack_runtime.cli.user import as_nobody_for_root, become_owner
from mpack_runtime.config import ModelConfig
from mpack_runtime.errors import BadRequest, RuntimeFault


@dataclass(frozen=True)
class Job:
    """One input file and its result, both open; the result is written beside its final path and renamed at the end."""

    name: str
    source: BinaryIO
    source_format: str
    target: Path
    target_format: str
    partial: Path
    sink: BinaryIO

    def finish(self, succeeded: bool) -> None:
        """Puts the result in its place, or removes what there is of it."""
        self.source.close()
        if succeeded:
            self.sink.close()
            self.partial.replace(self.target)
            return
        self.partial.unlink(missing_ok=True)
        with suppress(OSError):  # what is still buffered may not fit on the disk
            self.sink.close()


def predict(
    load_config: Callable[[], ModelConfig],
    inputs: Sequence[str],
    output_dir: str,
    out: TextIO,
    *,
    file_name: str | None = None,
    form: str | None = None,
    verbose: bool = False,
) -> int:
    """Predicts every input file into OUTPUT_DIR and tells `out` where the results are. Returns the exit code."""
    directory = Path(output_dir)
    if not directory.is_dir():
        raise Usage(
            f"The output directory {directory} {'is not a directory' if directory.exists() else 'does not exist'}."
        )
    _check_names(inputs, file_name, form)
    owned = become_owner(directory)
    jobs = _open_all(inputs, directory, file_name, form)

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


def _announce(code: int, jobs: Sequence[Job], out: TextIO) -> int:
    if code == 0:
        for job in jobs:
            print(f"Prediction is successful. Result file: {job.target}", file=out)
    return code


def _check_names(inputs: Sequence[str], file_name: str | None, form: str | None) -> None:
    if file_name is not None and len(inputs) > 1:
        raise Usage(
            "--output_file_name names one file; with several inputs each result is named <stem>.results.<format>."
        )
    if file_name is not None and (Path(file_name).name != file_name or file_name in (".", "..")):
        raise Usage(f"--output_file_name {file_name!r} must be a plain file name; the result goes into OUTPUT_DIR.")
    seen: dict[str, str] = {}
    for path in inputs if len(inputs) > 1 else ():
        other = seen.setdefault(Path(path).stem, path)
        if other != path or inputs.count(path) > 1:
            raise Usage(f"The inputs {other} and {path} would both be written to {Path(path).stem}.results.*.")


def _open_all(inputs: Sequence[str], directory: Path, file_name: str | None, form: str | None) -> list[Job]:
    jobs: list[Job] = []
    try:
        for path in inputs:
            jobs.append(_open(path, directory, file_name, form, single=len(inputs) == 1))
    except BaseException:
        for job in jobs:
            job.finish(False)
        raise
    return jobs


def _open(path: str, directory: Path, file_name: str | None, form: str | None, *, single: bool) -> Job:
    from mpack_runtime.cli.source import SUFFIXES, detect

    try:
        source = Path(path).open("rb")  # noqa: SIM115 - the job closes it
    except OSError as error:
        raise BadRequest(f"The input {path} cannot be read: {error.strerror}.") from error
    source_format = detect(path, source)
    named = SUFFIXES.get(Path(file_name).suffix.lower()) if file_name else None
    target_format = form or named or source_format
    name = file_name or (f"results.{target_format}" if single else f"{Path(path).stem}.results.{target_format}")
    target = directory / name
    if target.exists() and target.samefile(path):
        source.close()
        raise Usage(f"The result would replace the input {path}; give another --output_file_name or directory.")
    partial = directory / f".{name}.{os.getpid()}.partial"
    try:
        sink = partial.open("xb")
    except OSError as error:
        source.close()
        raise Unusable(
            f"The result cannot be written to {directory}: {error.strerror} (as user {os.geteuid()})."
        ) from error
    return Job(path, source, source_format, target, target_format, partial, sink)


def _run(config: ModelConfig, jobs: Sequence[Job]) -> int:
    """Loads the model once and predicts every job."""
    from mpack_runtime.service import Service

    for form in {job.source_format for job in jobs} | {job.target_format for job in jobs}:
        if form == "parquet":
            from mpack_runtime.cli.source import pyarrow_parquet

            pyarrow_parquet()
    service = Service.load(config)
    for job in jobs:
        _predict(service, job)
    return 0


def _predict(service: object, job: Job) -> None:
    from mpack_runtime.cli.progress import Progress
    from mpack_runtime.cli.sink import sink
    from mpack_runtime.cli.source import batches
    from mpack_runtime.service import Service

    assert isinstance(service, Service)
    progress = Progress(job.name, os.fstat(job.source.fileno()).st_size)
    rows, warned = 0, set()
    try:
        writer = sink(job.target_format, job.sink)
        for inputs in batches(service, job.source, job.source_format):
            for warning in inputs.warnings:
                if warning not in warned:
                    warned.add(warning)
                    print(f"{job.name}: {warning}", file=sys.stderr)
            writer.write(service.predict(inputs))
            rows += inputs.rows
            progress.update(job.source.tell(), rows)
        writer.close()
        job.sink.flush()
        os.fsync(job.sink.fileno())
    except RuntimeFault as error:
        error.message = f"{job.name}: {error.message}"
        raise
    finally:
        progress.clear()
