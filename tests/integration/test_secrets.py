"""The password of a Python index through a whole `mpack build`: it opens the index, and is found nowhere afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from mpack.testing.processes import watched_processes
from mpack.testing.wheels import make_wheel, serve_index

pytestmark = [pytest.mark.docker, pytest.mark.integration]

INVOICES = Path(__file__).parents[2] / "fixtures" / "models" / "odahu-invoices" / "invoices"
USER, PASSWORD = "builder", "hunter2-s3cr@t/p:ss"
#: The password as it is, as it stands in a URL, and the middle of it, which no way of quoting changes.
FORMS = (PASSWORD, quote(PASSWORD, safe=""), "hunter2-s3cr")


def leaks(text: str) -> list[str]:
    return [form for form in FORMS if form in text]


def assert_not_in_image(engine: str, image: str) -> None:
    """No form of the password in the image as it would be shared: layers, configuration, labels, history."""
    with subprocess.Popen([engine, "save", image], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        tail, read = b"", 0
        while block := process.stdout.read(1 << 20):
            assert not [form for form in FORMS if form.encode() in tail + block]
            tail, read = block[-64:], read + len(block)
    assert process.returncode == 0 and read > 10_000_000
    for command in (["history", "--no-trunc", image], ["inspect", image]):
        told = subprocess.run([engine, *command], capture_output=True, text=True, check=True)
        assert told.stdout and leaks(told.stdout + told.stderr) == []


@pytest.mark.parametrize("builder", ["embedded", "docker"])
def test_password(builder: str, mpack: Any, engine: str, tmp_path: Path, remove_image: Any) -> None:
    """In no layer, label, history, message, plan, lock, temporary file or process list; the package is in the image."""
    # A version that no build has seen: an engine's cache would leave the install out, with nothing to see.
    version = f"1.{time.time_ns()}"
    make_wheel(tmp_path / "served", f"mpackprobe{builder}", version)
    artifact = Path(shutil.copytree(INVOICES, tmp_path / "invoices"))
    (tmp_path / "invoices.mpack.toml").write_text(f'extra-requirements = ["mpackprobe{builder}=={version}"]\n')
    lock, image, scratch = tmp_path / "lock", f"mpack-test-secret:{builder}", tmp_path / "tmp"
    scratch.mkdir()
    remove_image(image)
    with serve_index(tmp_path / "served", user=USER, password=PASSWORD) as url, watched_processes() as seen:
        login = f"{USER}:{quote(PASSWORD, safe='')}@"
        private = {"PIP_EXTRA_INDEX_URL": url.replace("://", f"://{login}"), "TMPDIR": str(scratch)}
        options = ("--builder", builder, "-o", "docker", "-t", image, "--lock", lock)
        done = mpack("--debug", "build", artifact, *options, "--json", **private)
        planned = mpack("plan", artifact, "--lock", lock, **private)
    told = done.stdout + done.stderr + planned.stdout + planned.stderr + lock.read_text("utf-8")
    assert f"mpackprobe{builder}" in planned.stdout
    assert leaks(told) == []
    # The build's own processes were seen, so the watch was awake.
    assert any(str(artifact) in line for line in seen) and any("uv" in line and "install" in line for line in seen)
    assert [line for line in seen if leaks(line)] == []
    assert list(scratch.iterdir()) == []
    command = ["run", "--rm", "--network=none", "--entrypoint=/opt/mpack/venv/bin/python", image]
    ran = subprocess.run([engine, *command, "-c", f"import mpackprobe{builder}"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert_not_in_image(engine, image)


def test_wrong_password(mpack: Any, tmp_path: Path) -> None:
    """An index that refuses: exit 3, the words say credentials, and the password is not among them."""
    make_wheel(tmp_path / "served", "mpackprobe", "1.0")
    artifact = Path(shutil.copytree(INVOICES, tmp_path / "invoices"))
    (tmp_path / "invoices.mpack.toml").write_text('extra-requirements = ["mpackprobe==1.0"]\n')
    with serve_index(tmp_path / "served", user=USER, password="another") as url:
        private = url.replace("://", f"://{USER}:{quote(PASSWORD, safe='')}@")
        # The only index: the host's own configuration may name others.
        alone = {"PIP_INDEX_URL": private, "PIP_EXTRA_INDEX_URL": "", "PIP_CONFIG_FILE": os.devnull}
        done = mpack("--debug", "build", artifact, "-o", "store", "--json", code=3, **alone)
    assert '"index-unreachable"' in done.stdout and "credentials" in done.stdout
    assert leaks(done.stdout + done.stderr) == []
