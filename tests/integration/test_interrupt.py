"""A build that is interrupted, killed, doubled or out of room: nothing half is left, and the next build is right."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.docker, pytest.mark.integration]

MPACK = str(Path(sys.executable).with_name("mpack"))


@dataclass(frozen=True)
class Yard:
    """A home and a TMPDIR of one test's own, and what to build there; `digest` is what comes of it."""

    home: Path
    tmp: Path
    command: tuple[str, ...]
    environment: dict[str, str]
    digest: str

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Begins a build in a process group of its own."""
        return subprocess.Popen(
            [*self.command, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            start_new_session=True,
        )

    def build(self, *options: str) -> dict[str, Any]:
        """A whole build, which must succeed."""
        process = self.start(*options, "--json")
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        result: dict[str, Any] = json.loads(out)
        return result

    def left(self) -> list[str]:
        """What stands in TMPDIR and in the store's place for unfinished work."""
        unfinished = self.home / "data" / "store" / "tmp"
        return sorted(str(path) for place in (self.tmp, unfinished) if place.is_dir() for path in place.iterdir())


@pytest.fixture(scope="module")
def undisturbed(base_home: Any, place: Path, model: Path, echo: dict[str, str]) -> tuple[Path, str]:
    """The lock and the digest of a build that nothing disturbed."""
    yard = make_yard(base_home("home-undisturbed"), place, model, echo, place / "undisturbed.lock", "")
    return place / "undisturbed.lock", yard.build()["digest"]


@pytest.fixture
def yard(
    undisturbed: tuple[Path, str], base_home: Any, place: Path, model: Path, echo: dict[str, str], request: Any
) -> Yard:
    """A home that holds the base alone, so all layers are still to be made; the lock tells the one right digest."""
    lock = Path(shutil.copy(undisturbed[0], place / f"{request.node.name}.lock"))
    return make_yard(base_home(f"home-{request.node.name}"), place, model, echo, lock, undisturbed[1])


def make_yard(home: Path, place: Path, model: Path, echo: dict[str, str], lock: Path, digest: str) -> Yard:
    tmp = place / f"tmp-{home.name}"
    tmp.mkdir()
    environment = {**os.environ, **echo, "MPACK_HOME": str(home), "TMPDIR": str(tmp)}
    command = (MPACK, "build", str(model), "-p", "echo", "-o", "store", "-t", "yard:1", "--lock", str(lock))
    return Yard(home, tmp, command, environment, digest)


def containers(engine: str) -> set[str]:
    """Every container of mpack's, running or not."""
    listed = [engine, "ps", "-aq", "--no-trunc", "--filter", "name=mpack-"]
    return set(subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split())


def unnamed_images(engine: str) -> set[str]:
    """Every image of mpack's echo packager without a name."""
    listed = [engine, "images", "-q", "--no-trunc", "--filter", "dangling=true"]
    listed += ["--filter", "label=dev.mpack.packager=echo"]
    return set(subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    ("options", "moment"),
    [
        ((), "resolving the environment"),
        ((), "building the image"),
        (("-o", "docker"), "building the image"),
        (("--builder", "docker", "-o", "docker"), "resolving the environment"),
    ],
    ids=["embedded-building", "runc-verifying", "docker-verifying", "docker-building"],
)
def test_interrupt(options: tuple[str, ...], moment: str, yard: Yard, engine: str) -> None:
    """Ctrl-C in the phase after `moment`: exit 130, one sentence, no container, image, name or temporary file."""
    before = containers(engine), unnamed_images(engine)
    process = yard.start(*options)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(moment):
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "interrupted" in err.splitlines()[-1] and "Traceback" not in err
    # What others had running may end meanwhile; nothing new may be there.
    assert containers(engine) <= before[0] and unnamed_images(engine) <= before[1]
    assert yard.left() == []
    listed = subprocess.run([MPACK, "images"], capture_output=True, text=True, env=yard.environment, check=True)
    assert "yard:1" not in listed.stdout
    assert yard.build()["digest"] == yard.digest


def test_kill(yard: Yard) -> None:
    """kill -9 at random moments: the build after it makes the right image, and a prune leaves no unfinished file."""
    chance = random.Random()
    seed = chance.randrange(1 << 30)
    chance.seed(seed)
    for _ in range(3):
        process = yard.start()
        time.sleep(chance.uniform(0.5, 3.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    result = yard.build()
    assert (result["digest"], result["verified"]["status"]) == (yard.digest, "passed"), f"seed {seed}"
    subprocess.run([MPACK, "rm", "yard:1"], capture_output=True, env=yard.environment, check=True)
    unfinished = yard.home / "data" / "store" / "tmp"
    assert list(unfinished.iterdir()) == []


def test_two_at_once(yard: Yard) -> None:
    """Two builds with one home and one lock both succeed with one digest, and the name is listed once."""
    processes = [yard.start("--json") for _ in range(2)]
    ended = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    assert {json.loads(out)["digest"] for out, _ in ended} == {yard.digest}
    listed = subprocess.run([MPACK, "images", "--json"], capture_output=True, env=yard.environment, check=True)
    assert [item["names"] for item in json.loads(listed.stdout)] == [["yard:1"]]
    assert yard.left() == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes; only root can mount one."""
    path = tmp_path / "small"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)], capture_output=True)
    assert mounted.returncode == 0, f"this test mounts a small disk, as root: {mounted.stderr.decode()}"
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.parametrize("full", ["TMPDIR", "MPACK_HOME", "output"])
def test_full_disk(full: str, yard: Yard, small_disk: Path, engine: str) -> None:
    """Where temporary files, the store or the output find no room: exit 3, disk-full, and nothing half stands there."""
    environment = dict(yard.environment)
    command, options = list(yard.command), list[str]()
    if full == "output":
        options = ["-o", f"oci-archive:{small_disk}/image.tar"]
    elif full == "MPACK_HOME":
        store = yard.home / "data" / "store"
        # The blobs of the base stay where they are; what the build adds goes to the small disk.
        shutil.copytree(store, small_disk / "data" / "store", copy_function=os.symlink)
        (small_disk / "data" / "store" / "index.json").unlink()
        shutil.copy(store / "index.json", small_disk / "data" / "store" / "index.json")
        environment["MPACK_HOME"] = str(small_disk)
        with contextlib.suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
    else:
        environment["TMPDIR"] = str(small_disk)
        # An archive is unpacked there.
        packed = yard.tmp.parent / "packed.zip"
        with zipfile.ZipFile(packed, "w") as archive:
            archive.write(command[2], Path(command[2]).name)
            archive.writestr("weights.bin", os.urandom(4 << 20))
        command[2] = str(packed)
    before = {path for path in small_disk.rglob("*") if path.is_file()}
    done = subprocess.run([*command, *options, "--json"], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 3, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "disk-full", error
    assert "Traceback" not in done.stderr and error["hint"]
    left = {path for path in small_disk.rglob("*") if path.is_file()} - before
    assert [path for path in left if path.stat().st_size > 1 << 16] == []
    assert not (small_disk / "image.tar").exists()
    assert yard.build()["digest"] == yard.digest
