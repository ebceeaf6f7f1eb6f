"""Input files and their results, opened before anybody else's code runs; a result gets its name when it is whole."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mpack_runtime.cli.errors import Unusable, Usage
from mpack_runtime.errors import BadRequest


@dataclass(frozen=True)
class Job:
    """One input file and its result, both open; the result is written beside its final path and renamed at the end.

    With --resume there is a journal, and for Parquet a file of rows, from which the result is made at the end. Both are
    at `paths`, as the partial result is, and stay with it if the run ends early.
    """

    name: str
    source: BinaryIO
    source_format: str
    target: Path
    target_format: str
    paths: tuple[Path, ...]
    sink: BinaryIO
    journal: BinaryIO | None = None
    rows: BinaryIO | None = None

    @property
    def stream(self) -> BinaryIO:
        """What the sink writes to."""
        return self.rows or self.sink

    @property
    def journal_path(self) -> Path:
        return self.paths[1]

    def finish(self, succeeded: bool) -> None:
        """Puts the result in its place; else removes what there is of it, or keeps it if it can be gone on with."""
        self.source.close()
        keep = self.journal is not None and os.fstat(self.stream.fileno()).st_size > 0
        try:
            if succeeded:
                self.sink.close()
                self.paths[0].replace(self.target)
                keep = False
                _sync_directory(self.target.parent)
        finally:
            for path in () if keep else self.paths:
                path.unlink(missing_ok=True)
            for stream in (self.sink, self.journal, self.rows):
                with suppress(OSError):  # what is still buffered may not fit on the disk
                    if stream is not None:
                        stream.close()


def check_names(inputs: Sequence[str], file_name: str | None) -> None:
    """Raises Usage where results cannot have their names."""
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


def open_all(
    inputs: Sequence[str], directory: Path, file_name: str | None, form: str | None, resume: bool
) -> list[Job]:
    """A job for each input, or none and nothing left behind. Raises BadRequest, Usage and Unusable."""
    jobs: list[Job] = []
    try:
        for path in inputs:
            jobs.append(_open(path, directory, file_name, form, single=len(inputs) == 1, resume=resume))
    except BaseException:
        for job in jobs:
            job.finish(False)
        raise
    return jobs


def _open(path: str, directory: Path, file_name: str | None, form: str | None, *, single: bool, resume: bool) -> Job:
    from mpack_runtime.cli.source import SUFFIXES, detect

    try:
        source = Path(path).open("rb")  # noqa: SIM115 - the job closes it
    except OSError as error:
        raise BadRequest(f"The input {path} cannot be read: {error.strerror}.") from error
    if not source.seekable():
        source.close()
        raise BadRequest(f"The input {path} is a pipe, which cannot be read twice; write it to a file.")
    source_format = detect(path, source)
    named = SUFFIXES.get(Path(file_name).suffix.lower()) if file_name else None
    target_format = form or named or source_format
    name = file_name or (f"results.{target_format}" if single else f"{Path(path).stem}.results.{target_format}")
    target = directory / name
    if target.exists() and target.samefile(path):
        source.close()
        raise Usage(f"The result would replace the input {path}; give another --output_file_name or directory.")
    # Not by the process's number: in containers it is always the same.
    parts = ("partial", "journal", "rows") if resume else (f"{os.urandom(4).hex()}.partial",)
    if target.is_dir():
        source.close()
        raise Usage(f"The result {target} is a directory; give another --output_file_name.")
    paths = tuple(directory / f".{name}.{part}" for part in parts)
    try:
        if not resume:
            return Job(path, source, source_format, target, target_format, paths, paths[0].open("xb"))
        journal = _lock(paths[1], target)
        try:
            sink = _own(paths[0])
            rows = _own(paths[2]) if target_format == "parquet" else None
        except BaseException:
            if not os.fstat(journal.fileno()).st_size:
                paths[1].unlink()
            raise
        return Job(path, source, source_format, target, target_format, paths, sink, journal, rows)
    except OSError as error:
        source.close()
        raise Unusable(
            f"The result cannot be written to {directory}: {error.strerror} (as user {os.geteuid()})."
        ) from error


def _own(path: Path) -> BinaryIO:
    """A file that only this user can have put there, open for reading and writing, made if it is not there.

    Raises OSError, and Unusable if it is a link or another's: this may be root, in a directory that others write to.
    """
    planted = Unusable(f"{path} is not a file that an earlier run as this user left. Remove it.")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise planted from error
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_uid != os.geteuid():
        os.close(descriptor)
        raise planted
    return os.fdopen(descriptor, "r+b")


def _lock(path: Path, target: Path) -> BinaryIO:
    """The journal, locked until all processes of this run have ended. Raises OSError and Unusable."""
    stream = _own(path)
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(stream.fileno()).st_nlink:
            return stream
    except BlockingIOError:
        pass
    stream.close()
    raise Unusable(f"Another run with --resume is writing {target}.")


def _sync_directory(directory: Path) -> None:
    """Syncs the names, where the file system and the directory's mode allow it."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
