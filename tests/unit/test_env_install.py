"""Installing: the venv's files, the same bytes everywhere, what is left out, and nothing half made when it fails."""

from __future__ import annotations

import ast
import csv
import hashlib
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from mpack.contents import Contents, sha256_file
from mpack.env import assemble, layout
from mpack.env.index import IndexSettings
from mpack.env.install import assemble_job, install, install_error
from mpack.env.layout import lay_out
from mpack.env.process import uv_binary
from mpack.env.wheels import download_wheels
from mpack.errors import EnvironmentFault, InputError
from mpack.plan import BaseImage, Environment, LockedPackage
from mpack.testing.wheels import make_wheel

SITE = "lib/python3.11/site-packages"
BASE = BaseImage(
    "base", "sha256:0", "linux/amd64", "/usr/bin/python3.11", "3.11.2", ("/usr/lib/python3/dist-packages",)
)

APP = {
    "app/__init__.py": "from app.more import x\n",
    "app/more.py": "x = 1\n",
    "app/tool": "#!/bin/sh\n",
    "app/types.pyi": "x: int\n",
    "app-1.0.data/data/share/app/data.txt": "data\n",
    "app-1.0.data/data/share/man/man1/app.1": "manual\n",
    "app-1.0.data/data/etc/app.conf": "a = 1\n",
    "app-1.0.data/headers/app.h": "int x;\n",
    "app-1.0.data/scripts/script": "#!python\nprint(1)\n",
    "app-1.0.data/scripts/shell": "#!/bin/sh\necho\n",
    "app-1.0.dist-info/entry_points.txt": "[console_scripts]\napp = app.more:x.real\n",
}
NUMPY = {
    "numpy/__init__.py": "",
    "numpy/core.c": "int x;\n",
    "numpy/include/numpy.h": "int x;\n",
    "numpy/py.typed": "",
    "numpy/stub.pyi": "x: int\n",
    "numpy/tests/__init__.py": "",
    "numpy/tests/_natype.py": "x = 1\n",
    "numpy/tests/test_x.py": "assert True\n",
    "numpy/tests/data.bin": "data",
    "numpy/__pycache__/x.cpython-311.pyc": "code",
}


def package(path: Path, source: str = "index") -> LockedPackage:
    name, version = path.name.split("-")[:2]
    url = path.name if source == "artifact" else None
    return LockedPackage(name, version, (f"sha256:{sha256_file(path)}",), source, url)


def environment(paths: Iterable[Path]) -> Environment:
    return Environment("3.11", "linux/amd64", tuple(package(path) for path in paths))


@pytest.fixture
def wheels(tmp_path: Path) -> list[Path]:
    links = tmp_path / "links"
    return [
        make_wheel(links, "app", files=APP, executable=("app/tool",)),
        make_wheel(links, "numpy", files=NUMPY),
        make_wheel(links, "wide", files={"wide/tests/test_x.py": "", "wide/x.pyi": "", "bin/__init__.py": "y = 1\n"}),
    ]


@pytest.fixture
def index(tmp_path: Path) -> IndexSettings:
    return IndexSettings(no_index=True, find_links=((tmp_path / "links").as_uri(),))


def digest(root: Path) -> str:
    """A digest over every path, kind, mode, time and content under `root`."""
    lines = []
    for path in [root, *sorted(root.rglob("*"))]:
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes().hex() if path.is_file() else ""
        mode = 0 if path.is_symlink() else status.st_mode
        lines.append(f"{path.relative_to(root)} {mode:o} {status.st_mtime} {content}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_the_venv(wheels: list[Path], index: IndexSettings, tmp_path: Path) -> None:
    """Every file of the venv, and no other: data beside the packages, scripts for the image's interpreter."""
    target = tmp_path / "venv"
    report = install(environment(wheels), BASE, target, "venv", index=index)
    found = {str(path.relative_to(target)) for path in target.rglob("*") if not path.is_dir()}
    info = {f"{SITE}/{name}-1.0.dist-info/{file}" for name in ("app", "numpy", "wide") for file in INFO}
    assert found - info == {
        "pyvenv.cfg",
        *(f"bin/{name}" for name in ("app", "python", "python3", "python3.11", "script", "shell")),
        "etc/app.conf",
        "share/app/data.txt",
        f"{SITE}/_mpack_base.pth",
        *(f"{SITE}/app/{name}" for name in ("__init__.py", "more.py", "tool", "types.pyi")),
        f"{SITE}/app-1.0.dist-info/entry_points.txt",
        *(f"{SITE}/numpy/{name}" for name in ("__init__.py", "py.typed", "tests/__init__.py", "tests/_natype.py")),
        *(f"{SITE}/{name}" for name in ("wide/tests/test_x.py", "wide/x.pyi", "bin/__init__.py")),
    }
    assert report.files == len(found) and report.notes == ()
    assert (target / "pyvenv.cfg").read_text().splitlines()[0] == "home = /usr/bin"
    assert os.readlink(target / "bin" / "python") == "/usr/bin/python3.11"
    assert (target / "bin" / "script").read_text() == "#!/opt/mpack/venv/bin/python\nprint(1)\n"
    assert (target / "bin" / "shell").read_text() == "#!/bin/sh\necho\n"
    assert (target / "bin" / "app").read_text().startswith("#!/opt/mpack/venv/bin/python\nimport sys\nfrom app.more")
    assert "addsitedir('/usr/lib/python3/dist-packages')" in (target / SITE / "_mpack_base.pth").read_text()
    assert list(tmp_path.glob(".mpack*")) == []


INFO = ("INSTALLER", "METADATA", "RECORD", "WHEEL")


def test_records_match_the_files(wheels: list[Path], index: IndexSettings, tmp_path: Path) -> None:
    """RECORD lists exactly the files that are there, sorted, with their sizes."""
    target = tmp_path / "venv"
    install(environment(wheels), BASE, target, "venv", index=index)
    listed = set()
    for record in sorted((target / SITE).glob("*/RECORD")):
        rows = list(csv.reader(record.read_text().splitlines()))
        assert rows[:-1] == sorted(rows[:-1]) and rows[-1][0] == f"{record.parent.name}/RECORD"
        for path, checksum, size in rows[:-1]:
            file = target / SITE / path
            listed.add(file.resolve())
            assert file.stat().st_size == int(size) and checksum.startswith("sha256=")
    made = {"_mpack_base.pth", "RECORD", "pyvenv.cfg"}
    there = {path.resolve() for path in target.rglob("*") if path.is_file() and not path.is_symlink()}
    assert listed == {path for path in there if path.name not in made}


def test_modes_and_times(wheels: list[Path], index: IndexSettings, tmp_path: Path) -> None:
    """0755 for directories and executables, 0644 for the rest; every time is 0."""
    target = tmp_path / "venv"
    install(environment(wheels), BASE, target, "venv", index=index)
    executable = set()
    for path in [target, *target.rglob("*")]:
        assert path.lstat().st_mtime == 0
        mode = stat.S_IMODE(path.lstat().st_mode)
        if path.is_dir():
            assert mode == 0o755
        elif not path.is_symlink():
            assert mode in (0o644, 0o755)
            executable |= {path.name} if mode == 0o755 else set()
    assert executable == {"app", "script", "shell", "tool"}


def test_without_trimming_all_is_kept(wheels: list[Path], index: IndexSettings, tmp_path: Path) -> None:
    """trim=False leaves tests, headers and manuals in; byte code that a wheel brings still goes."""
    target = tmp_path / "venv"
    install(replace(environment(wheels), trim=False), BASE, target, "venv", index=index)
    for path in (f"{SITE}/numpy/tests/test_x.py", f"{SITE}/numpy/core.c", "share/man/man1/app.1", "include/app/app.h"):
        assert (target / path).is_file()
    assert not list(target.rglob("__pycache__"))


@pytest.mark.parametrize(
    ("package", "path", "out"),
    [
        ("numpy", "numpy/_core/_simd.cpython-311-x86_64-linux-gnu.so", True),
        ("numpy", "numpy/_core/_multiarray_umath.cpython-311-x86_64-linux-gnu.so", False),
        ("numpy", "numpy/_core/_simd.py", False),
        ("numpy", "numpy/_core/tests/_natype.py", False),
        ("numpy", "numpy/typing/tests/data/pass/random.py", True),
        ("onnxruntime", "onnxruntime/capi/libonnxruntime.so.1.31.1", True),
        ("onnxruntime", "onnxruntime/capi/libonnxruntime_providers_shared.so", False),
        ("onnxruntime", "onnxruntime/capi/onnxruntime_pybind11_state.cpython-311-x86_64-linux-gnu.so", False),
        ("onnxruntime-gpu", "onnxruntime/capi/libonnxruntime.so.1.31.1", False),
        ("scikit-learn", "sklearn/datasets/data/iris.csv", True),
        ("scikit-learn", "sklearn/datasets/_base.py", False),
        ("scikit-learn", "sklearn/_loss/_loss.pyx.tp", True),
        ("scikit-learn", "scikit_learn-1.9.1.dist-info/licenses/COPYING", False),
        ("scipy", "scipy/special/_test_internal.cpython-311-x86_64-linux-gnu.so", True),
        ("joblib", "joblib/test/test_memory.py", True),
        ("joblib", "joblib/testing.py", False),
    ],
)
def test_the_rule_of_trimming(package: str, path: str, out: bool) -> None:
    """What is left out, beside what stays of the same kind; all of it stays without trimming."""
    assert layout._left_out(package, path, None, True) is out
    assert not layout._left_out(package, path, None, False)


def test_what_the_base_has_is_not_installed(wheels: list[Path], index: IndexSettings, tmp_path: Path) -> None:
    """A package of source "base" is left to the base."""
    both = environment(wheels[:2])
    packages = (replace(both.packages[0], source="base", hashes=()), both.packages[1])
    install(replace(both, packages=packages), BASE, tmp_path / "venv", "venv", index=index)
    assert not (tmp_path / "venv" / SITE / "app").exists() and (tmp_path / "venv" / SITE / "numpy").is_dir()


def test_an_empty_environment_is_a_bare_venv(index: IndexSettings, tmp_path: Path) -> None:
    """No package, and still a venv to run in."""
    install(environment([]), replace(BASE, site_dirs=()), tmp_path / "venv", "venv", index=index)
    found = {str(path.relative_to(tmp_path / "venv")) for path in (tmp_path / "venv").rglob("*")}
    assert found == {"bin", "lib", "lib/python3.11", SITE, "pyvenv.cfg"} | {
        f"bin/{name}" for name in ("python", "python3", "python3.11")
    }


def test_the_site_layout(wheels: list[Path], index: IndexSettings, tmp_path: Path) -> None:
    """For a base's own site directory: packages at the top, no scripts, no data, no venv."""
    install(environment(wheels), BASE, tmp_path / "site", "site", index=index)
    assert (tmp_path / "site" / "app" / "more.py").is_file()
    names = {path.name for path in (tmp_path / "site").iterdir()}
    assert names == {*(f"{n}-1.0.dist-info" for n in ("app", "numpy", "wide")), "app", "bin", "numpy", "wide"}
    assert "../" not in (tmp_path / "site" / "app-1.0.dist-info" / "RECORD").read_text()


def test_same_bytes_anywhere(wheels: list[Path], index: IndexSettings, tmp_path: Path) -> None:
    """Another directory, umask, locale, time zone, cache and way to run (as a build stage does): the same tree."""
    made = environment(wheels)
    install(made, BASE, tmp_path / "one", "venv", index=index)
    elsewhere = tmp_path / ("a rather long way off " * 8)
    job = assemble_job(
        made, BASE, str(elsewhere / "two"), uv=uv_binary(), interpreter=other_python(), options=index.uv_options()
    )
    path = tmp_path / "job.json"
    path.write_text(__import__("json").dumps(job))
    env = {"PATH": os.environ["PATH"], "TZ": "Asia/Tokyo", "LC_ALL": "C", "UV_CACHE_DIR": str(tmp_path / "cache")}
    command = [other_python(), "-I", assemble.__file__, str(path)]
    done = subprocess.run(
        command, env={**env, **index.uv_env()}, umask=0o077, capture_output=True, text=True, cwd="/", check=False
    )
    assert done.returncode == 0, done.stderr
    assert '"files": ' in done.stdout
    (elsewhere / "two").chmod(0o755)
    assert digest(tmp_path / "one") == digest(elsewhere / "two")


def other_python() -> str:
    """Another Python of this machine if it has one, else the one that runs the tests."""
    found = [Path("/usr/bin") / f"python3.{minor}" for minor in (9, 10, 11, 12, 13)]
    return str(next((path for path in found if path.exists()), sys.executable))


def test_two_wheels_one_path(index: IndexSettings, tmp_path: Path) -> None:
    """uv installs in parallel; the wheel last by name wins every time, and a note says so. Equal files need none."""
    links = tmp_path / "links"
    paths = [
        make_wheel(links, "aa", files={"shared/f.py": "a = 1\n", "shared/g.py": "same\n"}),
        make_wheel(links, "zz", files={"shared/f.py": "z = 22\n", "shared/g.py": "same\n"}),
    ]
    for number in range(3):
        report = install(environment(paths), BASE, tmp_path / f"venv{number}", "venv", index=index)
        assert (tmp_path / f"venv{number}" / SITE / "shared" / "f.py").read_text() == "z = 22\n"
        assert report.notes == ("shared/f.py is in aa and in zz: the one of zz is kept",)


def test_files_that_record_does_not_list(index: IndexSettings, tmp_path: Path) -> None:
    """A wheel with a careless RECORD is installed whole, as pip and uv do."""
    import zipfile

    wheel = make_wheel(tmp_path / "links", "loose")
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("loose/unlisted.py", "x = 1\n")
    install(environment([wheel]), BASE, tmp_path / "venv", "venv", index=index)
    assert (tmp_path / "venv" / SITE / "loose" / "unlisted.py").is_file()


def test_wheels_of_the_artifact(wheels: list[Path], tmp_path: Path) -> None:
    """The artifact's own wheel is installed from Contents, without an index and without a trace of where it was."""
    locked = package(wheels[0], "artifact")
    made = Environment("3.11", "linux/amd64", (locked,))
    contents = Contents({locked.hashes[0].removeprefix("sha256:"): wheels[0]})
    install(made, BASE, tmp_path / "venv", "venv", index=IndexSettings(no_index=True), contents=contents)
    assert (tmp_path / "venv" / SITE / "app" / "more.py").is_file()
    assert not list((tmp_path / "venv").rglob("direct_url.json"))
    with pytest.raises(InputError, match="does not have") as caught:
        install(made, BASE, tmp_path / "other", "venv", index=IndexSettings(no_index=True))
    assert caught.value.code == "lock-mismatch"


def test_a_hash_that_differs(wheels: list[Path], index: IndexSettings, tmp_path: Path) -> None:
    """Another file under a locked name is refused, and nothing is left."""
    made = environment(wheels[:1])
    wrong = replace(made.packages[0], hashes=("sha256:" + "0" * 64,))
    with pytest.raises(InputError) as caught:
        install(replace(made, packages=(wrong,)), BASE, tmp_path / "venv", "venv", index=index)
    assert caught.value.code in ("lock-mismatch", "requirements-unavailable")
    assert {path.name for path in tmp_path.iterdir()} == {"links"}


def test_a_wheel_that_is_gone(wheels: list[Path], index: IndexSettings, tmp_path: Path) -> None:
    """A version that the index no longer has is named."""
    made = environment(wheels[:1])
    gone = replace(made.packages[0], version="9.9")
    with pytest.raises(InputError, match="app") as caught:
        install(replace(made, packages=(gone,)), BASE, tmp_path / "venv", "venv", index=index)
    assert caught.value.code == "requirements-unavailable"


def test_disk_full_is_told() -> None:
    """uv's words for a full disk become the environment's fault."""
    error = install_error("error: Failed to copy\n  cause: No space left on device (os error 28)", "Installing")
    assert isinstance(error, EnvironmentFault) and error.code == "disk-full"


def test_an_interrupted_installation_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C while uv waits for the index: the child is stopped and the temporary directories are removed."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        code = f"""
import sys; sys.path[:0] = {[str(Path(assemble.__file__).parents[2])]!r}
from pathlib import Path
from types import ModuleType
from mpack.env.index import IndexSettings
from mpack.env.install import install
from mpack.plan import BaseImage, Environment, LockedPackage
made = Environment("3.11", "linux/amd64", (LockedPackage("app", "1.0", ("sha256:" + "0" * 64,)),))
base = BaseImage("b", "d", "linux/amd64", "/usr/bin/python3", "3.11.2")
index = IndexSettings(default="http://127.0.0.1:{port}/simple")
install(made, base, Path({str(tmp_path / "venv")!r}), "venv", index=index)
"""
        env = {**os.environ, "UV_CACHE_DIR": str(tmp_path / "cache")}
        child = subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE, text=True)
        silent.settimeout(60)
        connection, _ = silent.accept()  # uv has asked
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=30)
        connection.close()
    assert "KeyboardInterrupt" in errors
    time.sleep(0.1)
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}


def test_downloaded_wheels_are_the_lock_exactly(wheels: list[Path], index: IndexSettings, tmp_path: Path) -> None:
    """download_wheels fills a directory with the locked files and nothing else, for the image's Python."""
    other = make_wheel(tmp_path / "links", "other", tag="cp312-cp312-manylinux_2_28_aarch64")
    made = Environment("3.12", "linux/arm64", (package(wheels[0]), package(other)))
    files = download_wheels(made, tmp_path / "wheels", index=index)
    assert files == {"app": wheels[0].name, "other": other.name}
    assert {path.name for path in (tmp_path / "wheels").iterdir()} == set(files.values())
    assert {path.name for path in tmp_path.iterdir()} == {"links", "wheels"}


def test_downloads_are_checked(wheels: list[Path], index: IndexSettings, tmp_path: Path) -> None:
    """Another file under a locked name is refused."""
    made = environment(wheels[:1])
    wrong = replace(made.packages[0], hashes=("sha256:" + "0" * 64,))
    with pytest.raises(InputError) as caught:
        download_wheels(replace(made, packages=(wrong,)), tmp_path / "wheels", index=index)
    assert caught.value.code == "lock-mismatch"
    assert list((tmp_path / "wheels").iterdir()) == []


@pytest.mark.parametrize("module", [assemble, layout], ids=["assemble", "layout"])
def test_the_script_is_of_old_python_and_standard_library_only(module: ModuleType) -> None:
    """What a build stage runs must do so on a base's own Python: 3.8 syntax, only the standard library and itself."""
    source = Path(str(module.__file__)).read_text("utf-8")
    tree = ast.parse(source, feature_version=(3, 8))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names | {"__future__", "layout", "mpack"}


@pytest.mark.parametrize("outside", ["app/../../{}", "../{}", "{}"])
def test_a_record_that_leads_outside(tmp_path: Path, outside: str) -> None:
    """A RECORD line brings no file of this machine into an image, even if uv should leave such a line in."""
    secret = tmp_path / "secret"
    secret.write_text("mine")
    flat = tmp_path / "flat"
    (flat / "app").mkdir(parents=True)
    (flat / "app" / "__init__.py").write_text("")
    (flat / "app-1.0.dist-info").mkdir()
    path = outside.format(secret if outside == "{}" else "secret")
    (flat / "app-1.0.dist-info" / "RECORD").write_text(f"app/__init__.py,,\n{path},sha256=x,4\n")
    python = {"version": "3.11.2", "path": "/usr/bin/python3.11", "site_dirs": []}
    items = lay_out({"layout": "venv", "python": python, "trim": True}, str(flat))["app"]
    site = "lib/python3.11/site-packages"
    assert [item.path for item in items] == [f"{site}/app/__init__.py", f"{site}/app-1.0.dist-info/RECORD"]
