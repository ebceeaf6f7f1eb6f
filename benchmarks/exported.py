"""The peer that gives the same files: what `mpack export` writes, built by BuildKit."""

from __future__ import annotations

import filecmp
import shutil
import tempfile
from pathlib import Path

from benchmarks.bench import Bench, run
from benchmarks.subjects import COLD, WHEELS, Serving


class Exported:
    """`docker build` of what `mpack export` writes with the same lock, by BuildKit, and `docker push`."""

    name = "BuildKit, exported"
    keeps_wheels = False
    serving = Serving(5000, "/readyz", "/api/model/invoke")

    def __init__(self, bench: Bench, lock: Path) -> None:
        self._bench = bench
        self._lock = lock
        self._count = 0
        self._cold = True

    @property
    def _context(self) -> Path:
        return self._bench.scratch / "exported" / str(self._count)

    def prepare(self) -> None:
        """Nothing: the context is written for each model."""

    def clear(self, state: str) -> None:
        """A context that BuildKit has not seen, and a build without its cache; the wheels are in the context anyway."""
        shutil.rmtree(self._context, ignore_errors=True)
        self._count += 1
        self._cold = True

    def reset(self, case: str, state: str) -> None:
        """As `clear`."""
        if state in (COLD, WHEELS):
            self.clear(state)

    def ready(self, model: Path) -> None:
        """Exports the model. Files that are as before stay, so that BuildKit's client does not send them again."""
        home = self._bench.scratch / "mpack"
        with tempfile.TemporaryDirectory(dir=self._bench.scratch) as scratch:
            fresh = Path(scratch) / "context"
            options = ["-p", "docker-rest", "--lock", str(self._lock)]
            self._bench.mpack(home, "export", str(model), str(fresh), *options, UV_CACHE_DIR=str(home / "uv"))
            update(fresh, self._context)

    def build(self, model: Path, case: str, state: str) -> str:
        """`docker build`; the model is in the context."""
        name = self._bench.name(f"exported-{case}")
        self._bench.docker.tag(self._built(), name)
        return name

    def push(self, model: Path, host: str, *, documents: bool = True) -> None:
        """`docker build` and `docker push`; docker attaches no documents."""
        image = self._built()
        name = f"{host}/{self._bench.token}/wine:1"
        self._bench.docker.tag(image, name)
        self._bench.names.add(name)
        self._bench.ids.add(image)
        run([self._bench.docker.client, "push", "--quiet", name])

    def compressed(self, case: str) -> int | None:
        """Not known to an engine."""
        return None

    def _built(self) -> str:
        options = ["--network=none", *(["--no-cache"] if self._cold else [])]
        self._cold = False
        docker = self._bench.docker
        return docker.build(self._context, platform=docker.platform, options=options)


def update(fresh: Path, target: Path) -> None:
    """Makes `target` equal to `fresh`, and touches no file that is so already."""
    for path in sorted(target.rglob("*"), reverse=True):
        twin = fresh / path.relative_to(target)
        if path.is_dir():
            if not twin.is_dir():
                path.rmdir()
        elif not twin.is_file() or not filecmp.cmp(path, twin, shallow=False):
            path.unlink()
    for path in sorted(fresh.rglob("*")):
        twin = target / path.relative_to(fresh)
        if path.is_dir():
            twin.mkdir(parents=True, exist_ok=True)
        elif not twin.exists():
            twin.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, twin)
