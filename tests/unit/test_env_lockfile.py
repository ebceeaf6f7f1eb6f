"""The lock file: JSON both ways, whole or not at all, and clear words when it does not fit."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from mpack.env.lockfile import LockEntry, LockFile, LockInputs, lock_path, requirement_lines
from mpack.errors import EnvironmentFault, InputError
from mpack.pipeline import write_lock
from mpack.plan import BaseImage, Bytecode, Environment, LockedPackage
from mpack.request import BuildRequest
from mpack.resolve import ResolveOptions, check_consent
from mpack.spec import BaseWish, Requirement

INPUTS = LockInputs("docker-rest", "linux/amd64", "3.11", BaseWish(), True, ("flask>=2.2", "numpy==1.26.4"))
ENTRY = LockEntry(
    INPUTS.key,
    INPUTS.requirements,
    BaseImage(
        "python:3.11-slim", "sha256:" + "1" * 64, "linux/amd64", "/usr/local/bin/python3.11", "3.11.9", ("/usr/lib/x",)
    ),
    Environment(
        "3.11", "linux/amd64", (LockedPackage("numpy", "1.26.4", ("sha256:" + "2" * 64,)),), relaxed=("a==1 -> 2",)
    ),
    Bytecode("3.11.9", ("/opt/mpack/venv/x.py",)),
    "isal-1",
)


def test_json_both_ways(tmp_path: Path) -> None:
    """What is written is what is read, with and without byte code, and writing it again changes nothing."""
    path = tmp_path / "m.zip.mpack.lock"
    other = replace(ENTRY, key="other", bytecode=None)
    lock = LockFile({}).with_entry(ENTRY).with_entry(other)
    lock.write(path)
    first = path.stat()
    assert LockFile.read(path) == lock
    LockFile.read(path).write(path)
    assert path.stat().st_mtime_ns == first.st_mtime_ns and first.st_mode & 0o777 == 0o644
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_builds_at_once_lose_no_entry(tmp_path: Path) -> None:
    """Whoever adds an entry waits for the others."""
    path = tmp_path / "new" / "m.zip.mpack.lock"
    request = BuildRequest("m.zip", lock=path)
    entries = [replace(ENTRY, key=f"key {number}") for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda entry: write_lock(request, entry), entries)) == {path}
    assert LockFile.read(path).entries == {entry.key: entry for entry in entries}
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_an_absent_lock_is_empty(tmp_path: Path) -> None:
    """No file, no entries."""
    assert LockFile.read(tmp_path / "none").entries == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        '"x"',
        "{}",
        '{"schema": 99, "entries": []}',
        '{"schema": 1}',
        '{"schema": 1, "entries": 7}',
        '{"schema": 1, "entries": [7]}',
        '{"schema": 1, "entries": [{"key": "k"}]}',
        '{"schema": 1, "entries": [{"key": "k", "requirements": [], "base": null}]}',
    ],
)
def test_what_is_no_lock(tmp_path: Path, text: str) -> None:
    """Bad JSON, an unknown schema or wrong types: lock-invalid, naming the file and what to do."""
    path = tmp_path / "x.mpack.lock"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        LockFile.read(path)
    assert caught.value.code == "lock-invalid"
    assert str(path) in caught.value.message and "--update-lock" in caught.value.hint


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """A binary file is no lock either."""
    path = tmp_path / "x.mpack.lock"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError):
        LockFile.read(path)


def test_a_changed_requirement_is_named() -> None:
    """lock-mismatch says which requirement went and which came."""
    ENTRY.check(INPUTS)
    with pytest.raises(InputError) as caught:
        ENTRY.check(replace(INPUTS, requirements=("flask>=2.2", "numpy==2.0.0")))
    assert caught.value.code == "lock-mismatch"
    assert "numpy==1.26.4" in caught.value.message and "numpy==2.0.0" in caught.value.message
    assert "flask" not in caught.value.message


def test_a_failed_write_leaves_the_old_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk fails in the middle, the earlier file stays and no temporary one does."""
    path = tmp_path / "x.mpack.lock"
    LockFile({}).with_entry(ENTRY).write(path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentFault) as caught:
        LockFile({}).with_entry(replace(ENTRY, encoder="other")).write(path)
    assert caught.value.code == "disk-full"
    assert path.read_bytes() == before and [item.name for item in tmp_path.iterdir()] == [path.name]


def test_no_host_path_in_the_file(tmp_path: Path) -> None:
    """Only image paths, no path of the machine that wrote it."""
    path = tmp_path / "x.mpack.lock"
    LockFile({}).with_entry(ENTRY).write(path)
    assert str(tmp_path) not in path.read_text() and json.loads(path.read_text())["schema"] == 1


def test_requirement_lines_are_normal() -> None:
    """Order, repetition and surrounding blanks do not make another lock."""
    one = requirement_lines([Requirement("b==1 ", "model"), Requirement("a", "runtime"), Requirement("a", "model")])
    assert one == ("a", "b==1")


def test_where_locks_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the artifact; under the state directory for URLs, each with a file of its own."""
    monkeypatch.setenv("MPACK_HOME", str(tmp_path / "state-home"))
    artifact = tmp_path / "model.zip"
    assert lock_path(str(artifact)) == tmp_path / "model.zip.mpack.lock"
    assert lock_path(str(tmp_path / "folder") + "/") == tmp_path / "folder.mpack.lock"
    one, two = lock_path("https://a.example/m.zip"), lock_path("https://a.example/n.zip")
    assert one != two and one.is_relative_to(tmp_path / "state-home")


GIT = LockedPackage("own", "1.0", ("sha256:" + "3" * 64,), "vcs", "git+https://example.org/own@" + "a" * 40)
NUMPY = ENTRY.environment.packages[0]


@pytest.mark.parametrize(
    "package",
    [
        replace(NUMPY, name="numpy\n--no-binary numpy"),
        replace(NUMPY, name="-e"),
        replace(NUMPY, version="1.0\n--only-binary :none:"),
        replace(NUMPY, version="1.0 --config-settings=x"),
        replace(NUMPY, hashes=("sha256:" + "2" * 64 + "\n-r /etc/passwd",)),
        replace(NUMPY, hashes=()),
        replace(NUMPY, source="url", url="https://example.org/numpy-1.0.tar.gz"),
        replace(NUMPY, source="url", url="git+https://example.org/numpy.whl"),
        replace(NUMPY, source="url", url="https://example.org/x.whl\n--no-binary :all:\nhttps://example.org/x.whl"),
        replace(NUMPY, source="url", url=None),
        replace(NUMPY, source="url", url="https://me:hush@example.org/numpy-1.0-py3-none-any.whl"),
        replace(NUMPY, source="artifact", url=1),
        replace(NUMPY, source="elsewhere"),
        replace(GIT, url="git+https://example.org/own --help"),
        replace(GIT, url="git+https://hush@example.org/own"),
    ],
)
def test_a_package_that_mpack_would_not_have_locked_is_refused(tmp_path: Path, package: LockedPackage) -> None:
    """A lock edited by hand adds no option, no second line and no source archive to what uv and pip are told."""
    path = tmp_path / "lock"
    LockFile({}).with_entry(replace(ENTRY, environment=replace(ENTRY.environment, packages=(package,)))).write(path)
    with pytest.raises(InputError) as caught:
        LockFile.read(path)
    assert caught.value.code == "lock-invalid"


@pytest.mark.parametrize("source", ["../../etc/x.py", "/opt/../etc/x.py", "/opt/x.sh", "/opt/a\n/etc/b.py", "//x.py"])
def test_odd_paths_are_refused(tmp_path: Path, source: str) -> None:
    """Byte code is made for absolute, normal paths of Python sources only; so are the base's own paths."""
    entries = [replace(ENTRY, bytecode=Bytecode("3.11.9", (source,)))]
    if source != "/opt/x.sh":  # an interpreter may be called so
        entries.append(replace(ENTRY, base=replace(ENTRY.base, python=source)))
        entries.append(replace(ENTRY, base=replace(ENTRY.base, site_dirs=(source,))))
    for number, entry in enumerate(entries):
        path = tmp_path / f"lock{number}"
        LockFile({}).with_entry(entry).write(path)
        with pytest.raises(InputError) as caught:
            LockFile.read(path)
        assert caught.value.code == "lock-invalid"


def test_a_lock_is_no_consent_to_build_from_git() -> None:
    """A package from git in a lock is refused before anything is fetched, unless the user allows it himself."""
    entry = replace(ENTRY, environment=replace(ENTRY.environment, packages=(GIT,)))
    with pytest.raises(InputError, match="--allow-vcs"):
        check_consent(entry, ResolveOptions())
    check_consent(entry, ResolveOptions(allow_vcs=True))


def test_untrimmed_is_another_entry() -> None:
    """An environment with all its files is locked beside the trimmed one, and its byte code too."""
    assert replace(INPUTS, trim=False).key == f"{INPUTS.key} no-trim"
    entry = replace(ENTRY, bytecode=Bytecode("3.11.9", ("/opt/mpack/venv/x.py",), short_docstrings=True))
    assert LockEntry.from_json(entry.to_json()) == entry != ENTRY


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (replace(INPUTS, packager="docker-cli"), "the packager docker-rest, not docker-cli."),
        (replace(INPUTS, platform="linux/arm64"), "the platform linux/amd64, not linux/arm64."),
        (replace(INPUTS, python="3.13"), "Python 3.11, not 3.13."),
        (replace(INPUTS, base=BaseWish("own:1")), "the base auto, not own:1."),
        (replace(INPUTS, base=BaseWish(kind="triton")), "a base of kind none, not triton."),
        (replace(INPUTS, optimize="onnx"), "a model converted to none, not onnx."),
        (replace(INPUTS, trim=False, python=None), "Python 3.11, not any; a trimmed environment, not an untrimmed"),
    ],
)
def test_a_closed_lock_tells_the_nearest_entry(tmp_path: Path, asked: LockInputs, told: str) -> None:
    """What differs from the entry that is like it most; an open lock has just none."""
    path = tmp_path / "x.lock"
    LockFile({}).with_entry(ENTRY).with_entry(replace(ENTRY, key="docker-triton linux/s390x python=9")).write(path)
    assert LockFile.read(path).find(asked) is None and LockFile.read(path, closed=True).find(INPUTS) == ENTRY
    with pytest.raises(InputError) as caught:
        LockFile.read(path, closed=True).find(asked)
    assert caught.value.code == "lock-mismatch" and f"The nearest is for {told}" in caught.value.message
    assert asked.key in caught.value.message and f"({INPUTS.key})" in caught.value.message


def test_foreign_keys_do_not_reach_the_terminal(tmp_path: Path) -> None:
    """A key is anybody's text: of escapes and endless lines the message has a harmless, short form."""
    path = tmp_path / "x.lock"
    LockFile({}).with_entry(replace(ENTRY, key="docker-rest \x1b[2J" + "x" * 9999)).write(path)
    with pytest.raises(InputError) as caught:
        LockFile.read(path, closed=True).find(INPUTS)
    assert "\x1b" not in caught.value.message and len(caught.value.message) < 1500


def edited(path: list[str], value: object) -> str:
    """The lock of ENTRY as text, with one field of its entry set, or taken away by `...`."""
    data = json.loads(LockFile({}).with_entry(ENTRY).text)
    place = data["entries"][0]
    for name in path[:-1]:
        place = place[name]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (edited(["environment"], ...), f"entry 1 ({INPUTS.key}): the field 'environment' is missing"),
        (edited(["base"], 7), f"entry 1 ({INPUTS.key}): the field 'base': a value is of another type"),
        (edited(["environment", "packages"], ...), "the field 'environment': 'packages' is missing"),
        (edited(["base", "digest"], "sha256:1"), "'sha256:1' is not a digest"),
        ('{"schema": 2, "mpack": "9.1", "entries": []}', "by a newer mpack: by 9.1, schema 2; this is"),
        ('{"schema": "x"}', "its schema is 'x', not 1"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_damage_is_named(tmp_path: Path, text: str, told: str) -> None:
    """The entry and the field that are wrong, and a newer mpack's lock as that."""
    path = tmp_path / "x.lock"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        LockFile.read(path)
    assert caught.value.code == "lock-invalid" and told in caught.value.message
