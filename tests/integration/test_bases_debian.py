"""mpack's own base images, built from Debian's real packages: twice the same, without root, run, built upon."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mpack.bases import Bases
from mpack.oci.image import OciImage
from mpack.oci.rootfs import read_files
from mpack.oci.store import Store

pytestmark = pytest.mark.integration
HERE = "linux/amd64"

#: Imports what C extensions of the standard library need, and what wheels link against.
PROBE = """
import bz2, ctypes, curses, decimal, json, lzma, os, pwd, pydoc, readline, socket, sqlite3, ssl, sys, uuid
import asyncio, concurrent.futures, http.client, logging.config, multiprocessing, unittest, xml.etree.ElementTree
import zlib, zoneinfo
for name in ("libgomp.so.1", "libstdc++.so.6"):
    ctypes.CDLL(name)
print(json.dumps({
    "user": pwd.getpwuid(os.getuid()).pw_name, "roots": len(ssl.create_default_context().get_ca_certs()),
    "zone": str(zoneinfo.ZoneInfo("Europe/Berlin")), "encoding": sys.getfilesystemencoding(),
    "programs": sorted(os.listdir("/usr/bin") + os.listdir("/usr/sbin")), "service": socket.getservbyname("https"),
    "system": open("/etc/os-release").read().split('"')[1], "known": sorted(os.listdir("/var/lib/dpkg/status.d"))[:2],
}))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def command(home: Path) -> Callable[..., str]:
    """`command(*arguments)`: the standard output of mpack with a home of this module's own, and without an engine
    unless `engine=True`."""

    def run(*arguments: str, engine: bool = False) -> str:
        program = Path(sys.executable).with_name("mpack")
        environment = {**os.environ, "MPACK_HOME": str(home)}
        if not engine:
            environment["DOCKER_HOST"] = f"unix://{home}/no-engine"
        done = subprocess.run([program, *arguments], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def store(home: Path) -> Store:
    return Store(home / "data" / "store")


def names_of(image: OciImage) -> set[str]:
    return set(read_files(image, lambda path: False))


@pytest.mark.docker
@pytest.mark.parametrize("python", ["3.11", "3.13"])
def test_base_runs(engine: str, command: Callable[..., str], store: Store, python: str) -> None:
    """Built, small, in store and engine under one name; runs read-only as nobody, with Python as its only program."""
    name = command("base", "build", "--python", python, engine=True).strip()
    try:
        assert name == f"mpack-base:python{python}"
        image = store.resolve(name)
        assert sum(layer.unpacked_size or 0 for layer in image.layers) < 60e6
        assert Bases(store, None).inspect(name, HERE).minor == python
        options = ["--read-only", "--cap-drop=ALL", "--network=none"]
        done = subprocess.run(
            [engine, "run", "--rm", "-i", *options, name, "python3", "-"], input=PROBE, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["programs"] == ["python", "python3", f"python{python}"]
        assert found["user"] == "nonroot" and found["roots"] > 100 and found["encoding"] == "utf-8"
        assert found["system"].startswith("Debian") and found["known"] == ["base-files", "ca-certificates"]
    finally:
        subprocess.run([engine, "rmi", "-f", name], capture_output=True, check=True)


def test_same_digest_without_root_elsewhere(command: Callable[..., str], store: Store, tmp_path: Path) -> None:
    """Another user without root, another umask, time zone and directory: the same digest, nothing of the host changed.

    What would vary and is fixed: times, owners, modes, the order of entries, apt's state, maintainer scripts' results.
    """
    command("base", "build", "--python", "3.11")
    place = Path("/tmp") / f"mpack-other-{os.getpid()}"
    place.mkdir(mode=0o777)
    # As root the test becomes nobody; else it is without root already.
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.getuid() == 0 else []
    if nobody:
        os.chown(place, 65534, 65534)
    # nobody cannot read this checkout, so the program travels as a copy.
    shutil.copytree(Path(__file__).parents[2] / "src" / "mpack", place / "src" / "mpack")
    code = (
        "import os, sys; os.umask(0o077); from pathlib import Path\n"
        "from mpack.oci.store import Store; from mpack.bases.build import build_recipe_image\n"
        "from mpack.bases.recipe import make_recipe\n"
        f"print(build_recipe_image(Store(Path('{place}/store')), make_recipe('3.11'), '{HERE}', lambda _: None).digest)"
    )
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    environment = {"TZ": "Asia/Tokyo", "PATH": os.environ["PATH"], "HOME": str(place), "TMPDIR": str(place)}
    environment |= {key: value for key, value in os.environ.items() if key.lower().endswith("_proxy")}
    try:
        environment["PYTHONPATH"] = os.pathsep.join([str(place / "src"), *_readable(libraries, place)])
        done = subprocess.run(
            [*nobody, "/usr/bin/python3", "-c", code],
            capture_output=True,
            text=True,
            cwd=place,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == store.resolve("mpack-base:python3.11").digest
        assert [path.name for path in place.iterdir() if path.name.startswith("mpack-base-")] == []
    finally:
        shutil.rmtree(place)


def _readable(libraries: list[str], place: Path) -> list[str]:
    """The few libraries that building a base needs, where another user can read them."""
    target = place / "lib"
    for library in libraries:
        for name in ("deflate", "packaging", "click", "platformdirs"):
            if (found := Path(library) / name).is_dir() and not (target / name).exists():
                shutil.copytree(found, target / name)
    return [str(target)]


def test_system_packages(command: Callable[..., str], store: Store) -> None:
    """Further Debian packages come with what they depend on and keep their programs; the rest stays as small."""
    name = command("base", "build", "--package", "jq").strip()
    files = names_of(store.resolve(name))
    assert "/usr/bin/jq" in files and any("libonig" in path for path in files)
    assert "/usr/bin/openssl" not in files and "/usr/share/man/man1/jq.1.gz" not in files
    assert json.loads(command("base", "list", "--json"))[0]["kind"] == "recipe"


def test_foreign_platform(command: Callable[..., str], store: Store) -> None:
    """A base for another processor is built by extraction, without emulation."""
    name = command("base", "build", "--platform", "linux/arm64", "--python", "3.11").strip()
    base = Bases(store, None).inspect(name, "linux/arm64")
    assert (name, base.platform, base.minor) == ("mpack-base:python3.11-arm64", "linux/arm64", "3.11")
    assert "/usr/lib/aarch64-linux-gnu/libgomp.so.1" in names_of(store.resolve(name))


@pytest.mark.docker
def test_dockerfile_on_the_base_with_a_shell(
    engine: str, command: Callable[..., str], home: Path, tmp_path: Path, remove_image: Callable[[str], None]
) -> None:
    """`FROM mpack-base:python3.11-shell` and `RUN pip install` make a base that mpack reads from the engine."""
    name = command("base", "build", "--shell", engine=True).strip()
    remove_image(name)
    remove_image("mpack-test-own:1")
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        info = "tiny-1.2.dist-info"
        archive.writestr("tiny.py", "answer = 42\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    (tmp_path / "tiny-1.2-py3-none-any.whl").write_bytes(wheel.getvalue())
    (tmp_path / "Dockerfile").write_text(
        f"FROM {name}\nCOPY *.whl /tmp/\nRUN python3 -m pip install --no-index /tmp/*.whl && rm /tmp/*.whl\n"
        "RUN python3 -c 'import tiny; assert tiny.answer == 42' | tee /etc/mine && ls / | grep -q usr\n"
    )
    from mpack.engine import Docker

    docker = Docker.find()
    docker.tag(docker.build(tmp_path, platform=HERE), "mpack-test-own:1")
    bases = Bases(Store(home / "data" / "store"), docker, say=lambda _: None)
    base = bases.inspect("mpack-test-own:1", HERE)
    assert base.python_version.startswith("3.11.") and dict(bases.packages(base))["tiny"] == "1.2"
    assert base.digest == (docker.inspect("mpack-test-own:1") or {})["Id"]


def test_prune(command: Callable[..., str], store: Store) -> None:
    """All bases are forgotten and their space is freed."""
    assert command("base", "prune") and store.records() == [] and store.disk_usage() == 0
    assert command("base", "list") == ""
