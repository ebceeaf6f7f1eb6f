"""What these tests share: mpack as a user installs it, homes that hold nothing but a base, another user."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mpack.oci.store import Store
from mpack.testing.moto import moto_environment
from mpack.testing.registryserver import RegistryServer, registry_server

ROOT = Path(__file__).parents[2]
BASE = "mpack-base:python3.11"
#: A user without any right; as root the tests become him, else they are already somebody.
OTHER = 65534


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """A directory that other users may walk into, as pytest's own are not."""
    made = Path(tempfile.mkdtemp(prefix="mpack-test-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="session")
def sources(place: Path) -> Path:
    """The three distributions as they are now: every installation of the session is of the same sources."""
    target = place / "sources"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "packagers", "runtime"):
        shutil.copytree(ROOT / name, target / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, target / name)
    return target


@pytest.fixture(scope="session")
def installed(place: Path, sources: Path) -> Callable[[str], Path]:
    """`installed(interpreter)`: the command `mpack` of a fresh installation into a venv of that interpreter."""
    made: dict[str, Path] = {}

    def install(interpreter: str) -> Path:
        if interpreter not in made:
            venv = place / f"venv-{len(made)}"
            uv = str(Path(sys.executable).with_name("uv"))
            packages = [str(sources), str(sources / "packagers"), str(sources / "runtime")]
            for command in (
                [uv, "venv", "--python", interpreter, str(venv)],
                [uv, "pip", "install", "--python", str(venv / "bin" / "python"), *packages],
            ):
                done = subprocess.run(command, capture_output=True, text=True)
                assert done.returncode == 0, done.stderr
            made[interpreter] = venv / "bin" / "mpack"
        return made[interpreter]

    return install


@pytest.fixture(scope="session")
def interpreters() -> dict[str, str]:
    """Minor version -> interpreter, of every Python that mpack runs on and this machine has."""
    found: dict[str, str] = {f"3.{sys.version_info[1]}": getattr(sys, "_base_executable", sys.executable)}
    candidates = [*Path("/usr/bin").glob("python3.*"), *Path("/usr/local/bin").glob("python3.*")]
    candidates += [path / "bin" / "python" for path in sorted(Path("~/.pyenv/versions").expanduser().glob("3.*"))]
    for path in candidates:
        asked = "import sys, ensurepip, venv; print(f'{sys.version_info[0]}.{sys.version_info[1]}')"
        if path.name != "python" and not re.fullmatch(r"python3\.\d+", path.name):
            continue
        done = subprocess.run([str(path), "-c", asked], capture_output=True, text=True)
        minor = done.stdout.strip()
        if done.returncode == 0 and tuple(map(int, minor.split("."))) >= (3, 10):
            found.setdefault(minor, str(path))
    return found


@pytest.fixture(scope="session")
def base_home(mpack: Any, mpack_home: Path, place: Path) -> Callable[..., Path]:
    """`base_home(name, owner=None)`: a new MPACK_HOME that holds the base image and nothing else."""
    store = Store(mpack_home / "data" / "store")
    if store.find_record(BASE) is None:
        mpack("base", "build", "--python", "3.11")

    def make(name: str, owner: int | None = None) -> Path:
        record = store.find_record(BASE)
        assert record is not None
        image = store.image(record.digest)
        home = place / name
        copy = Store(home / "data" / "store")
        with copy.writing() as blob:  # makes the directories
            blob.write(b"")
        copy.path(blob.digest).unlink()
        for digest in (image.digest, image.id, *(layer.digest for layer in image.layers)):
            shutil.copy(store.path(digest), copy.path(digest))
        copy.add_image(copy.image(image.digest), record.names, role="base")
        if owner is not None:
            for path in (home, *home.rglob("*")):
                os.chown(path, owner, owner)
        return home

    return make


@dataclass(frozen=True)
class Somebody:
    """A user without rights, with a directory of his own."""

    uid: int
    directory: Path

    def run(
        self, command: list[str], *, umask: int = 0o022, offline: bool = False, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command as him, in his directory, with his own TMPDIR and HOME; `offline`: without any network."""
        become = ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups", "--"]
        without = ["unshare", "--net"] if os.getuid() == 0 else ["unshare", "--user", "--map-current-user", "--net"]
        return subprocess.run(
            [*(without if offline else []), *(become if os.getuid() == 0 else []), *command],
            capture_output=True,
            text=True,
            cwd=self.directory,
            umask=umask,
            env={
                **{key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "MPACK_"))},
                "HOME": str(self.directory),
                "TMPDIR": str(self.directory / "tmp"),
                **environment,
            },
        )


@pytest.fixture(scope="session")
def somebody(place: Path) -> Somebody:
    """Another user where the suite runs as root, else its own."""
    uid = OTHER if os.getuid() == 0 else os.getuid()
    directory = place / "somebody"
    (directory / "tmp").mkdir(parents=True)
    for path in (directory, directory / "tmp"):
        os.chown(path, uid, uid)
    return Somebody(uid, directory)


@pytest.fixture(scope="session")
def echo(place: Path) -> dict[str, str]:
    """The environment in which the sample plugin of a third party is installed; its images need no package."""
    target = place / "plugins"
    source = place / "mpack-echo"
    shutil.copytree(ROOT / "fixtures" / "plugins" / "mpack-echo", source)
    options = ["--python", sys.executable, "--no-deps", "--no-build-isolation", "--target", str(target)]
    uv = Path(sys.executable).with_name("uv")
    done = subprocess.run([str(uv), "pip", "install", *options, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {"PYTHONPATH": str(target)}


@pytest.fixture(scope="session")
def model(place: Path) -> Path:
    """A model of some bytes, which mpack inspects as any other."""
    source = ROOT / "fixtures" / "models" / "onnx-two-inputs" / "scores.onnx"
    return Path(shutil.copy(source, place / "scores.onnx"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """A registry without TLS and without password."""
    with registry_server(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """A registry with TLS under a CA of its own and a password."""
    with registry_server(tmp_path_factory.mktemp("secured"), secured=True) as server:
        yield server


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """moto's interpreter; MPACK_TEST_HOME keeps its environment between sessions."""
    kept = os.environ.get("MPACK_TEST_HOME")
    return moto_environment(Path(kept) if kept else tmp_path_factory.mktemp("moto"), ROOT / "requirements" / "s3.txt")
