"""Who the command line runs as. Users are changed in child processes, so the tests of it need root."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mpack_runtime.cli import user
from mpack_runtime.cli.errors import Unusable
from mpack_runtime.cli.user import NOBODY, as_nobody_for_root, become_nobody, become_owner

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def image(monkeypatch: pytest.MonkeyPatch) -> None:
    """This interpreter passes for that of an image."""
    monkeypatch.setattr(user, "VENV", sys.prefix)


def in_child(work: Callable[[], str]) -> str:
    """What `work` says in a forked child, which ends there."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = work()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        said = stream.read()
    os.waitpid(child, 0)
    return said


def who() -> str:
    """User, group, other groups, HOME."""
    return f"{os.getresuid()} {os.getresgid()} {os.getgroups()} {os.environ['HOME']}"


@needs_root
def test_it_becomes_the_owner_for_good(image: None, tmp_path: Path) -> None:
    """All three user and group ids and no other group; root cannot be had back; a result belongs to the owner."""
    directory = tmp_path / "volume"
    directory.mkdir()
    os.chown(directory, 1234, 2345)
    tmp_path.chmod(0o755)

    def work() -> str:
        os.chdir(directory)
        assert become_owner(directory)
        try:
            os.setuid(0)
        except PermissionError:
            (Path("result")).write_text("x")
            return who()
        return "root again"

    assert in_child(work) == "(1234, 1234, 1234) (2345, 2345, 2345) [] /"
    assert ((directory / "result").stat().st_uid, (directory / "result").stat().st_gid) == (1234, 2345)


@needs_root
def test_a_directory_of_roots_is_left_to_the_caller(image: None, tmp_path: Path) -> None:
    """become_owner does not stay root silently: it says False."""
    assert in_child(lambda: str(become_owner(tmp_path))) == "False"


@needs_root
def test_nobody_works_while_root_finishes(image: None, tmp_path: Path) -> None:
    """`work` runs as 65532 and writes through open files; `finish`, as root, hears how it ended."""
    sink = (tmp_path / "partial").open("w")

    def work() -> int:
        sink.write(str(os.getuid()))
        sink.close()
        return 0

    def run() -> str:
        finished: list[tuple[bool, int]] = []
        code = as_nobody_for_root(work, lambda succeeded: finished.append((succeeded, os.getuid())))
        return f"{code} {finished}"

    assert in_child(run) == "0 [(True, 0)]"
    assert (tmp_path / "partial").read_text() == str(NOBODY)
    assert in_child(lambda: str(as_nobody_for_root(lambda: 1, lambda succeeded: None))) == "1"

    def crash() -> int:
        os.kill(os.getpid(), 9)
        return 0

    assert in_child(lambda: str(as_nobody_for_root(crash, lambda succeeded: None))) == str(128 + 9)


@needs_root
def test_without_a_directory_it_becomes_nobody(image: None) -> None:
    """info and self-check run as 65532."""
    assert in_child(lambda: become_nobody() or who()).startswith(f"({NOBODY}, {NOBODY}, {NOBODY})")


def test_without_the_right_to_change_users_it_says_what_to_do(
    image: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root without CAP_SETUID: an error with the --user to give, and no error where nothing must be changed."""

    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "setgroups", refused)
    real = Path.stat
    monkeypatch.setattr(Path, "stat", lambda self, **_: os.stat_result((*real(self)[:4], 1234, 2345, *real(self)[6:])))
    with pytest.raises(Unusable, match="--user 1234:2345"):
        become_owner(tmp_path)
    become_nobody()


def test_outside_an_image_nothing_changes(tmp_path: Path) -> None:
    """`mpack run --local` runs the model as the user who asked for it."""
    before = os.getresuid()
    assert become_owner(tmp_path)
    become_nobody()
    assert os.getresuid() == before
