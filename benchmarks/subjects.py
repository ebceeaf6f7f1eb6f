"""What is compared: mpack, and what the two peers, both a Dockerfile, share."""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.bench import CASE, ROOT, Bench

#: How a build finds the machine: nothing there · wheels and lock there, no layers · all but the model · all.
COLD, WHEELS, WARM, SAME = "cold", "wheels", "warm", "same"


@dataclass(frozen=True)
class Serving:
    """How an image is asked: its port, the path that says ready, the path that answers."""

    port: int
    ready: str
    invoke: str
    options: tuple[str, ...] = ()


class Subject(Protocol):
    """One way to an image of a model."""

    name: str
    serving: Serving
    #: False: it downloads everything again, so that WHEELS is COLD.
    keeps_wheels: bool

    def prepare(self) -> None:
        """Whatever is not counted: a warm-up, a Dockerfile written."""

    def build(self, model: Path, case: str, state: str) -> str:
        """The image's name in the engine; `case` names the fixture, `state` is one of the four."""

    def reset(self, case: str, state: str) -> None:
        """Makes the machine COLD or WHEELS for the next build. Not counted."""

    def compressed(self, case: str) -> int | None:
        """Bytes of the last image's layers as a registry would get them, or None to have them measured."""


class Mpack:
    """`mpack build MODEL -o docker`, verification included, with a home and a cache of its own."""

    name = "mpack"
    keeps_wheels = True
    serving = Serving(5000, "/readyz", "/api/model/invoke")
    #: Further words of the command line.
    options: tuple[str, ...] = ()

    def __init__(self, bench: Bench, packager: str = "docker-rest", arguments: Sequence[str] = ()) -> None:
        self._bench = bench
        self._packager = packager
        self._arguments = arguments
        self._home = bench.scratch / "mpack"
        self._sizes: dict[str, int | None] = {}

    def prepare(self) -> None:
        """Builds once, so that mpack's own byte code is there as in any installation."""
        self.reset(CASE, COLD)
        self.build(ROOT / "fixtures" / "models" / CASE / "model", CASE, COLD)

    def reset(self, case: str, state: str) -> None:
        """A home with nothing but the base; for COLD without wheels and lock; no layers in the engine."""
        self._bench.remove(self._image(case))
        for part in ("data", "cache", "state"):
            shutil.rmtree(self._home / part, ignore_errors=True)
        if state == COLD:
            shutil.rmtree(self._home / "uv", ignore_errors=True)
            self._lock(case).unlink(missing_ok=True)
        self.take_bases()

    def take_bases(self) -> None:
        """Puts the bases that are there into the home; mpack builds what is missing."""
        if (self._bench.bases / "data").is_dir():
            shutil.copytree(self._bench.bases / "data", self._home / "data", dirs_exist_ok=True)

    def build(self, model: Path, case: str, state: str) -> str:
        """One `mpack build`."""
        image, lock = self._image(case), self._lock(case)
        packager = ["-p", self._packager, *self._arguments]
        arguments = [
            "build",
            str(model),
            *packager,
            "-t",
            image,
            "-o",
            "docker",
            "--lock",
            str(lock),
            "--json",
            *self.options,
        ]
        result = json.loads(self._bench.mpack(self._home, *arguments, UV_CACHE_DIR=str(self._home / "uv")))
        self._sizes[case] = result["size"]
        return image

    def compressed(self, case: str) -> int | None:
        """As the store has it."""
        return self._sizes.get(case)

    def _image(self, case: str) -> str:
        return self._bench.name(f"mpack-{self._packager}-{case}")

    def _lock(self, case: str) -> Path:
        return self._home / f"{self._packager}-{case}.mpack.lock"


class Dockerfile(ABC):
    """What the two Dockerfiles share: a context a model, steps that carry a tag, and the host's index as secrets.

    A tag that was never used makes every step run again; the build cache of others is left alone.
    """

    name: str
    keeps_wheels: bool
    serving: Serving

    def __init__(self, bench: Bench, base: str) -> None:
        self._bench = bench
        self._base = base
        self._count = 0
        self._tags: dict[tuple[str, str], str] = {}
        self._secrets = self._index_secrets()

    def reset(self, case: str, state: str) -> None:
        """New tags; the wheels' own tag only for COLD."""
        self._count += 1
        fresh = f"{self._bench.token}-{self._count}"
        self._tags[case, "steps"] = fresh
        if state == COLD:
            self._tags[case, "wheels"] = fresh
        self._bench.remove(self._image(case))

    def ready(self, model: Path) -> None:  # noqa: B027 - most have nothing to do
        """Nothing: `build` copies the model into the context."""

    def build(self, model: Path, case: str, state: str) -> str:
        """One `docker build`, from a context that is there but for the model's files."""
        context = self._context(model, case)
        image_id = self._bench.docker.build(
            context,
            platform=self._bench.docker.platform,
            secrets=self._secrets,
            options=["--network=host"],
            build_args={key: value for key, value in self._bench.index.proxies if key != "ALL_PROXY"},
            redact=self._bench.index.redact,
        )
        self._bench.docker.tag(image_id, self._image(case))
        return self._image(case)

    def compressed(self, case: str) -> int | None:
        """Not known to an engine."""
        return None

    def _image(self, case: str) -> str:
        return self._bench.name(f"{self.name.lower().replace('+', '-')}-{case}")

    def _tag(self, case: str, what: str) -> str:
        return self._tags.setdefault((case, what), f"{self._bench.token}-{case}")

    @abstractmethod
    def _context(self, model: Path, case: str) -> Path:
        """The directory with a Dockerfile that packages the model."""

    @abstractmethod
    def _index_secrets(self) -> dict[str, str | Path]:
        """The index settings of the host in the form that the Dockerfile reads."""

    def _ca(self) -> dict[str, str | Path]:
        bundle = self._bench.index.ca_bundle
        return {"ca": bundle} if bundle else {}

    def _remote(self) -> tuple[list[str], list[str]]:
        """(extra indexes, find-links) that a build stage can reach."""
        index = self._bench.index
        kept = [[item for item in items if not item.startswith("file:")] for items in (index.extra, index.find_links)]
        return kept[0], kept[1]


def write_model(model: Path, target: Path) -> None:
    """Puts the model's files into a context."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(model, target)


def secret(name: str, target: str, *, wanted: bool = True) -> str:
    """A RUN option that mounts a build secret."""
    return f"--mount=type=secret,id={name},target={target} " if wanted else ""


def freshly(path: Path) -> Path:
    """The directory, made anew."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def copy_trees(bench: Bench, model: Path, lock: Path, target: Path) -> None:
    """The runtime and model.json that mpack puts into an image of the model, taken from `mpack export`."""
    exported = bench.scratch / "export"
    shutil.rmtree(exported, ignore_errors=True)
    home, cache = bench.scratch / "mpack", str(bench.scratch / "mpack" / "uv")
    bench.mpack(home, "export", str(model), str(exported), "--lock", str(lock), UV_CACHE_DIR=cache)
    for tree in (exported / "trees").iterdir():
        kind = tree.name.partition("-")[2]
        if kind != "bytecode":
            shutil.copytree(tree, target / kind)
    shutil.rmtree(exported)
