"""The build flow's own rules: outputs, the lock, packagers that fail. What it calls is tested elsewhere."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mpack.builders import BuiltImage
from mpack.describe import packager_faults
from mpack.errors import EnvironmentFault, InputError, InternalError, UsageError
from mpack.pipeline import BuildRequest, require_targets, warn_of_relaxed, with_pushed_digest, write_lock, write_outputs
from mpack.progress import Progress
from mpack.sandbox.docker import DockerSandbox
from mpack.targets import parse_output
from mpack.verify import Verification

IMAGE = BuiltImage("sha256:1", "linux/amd64", "embedded", "store", (), 0, "sha256:2")
HERE: Any = SimpleNamespace(store=None, docker=None)


@dataclass
class FakeTarget:
    """An output that writes nothing, or fails."""

    kind: str
    fails: bool = False

    def __str__(self) -> str:
        return self.kind

    def write(self, image: BuiltImage, name: str, store: Any, docker: Any) -> str:
        if self.fails:
            raise EnvironmentFault("disk-full", "It is full.")
        return f"{self.kind} {name}"


def test_outputs_are_written_in_order() -> None:
    """One reference an output, in the order given."""
    targets = [FakeTarget("store"), FakeTarget("oci"), FakeTarget("store")]
    progress = Progress(1, io.StringIO())
    assert write_outputs(targets, IMAGE, "a:1", HERE, progress) == ("store a:1", "oci a:1", "store a:1")
    assert "write" in progress.timings


def test_a_failing_output_tells_of_those_before() -> None:
    """The error of the second output goes on; that the first one is written is said."""
    progress = Progress(1, io.StringIO())
    targets = [FakeTarget("store"), FakeTarget("oci", fails=True), FakeTarget("docker")]
    with pytest.raises(EnvironmentFault, match="full"):
        write_outputs(targets, IMAGE, "a:1", HERE, progress)
    assert progress.warnings == ["written before writing to oci failed: store a:1"]


def test_the_first_output_failing_tells_of_none() -> None:
    """Nothing was written, so nothing is said of it."""
    progress = Progress(1, io.StringIO())
    with pytest.raises(EnvironmentFault):
        write_outputs([FakeTarget("oci", fails=True)], IMAGE, "a:1", HERE, progress)
    assert progress.warnings == []


@pytest.mark.parametrize(
    ("digest", "kinds", "told"),
    [
        (None, ("docker", "registry", "registry"), "sha256:b"),
        (None, ("docker", "store"), None),
        ("sha256:2", ("registry",), "sha256:2"),
    ],
)
def test_a_push_tells_the_digest(digest: str | None, kinds: tuple[str, ...], told: str | None) -> None:
    """An image that an engine built has the manifest digest of its first push; another keeps its own."""
    outputs = [f"localhost/x@sha256:{letter}" for letter in "abc"[: len(kinds)]]
    targets = [FakeTarget(kind) for kind in kinds]
    assert with_pushed_digest(replace(IMAGE, digest=digest), targets, outputs).digest == told


def test_outputs_that_a_packager_does_not_allow() -> None:
    """A packager's `targets` are a promise: another output is refused before anything is built."""
    packager: Any = SimpleNamespace(name="small", targets=("store",))
    require_targets(packager, [parse_output("store")])
    with pytest.raises(UsageError, match="small cannot go to docker") as caught:
        require_targets(packager, [parse_output("store"), parse_output("docker")])
    assert caught.value.code == "packager-unfit"


def test_a_packager_that_fails_is_named() -> None:
    """A bug of a plugin is told as that plugin's; errors made on purpose go on as they are."""
    with pytest.raises(InternalError, match="packager echo: KeyError: 'x'"), packager_faults("echo"):
        raise KeyError("x")
    with pytest.raises(InputError, match="no sample"), packager_faults("echo"):
        raise InputError("artifact-invalid", "It has no sample.")


@pytest.mark.parametrize("against", ["expected", "load", None])
def test_relaxed_pins_are_warned_of(against: str | None) -> None:
    """Unless the new versions' answer was compared, verified or not, the build says which pins moved."""
    progress = Progress(1, io.StringIO())
    plan: Any = SimpleNamespace(environment=SimpleNamespace(relaxed=("numpy==1.19.5 -> 1.23.2",)))
    warn_of_relaxed(plan, Verification("passed" if against else "skipped", against), progress)
    assert [("numpy==1.19.5 -> 1.23.2" in line) for line in progress.warnings] == [True] * (against != "expected")


def test_a_damaged_lock_is_replaced_only_when_asked(tmp_path: Path) -> None:
    """--update-lock writes over a lock file that cannot be read, text or not; without it that is an error."""
    entry: Any = SimpleNamespace(key="k", to_json=lambda: {"key": "k"})
    for damage in (b"\xff\xfe\x00", b"{"):
        path = tmp_path / "x.lock"
        path.write_bytes(damage)
        with pytest.raises(InputError, match="lock"):
            write_lock(BuildRequest("x", lock=path), entry)
        assert path.read_bytes() == damage
        assert write_lock(BuildRequest("x", lock=path, update_lock=True), entry) == path
        assert b'"k"' in path.read_bytes()


class FakeEngine:
    """Remembers what it holds and what was removed."""

    def __init__(self, *held: str) -> None:
        self.held = set(held)
        self.loads: list[str] = []

    def exists(self, reference: str) -> bool:
        return reference in self.held

    def remove_untagged(self, image_id: str) -> None:
        self.held.discard(image_id)


@pytest.mark.parametrize("there", [True, False], ids=["there already", "loaded"])
def test_the_docker_sandbox_loads_once(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image is loaded once for all its runs and removed at the end; one that the user had already stays."""
    engine: Any = FakeEngine(*([IMAGE.id] if there else []))

    def load(docker: Any, store: Any, image: BuiltImage) -> None:
        engine.loads.append(image.id)
        engine.held.add(image.id)

    monkeypatch.setattr("mpack.targets.docker.load_image", load)
    sandbox = DockerSandbox(engine, HERE)
    for _ in range(3):
        with sandbox.open(IMAGE):
            assert engine.exists(IMAGE.id)
    sandbox.close()
    assert engine.loads == ([] if there else [IMAGE.id])
    assert engine.exists(IMAGE.id) is there
