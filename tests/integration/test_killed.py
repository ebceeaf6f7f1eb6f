"""kill -9 at random moments of builds, pushes and prunes: every later build makes the right image, nothing wrong stays.

MPACK_KILLS says how often (24), MPACK_KILLS_SEED repeats a run. A model and an environment of the test's own keep a
whole build near a second; the base, runc and the registry are real ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mpack.contents import sha256_file
from mpack.env.lockfile import LockFile
from mpack.oci.compression import open_gzip
from mpack.oci.imageindex import blobs_of
from mpack.oci.layer import Layer
from mpack.oci.store import Store
from mpack.sandbox.trees import Trees
from mpack.testing.pausing import pausing
from mpack.testing.registryserver import RegistryServer
from mpack.testing.wheels import make_wheel

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("docker_config")]

KILLS = int(os.environ.get("MPACK_KILLS", "24"))
#: Kills between two inspections of everything.
SERIES = 8
MODELS = ("one", "two")
MPACK = (sys.executable, "-c", "from mpack.cli.main import run; run()")
#: As `mpack`, with small pieces, so that a push of a few megabytes has many.
PIECEWISE = (*MPACK[:2], "import mpack.registry.upload as upload; upload.PIECE = 1 << 18; " + MPACK[2])
#: Seconds that may pass until what a killed process started has ended as well.
PATIENCE = 20.0
#: Seconds between two looks.
_EVERY = 0.02
#: Seconds in which a command does nothing but start.
_START = 0.15


@dataclass
class Site:
    """A home that is never made anew, what is built there, and the registry that it is pushed to."""

    home: Path
    place: Path
    environment: dict[str, str]
    registry: RegistryServer
    chance: random.Random
    #: Model -> manifest digest, of builds that nothing disturbed.
    digests: dict[str, str] = field(default_factory=dict)
    #: Seconds that a build takes here, when nothing is there but the base.
    length: float = 0.0
    pushes: int = 0

    @property
    def store(self) -> Store:
        return Store(self.home / "data" / "store")

    @property
    def trees(self) -> Path:
        return self.home / "cache" / "trees" / str(os.getuid())

    def build(self, model: str, *options: str) -> list[str]:
        """The command that builds a model into the store."""
        lock = str(self.place / "killed.lock")
        return [
            *MPACK,
            "build",
            str(self.place / model),
            "-p",
            "small",
            "-t",
            f"killed:{model}",
            "--lock",
            lock,
            *options,
        ]

    def start(self, command: list[str]) -> subprocess.Popen[str]:
        """Begins a command in a session of its own; its words go to a file, which no process left behind blocks."""
        with (self.place / "said").open("w") as said:
            return subprocess.Popen(
                command, stdout=said, stderr=subprocess.STDOUT, text=True, env=self.environment, start_new_session=True
            )

    def run(self, command: list[str]) -> str:
        """Runs a command that must succeed; what it prints."""
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=300)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def assert_builds(self, model: str, *options: str) -> None:
        """A build of the model, to its end, is the image that it must be."""
        made = json.loads(self.run(self.build(model, "--json", *(options or ("-o", "store")))))
        assert made["digest"] == self.digests[model]

    def prune(self) -> None:
        """`mpack cache prune`, which also takes what no one needs."""
        self.run([*MPACK, "cache", "prune"])

    def forget(self) -> None:
        """Nothing is left but the base, and its tree: unpacking that takes longer than all else."""
        for record in self.store.records():
            if record.role == "image":
                self.store.forget(record.digest)
        for entry in self.store.cache.entries():
            entry.remove()
        for name in ("bytecode", "builds"):
            shutil.rmtree(self.home / "cache" / name, ignore_errors=True)
        for tree in Trees(self.trees).entries():
            if tree.size < 20 << 20:
                tree.remove()
        self.store.sweep()


def wheels(directory: Path) -> Path:
    """An index of two wheels: one is a layer of its own, the other is joined with what makes the venv."""
    size = 9 << 20
    make_wheel(
        directory,
        "big",
        files={"big/__init__.py": f"SIZE = {size}\n", "big/data.txt": "0123456789abcdef" * (size >> 4)},
    )
    files = {"small/__init__.py": "from small import part\n", "small/part.py": "def answer():\n    return 42\n"}
    files |= {f"small/more/{number}.py": f"number = {number}\n" for number in range(100)}
    make_wheel(directory, "small", files=files)
    return directory


def plugin(directory: Path) -> Path:
    """The packager `small`, installed."""
    shutil.copytree(Path(__file__).parent / "small", directory / "small_packager")
    info = directory / "small_packager-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: small-packager\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mpack.packagers]\nsmall = small_packager.packager:Small\n")
    return directory


@pytest.fixture
def site(base_home: Any, place: Path, plain: RegistryServer, docker_config: Path) -> Iterator[Site]:
    """A site whose models were built once, in another home."""
    here = place / "killed"
    here.mkdir()
    source = Path(__file__).parents[2] / "fixtures" / "models" / "odahu-invoices" / "invoices"
    for model in MODELS:
        shutil.copytree(source, here / model)
        # Does not compress, so it is a layer without compression.
        (here / model / "odahuflow_model" / "weights.bin").write_bytes(random.Random(model).randbytes(3 << 20))
    (here / "tmp").mkdir()
    paths = [str(plugin(here / "plugin")), *(path for path in [os.environ.get("PYTHONPATH")] if path)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "TMPDIR": str(here / "tmp"),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels(here / "wheels")),
        "DOCKER_HOST": "unix:///nonexistent/docker.sock",
    }
    seed = int(os.environ.get("MPACK_KILLS_SEED", random.SystemRandom().randrange(1 << 30)))
    print(f"MPACK_KILLS={KILLS} MPACK_KILLS_SEED={seed}")
    homes = [base_home(f"home-{name}") for name in ("right", "killed")]
    made = [
        Site(
            home,
            here,
            {**environment, "MPACK_HOME": str(home), "UV_CACHE_DIR": str(home / "uv")},
            plain,
            random.Random(seed),
        )
        for home in homes
    ]
    for model in MODELS:
        began = time.monotonic()
        out = json.loads(made[0].run(made[0].build(model, "--json", "-o", "store")))
        made[1].length = made[1].length or time.monotonic() - began
        assert out["verified"]["status"] == "passed" and {"bytecode", "model"} <= {
            item["kind"] for item in out["layers"]
        }
        made[1].digests[model] = out["digest"]
    yield made[1]
    for path in (here, *homes):
        shutil.rmtree(path, ignore_errors=True)


# --- what is killed


def verified(site: Site, model: str) -> list[str]:
    return site.build(model, "-o", "store")


def locked_anew(site: Site, model: str) -> list[str]:
    return site.build(model, "-o", "store", "--update-lock")


def unverified(site: Site, model: str) -> list[str]:
    return site.build(model, "-o", "store", "--no-verify")


def to_registry(site: Site, model: str) -> list[str]:
    return site.build(model, "-o", f"registry:{new_repository(site)}:1", "--no-verify")


def pushed(site: Site, model: str) -> list[str]:
    return [*PIECEWISE, "push", f"killed:{model}", f"{new_repository(site)}:1", f"{site.registry.host}/same:{model}"]


def pruned(site: Site, model: str) -> list[str]:
    return [*MPACK, "cache", "prune", "--older-than", "0s"]


def new_repository(site: Site) -> str:
    """A repository that the registry does not have; blobs may be mounted from the others."""
    site.pushes += 1
    return f"{site.registry.host}/killed/number{site.pushes}"


#: With the part of a build's length in which it is killed.
COMMANDS: dict[Callable[[Site, str], list[str]], float] = {
    verified: 1.0,
    locked_anew: 1.0,
    unverified: 0.6,
    to_registry: 0.8,
    pushed: 0.3,
    pruned: 0.2,
}


def kill(site: Site, process: subprocess.Popen[str]) -> None:
    """mpack alone, or with all that is in its process group."""
    if site.chance.random() < 0.5:
        process.kill()
    else:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def kill_at_random(site: Site) -> str:
    """Starts one of the commands and kills it somewhere in its length, or a push in mid-blob; what was killed."""
    model = site.chance.choice(MODELS)
    if site.chance.random() < 0.2 and site.store.find(f"killed:{model}"):
        size = sum(size for _, size in blobs_of(site.store.resolve(f"killed:{model}")))
        with pausing(site.registry.port, site.chance.randrange(size)) as (host, paused):
            name = new_repository(site).replace(site.registry.host, host)
            process = site.start([*PIECEWISE, "push", f"killed:{model}", f"{name}:1"])
            while not paused.wait(_EVERY):
                assert process.poll() is None, (site.place / "said").read_text()
            kill(site, process)
        return f"push to {name} of {model}, in mid-blob"
    while True:
        command = site.chance.choice(list(COMMANDS))
        if command is pushed and not site.store.find(f"killed:{model}"):
            continue
        # Squared, for much may be there already, and then it is done sooner.
        moment = _START + site.length * COMMANDS[command] * site.chance.random() ** 2
        process = site.start(command(site, model))
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            kill(site, process)
            return f"{command.__name__} of {model} after {moment:.2f} s"
        assert process.returncode == 0, f"{command.__name__}: {(site.place / 'said').read_text()}"


# --- what must be


def assert_store_whole(site: Site) -> None:
    """Every blob is what its name says, every listed image has all of its own, every entry of a cache is true."""
    store = site.store
    for path in store.directory.iterdir():
        assert sha256_file(path) == path.name
    for record in store.records():
        assert all(store.has(digest, size) for digest, size in blobs_of(store.load(record.digest)))
        for name in (name for name in record.names if name.startswith("killed:")):
            assert record.digest == site.digests[name.removeprefix("killed:")]
    for path in store.cache.directory.glob("*.json"):
        check, _, data = path.read_bytes().partition(b"\n")
        assert check.decode() == "sha256:" + hashlib.sha256(data).hexdigest()
        entry = json.loads(data)
        for layer in map(Layer.from_json, entry["layers"]):
            if store.has(layer.digest):  # else the entry counts for nothing
                assert_layer(site, layer, entry["hashes"])
    for path in (store.root / "provenance").glob("*.json"):
        assert json.loads(path.read_bytes())
    for path in (site.home / "cache" / "builds").glob("*.json"):
        check, _, data = path.read_bytes().partition(b"\n")
        assert check == hashlib.sha256(data).hexdigest().encode()
        assert json.loads(data)["image"]["digest"] in site.digests.values()
    LockFile.read(site.place / "killed.lock")
    code = site.home / "cache" / "bytecode" / "code.sqlite"
    if code.exists():
        with closing(sqlite3.connect(code)) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            for digest, compiled in database.execute("SELECT sha256, code FROM code"):
                assert hashlib.sha256(compiled).digest() == digest


def opened(store: Store, layer: Layer) -> Any:
    """A layer's tar as a stream."""
    stream = store.open(layer.digest)
    return open_gzip(stream) if "gzip" in layer.media_type else stream


def assert_layer(site: Site, layer: Layer, hashes: Mapping[str, str]) -> None:
    """A cached layer has the size, the diff id and the files that its entry tells; so has its tree, if there is one."""
    store = site.store
    assert store.path(layer.digest).stat().st_size == layer.size
    with opened(store, layer) as stream:
        assert "sha256:" + hashlib.sha256(stream.read()).hexdigest() == layer.diff_id
    found = {}
    with opened(store, layer) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None:
                found["/" + member.name] = hashlib.sha256(file.read()).hexdigest()
    assert not hashes or {path: hashes[path] for path in found} == found
    tree = site.trees / hashlib.sha256(layer.digest.encode()).hexdigest()[:32]
    if (tree / "tree.json").exists():
        for name, digest in found.items():
            assert sha256_file(tree / "root" / name.lstrip("/")) == digest


def assert_registry_whole(site: Site) -> None:
    """Every tag is one of the right images, all its blobs are there and have the right bytes."""
    seen: set[str] = set()
    with site.registry.http() as http:
        for repository in http.get("/v2/_catalog?n=1000").json()["repositories"] or ():
            tags = http.get(f"/v2/{repository}/tags/list").json().get("tags") or ()
            for tag in (tag for tag in tags if not tag.startswith("sha256-")):
                got = http.get(
                    f"/v2/{repository}/manifests/{tag}",
                    headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
                )
                digest = "sha256:" + hashlib.sha256(got.content).hexdigest()
                assert digest in site.digests.values(), f"{repository}:{tag}"
                manifest = got.json()
                for blob in (manifest["config"], *manifest["layers"]):
                    head = http.head(f"/v2/{repository}/blobs/{blob['digest']}")
                    assert (head.status_code, int(head.headers["content-length"])) == (200, blob["size"])
                    if blob["digest"] not in seen:
                        content = http.get(f"/v2/{repository}/blobs/{blob['digest']}").content
                        assert "sha256:" + hashlib.sha256(content).hexdigest() == blob["digest"]
                        seen.add(blob["digest"])
    for path in (site.registry.directory / "data").rglob("blobs/sha256/*/*/data"):
        assert sha256_file(path) == path.parent.name


def left(site: Site) -> list[str]:
    """Processes that belong to the site, by their environment or their mounts, and mounts of this machine."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            environment = (process / "environ").read_bytes()
            mounts = (process / "mountinfo").read_bytes()
            if f"MPACK_HOME={site.home}\0".encode() in environment or bytes(site.home) in mounts:
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
    return found


def assert_nothing_left(site: Site) -> None:
    """What the killed ones started has ended; after a prune there is no unfinished work, and no container."""
    deadline = time.monotonic() + PATIENCE
    while (still := left(site)) and time.monotonic() < deadline:
        time.sleep(_EVERY)
    assert still == []
    site.prune()
    assert list(site.store.unfinished.iterdir()) == []
    assert list(site.trees.glob("run-*")) == []
    listed = site.store.in_images() | site.store.cache.digests()
    assert {f"sha256:{path.name}" for path in site.store.directory.iterdir()} <= listed


def test_killed(site: Site) -> None:
    """Whatever is killed whenever: each build after it gives the one digest, and no file, tag or process is wrong."""
    for model in MODELS:
        site.assert_builds(model)
    for number in range(1, KILLS + 1):
        print(number, kill_at_random(site), flush=True)
        assert_store_whole(site)
        if number % SERIES == 0 or number == KILLS:
            model, other = site.chance.sample(MODELS, 2)
            site.assert_builds(model, "-o", "store", *(["--no-verify"] if site.chance.random() < 0.5 else []))
            site.assert_builds(other, "-o", f"registry:{site.registry.host}/same:{other}")
            assert_nothing_left(site)
            assert_store_whole(site)
            assert_registry_whole(site)
            if site.chance.random() < 0.5:
                site.forget()
