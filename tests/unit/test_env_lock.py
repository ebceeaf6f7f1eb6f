"""Locking against a local directory of tiny wheels: choices, preferences, relaxed pins, and why a lock fails."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path

import pytest

from mpack.contents import Contents, sha256_file
from mpack.env.index import IndexSettings
from mpack.env.install import install
from mpack.env.lock import lock_environment
from mpack.errors import EnvironmentFault, InputError
from mpack.plan import BaseImage, Environment
from mpack.spec import Requirement
from mpack.testing.wheels import make_wheel, serve_index


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> IndexSettings:
    """lib 1.0-2.0, app needing lib, old with wheels for CPython 3.9 only up to 1.5, and nothing else in the world."""
    links = tmp_path_factory.mktemp("links")
    for version in ("1.0", "1.1", "2.0"):
        make_wheel(links, "lib", version)
    make_wheel(links, "app", "1.0", requires=("lib>=1.1",))
    for version in ("1.2.1", "1.2.2", "1.5"):
        make_wheel(links, "old", version, tag="cp39-cp39-manylinux_2_17_x86_64")
    for version in ("1.2.3", "1.6"):
        make_wheel(links, "old", version, tag="cp311-cp311-manylinux_2_17_x86_64")
        make_wheel(links, "old", version, tag="cp311-cp311-manylinux_2_28_x86_64")
    make_wheel(links, "modern", "1.0", tag="cp311-cp311-manylinux_2_34_x86_64")
    return IndexSettings(no_index=True, find_links=(links.as_uri(),))


def lock(index: IndexSettings, *lines: str, runtime: tuple[str, ...] = (), **options: object) -> Environment:
    """The lock of the model's `lines` and the runtime's, for CPython 3.11 on linux/amd64."""
    model = [Requirement(line, "model", f"requirements.txt:{number}") for number, line in enumerate(lines, 1)]
    wanted = model + [Requirement(line, "runtime", "mpack-runtime[rest]") for line in runtime]
    return lock_environment(wanted, python="3.11", platform="linux/amd64", index=index, **options)  # type: ignore[arg-type]


def chosen(environment: Environment) -> dict[str, str]:
    return {package.name: f"{package.version} {package.source}" for package in environment.packages}


def test_one_wheel_is_locked_by_its_hash(index: IndexSettings) -> None:
    """Every package has one hash, of the best wheel for the platform, computed where the index gives none."""
    environment = lock(index, "old==1.6", runtime=("app",))
    assert chosen(environment) == {"app": "1.0 index", "lib": "2.0 index", "old": "1.6 index"}
    wheel = index.local_paths[0] / "old-1.6-cp311-cp311-manylinux_2_28_x86_64.whl"
    assert environment.packages[2].hashes == (f"sha256:{sha256_file(wheel)}",)
    assert (environment.python, environment.platform, environment.relaxed) == ("3.11", "linux/amd64", ())


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("old==1.6", r"old==1\.6 \(requirements\.txt:1\): no wheel for linux/arm64"),
        ("{wheel}", "is for manylinux_2_34_x86_64, not for linux/arm64"),
    ],
)
def test_another_platform(index: IndexSettings, line: str, told: str) -> None:
    """Wheels of an index or of the artifact for this platform alone are no wheels for another; pure ones are."""
    wheel = index.local_paths[0] / "modern-1.0-cp311-cp311-manylinux_2_34_x86_64.whl"
    sha256 = sha256_file(wheel)
    wanted = [Requirement(line.format(wheel=f"{wheel.name}#sha256={sha256}"), "model", "requirements.txt:1")]
    contents = Contents({sha256: wheel})
    with pytest.raises(InputError, match=told) as caught:
        lock_environment(wanted, python="3.11", platform="linux/arm64", index=index, contents=contents)
    assert caught.value.code == "requirements-unavailable"
    pure = lock_environment([Requirement("lib", "model", "x")], python="3.11", platform="linux/arm64", index=index)
    assert chosen(pure) == {"lib": "2.0 index"}


def test_the_base_is_preferred_where_it_fits(index: IndexSettings) -> None:
    """A version of the base that the requirements allow is taken and not installed; odd Debian versions are ignored."""
    environment = lock(index, "app", provided={"Lib": "1.1", "app": "1.0-2ubuntu3~x", "other": "3"})
    assert chosen(environment) == {"app": "1.0 index", "lib": "1.1 base"}
    assert [package.name for package in environment.to_install] == ["app"]


def test_the_model_wins_over_the_base(index: IndexSettings) -> None:
    """Where the model asks for another version than the base has, it is installed."""
    assert chosen(lock(index, "lib==2.0", provided={"lib": "1.1"})) == {"lib": "2.0 index"}


def test_newer_glibc_wheels_only_if_need_be(index: IndexSettings) -> None:
    """A wheel for glibc 2.34 is used when there is no other."""
    assert chosen(lock(index, "modern")) == {"modern": "1.0 index"}


def test_no_requirements_is_an_empty_environment(index: IndexSettings) -> None:
    """Nothing asked, nothing locked."""
    assert lock(index).packages == ()


def test_a_clash_names_both_sides(index: IndexSettings) -> None:
    """The error has the model's line and the runtime's."""
    with pytest.raises(InputError) as caught:
        lock(index, "lib==1.0", runtime=("app>=1",))
    assert caught.value.code == "requirements-clash"
    assert "model asks for lib==1.0 (requirements.txt:1)" in caught.value.message
    assert "runtime for app>=1 (mpack-runtime[rest])" in caught.value.message
    assert "uv: Because" in caught.value.message


def test_a_clash_within_the_model(index: IndexSettings) -> None:
    """Two of the model's own lines at odds do not blame the runtime."""
    with pytest.raises(InputError) as caught:
        lock(index, "lib==1.0", "app==1.0", runtime=("old",))
    assert caught.value.code == "requirements-clash"
    assert "model's requirements contradict each other" in caught.value.message


@pytest.mark.parametrize(
    ("line", "reason", "near"),
    [
        ("old==1.2.2", "no wheel for Python 3.11", "Nearest with one: 1.2.3"),
        ("lib==1.7", "no such version", "Nearest with one: 2.0, 1.1"),
        ("nosuch==1", "no such package", ""),
    ],
)
def test_unavailable_pins_are_explained(index: IndexSettings, line: str, reason: str, near: str) -> None:
    """Which pin, why, and which versions would do."""
    with pytest.raises(InputError) as caught:
        lock(index, "app", line)
    assert caught.value.code == "requirements-unavailable"
    assert line in caught.value.message and "(requirements.txt:2)" in caught.value.message
    assert reason in caught.value.message and near in caught.value.message


def test_relaxed_pins_move_to_the_nearest(index: IndexSettings) -> None:
    """With consent, a pin without a wheel moves within its minor series, and is listed."""
    environment = lock(index, "Old==1.2.2", "lib==1.0", relax=True)
    assert chosen(environment) == {"lib": "1.0 index", "old": "1.2.3 index"}
    assert environment.relaxed == ("old==1.2.2 -> 1.2.3",)


def test_pins_with_a_wheel_are_not_relaxed(index: IndexSettings) -> None:
    """Consent moves only what cannot be had."""
    assert lock(index, "lib==1.0", relax=True).relaxed == ()


def test_relaxing_does_not_hide_a_missing_package(index: IndexSettings) -> None:
    """What has no version at all stays an error."""
    with pytest.raises(InputError, match="no such package"):
        lock(index, "nosuch==1", relax=True)


def test_wheels_of_the_artifact(index: IndexSettings, tmp_path: Path) -> None:
    """A wheel that the artifact brings is locked by its own hash, and its dependencies come from the index."""
    wheel = make_wheel(tmp_path, "mine", "0.1", requires=("lib<2",))
    digest = sha256_file(wheel)
    contents = Contents({digest: wheel})
    environment = lock(index, f"wheels/{wheel.name}#sha256={digest}", contents=contents)
    assert chosen(environment) == {"lib": "1.1 index", "mine": "0.1 artifact"}
    assert environment.packages[1].hashes == (f"sha256:{digest}",)
    assert str(tmp_path) not in str(environment.to_json())


def test_a_wheel_that_the_artifact_lacks(index: IndexSettings) -> None:
    """The error names the wheel's path and the line."""
    with pytest.raises(InputError, match=r"wheels/x-1-py3-none-any.whl \(requirements.txt:1\) is not in the artifact"):
        lock(index, f"wheels/x-1-py3-none-any.whl#sha256={'0' * 64}", contents=Contents())


def test_git_needs_consent(index: IndexSettings) -> None:
    """A git URL is refused without --allow-vcs, before git or a build has run."""
    with pytest.raises(InputError) as caught:
        lock(index, "tool @ git+https://git.example/tool@main")
    assert caught.value.code == "requirements-invalid" and "--allow-vcs" in caught.value.hint


def test_git_urls_hold_no_password(index: IndexSettings) -> None:
    """Credentials in a git URL would be in the lock: refused, without repeating them."""
    with pytest.raises(InputError) as caught:
        lock(index, "tool @ git+https://me:hush@git.example/tool", allow_vcs=True)
    assert "credentials" in caught.value.message and "hush" not in str(caught.value)


def test_wheel_urls_hold_no_password(index: IndexSettings, tmp_path: Path) -> None:
    """Credentials in a wheel's URL would be in the lock as well: refused, without repeating them."""
    wheel = make_wheel(tmp_path, "far", "1.0")
    with serve_index(tmp_path, user="me", password="hush") as url, pytest.raises(InputError) as caught:
        place = url.partition("/simple")[0].replace("://", "://me:hush@")
        lock(index, f"far @ {place}/files/{wheel.name}")
    assert "credentials" in caught.value.message and "hush" not in str(caught.value)


def test_git_is_pinned_to_the_commit(index: IndexSettings, tmp_path: Path) -> None:
    """With consent a branch becomes a commit and the built wheel's hash."""
    source = tmp_path / "tool"
    (source / "tool").mkdir(parents=True)
    (source / "tool" / "__init__.py").write_text("x = 1\n")
    (source / "backend.py").write_text(BACKEND)
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    git = [
        "git",
        "-C",
        str(source),
        "-c",
        "user.name=x",
        "-c",
        "user.email=x@example.org",
        "-c",
        "commit.gpgsign=false",
    ]
    for arguments in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *arguments], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    environment = lock(index, f"tool @ git+{source.as_uri()}@main", allow_vcs=True)
    assert chosen(environment) == {"lib": "2.0 index", "tool": "1.0 vcs"}
    assert environment.packages[1].url == f"git+{source.as_uri()}@{commit}"
    assert environment == lock(index, f"tool @ git+{source.as_uri()}@{commit}", allow_vcs=True)
    base = BaseImage("base", "sha256:0", "linux/amd64", "/usr/bin/python3.11", "3.11.2")
    install(environment, base, tmp_path / "venv", "venv", index=index)
    assert (tmp_path / "venv/lib/python3.11/site-packages/tool.py").read_text() == "x = 1\n"


BACKEND = """
import zipfile
def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "tool-1.0-py3-none-any.whl"
    info = "tool-1.0.dist-info/"
    with zipfile.ZipFile(directory + "/" + name, "w") as archive:
        for path, text in (
            ("tool.py", "x = 1\\n"),
            (info + "METADATA", "Metadata-Version: 2.1\\nName: tool\\nVersion: 1.0\\nRequires-Dist: lib\\n"),
            (info + "WHEEL", "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"),
            (info + "RECORD", ""),
        ):
            archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), text)
    return name
"""


def test_an_index_that_does_not_answer() -> None:
    """Connection refused: the environment's fault, with the address and without the password."""
    index = IndexSettings(default="http://me:hush99@127.0.0.1:9/simple")
    with pytest.raises(EnvironmentFault) as caught:
        lock(index, "lib")
    assert caught.value.code == "index-unreachable"
    assert "127.0.0.1:9" in caught.value.message and "hush99" not in str(caught.value)


def test_an_unknown_platform(index: IndexSettings) -> None:
    """Platforms without wheels are named with those that have some."""
    with pytest.raises(InputError, match="linux/s390x"):
        lock_environment([], python="3.11", platform="linux/s390x", index=index)


def test_yanked_pins_are_taken_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As pip does: a yanked version that is pinned is used, and the log says so."""
    wheel = make_wheel(tmp_path / "files", "lib", "1.0")
    page = tmp_path / "simple" / "lib" / "index.html"
    page.parent.mkdir(parents=True)
    link = f'<a href="{wheel.as_uri()}#sha256={sha256_file(wheel)}" data-yanked="broken">{wheel.name}</a>'
    page.write_text(f"<!DOCTYPE html><html><body>{link}</body></html>")
    index = IndexSettings(default=(tmp_path / "simple").as_uri())
    with caplog.at_level(logging.WARNING, logger="mpack.env"):
        assert chosen(lock(index, "lib==1.0")) == {"lib": "1.0 index"}
    assert "yanked" in caplog.text and "broken" in caplog.text
