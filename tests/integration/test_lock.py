"""`mpack lock`: a lock without a build makes the image that a build alone makes; one that does not fit is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

INVOICES = Path(__file__).parents[2] / "fixtures" / "models" / "odahu-invoices" / "invoices"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the smallest fixture, for its lock is written beside it."""
    return Path(shutil.copytree(INVOICES, tmp_path_factory.mktemp("lock") / "invoices"))


@pytest.fixture(scope="module")
def lock(mpack: Any, artifact: Path) -> Path:
    """The lock of the artifact, without a build."""
    path = artifact.with_name("invoices.mpack.lock")
    assert mpack("lock", artifact).stdout == f"{path}\n"
    return path


def test_a_locked_build_is_the_build(mpack: Any, artifact: Path, lock: Path, tmp_path: Path) -> None:
    """Built from a draft or from nothing: one digest, and one entry with the byte code, which a third build uses."""
    alone = tmp_path / "alone.lock"
    first = mpack.json("build", artifact, "-o", "store", "-t", "mpack-test-lock:1", "--lock", alone)
    draft = shutil.copy(lock, tmp_path / "draft.lock")
    assert json.loads(lock.read_text("utf-8"))["entries"][0]["draft"] is True
    second = mpack.json("build", artifact, "-o", "store", "-t", "mpack-test-lock:1", "--lock", draft)
    assert (first["digest"], first["verified"]) == (second["digest"], second["verified"])
    assert Path(draft).read_bytes() == alone.read_bytes()
    assert "draft" not in json.loads(alone.read_text("utf-8"))["entries"][0]
    mpack("lock", artifact, "--update-lock", "-o", draft)
    assert Path(draft).read_bytes() == alone.read_bytes(), "what a build learnt stays where nothing else changed"
    mpack("rm", "mpack-test-lock:1")


def test_check(mpack: Any, artifact: Path, lock: Path, tmp_path: Path) -> None:
    """0 where it fits; 1 with the reason where it does not; nothing is written."""
    before = lock.read_bytes()
    assert mpack("lock", artifact, "--check").stdout == f"{lock}\n"
    told = mpack("lock", artifact, "--check", "-p", "docker-cli", code=1).stderr
    assert "no entry for docker-cli" in told and "the packager docker-rest, not docker-cli" in told
    changed = Path(shutil.copytree(artifact, tmp_path / "changed"))
    (tmp_path / "changed.mpack.toml").write_text('extra-requirements = ["idna==3.10"]\n')
    told = mpack("lock", changed, "--check", "-o", lock, code=1).stderr
    assert "newly asked for: idna==3.10" in told and "docker-rest linux/amd64" in told
    value = json.loads(before)
    value["entries"][0]["encoder"] = "other-1"
    (tmp_path / "other.lock").write_text(json.dumps(value))
    assert "other-1" in mpack("lock", artifact, "--check", "-o", tmp_path / "other.lock", code=1).stderr
    assert "no lock" in mpack("lock", artifact, "--check", "-o", tmp_path / "none.lock", code=1).stderr
    assert lock.read_bytes() == before and not (tmp_path / "none.lock").exists()


def test_pylock_both_ways(mpack: Any, artifact: Path, lock: Path, tmp_path: Path) -> None:
    """As pylock.toml the lock is printed or written; given as --lock it makes the same packages, or is at odds."""
    form = ("lock", artifact, "--format", "pylock")
    pylock = tmp_path / "pylock.toml"
    assert mpack(*form, "-o", pylock).stdout == f"{pylock}\n"
    assert mpack(*form).stdout == pylock.read_text("utf-8")
    assert "pylock.NAME.toml" in mpack(*form, "-o", tmp_path / "other.toml", code=2).stderr
    other = Path(shutil.copytree(artifact, tmp_path / "other"))
    printed = json.loads(mpack("lock", other, "--lock", pylock, "-o", "-").stdout)
    assert printed["entries"][0]["environment"] == json.loads(lock.read_text("utf-8"))["entries"][0]["environment"]
    numpy = next(item for item in printed["entries"][0]["environment"]["packages"] if item["name"] == "numpy")
    pylock.write_text(pylock.read_text("utf-8").replace(numpy["hashes"][0].removeprefix("sha256:"), "0" * 64))
    assert "numpy" in mpack("lock", artifact, "--lock", pylock, "--check", code=1).stderr
    assert mpack(*form[:2], "--format", "requirements").stdout.count("--hash=sha256:") == len(
        printed["entries"][0]["environment"]["packages"]
    )


def test_a_named_file_is_never_added_to_silently(mpack: Any, artifact: Path, lock: Path, tmp_path: Path) -> None:
    """Build, plan and lock refuse what it has no entry for; `mpack lock -o` adds one and leaves the other."""
    own = Path(shutil.copy(lock, tmp_path / "own.lock"))
    for command in (("build", artifact, "-o", "store"), ("plan", artifact), ("lock", artifact)):
        error = mpack(*command, "-p", "docker-cli", "--lock", own, code=1).stderr
        assert "no entry for docker-cli" in error and f"-o {own}" in error
    assert own.read_bytes() == lock.read_bytes()
    mpack("lock", artifact, "-p", "docker-cli", "-o", own)
    keys = [item["key"].split()[0] for item in json.loads(own.read_text("utf-8"))["entries"]]
    assert keys == ["docker-cli", "docker-rest"]
    printed = json.loads(mpack("lock", artifact, "-p", "docker-cli", "--lock", own, "-o", "-").stdout)
    assert [item["key"].split()[0] for item in printed["entries"]] == ["docker-cli"]
