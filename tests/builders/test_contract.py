"""The contract suite over all builders, and proof that it finds what differs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mpack.artifact.limits import Limits
from mpack.builders.embedded import EmbeddedBuilder
from mpack.contents import Contents
from mpack.describe import described
from mpack.oci.image import OciImage
from mpack.pipeline import BuildRequest
from mpack.plan import Bytecode, ImagePlan
from mpack.progress import Progress
from mpack.sandbox import pick_sandbox
from mpack.sandbox.codecache import CodeCache
from mpack.sandbox.compiler import SandboxCompiler
from mpack.spec import ImageSpec
from mpack.testing.builder_contract import (
    BuilderContract,
    Built,
    Facts,
    FileFact,
    differences,
    image_of,
    missing_files,
    strangers,
    wrong_fields,
)

pytestmark = pytest.mark.docker
MODELS = Path(__file__).parents[2] / "fixtures" / "models"


@contextmanager
def both(site: Any, plan: ImagePlan, contents: Contents, other: str) -> Iterator[Built]:
    """The plan built by the embedded builder and by the other one, readable while the context is open."""
    with pick_sandbox(site.store, site.docker, prefer_docker=False) as sandbox:
        compiler = SandboxCompiler(sandbox, CodeCache(site.store.root / "code"))
        embedded = EmbeddedBuilder(site.store, site.bases, site.index, compiler).build(plan, contents)
    builder = site.docker_builder() if other == "docker" else site.buildah_builder()
    candidate = builder.build(plan, contents)
    try:
        with site.store.lease():
            yield Built(
                plan,
                Facts.of(site.bases.image(plan.base)),
                Facts.of(image_of(embedded, site.store)),
                Facts.of(image_of(candidate, site.store, site.docker)),
            )
    finally:
        if candidate.location == "docker":
            site.docker.remove(candidate.id)


class TestOddPlan(BuilderContract):
    """Names, values and labels that a Dockerfile could misread; byte code in venv, runtime and standard library."""

    @pytest.fixture(scope="class", params=["docker", "buildah"])
    @classmethod
    def built(cls, request: pytest.FixtureRequest, site: Any, odd: ImageSpec, odd_plan: ImagePlan) -> Iterator[Built]:
        with both(site, odd_plan, odd.contents, request.param) as built:
            yield built

    def test_byte_code_is_there(self, built: Built) -> None:
        """One .pyc for each source of the list, root's and 0644."""
        assert built.plan.bytecode is not None
        files = built.candidate.files
        for source in built.plan.bytecode.sources:
            directory, _, name = source.rpartition("/")
            fact = files[f"{directory}/__pycache__/{name[:-3]}.cpython-311.pyc"]
            assert (fact.kind, fact.mode, fact.owner) == ("file", "0644", "0:0")

    def test_suite_finds_differences(self, built: Built) -> None:
        """Another mode, owner, content, a missing and an additional file, another field: each is one line."""
        files = built.candidate.files
        path = "/opt/mpack/model/run.sh"
        fact = files[path]
        for changed in (
            replace(fact, mode="0644"),
            replace(fact, owner="1:0"),
            replace(fact, content="0" * 64),
            replace(fact, kind="link"),
        ):
            assert len(differences(files, {**files, path: changed})) == 1
            assert len(missing_files(built.plan, {**files, path: changed})) == 1
        without = {key: value for key, value in files.items() if key != path}
        assert len(differences(files, without)) == 1
        assert missing_files(built.plan, without)
        base = built.base.files
        assert strangers(built.plan, base, {**files, "/etc/hosts": FileFact("file", "0644", "0:0", "")})
        assert strangers(built.plan, base, {key: value for key, value in files.items() if key != "/etc/passwd"})
        config = built.candidate.config
        for name in ("Env", "Labels", "User", "Cmd", "Entrypoint", "WorkingDir", "StopSignal", "Healthcheck"):
            assert wrong_fields(built.plan, {**config, name: None}), name
        assert wrong_fields(built.plan, {**config, "ExposedPorts": ["5000/tcp"]}) == ["port 9000"]


class TestModel(BuilderContract):
    """The docker-rest image of real models, with byte code of the runtime."""

    @pytest.fixture(
        scope="class",
        params=[
            ("docker", "mlflow-wine"),
            ("docker", "onnx-two-inputs"),
            ("docker", "odahu-invoices"),
            ("buildah", "odahu-invoices"),
        ],
        ids="-".join,
    )
    @classmethod
    def built(cls, request: pytest.FixtureRequest, site: Any, tmp_path_factory: Any) -> Iterator[Built]:
        import json

        other, case = request.param
        folder = MODELS / case
        artifact = folder / json.loads((folder / "expect.json").read_text())["artifact"]
        wanted = BuildRequest(str(artifact), limits=Limits())
        with described(wanted, Progress(1, quiet=True)) as found:
            plan = site.resolve(found.spec)
            runtime = next(tree for tree in plan.trees if tree.kind == "runtime")
            sources = tuple(f"{runtime.target}/{entry.path}" for entry in runtime.files if entry.path.endswith(".py"))
            plan = replace(plan, bytecode=Bytecode(plan.base.python_version, sources))
            with both(site, plan, found.spec.contents, other) as built:
                yield built


def test_reading_out_of_the_engine_keeps_everything(site: Any, odd_plan: ImagePlan) -> None:
    """An image that went into the engine and out again has the same files and configuration: the comparison is fair."""
    from mpack.oci.archive import Pieces, docker_archive
    from mpack.oci.load import read_archive

    image: OciImage = site.bases.image(odd_plan.base)
    name = "mpack-test-contract:base"
    site.docker.load(Pieces(docker_archive(image, [name])))
    try:
        with site.store.lease(), site.docker.save(name) as stream:
            again = read_archive(site.store, stream, name)[0].image
            facts, again_facts = Facts.of(image), Facts.of(again)
            assert differences(facts.files, again_facts.files) == []
            assert differences(facts.config, again_facts.config) == []
    finally:
        site.docker.remove(name)
