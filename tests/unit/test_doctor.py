"""`mpack doctor`: each check alone on a machine made worse by the test; the exit code."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mpack.cli import doctor
from mpack.cli.doctor import LITTLE_DISK, MISSING, OK, WARN, Check
from mpack.cli.main import mpack


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home: no store, no client but those that the test puts on PATH."""
    monkeypatch.setenv("MPACK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return tmp_path


def program(home: Path, name: str, says: str) -> None:
    (home / "bin" / name).write_text(f"#!/bin/sh\necho '{says}'\n")
    (home / "bin" / name).chmod(0o755)


def test_bare_machine(home: Path) -> None:
    """Without engine, runc and apt everything is a warning with what to do, and builds are still possible."""
    done = CliRunner().invoke(mpack, ["doctor", "--json", "--offline"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    status = {check["name"]: check["status"] for check in found["checks"]}
    assert found["can_build"] is True
    assert {name for name, value in status.items() if value == WARN} == {"docker", "podman", "runc", "buildah", "bases"}
    assert all(check["todo"] for check in found["checks"] if check["status"] != OK)


def test_text(home: Path) -> None:
    """One line a check, and under what does not work what to do."""
    program(home, "runc", "runc version 9")
    lines = CliRunner().invoke(mpack, ["doctor", "--offline"]).stdout.splitlines()
    assert "ok      runc        runc version 9" in lines
    place = next(number for number, line in enumerate(lines) if line.startswith("warn    podman"))
    assert lines[place + 1].strip() == "Install it to run images without docker."


def test_unwritable_store(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that cannot be written: nothing can be built, exit 3."""
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    done = CliRunner().invoke(mpack, ["doctor", "--offline", "--json"])
    assert done.exit_code == 3 and json.loads(done.stdout)["can_build"] is False


@pytest.mark.parametrize(("free", "status"), [(LITTLE_DISK - 1, MISSING), (LITTLE_DISK, WARN), (100 << 30, OK)])
def test_disk(monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    """A nearly full disk is a warning, a full one an obstacle."""
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: type("Usage", (), {"free": free}))
    assert [check.status for check in doctor.check_store()] == [status]


def test_index_that_nobody_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unreachable index is told in words, without the password in its URL."""
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://user:s3cret@127.0.0.1:1/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    [check] = doctor.check_index()
    assert check.status == WARN and "s3cret" not in check.detail + check.todo and check.todo


def test_ca_bundle(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle that is named and is absent or holds no certificate is a warning with its name."""
    for name in ("PIP_CERT", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, str(home / "ca.pem"))
    [check] = doctor.check_ca_bundle()
    assert check.status == WARN and "ca.pem" in check.detail and "SSL_CERT_FILE" in check.todo
    (home / "ca.pem").write_text("no certificate")
    [check] = doctor.check_ca_bundle()
    assert check.status == WARN and "ca.pem" in check.detail and "SSL_CERT_FILE" in check.todo


def test_python_and_uv() -> None:
    """The Python and the uv that mpack runs with."""
    [python], [uv] = doctor.check_python(), doctor.check_uv()
    assert python == Check("python", OK, ".".join(map(str, sys.version_info[:3])), vital=True)
    assert uv.status == OK and uv.detail.startswith("uv ")


def test_damaged_store(home: Path) -> None:
    """A store whose index is damaged is an obstacle with what to do."""
    (home / "home/data/store").mkdir(parents=True)
    (home / "home/data/store/index.json").write_text("{")
    [check] = doctor.check_bases()
    assert check.status == MISSING and check.vital and check.todo
