"""Builds into a registry on this machine: how long they take, and what a retrained model sends."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from benchmarks.bench import CASE, Bench, say, timed
from benchmarks.exported import Exported
from benchmarks.figures import Figures
from benchmarks.local import Unverified
from benchmarks.scenes import copy_model
from benchmarks.subjects import COLD, WHEELS
from mpack.errors import EnvironmentFault
from mpack.testing.registryserver import RegistryServer, counting, registry_server

ROW_COLD = "to a registry, cold"
ROW_WHEELS = "to a registry, cold but for wheels"
ROW_EMPTY = "to an empty registry, environment at hand, new model"
ROW_RETRAINED = "to a registry, model retrained"
ROW_SENT = "retrained model, bytes sent beyond the model's"
ROW_DOCUMENTED = "the same with SBOM and provenance"


class Pusher(Protocol):
    """One way from a model to an image at a registry."""

    name: str

    def prepare(self) -> None:
        """Whatever is not counted."""

    def clear(self, state: str) -> None:
        """COLD: all caches are empty; WHEELS: but for the wheels."""

    def ready(self, model: Path) -> None:
        """What has to be there before the clock starts."""

    def push(self, model: Path, host: str, *, documents: bool = True) -> None:
        """Builds, and pushes to the registry at `host`."""


class Ours(Unverified):
    """`mpack build MODEL -o registry:REF --no-verify` with a lock that knows the byte code."""

    def clear(self, state: str) -> None:
        """As the protocol has it."""
        self.reset(CASE, state)

    def push(self, model: Path, host: str, *, documents: bool = True) -> None:
        """As the protocol has it; without `documents` by --no-attest."""
        output = f"registry:{host}/mpack/wine:1"
        options = ["-p", "docker-rest", "-o", output, "--lock", str(self.lock), "--no-verify"]
        options += [] if documents else ["--no-attest"]
        self._bench.mpack(self._home, "build", str(model), *options, UV_CACHE_DIR=str(self._home / "uv"))


def registry(bench: Bench, pushers: list[Pusher], figures: Figures) -> None:
    """Cold, with wheels, to an empty registry, retrained; and bytes. The pushers take turns."""
    if shutil.which("docker-registry") is None:
        raise EnvironmentFault("tool-missing", "There is no docker-registry.", "Install Debian's docker-registry.")
    changes = itertools.count()
    for number, pusher in itertools.product(range(bench.repeat), pushers):
        model = copy_model(bench, CASE)

        def measure(row: str, host: str, pusher: Pusher = pusher, model: Path = model, number: int = number) -> None:
            say(f"{pusher.name}: {row} ({number + 1} of {bench.repeat})")
            bench.change(model, next(changes))
            pusher.ready(model)
            with bench.caching(), timed(figures.into(row, "s", pusher.name)):
                pusher.push(model, host)

        for state, row in ((COLD, ROW_COLD), (WHEELS, ROW_WHEELS)):
            if state == WHEELS and isinstance(pusher, Exported):
                # Its wheels are in its context, so that it downloads in neither.
                figures.into(row, "s", pusher.name).append(figures.into(ROW_COLD, "s", pusher.name)[-1])
                continue
            pusher.clear(state)
            with _empty(bench) as server:
                measure(row, server.host)
        with _empty(bench) as server:
            measure(ROW_EMPTY, server.host)
            measure(ROW_RETRAINED, server.host)
            _bytes(bench, pusher, model, server, figures, changes)


def _bytes(
    bench: Bench, pusher: Pusher, model: Path, server: RegistryServer, figures: Figures, changes: Iterator[int]
) -> None:
    """Bytes of two more retrained models on their way to the registry, HTTP's own included."""
    with counting(server.port) as counter:
        for row, documents in ((ROW_SENT, False), (ROW_DOCUMENTED, True)):
            say(f"{pusher.name}: {row}")
            bench.change(model, next(changes))
            pusher.ready(model)
            before = counter.sent
            with bench.caching():
                pusher.push(model, counter.host, documents=documents)
            own = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
            figures.into(row, "kB", pusher.name).append((counter.sent - before - own) / 1e3)


@contextmanager
def _empty(bench: Bench) -> Iterator[RegistryServer]:
    """A registry that has nothing; its files are removed at the end."""
    with tempfile.TemporaryDirectory(dir=bench.scratch) as directory, registry_server(Path(directory)) as server:
        yield server
