"""pylock.toml both ways: what mpack writes is valid and uv and pip install it; what others wrote is held to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.pylock import Pylock

from mpack.contents import sha256_file
from mpack.env import lockformats
from mpack.env.index import IndexSettings
from mpack.env.locations import locate_wheels, wheel_sizes
from mpack.env.lock import lock_environment
from mpack.env.lockpath import is_pylock
from mpack.env.pins import read_pins, tomllib
from mpack.env.process import uv_binary
from mpack.errors import InputError
from mpack.plan import BaseImage, Environment, LockedPackage
from mpack.spec import Requirement
from mpack.testing.wheels import make_wheel, serve_index

BASE = BaseImage("base:1", "sha256:" + "1" * 64, "linux/amd64", "/usr/bin/python3", "3.11.2")
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
USER, PASSWORD = "somebody", "hush-hush"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lib in two versions, app that needs any of them, and one with wheels for several platforms."""
    directory = tmp_path_factory.mktemp("served")
    for version in ("1.0", "2.0"):
        make_wheel(directory, "lib", version)
    make_wheel(directory, "app", "1.0", requires=("lib",))
    for machine in ("x86_64", "aarch64"):
        make_wheel(directory, "fast", "1.0", tag=f"py3-none-manylinux_2_17_{machine}")
    return directory


@pytest.fixture(scope="module")
def index(wheels: Path) -> Iterator[IndexSettings]:
    """They, on an index that asks for a password."""
    with serve_index(wheels, user=USER, password=PASSWORD) as url:
        yield IndexSettings(default=url.replace("://", f"://{USER}:{PASSWORD}@"))


def lock(index: IndexSettings, *lines: str, python: str = "3.11", pins: Path | None = None) -> Environment:
    wanted = [Requirement(line, "model", f"requirements.txt:{number}") for number, line in enumerate(lines, 1)]
    found = read_pins(pins, BASE) if pins else None
    return lock_environment(wanted, python=python, platform="linux/amd64", index=index, pins=found)


def written(environment: Environment, index: IndexSettings) -> str:
    located = locate_wheels(environment.packages, python=environment.python, platform=environment.platform, index=index)
    return lockformats.pylock(environment, located)


def test_pylock_is_valid(index: IndexSettings, wheels: Path) -> None:
    """The specification's own checks pass; one wheel each, by URL, size and hash; no password."""
    text = written(lock(index, "app", "fast"), index)
    assert PASSWORD not in text and USER not in text
    value = Pylock.from_dict(tomllib.loads(text))
    assert [str(item.name) for item in value.packages] == ["app", "fast", "lib"]
    fast = value.packages[1].wheels
    assert fast is not None and [item.filename for item in fast] == ["fast-1.0-py3-none-manylinux_2_17_x86_64.whl"]
    assert fast[0].hashes["sha256"] == sha256_file(wheels / fast[0].filename)


@pytest.mark.parametrize("tool", ["uv", "pip"])
def test_other_tools_install_it(tool: str, index: IndexSettings, tmp_path: Path) -> None:
    """uv and pip put the locked versions in place, and refuse a wheel with another hash."""
    environment = lock(index, "app", "lib<2", python=HERE)
    lockfile = tmp_path / "pylock.toml"
    lockfile.write_text(written(environment, index))
    command = {
        "uv": [uv_binary(), "pip", "install", "--python", sys.executable, "--no-config"],
        "pip": [sys.executable, "-m", "pip", "install"],
    }[tool]
    command += ["--target", str(tmp_path / "there"), "-r", str(lockfile)]
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n")
    netrc.chmod(0o600)
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "NETRC": str(netrc), "PIP_CONFIG_FILE": "/dev/null"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "there").glob("*.dist-info")) == [
        "app-1.0.dist-info",
        "lib-1.0.dist-info",
    ]
    digest = environment.packages[1].hashes[0].removeprefix("sha256:")
    lockfile.write_text(lockfile.read_text().replace(digest, "0" * 64))
    command[command.index("--target") + 1] = str(tmp_path / "elsewhere")
    env["HOME"] = str(tmp_path / "another")  # without what was cached
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode != 0 and "hash" in (done.stderr + done.stdout).lower()


def test_sources_other_than_an_index() -> None:
    """A repository's commit, an artifact's wheel and a base's package are what they are; two of them need a word."""
    wheel = "sha256:" + "a" * 64
    packages = (
        LockedPackage("own", "1.0", (wheel,), "artifact", "own-1.0-py3-none-any.whl"),
        LockedPackage("tool", "1.0", (wheel,), "vcs", f"git+https://git.example/tool@{'c' * 40}#subdirectory=py"),
    )
    environment = Environment("3.11", "linux/arm64", packages)
    value = Pylock.from_dict(tomllib.loads(lockformats.pylock(environment, {})))
    own, tool = value.packages
    assert own.archive is not None and own.archive.path == "own-1.0-py3-none-any.whl"
    assert tool.vcs is not None and (tool.vcs.url, tool.vcs.commit_id) == ("https://git.example/tool", "c" * 40)
    assert (tool.vcs.subdirectory, tool.version) == ("py", None)
    assert len(list(lockformats.notes(environment))) == 2
    assert lockformats.requirements(environment, {}).splitlines()[1:] == [
        "./own-1.0-py3-none-any.whl \\",
        f"    --hash={wheel}",
        f"tool @ git+https://git.example/tool@{'c' * 40}#subdirectory=py",
    ]


def test_a_locked_wheel_that_the_index_lacks(index: IndexSettings) -> None:
    """Every package whose hash the index does not have is named."""
    packages = [LockedPackage(name, "1.0", ("sha256:" + "0" * 64,)) for name in ("app", "lib")]
    with pytest.raises(InputError, match=r"app==1\.0, lib==1\.0") as caught:
        locate_wheels(packages, python="3.11", platform="linux/amd64", index=index)
    assert caught.value.code == "lock-mismatch"
    gone = [LockedPackage("lib", "3.0", ("sha256:" + "0" * 64,))]
    with pytest.raises(InputError, match=r"lib==3\.0: .*no such version") as caught:
        locate_wheels(gone, python="3.11", platform="linux/amd64", index=index)


def test_sizes(index: IndexSettings, wheels: Path) -> None:
    """Of an index that says no sizes the wheels are measured, of one name several; what is gone is left out."""
    packages = [*lock(index, "app").packages, *lock(index, "lib<2").packages]
    packages.append(LockedPackage("gone", "1.0", ("sha256:" + "0" * 64,)))
    sizes = wheel_sizes(packages, python="3.11", platform="linux/amd64", index=index)
    files = {("app", "1.0"), ("lib", "1.0"), ("lib", "2.0")}
    assert sizes == {key: (wheels / f"{'-'.join(key)}-py3-none-any.whl").stat().st_size for key in files}


def test_pins_hold(index: IndexSettings, tmp_path: Path) -> None:
    """A pin decides a version that the requirements leave open; what is not pinned is resolved; both is told."""
    pins = tmp_path / "pylock.toml"
    pins.write_text(written(lock(index, "lib==1.0"), index))
    environment = lock(index, "app", pins=pins)
    assert [(item.name, item.version) for item in environment.packages] == [("app", "1.0"), ("lib", "1.0")]
    found = read_pins(pins, BASE)
    found.require(environment)
    assert found.beyond(environment) == ["app"]
    with pytest.raises(InputError, match=r"lib 2\.0 is locked, 1\.0 pinned"):
        found.require(lock(index, "app"))


def test_a_pylock_by_uv(index: IndexSettings, tmp_path: Path) -> None:
    """What uv locked for every platform pins the wheel of this one."""
    (tmp_path / "in").write_text("fast\nlib<2\n")
    command = [uv_binary(), "pip", "compile", "--universal", "--no-config", "-q", "in", "-o", "pylock.dev.toml"]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **index.uv_env()}
    subprocess.run([*command, "--python", sys.executable], cwd=tmp_path, env=env, check=True)
    environment = lock(index, "lib", "fast", pins=tmp_path / "pylock.dev.toml")
    assert [(item.name, item.version) for item in environment.packages] == [("fast", "1.0"), ("lib", "1.0")]
    assert environment == lock(index, "lib<2", "fast")


LIB = '[[packages]]\nname = "lib"\nversion = "1.0"\n'
WHEEL = f'wheels = [{{ url = "https://a.example/lib-1.0-py3-none-any.whl", hashes = {{ sha256 = "{"0" * 64}" }} }}]\n'
HEAD = 'lock-version = "1.0"\ncreated-by = "me"\n'


@pytest.mark.parametrize(
    ("text", "line", "code", "told"),
    [
        (
            HEAD + LIB + WHEEL,
            "lib==2.0",
            "lock-mismatch",
            r"lib==2\.0 \(requirements\.txt:1\) is asked for, 1\.0 pinned",
        ),
        (HEAD + LIB + WHEEL, "lib", "lock-mismatch", r"no wheel of lib==1\.0 with a hash that the pins name"),
        (HEAD + (LIB + WHEEL).replace("1.0", "1.5"), "app", "lock-mismatch", r"cannot be had with the versions that"),
        (HEAD + LIB + 'directory = { path = "." }\n', "lib", "lock-mismatch", "lib is to come from a directory"),
        (
            HEAD + 'requires-python = ">=3.12"\npackages = []\n',
            "lib",
            "lock-mismatch",
            r"is not for Python 3\.11\.2 on",
        ),
        (
            HEAD + "environments = [\"sys_platform == 'win32'\"]\npackages = []\n",
            *("lib", "lock-mismatch", "any of the environments"),
        ),
        (HEAD.replace("1.0", "2.0") + "packages = []\n", "lib", "lock-invalid", "version 2.0 is not supported"),
        (HEAD + '[[packages]]\nversion = "1"\n', "lib", "lock-invalid", r"name.* at packages\[0\]|packages\[0\].*name"),
        ("lock-version = ", "lib", "lock-invalid", "Invalid value"),
        ("a = " + "[" * 100_000, "lib", "lock-invalid", "cannot be read"),
    ],
)
def test_pins_that_do_not_fit(text: str, line: str, code: str, told: str, index: IndexSettings, tmp_path: Path) -> None:
    """Other versions, hashes, sources, environments, and what is no pylock.toml at all: which, and why."""
    path = tmp_path / "pylock.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=told) as caught:
        environment = lock(index, line, pins=path)
        read_pins(path, BASE).require(environment)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("pylock.toml", True), ("pylock.dev.toml", True), ("pylock.a.b.toml", False), ("model.mpack.lock", False)],
)
def test_names(name: str, is_one: bool) -> None:
    """PEP 751 prescribes how the file is called."""
    assert is_pylock(Path("some") / name) is is_one
