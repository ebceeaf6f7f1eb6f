"""An image's Python read from its files: every common layout, nothing run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from mpack.bases.interpreter import Interpreter, find_interpreter
from mpack.oci.image import OciImage, canonical_json
from mpack.oci.layer import Entry
from mpack.oci.store import Store

Make = Callable[..., OciImage]


def elf(version: str) -> bytes:
    """A file with the interpreter's version as a C string, among other numbers."""
    return b"\x7fELF\0" + b"3.1.4\0" + version.encode() + b"\0" + b"3.99.1\0"


def dist(name: str, version: str) -> bytes:
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nName: not this\n".encode()


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """`make(files, links, env)`: an image of one layer with that content."""
    store = Store(tmp_path)

    def image(
        files: Mapping[str, bytes], links: Mapping[str, str] | None = None, env: list[str] | None = None
    ) -> OciImage:
        entries = [Entry(path, mode=0o755, size=len(data), source=data) for path, data in files.items()]
        entries += [Entry(path, b"2", 0o777, target=target) for path, target in (links or {}).items()]
        layer = store.write_layer(entries, kind="base")
        config = {"architecture": "amd64", "os": "linux", "config": {"Env": env or []}}
        config["rootfs"] = {"type": "layers", "diff_ids": [layer.diff_id]}
        return store.put_image(canonical_json(config), (layer,))

    return image


def test_official_image(make: Make) -> None:
    """Python under /usr/local with its version in libpython; a newer Python of the system elsewhere is not taken."""
    found = find_interpreter(
        make(
            {
                "/usr/local/bin/python3.11": b"\x7fELF small",
                "/usr/local/lib/libpython3.11.so.1.0": elf("3.11.9"),
                "/usr/local/lib/python3.11/os.py": b"",
                "/usr/local/lib/python3.11/site-packages/Flask_Cors-4.0.dist-info/METADATA": dist("Flask_Cors", "4.0"),
                "/usr/bin/python3.13": elf("3.13.1"),
            },
            {"/usr/local/bin/python3": "python3.11", "/usr/local/bin/python": "python3"},
            ["PATH=/usr/local/bin:/usr/bin", "PYTHON_VERSION=3.11.9"],
        )
    )
    site = "/usr/local/lib/python3.11/site-packages"
    assert found == Interpreter("/usr/local/bin/python3.11", "3.11.9", (site,), (("flask-cors", "4.0"),))


def test_debian_layout(make: Make) -> None:
    """Debian's two dist-packages in import order; the nearer of two versions counts; egg-info files count."""
    found = find_interpreter(
        make(
            {
                "/usr/bin/python3.11": elf("3.11.2"),
                "/usr/local/lib/python3.11/dist-packages/numpy-2.0.dist-info/METADATA": dist("numpy", "2.0"),
                "/usr/lib/python3/dist-packages/numpy-1.24.egg-info/PKG-INFO": dist("numpy", "1.24"),
                "/usr/lib/python3/dist-packages/six-1.16.egg-info": dist("six", "1.16"),
            },
            {"/usr/bin/python3": "python3.11", "/bin": "usr/bin"},
        )
    )
    assert found is not None and found.path == "/usr/bin/python3.11"
    assert found.site_dirs == ("/usr/local/lib/python3.11/dist-packages", "/usr/lib/python3/dist-packages")
    assert dict(found.packages) == {"numpy": "2.0", "six": "1.16"}


@pytest.mark.parametrize(("sees", "count"), [("false", 1), ("true", 2)])
def test_virtual_environment(make: Make, sees: str, count: int) -> None:
    """A venv on PATH: its own packages first, the system's only if it sees them; the interpreter is the real one."""
    found = find_interpreter(
        make(
            {
                "/usr/bin/python3.11": elf("3.11.2"),
                "/usr/lib/python3/dist-packages/six-1.16.egg-info": dist("six", "1.16"),
                "/srv/env/pyvenv.cfg": f"home = /usr/bin\ninclude-system-site-packages = {sees}\n".encode(),
                "/srv/env/lib/python3.11/site-packages/numpy-2.0.dist-info/METADATA": dist("numpy", "2.0"),
            },
            {
                "/usr/bin/python3": "python3.11",
                "/srv/env/bin/python": "python3",
                "/srv/env/bin/python3": "/usr/bin/python3",
            },
            ["PATH=/srv/env/bin:/usr/bin"],
        )
    )
    assert found is not None and found.path == "/usr/bin/python3.11" and len(found.site_dirs) == count
    assert found.site_dirs[0] == "/srv/env/lib/python3.11/site-packages" and found.packages[0] == ("numpy", "2.0")


def test_conda(make: Make) -> None:
    """conda's Python, not on PATH, its version from the header."""
    found = find_interpreter(
        make(
            {
                "/opt/conda/bin/python3.10": b"\x7fELF",
                "/opt/conda/include/python3.10/patchlevel.h": b'#define PY_VERSION      "3.10.13"\n',
                "/opt/conda/lib/python3.10/site-packages/pip-24.dist-info/METADATA": dist("pip", "24"),
            },
            {"/opt/conda/bin/python": "python3.10"},
        )
    )
    assert found is not None and (found.path, found.version) == ("/opt/conda/bin/python3.10", "3.10.13")


def test_lib64_is_one_directory(make: Make) -> None:
    """lib64 as a link to lib does not make two site directories; both count where both are there (Red Hat)."""
    files = {
        "/opt/p/bin/python3": elf("3.9.18"),
        "/opt/p/lib/python3.9/os.py": b"",
        "/opt/p/lib/python3.9/site-packages/x": b"",
    }
    found = find_interpreter(make(files, {"/opt/p/lib64": "lib"}, ["PATH=/opt/p/bin"]))
    assert found is not None and found.site_dirs == ("/opt/p/lib/python3.9/site-packages",)
    second = {**files, "/opt/p/lib64/python3.9/site-packages/y": b""}
    found = find_interpreter(make(second, env=["PATH=/opt/p/bin"]))
    assert found is not None and len(found.site_dirs) == 2


def test_version_of_last_resort(make: Make) -> None:
    """dpkg's status, then PYTHON_VERSION, then the minor alone; another program's version is not taken."""
    files = {"/usr/bin/python3.11": b"\x7fELF\x003.1.4\0"}
    status = b"Package: python3.11\nStatus: install ok installed\nVersion: 3.11.2-6+deb12u6\n\n"
    for more, env, version in (
        ({"/var/lib/dpkg/status": status}, [], "3.11.2"),
        ({}, ["PYTHON_VERSION=3.11.5"], "3.11.5"),
        ({}, ["PYTHON_VERSION=3.12.5"], "3.11"),
    ):
        found = find_interpreter(make({**files, **more}, env=env))
        assert found is not None and found.version == version


@pytest.mark.parametrize(
    "links",
    [{}, {"/usr/bin/python3": "/usr/bin/python3"}, {"/usr/bin/python3": "../../nowhere"}, {"/usr/bin/python3": "/usr"}],
)
def test_no_python(make: Make, links: dict[str, str]) -> None:
    """An image without Python, or with links that lead nowhere, has none; names like python3-config are no Python."""
    assert (
        find_interpreter(make({"/usr/bin/python3-config": b"", "/usr/lib/x": b"", "/usr/bin/pythonista": b""}, links))
        is None
    )


def test_python_2_is_none(make: Make) -> None:
    """Python 2 is not what mpack means by Python."""
    assert (
        find_interpreter(
            make({"/usr/bin/python2.7": b"", "/usr/lib/python2.7/os.py": b""}, {"/usr/bin/python": "python2.7"})
        )
        is None
    )
