"""An unchanged build names its image again, any change makes an ordinary one; neither loads what it does not use."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

ARTIFACT = Path(__file__).parents[2] / "fixtures" / "models" / "odahu-invoices" / "invoices"
SAID = "nothing has changed"
#: What takes long to import and has no part in a build whose layers are there, or all but the model's.
UNUSED = {
    *("pydantic", "jinja2", "httpx", "ssl", "tomllib", "yaml", "packaging", "importlib.metadata", "email", "sqlite3"),
    *("mpack.bases.build", "mpack.env.lock", "mpack.env.install", "mpack.sandbox.compiler", "mpack.artifact.packed"),
    *("mpack.artifact.onnx", "mpack.artifact.openvino", "mpack.artifact.sklearn", "mpack.artifact.triton_model"),
}
#: Nor have these in a build that changes nothing.
UNCHANGED_UNUSED = UNUSED | {"mpack.describe", "mpack.pipeline", "mpack.artifact.reader", "mpack.artifact.odahu"}


@dataclass
class Build:
    """`mpack build` of a copy of the artifact, as a child process that tells what it imported."""

    home: Path
    artifact: Path

    def __call__(self, *options: str, before: str = "") -> tuple[dict[str, Any], str, set[str]]:
        """(what --json printed, what was said, modules imported). `before` are statements for the process."""
        program = f"{before}\nfrom mpack.cli.main import run; run()"
        command = [sys.executable, "-X", "importtime", "-c", program, "build", str(self.artifact), "--json"]
        done = subprocess.run(
            [*command, "--no-verify", "-o", "store", *options],
            capture_output=True,
            text=True,
            env={**os.environ, "MPACK_HOME": str(self.home)},
            cwd=self.artifact.parent,
        )
        assert done.returncode == 0, done.stderr
        imported = re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.M)
        return json.loads(done.stdout), done.stderr, set(imported)

    @property
    def code(self) -> Path:
        return next(self.artifact.glob("odahuflow_model/*.py"))


@pytest.fixture
def build(mpack_home: Path, tmp_path: Path) -> Build:
    """A build that was made once."""
    shutil.copytree(ARTIFACT, tmp_path / "model")
    made = Build(mpack_home, tmp_path / "model")
    made("-t", "again:1")
    return made


def test_unchanged(build: Build) -> None:
    """The same image under the name that was asked for, from a fraction of the program."""
    first, _, _ = build("-t", "again:1", "--update-lock")
    made, said, imported = build("-t", "again:2")
    assert SAID in said
    assert (made["id"], made["digest"], made["layers"]) == (
        first["id"],
        first["digest"],
        [{**layer, "cached": True} for layer in first["layers"]],
    )
    assert (made["outputs"], made["verified"]["status"]) == (["again:2"], "skipped")
    assert not imported & UNCHANGED_UNUSED
    unnamed = [build()[0]["image"] for _ in range(2)]
    assert unnamed[0] != unnamed[1] and unnamed[0].startswith("invoices-")


CHANGES: dict[str, Callable[[Build], object]] = {
    "the model": lambda build: build.code.write_text(build.code.read_text() + "\n"),
    "a mode": lambda build: build.code.chmod(0o755),
    "mpack.toml beside it": lambda build: (build.artifact.parent / "model.mpack.toml").write_text('version = "7"\n'),
    "the lock": lambda build: (lock := build.artifact.parent / "model.mpack.lock").write_text(lock.read_text() + "\n"),
    "what is installed": lambda build: (build.artifact.parent / "new-1.0.dist-info").mkdir(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_any_change_is_an_ordinary_build(build: Build, change: Callable[[Build], object]) -> None:
    """Whatever decides the image is compared; the changed build can then be repeated itself."""
    change(build)
    made, said, _ = build("-t", "again:1")
    assert SAID not in said
    again, said, _ = build("-t", "again:1")
    assert SAID in said and again["digest"] == made["digest"]


def test_model_changed(build: Build) -> None:
    """A build of another model on the same environment loads no resolver, no template engine and no validation."""
    CHANGES["the model"](build)
    _, said, imported = build("-t", "again:1")
    assert SAID not in said
    assert not imported & UNUSED


def test_large_files_that_were_touched(build: Build) -> None:
    """They may be others: an ordinary build hashes them, finds the same image, and leaves nothing of the layer that it
    began; after it nothing has changed."""
    weights = build.artifact / "odahuflow_model" / "weights.bin"
    weights.write_bytes(os.urandom(9 << 20))
    first, _, _ = build("-t", "again:1")
    assert SAID in build("-t", "again:1")[1]
    weights.touch()
    made, said, _ = build("-t", "again:1")
    assert SAID not in said and made["digest"] == first["digest"]
    assert all(layer["cached"] for layer in made["layers"])
    assert not list((build.home / "data" / "store" / "tmp").iterdir())
    assert SAID in build("-t", "again:1")[1]


@pytest.mark.parametrize("options", [["-a", "port=8080"], ["-p", "docker-cli"], ["--update-lock"]])
def test_another_request_is_another_build(build: Build, options: list[str]) -> None:
    """What was asked for counts as what it is made of."""
    assert SAID not in build("-t", "again:1", *options)[1]


def test_a_blob_that_is_gone(build: Build) -> None:
    """An image that the store no longer has whole is built."""
    first, _, _ = build("-t", "again:1")
    model = next(layer for layer in first["layers"] if layer["kind"] == "model")
    (build.home / "data" / "store" / "blobs" / "sha256" / model["digest"].removeprefix("sha256:")).unlink()
    made, said, _ = build("-t", "again:1")
    assert SAID not in said and made["digest"] == first["digest"]


def test_a_damaged_record(build: Build) -> None:
    """What was written down is not synced: where it is not what was written, the image is built."""
    record = max((build.home / "cache" / "builds").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    whole = record.read_bytes()
    for damaged in (whole[:-9], bytes(len(whole)), whole.replace(b"again:1", b"again:9")):
        assert damaged != whole
        record.write_bytes(damaged)
        assert SAID not in build("-t", "again:1")[1]
    assert SAID in build("-t", "again:1")[1]


#: Says, when the image is found to be there and not yet written, whether a garbage collection could take it away.
ASK = """
import sys
from mpack.oci.store import Store
from mpack.progress import Progress
say = Progress.say
def ask(progress, text):
    with Store.default().alone() as alone:
        print("removable" if alone else "held", file=sys.stderr)
    say(progress, text)
Progress.say = ask
"""


def test_what_was_found_stays_until_it_is_written(build: Build) -> None:
    """From the check of the blobs to their use nothing can be removed."""
    _, said, _ = build("-t", "again:1", before=ASK)
    assert SAID in said and "held" in said and "removable" not in said


def test_an_archive(build: Build, tmp_path: Path) -> None:
    """A zip is compared by its own bytes, before anything of it is unpacked."""
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(build.artifact.rglob("*")):
            archive.write(path, path.relative_to(build.artifact))
    build.artifact = packed
    assert SAID not in build("-t", "again:1")[1]
    _, said, imported = build("-t", "again:1")
    assert SAID in said and "mpack.artifact.source" not in imported
    with zipfile.ZipFile(packed, "a") as archive:
        archive.comment = b"changed"
    assert SAID not in build("-t", "again:1")[1]
