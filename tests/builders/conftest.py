"""What the builders' tests share: a store with a base, the engine, and a small plan with everything odd in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mpack.bases import Bases
from mpack.builders.buildah import BuildahBuilder
from mpack.builders.docker import DockerBuilder
from mpack.contents import Contents, sha256_bytes
from mpack.dockerfile import SHARED_TEMPLATE
from mpack.engine import Docker
from mpack.engine.buildah import Buildah
from mpack.env.index import IndexSettings
from mpack.env.lockfile import LockFile
from mpack.oci.store import Store
from mpack.plan import Bytecode, ImagePlan
from mpack.resolve import ResolveOptions, resolve
from mpack.serving import ENTRYPOINT, runtime_tree, serving_env
from mpack.spec import BaseWish, FileEntry, FileTree, HealthCheck, ImageConfig, ImageSpec, Requirement, json_file

ODD = b"weights\n"


@dataclass(frozen=True)
class Site:
    """A place to build in."""

    store: Store
    docker: Docker
    bases: Bases
    index: IndexSettings

    def resolve(self, spec: ImageSpec, index: IndexSettings | None = None) -> ImagePlan:
        """The spec's plan, locked anew."""
        options = ResolveOptions(platform=self.docker.platform)
        return resolve(spec, options, bases=self.bases, index=index or self.index, lock=LockFile({})).plan

    def docker_builder(
        self, *, index: IndexSettings | None = None, template: Path = SHARED_TEMPLATE, lines: list[str] | None = None
    ) -> DockerBuilder:
        """A docker builder whose progress goes to `lines`."""
        report = (lines if lines is not None else []).append
        return DockerBuilder(self.docker, self.store, self.bases, index or self.index, template, report)

    def buildah_builder(
        self, *, template: Path = SHARED_TEMPLATE, lines: list[str] | None = None, anew: bool = False
    ) -> BuildahBuilder:
        """A buildah builder whose progress goes to `lines`."""
        report = (lines if lines is not None else []).append
        return BuildahBuilder(Buildah.find(), self.store, self.bases, self.index, template, report, anew=anew)


@pytest.fixture(scope="session")
def site(mpack_home: Path, engine: str) -> Site:
    """The session's store, and the engine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPACK_HOME", str(mpack_home))
        store = Store.default()
    docker = Docker.find()
    return Site(store, docker, Bases(store, docker), IndexSettings.from_host())


def odd_spec(requirements: tuple[str, ...]) -> ImageSpec:
    """The runtime and a model with odd names; values that a Dockerfile could take for its own; a very long label."""
    runtime, sources = runtime_tree()
    # In memory: the runtime's sources may be edited while the session runs.
    contents = Contents({sha256: sources.open(sha256).read() for sha256 in sources})
    digest = sha256_bytes(ODD)
    entries = (
        FileEntry("a b/$x/we\"ird [1]'.bin", len(ODD), digest),
        FileEntry(".dockerignore", len(ODD), digest),
        FileEntry("run.sh", len(ODD), digest, 0o755),
    )
    model_json, more = json_file("model.json", {"schema": 1})
    config = ImageConfig(
        env=serving_env({"MPACK_X": 'q"uo$HOME\\te ü # no'}),
        ports=(5000, 9000),
        volumes=("/tmp", "/var/a b"),
        entrypoint=ENTRYPOINT,
        command=("serve", "a b", '"$c"'),
        healthcheck=HealthCheck((*ENTRYPOINT, "health"), interval=2.5),
        labels=(("dev.mpack.signature", json.dumps({"columns": [f"col ${n} #\\" for n in range(4000)]})),),
    )
    return ImageSpec(
        packager="docker-rest",
        model_name="odd",
        model_version="1",
        python="3.11",
        requirements=tuple(Requirement(line, "model") for line in requirements),
        base=BaseWish(),
        trees=(
            runtime,
            FileTree("model", "/opt/mpack/model", entries),
            FileTree("config", "/opt/mpack", (model_json,)),
        ),
        config=config,
        contents=contents | more | Contents({digest: ODD}),
    )


@pytest.fixture(scope="session")
def odd() -> ImageSpec:
    """An odd spec with one small package."""
    return odd_spec(("idna",))


@pytest.fixture
def clean(site: Site) -> Iterator[list[str]]:
    """Image ids put into it are removed from the engine when the test ends."""
    ids: list[str] = []
    yield ids
    for image in ids:
        site.docker.remove(image)


def some_bytecode(plan: ImagePlan) -> ImagePlan:
    """The plan with byte code of a module of the runtime, of the venv and of the base's standard library."""
    minor = plan.base.minor
    sources = (
        "/opt/mpack/runtime/mpack_runtime/config.py",
        f"/opt/mpack/venv/lib/python{minor}/site-packages/idna/core.py",
        f"{plan.base.python.rsplit('/', 2)[0]}/lib/python{minor}/json/decoder.py",
    )
    return replace(plan, bytecode=Bytecode(plan.base.python_version, sources))


@pytest.fixture(scope="session")
def odd_plan(site: Site, odd: ImageSpec) -> ImagePlan:
    """The odd spec resolved, with byte code."""
    return some_bytecode(site.resolve(odd))
