"""Which builder is chosen, and what is said where buildah is missing, too old, without ids, or out of space."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mpack.builders import buildahstore, choice
from mpack.engine import buildah as module
from mpack.engine.buildah import Buildah, Storage
from mpack.errors import MpackError
from mpack.oci.store import Store
from mpack.pruning import prune
from mpack.testing.tiny import tiny_base, tiny_plan

ENGINE, OLD_ENGINE = SimpleNamespace(buildkit=True), SimpleNamespace(buildkit=False, client="/bin/docker")


@pytest.mark.parametrize(
    ("asked", "step", "docker", "installed", "wanted"),
    [
        ("auto", False, None, True, "embedded"),
        ("auto", False, ENGINE, True, "embedded"),
        ("auto", True, ENGINE, True, "docker"),
        ("auto", True, None, True, "buildah"),
        ("auto", True, OLD_ENGINE, True, "buildah"),
        ("auto", True, None, False, "engine-unavailable"),
        ("auto", True, OLD_ENGINE, False, "engine-unavailable"),
        ("embedded", True, ENGINE, True, "plan-not-embeddable"),
        ("embedded", False, ENGINE, True, "embedded"),
        ("docker", False, None, True, "docker"),
        ("buildah", False, ENGINE, False, "buildah"),
    ],
)
def test_choice(
    asked: str,
    step: bool,
    docker: Any,
    installed: bool,
    wanted: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The builder that is asked for; else embedded if it can, docker if it answers, buildah if it is there."""
    monkeypatch.setattr(choice.shutil, "which", lambda name: "/usr/bin/buildah" if installed else None)
    (tmp_path / "model").mkdir()
    plan, _ = tiny_plan(tiny_base(Store(tmp_path / "store")), tmp_path / "model")
    template = tmp_path / "Mine.j2"
    more = "{% block after_files %}RUN true\n{% endblock %}" if step else ""
    template.write_text('{% extends "base.j2" %}' + more)
    try:
        found = choice.choose_builder(asked, plan, template, docker)
    except MpackError as error:
        found = error.code
        assert "RUN true" in error.message and error.hint
    assert found == wanted


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory on PATH but the system's own, with a `buildah` in it that fails."""
    directory = tmp_path / "bin"
    directory.mkdir()
    program(directory, "buildah", "echo 'buildah version 1.28.2 (image-spec 1.1.0)'")
    program(directory, "unshare", 'while [ "$1" != sh ]; do shift; done; shift 4; exec "$@"')
    program(directory, "newuidmap", "true")
    monkeypatch.setenv("PATH", str(directory))
    return directory


def program(directory: Path, name: str, does: str) -> None:
    (directory / name).write_text(f"#!/bin/sh\n{does}\n")
    (directory / name).chmod(0o755)


@pytest.mark.parametrize(
    ("change", "uid", "told"),
    [
        (lambda path: (path / "buildah").unlink(), 0, "buildah is not installed"),
        (lambda path: program(path, "buildah", "echo buildah version 1.19.6"), 0, "version 1.19.6"),
        (lambda path: program(path, "buildah", "echo broken >&2"), 0, "broken"),
        (lambda path: (path / "unshare").unlink(), 0, "needs unshare"),
        (lambda path: (path / "newuidmap").unlink(), 4711, "needs newuidmap"),
        (lambda path: None, 4711, "/etc/subuid has no line for 4711"),
    ],
)
def test_not_usable(change: Any, uid: int, told: str, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thing that is missing is named, with what to install."""
    change(programs)
    monkeypatch.setattr(module.os, "geteuid", lambda: uid)
    monkeypatch.setattr(module.os, "getuid", lambda: uid)
    with pytest.raises(MpackError) as caught:
        Buildah.find()
    assert caught.value.code == "tool-missing" and told in caught.value.message and caught.value.hint


@pytest.mark.parametrize(
    ("says", "code", "told"),
    [
        ("write /x: no space left on device", "disk-full", "cache prune"),
        ("it went wrong", "engine-failed", "doctor"),
        ("unshare: unshare failed: Operation not permitted", "engine-failed", "refuses"),
    ],
)
def test_failures(says: str, code: str, told: str, programs: Path, tmp_path: Path) -> None:
    """What buildah says decides the error; its words and its version are in the message."""
    program(programs, "buildah", f"echo '{says}' >&2; exit 125")
    (tmp_path / "work").mkdir()
    with (tmp_path / "lock").open("w") as lock, pytest.raises(MpackError) as caught:
        Storage(
            Buildah(str(programs / "buildah"), "1.28.2"), tmp_path / "root", tmp_path / "work", lock.fileno()
        ).collect()
    assert (caught.value.code, told in caught.value.hint) == (code, True)
    assert says in caught.value.message


def test_without_overlay(programs: Path, tmp_path: Path) -> None:
    """Where overlay does not work the storage is vfs; one that worked before is an error, and is not begun anew."""
    program(programs, "buildah", 'case "$3" in *=overlay) echo "not supported over overlayfs" >&2; exit 125 ;; esac')
    (tmp_path / "work").mkdir()
    with (tmp_path / "lock").open("w") as lock:
        storage = Storage(Buildah(str(programs / "buildah"), "1"), tmp_path / "root", tmp_path / "work", lock.fileno())
        storage.collect()
        assert 'driver = "vfs"' in (tmp_path / "work" / "storage.conf").read_text()
        (tmp_path / "root" / "overlay-images").mkdir(parents=True)
        (tmp_path / "next").mkdir()
        with pytest.raises(MpackError, match="not supported over overlayfs"):
            Storage(
                Buildah(str(programs / "buildah"), "1"), tmp_path / "root", tmp_path / "next", lock.fileno()
            ).collect()


def test_environment(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the caller's environment but PATH reaches buildah."""
    monkeypatch.setenv("SECRET_TOKEN", "tr0ub4dor-and-3")
    monkeypatch.setenv("STORAGE_DRIVER", "devicemapper")
    program(programs, "buildah", '[ "$4" != rm ] || exit 0; /usr/bin/env')
    (tmp_path / "work").mkdir()
    lines: list[str] = []
    with (tmp_path / "lock").open("w") as lock:
        storage = Storage(Buildah(str(programs / "buildah"), "1"), tmp_path / "root", tmp_path / "work", lock.fileno())
        storage.collect()
        (tmp_path / "work" / "iid").write_text("sha256:" + "0" * 64)
        storage.build("context", online=False, anew=False, proxies={}, on_line=lines.append, redact=str)
    names = {line.partition("=")[0] for line in lines}
    assert names - {"PWD", "OLDPWD", "SHLVL", "_", "LS_COLORS"} == {
        *("PATH", "HOME", "TMPDIR", "XDG_RUNTIME_DIR"),
        *("CONTAINERS_CONF", "CONTAINERS_REGISTRIES_CONF", "CONTAINERS_STORAGE_CONF"),
    }


def test_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second build says that it waits, and finds an empty place; what is in use is not pruned, what is not is."""
    monkeypatch.setenv("MPACK_HOME", str(tmp_path))
    place, told, found = buildahstore.storage_dir(), [], []
    waiting, done = threading.Event(), threading.Event()

    def second() -> None:
        with buildahstore.alone(place, lambda text: (told.append(text), waiting.set())) as (work, _):  # type: ignore[arg-type, func-returns-value]
            found.extend(os.listdir(work))
        done.set()

    with buildahstore.alone(place, told.append) as (work, _):
        (place / "storage").mkdir()
        (work / "file").touch()
        threading.Thread(target=second, daemon=True).start()
        assert waiting.wait(10) and not done.is_set()
        prune(buildahstore.entries(), older_than=0)
        assert (work / "file").exists()
    assert done.wait(10) and told == ["another build uses buildah: waiting for it"] and found == []
    [entry] = buildahstore.entries()
    entry.remove()
    assert buildahstore.entries() == [] and not (place / "storage").exists()
