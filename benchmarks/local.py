"""Two things of one machine: builds into its engine that do not run the model, and builds of large models."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from benchmarks.bench import CASE, ROOT, Bench, say, timed
from benchmarks.figures import OURS, Figures
from benchmarks.scenes import copy_model
from benchmarks.subjects import COLD, SAME, WARM, Mpack, Subject
from mpack.errors import EnvironmentFault

#: The peer that a large model's build is measured by.
REFERENCE = "sha256 + write"
#: Sizes of models in MB; random bytes, which do not compress.
LARGE = (50, 2000)
#: An artifact whose whole directory goes into the image, and where more of it may stand.
LARGE_CASE, LARGE_PLACE = Path("odahu-invoices/invoices"), Path("odahuflow_model/weights.bin")
_ROWS = {
    COLD: ("into the engine, cold", True),
    WARM: ("into the engine, model changed", True),
    SAME: ("into the engine, nothing changed", False),
}
_BLOCK = 1 << 20


class Unverified(Mpack):
    """`mpack build … --no-verify` with a lock, as the peer has one; the lock knows the byte code."""

    options = ("--no-verify",)

    def prepare(self) -> None:
        """Makes the lock by a verified build."""
        self.options = ()
        super().prepare()
        self.options = Unverified.options

    @property
    def lock(self) -> Path:
        """The lock file, which outlives a reset."""
        return self._lock(CASE)

    def ready(self, model: Path) -> None:
        """Nothing."""

    def reset(self, case: str, state: str) -> None:
        """As for any mpack, but the lock stays."""
        lock = self._lock(case)
        kept = lock.read_bytes() if lock.exists() else None
        super().reset(case, state)
        if kept is not None:
            lock.parent.mkdir(parents=True, exist_ok=True)
            lock.write_bytes(kept)


class Local(Subject, Protocol):
    """A subject that may have to write a context before the clock starts."""

    def ready(self, model: Path) -> None:
        """Writes it."""


def local(bench: Bench, subjects: Sequence[Local], figures: Figures) -> None:
    """Cold (no wheels, no layers) once, for it takes long; model changed, nothing changed; the subjects take turns."""
    changes = itertools.count()
    for number in range(bench.repeat):
        for subject in subjects:
            model = copy_model(bench, CASE)
            for state, (row, changed) in _ROWS.items():
                if state == COLD and number:
                    continue
                say(f"{subject.name}: {row} ({number + 1} of {bench.repeat})")
                if state == COLD:
                    subject.reset(CASE, state)
                if changed:
                    bench.change(model, next(changes))
                subject.ready(model)
                with bench.caching(), timed(figures.into(row, "s", subject.name)):
                    image = subject.build(model, CASE, state)
                bench.built(image)


def large(bench: Bench, figures: Figures) -> None:
    """Builds of large models into the store, against hashing and writing the same bytes; resident memory."""
    Mpack(bench).take_bases()
    for size in LARGE:
        model = bench.scratch / "large" / "model"
        shutil.rmtree(model.parent, ignore_errors=True)
        shutil.copytree(ROOT / "fixtures" / "models" / LARGE_CASE, model)
        weights = model / LARGE_PLACE
        say(f"a model of {size} MB")
        with weights.open("wb") as stream:
            for _ in range(size):
                stream.write(os.urandom(1_000_000))
        _build(bench, model)  # the environment, and mpack's own byte code
        for number in range(bench.repeat):
            say(f"{size} MB: {number + 1} of {bench.repeat}")
            _change(weights)
            with timed(figures.into(f"model of {size} MB", "s", REFERENCE)):
                _reference(weights, bench.scratch / "copy")
            (bench.scratch / "copy").unlink()
            with timed(figures.into(f"model of {size} MB", "s", OURS)):
                resident = _build(bench, model)
            figures.into(f"model of {size} MB, resident", "MB", OURS).append(resident / 1e6)
        shutil.rmtree(model.parent)


def _change(weights: Path) -> None:
    """Other bytes in the middle, on the disk, and no longer new: so is a model that a job has left."""
    with weights.open("r+b") as stream:
        stream.seek(weights.stat().st_size // 2)
        stream.write(os.urandom(16))
        stream.flush()
        os.fsync(stream.fileno())
    time.sleep(1.1)


def _reference(source: Path, target: Path) -> None:
    digest = hashlib.sha256()
    with source.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    with source.open("rb") as stream, target.open("wb") as copy:
        while block := stream.read(_BLOCK):
            copy.write(block)
        copy.flush()
        os.fsync(copy.fileno())


def _build(bench: Bench, model: Path) -> int:
    """One build; the bytes that were resident at most. The image of the build before makes room."""
    home = bench.scratch / "mpack"
    program = str(Path(sys.executable).with_name("mpack"))
    environment = bench.environment(MPACK_HOME=str(home))
    subprocess.run([program, "rm", "large:1"], env=environment, capture_output=True, check=False)
    process = subprocess.Popen(
        [program, "build", str(model), "-t", "large:1", "-o", "store", "--no-verify"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise EnvironmentFault("engine-failed", f"mpack build {model} ended with {process.returncode}.", "Run it.")
    return usage.ru_maxrss * 1024
