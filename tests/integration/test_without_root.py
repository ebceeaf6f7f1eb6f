"""A user without root, engine and network: with warm caches he builds, verifies and writes a file."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpack.oci.load import read_archive
from mpack.oci.store import Store

pytestmark = pytest.mark.integration

ARTIFACT = Path(__file__).parents[2] / "fixtures" / "models" / "odahu-invoices" / "invoices"
NOWHERE = {"DOCKER_HOST": "unix:///nonexistent/docker.sock", "DOCKER_CONTEXT": ""}


def test_a_retrained_model(
    installed: Callable[[str], Path],
    interpreters: dict[str, str],
    base_home: Callable[..., Path],
    somebody: Any,
    tmp_path: Path,
) -> None:
    """The first build fetches. Other bytes of a model are then built offline, pass their self-check in rootless runc,
    and are a whole image in an archive; nothing else is left."""
    home = base_home("home-offline", somebody.uid)
    mpack = str(installed(interpreters[f"3.{sys.version_info[1]}"]))
    lock, archive, retrained = (somebody.directory / name for name in ("offline.lock", "model.tar", "retrained"))
    shutil.copytree(ARTIFACT, retrained)
    changed = next(path for path in sorted(retrained.rglob("*.py")) if path.stat().st_size)
    changed.write_text(changed.read_text() + "\n# retrained\n")

    def build(artifact: Path, output: str, *, offline: bool) -> dict[str, Any]:
        command = [mpack, "build", str(artifact), "-o", output, "-t", "offline:1", "--lock", str(lock), "--json"]
        done = somebody.run(command, offline=offline, MPACK_HOME=str(home), **NOWHERE)
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        assert (result["builder"], result["verified"]["status"]) == ("embedded", "passed")
        return result

    first = build(ARTIFACT, "store", offline=False)
    result = build(retrained, f"oci-archive:{archive}", offline=True)
    assert result["digest"] != first["digest"]
    assert [layer["kind"] for layer in result["layers"] if not layer["cached"]] == ["model"]
    with archive.open("rb") as stream:
        [loaded] = read_archive(Store(tmp_path / "store"), stream, "the archive")
    assert loaded.image.digest == result["digest"]
    assert list((somebody.directory / "tmp").iterdir()) == []
    assert list((home / "cache" / "trees").glob("*/run-*")) == []
