"""One artifact and one lock: the same digest in another directory, by another user, with another Python, zipped or not.

Each build but the zip's has a home of its own that holds the base image alone, so nothing comes from a cache of layers.
"""

from __future__ import annotations

import json
import os
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

#: The smallest environment of the fixtures: a model of plain Python with a server.
ARTIFACT = Path(__file__).parents[2] / "fixtures" / "models" / "odahu-invoices" / "invoices"
SAME = ("id", "digest", "size", "size_unpacked")


@dataclass(frozen=True)
class Reference:
    """The first build: what it printed, the lock that it wrote, and its home."""

    result: dict[str, Any]
    lock: Path
    home: Path


def arguments(mpack: Path, artifact: Path, lock: Path) -> list[str]:
    return [str(mpack), "build", str(artifact), "-o", "store", "-t", "same:1", "--lock", str(lock), "--json"]


def build(command: list[str], home: Path, cwd: Path) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ, "MPACK_HOME": str(home)})
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def assert_same(result: dict[str, Any], reference: Reference) -> None:
    """Digest and layers are the first build's, and the image was verified."""
    layers = [(layer["kind"], layer["diff_id"], layer["digest"]) for layer in result["layers"]]
    assert layers == [(layer["kind"], layer["diff_id"], layer["digest"]) for layer in reference.result["layers"]]
    assert {key: result[key] for key in SAME} == {key: reference.result[key] for key in SAME}
    assert result["verified"] == reference.result["verified"]


def assert_made_anew(result: dict[str, Any]) -> None:
    """Nothing but the base came from a cache."""
    assert [layer["kind"] for layer in result["layers"] if layer["cached"]] == ["base"]


@pytest.fixture(scope="module")
def reference(
    installed: Callable[[str], Path], interpreters: dict[str, str], base_home: Callable[..., Path], place: Path
) -> Reference:
    """A build with the suite's own Python."""
    mpack = installed(interpreters[f"3.{sys.version_info[1]}"])
    lock = place / "same.lock"
    home = base_home("home-reference")
    result = build(arguments(mpack, ARTIFACT, lock), home, place)
    assert result["verified"]["status"] == "passed"
    return Reference(result, lock, home)


def test_another_user(
    reference: Reference,
    installed: Callable[[str], Path],
    interpreters: dict[str, str],
    base_home: Callable[..., Path],
    somebody: Any,
) -> None:
    """Another user, directory, umask, clock, time zone and language; his files are his alone; runc without root."""
    home = base_home("home-somebody", somebody.uid)
    mine = somebody.directory / "models" / "mine"
    shutil.copytree(ARTIFACT, mine, copy_function=shutil.copyfile)
    lock = somebody.directory / "mine.lock"
    shutil.copyfile(reference.lock, lock)
    for path in (mine.parent, mine, *mine.rglob("*"), lock):
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.utime(path, (0, 0))
        os.chown(path, somebody.uid, somebody.uid)
    mpack = installed(interpreters[f"3.{sys.version_info[1]}"])
    done = somebody.run(
        # uv too; not further, for an index may have a certificate.
        ["faketime", "-f", "+36h", *arguments(mpack, Path("models/mine"), lock)],
        umask=0o077,
        MPACK_HOME=str(home),
        TZ="Pacific/Kiritimati",
        LC_ALL="C",
        PYTHONHASHSEED="7",
        DOCKER_HOST="unix:///nonexistent/docker.sock",
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert_same(result, reference)
    assert_made_anew(result)
    assert list((somebody.directory / "tmp").iterdir()) == []


@pytest.mark.parametrize("which", ["oldest", "newest"])
def test_another_python(
    which: str,
    reference: Reference,
    installed: Callable[[str], Path],
    interpreters: dict[str, str],
    base_home: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """mpack under the oldest and the newest other Python of this machine."""
    others = {minor: path for minor, path in interpreters.items() if minor != f"3.{sys.version_info[1]}"}
    if not others:
        pytest.skip(f"only Python {', '.join(interpreters)} is installed here; another one would show more")
    minors = sorted(others, key=lambda minor: int(minor.partition(".")[2]))
    mpack = installed(others[minors[0] if which == "oldest" else minors[-1]])
    result = build(arguments(mpack, ARTIFACT, reference.lock), base_home(f"home-{which}"), tmp_path)
    assert_same(result, reference)
    assert_made_anew(result)


def test_zipped(
    reference: Reference,
    installed: Callable[[str], Path],
    interpreters: dict[str, str],
    tmp_path: Path,
) -> None:
    """The zip of the directory, its members in another order and with other times, is the same artifact."""
    archive = tmp_path / "invoices.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as written:
        for path in sorted((path for path in ARTIFACT.rglob("*") if path.is_file()), reverse=True):
            member = zipfile.ZipInfo(f"./invoices/{path.relative_to(ARTIFACT).as_posix()}", (1999, 1, 1, 0, 0, 0))
            member.external_attr = 0o100600 << 16
            written.writestr(member, path.read_bytes())
    mpack = installed(interpreters[f"3.{sys.version_info[1]}"])
    assert_same(build(arguments(mpack, archive, reference.lock), reference.home, tmp_path), reference)
