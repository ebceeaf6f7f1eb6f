"""Conda packages of a channel in a directory: solved, fetched, checked, laid out; hostile ones are refused."""

from __future__ import annotations

import base64
import http.server
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mpack.conda.channels import Channels
from mpack.conda.packages import PackageCache
from mpack.conda.prefix import prefix_entries
from mpack.conda.solve import Solved, solve_conda
from mpack.errors import InputError, MpackError
from mpack.plan import CONDA, CondaEnvironment, Environment
from mpack.spec import CondaWish
from mpack.testing.condachannel import PLACEHOLDER, Link, Package, Program, write_channel

PYTHON = Package("python", "3.11.2", files={"bin/python3.11": Program(b"x"), "lib/python3.11/os.py": b"x = 1\n"})
Make = Callable[..., Channels]


@pytest.fixture
def channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """`channel(*packages)`: settings under which "t" is a channel of these; mpack's caches are the test's own."""
    monkeypatch.setenv("MPACK_HOME", str(tmp_path / "home"))

    def make(*packages: Package) -> Channels:
        write_channel(tmp_path / "channels" / "t", packages)
        return Channels(custom={"t": (tmp_path / "channels").as_uri()})

    return make


def solved(channels: Channels, *specs: str, **named: Any) -> Solved:
    options = {"platform": "linux/amd64", "python": None, "consent": False, "glibc": "2.36", **named}
    return solve_conda(CondaWish(specs, ("t",)), channels=channels, **options)


def laid_out(conda: CondaEnvironment, channels: Channels, scratch: Path, *, trim: bool = True) -> dict[str, Any]:
    """Path below the prefix -> content or link target."""
    scratch.mkdir()
    environment = Environment("3.11", "linux/amd64", (), trim, conda=conda)
    found: dict[str, Any] = {}
    for entry in prefix_entries(environment, scratch, channels):
        source = entry.source
        data = source.read_bytes() if isinstance(source, Path) else source
        found[entry.path.removeprefix(f"{CONDA}/")] = entry.target or (entry.mode, data)
    return found


HOSTILE = {
    "path": (Package("bad", files={"../../out": b"x"}), "path"),
    "absolute": (Package("bad", files={"/tmp/out": b"x"}, suffix=".tar.bz2"), "path|cannot be read"),
    "link": (Package("bad", files={"share/out": Link("../../..")}), "link share/out leads to"),
    "absolute-link": (Package("bad", files={"out": Link("/etc")}), "link out leads to"),
    "through": (Package("bad", files={"etc": Link("share"), "etc/x": b"x"}), "written through a link"),
    "listed": (Package("bad", files={"a": b""}, info={"info/paths.json": b'{"paths": [{"_path": "../a"}]}'}), "path"),
    "entry": (Package("bad", noarch="python", depends=("python",), entry_points=("../../x = a:b",)), "entry point"),
    "other": (
        Package("bad", info={"info/index.json": b'{"name": "../x", "version": "1.0", "build": "0"}'}),
        "own name",
    ),
    "json": (Package("bad", info={"info/index.json": b"[" * 9000}), "info/index.json"),
    "site": (
        Package(
            "bad",
            info={
                "info/index.json": json.dumps(
                    {"name": "bad", "version": "1.0", "build": "0", "python_site_packages_path": "../../x"}
                ).encode()
            },
        ),
        "site-packages",
    ),
    "bomb": (Package("bad", files={"zeros": bytes(110_000_000)}, suffix=".tar.bz2"), "more bytes or files"),
}


#: Links that stay inside by their text, and lead to the root of this machine.
_UP = "l/" * 20 + "../" * 20


@pytest.mark.parametrize("way", ["link", "large", "hidden", "through", "target"])
def test_other_files(channel: Make, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package's list is looked at wherever py-rattler finds it: it changes no file of this machine, nor brings one
    into the image."""
    (victim := tmp_path / "victim").write_text("an alias\n")

    def listed(path: str) -> bytes:
        item = {"_path": path, "path_type": "hardlink", "prefix_placeholder": "alias", "file_mode": "text"}
        return json.dumps({"paths_version": 1, "paths": [item]}).encode()

    outside = listed("../" * 20 + str(victim)[1:])
    links = {"l": Link("."), "up": Link(_UP + str(victim)[1:] if way == "target" else _UP)}
    package = {
        "link": Package("bad", info={"info/list": outside, "info/paths.json": Link("list")}),
        "large": Package("bad", info={"info/paths.json": outside + b" " * (65 << 20)}),
        "hidden": Package("bad", files={"a": b"x"}),
        "through": Package("bad", files=links, info={"info/paths.json": listed(f"up{victim}")}),
        "target": Package("bad", files=links, info={"info/paths.json": listed("up")}),
    }[way]
    if way == "hidden":
        data = package.archive()
        with zipfile.ZipFile(stream := io.BytesIO(data), "a") as archive:
            more = Package("x", info={"info/paths.json": outside}).archive()
            with zipfile.ZipFile(io.BytesIO(more)) as other:
                archive.writestr(zipfile.ZipInfo("zzz.tar.zst"), other.read("info-x-1.0-0.tar.zst"))
        monkeypatch.setattr(Package, "archive", lambda self: stream.getvalue())
    channels = channel(package)
    with pytest.raises(InputError) as caught:
        laid_out(solved(channels, "bad").environment, channels, tmp_path / "scratch")
    assert caught.value.code == "conda-package-refused"
    assert victim.read_text() == "an alias\n"


def test_hostile_repodata(channel: Make, tmp_path: Path) -> None:
    """What a channel and a package call its build names no directory."""
    index = json.dumps({"name": "bad", "version": "1.0", "build": "../../../0"}).encode()
    channels = channel(Package("bad", files={"a": b"x"}, info={"info/index.json": index}))
    repodata = tmp_path / "channels" / "t" / "linux-64" / "repodata.json"
    repodata.write_text(repodata.read_text().replace('"build": "0"', '"build": "../../../0"'))
    with pytest.raises(InputError, match="its own build is") as caught:
        solved(channels, "bad")
    assert caught.value.code == "conda-package-refused"


def test_hostile_metadata(channel: Make) -> None:
    """What a package calls the Python package in it is a name, or not told to the resolver."""
    metadata = b'Name: x"\n [[packages]]\nVersion: 1.0\n'
    files = {"site-packages/x-1.dist-info/METADATA": metadata}
    package = Package("bad", noarch="python", depends=("python",), files=files)
    assert solved(channel(PYTHON, package), "bad").provided == {}


@pytest.mark.parametrize("fault", HOSTILE)
def test_hostile(channel: Make, tmp_path: Path, fault: str) -> None:
    """A package that would write elsewhere, or is no package, is refused before anything is installed."""
    package, message = HOSTILE[fault]
    with pytest.raises(InputError, match=message) as caught:
        solved(channel(PYTHON, package), "bad")
    assert caught.value.code == "conda-package-refused"
    assert not (tmp_path / "out").exists() and not Path("/tmp/out").exists()


@pytest.mark.parametrize(
    ("link", "files"),
    [
        ({"d/e": Link("..")}, {"d/e/up": Link("../../x"), "d/e/up/y": b"z"}),
        ({"share/x": Link("../lib")}, {"share/x/y/z": b"z"}),
        ({"lib/python3.11/site-packages/m": Link("n")}, {"site-packages/m/__init__.py": b""}),
    ],
    ids=["out", "inside", "noarch"],
)
def test_links_together(channel: Make, link: dict[str, Any], files: dict[str, Any]) -> None:
    """Two links that stay inside may lead out together: no package writes through another one's."""
    kind = {"noarch": "python", "depends": ("python",)} if "site-packages/m/__init__.py" in files else {}
    channels = channel(PYTHON, Package("first", files=link), Package("second", files=files, **kind))
    with pytest.raises(InputError, match="would be written through a link") as caught:
        solved(channels, "first", "second")
    assert caught.value.code == "conda-package-refused"


def test_truncated_and_changed(channel: Make, tmp_path: Path) -> None:
    """A file that is not what the channel's repodata says is not kept, whatever it is."""
    channels = channel(Package("good", files={"a": b"x"}))
    file = tmp_path / "channels" / "t" / "linux-64" / "good-1.0-0.conda"
    data = file.read_bytes()
    for wrong in (data[:-10], data + b"x", data.replace(b"PK", b"XX")):
        file.write_bytes(wrong)
        with pytest.raises(InputError, match=r"good-1\.0-0\.conda|larger") as caught:
            solved(channels, "good")
        assert caught.value.code == "lock-mismatch"
        assert PackageCache.default().entries() == [] or not list(PackageCache.default().directory.rglob("good*"))
    file.write_bytes(data)
    assert [item.name for item in solved(channels, "good").environment.packages] == ["good"]


def test_damaged_cache(channel: Make) -> None:
    """What the cache holds is checked each time, and fetched again where it is damaged."""
    channels = channel(Package("good", files={"a": b"x"}))
    (package,) = solved(channels, "good").environment.packages
    path = PackageCache.default().path(package)
    path.write_bytes(b"damaged")
    PackageCache.default().bring([package], channels)
    assert path.stat().st_size == package.size
    sizes = {entry.size for entry in PackageCache.default().entries()}
    assert package.size in sizes
    for entry in PackageCache.default().entries():
        entry.remove()
    assert not path.exists()


def test_layout(channel: Make, tmp_path: Path) -> None:
    """Prefixes in text and binary, links, modes, noarch modules and entry points; nothing of this machine; the same
    each time, also where two packages bring one path."""
    packages = (
        PYTHON,
        Package(
            "tool",
            files={
                "bin/tool": Program(f"#!{PLACEHOLDER}/bin/python\n".encode()),
                "lib/libtool.so": b"\1" + PLACEHOLDER.encode() + b"/x\0rest",
                "lib/tool.so": Link("libtool.so"),
                "share/both": b"tool\n",
                "include/tool.h": b"",
                "lib/python3.11/site-packages/old.pyc": b"",
            },
            prefixed={"bin/tool": "text", "lib/libtool.so": "binary"},
            suffix=".tar.bz2",
        ),
        Package("more", files={"share/both": b"more\n"}),
        Package(
            "book",
            noarch="python",
            depends=("python", "tool", "more"),
            entry_points=("book = book.main:run",),
            files={
                "site-packages/book/__init__.py": b"",
                "site-packages/book-1.dist-info/METADATA": b"Name: The_Book\nVersion: 1.0.0\n\nName: x\n",
                "python-scripts/booklet": Program(b"#!/bin/sh\n"),
            },
        ),
    )
    channels = channel(*packages)
    found = solved(channels, "book")
    assert found.provided == {"the-book": "1.0.0"} and found.environment.site == "lib/python3.11/site-packages"
    assert [item.name for item in found.environment.packages] == ["book", "more", "python", "tool"]
    files = laid_out(found.environment, channels, tmp_path / "a")
    assert files["bin/tool"] == (0o755, f"#!{CONDA}/bin/python\n".encode())
    library = files["lib/libtool.so"][1]
    assert library.startswith(b"\1" + CONDA.encode() + b"/x\0") and len(library) == len(PLACEHOLDER) + 8
    assert files["lib/tool.so"] == "libtool.so" and files["bin/booklet"][0] == 0o755
    assert b"from book.main import run" in files["bin/book"][1]
    assert {"include/tool.h", "lib/python3.11/site-packages/old.pyc"}.isdisjoint(files)
    assert {path.partition("/")[0] for path in files} == {"bin", "conda-meta", "lib", "share"}
    assert str(tmp_path).encode() not in b"".join(item[1] for item in files.values() if isinstance(item, tuple))
    for number in range(3):
        assert laid_out(found.environment, channels, tmp_path / f"again{number}") == files
    assert "include/tool.h" in laid_out(found.environment, channels, tmp_path / "whole", trim=False)


def test_base_decides(channel: Make) -> None:
    """What needs a newer C library than the base's, or a GPU, is not chosen; nor what is for another Python."""
    channels = channel(
        PYTHON,
        Package("python", "3.12.1", files={"bin/python3.12": b""}),
        Package("lib", "1.0", depends=("__glibc >=2.17",)),
        Package("lib", "2.0", depends=("__glibc >=2.38",)),
        Package("lib", "3.0", depends=("__cuda",)),
    )
    chosen = {item.name: item.version for item in solved(channels, "lib", "python").environment.packages}
    assert chosen == {"lib": "1.0", "python": "3.12.1"}
    newer = solved(channels, "lib", "python", glibc="2.39", python="3.11").environment.packages
    assert {item.name: item.version for item in newer} == {"lib": "2.0", "python": "3.11.2"}
    with pytest.raises(InputError, match=r"with Python 3\.11"):
        solved(channels, "python=3.12", python="3.11")
    (consented,) = solved(channels, "python=3.12", python="3.11", consent=True).environment.packages
    assert consented.version == "3.11.2"


def test_scripts_are_told(channel: Make) -> None:
    """Scripts for linking and activating are never run, and are named."""
    script = Program(b"#!/bin/sh\ntouch /tmp/mpack-conda-ran\n")
    channels = channel(Package("s", files={"bin/.s-post-link.sh": script, "etc/conda/activate.d/s.sh": b""}))
    assert solved(channels, "s").scripts == ("s: bin/.s-post-link.sh", "s: etc/conda/activate.d/s.sh")
    assert not Path("/tmp/mpack-conda-ran").exists()


def test_no_rattler(channel: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without py-rattler the message says what to install."""
    monkeypatch.setattr("mpack.conda.asking.find_spec", lambda name: None)
    with pytest.raises(MpackError, match="py-rattler") as caught:
        solved(channel(PYTHON), "python")
    assert caught.value.code == "tool-missing" and "mpack[conda]" in caught.value.hint


@pytest.mark.parametrize("stage", ["solve", "fetch"])
def test_silent_server(channel: Make, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """A channel that takes connections and says nothing is given up, and told by name."""
    channels = channel(Package("good", files={"a": b"x"}))
    (package,) = solved(channels, "good").environment.packages
    monkeypatch.setattr("mpack.conda.packages.PATIENCE", 0.3)
    monkeypatch.setattr("mpack.conda.solve.PATIENCE", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        silent = Channels(custom={"t": f"http://127.0.0.1:{server.getsockname()[1]}"})
        with pytest.raises(MpackError, match=r"no answer from t|good-1\.0-0\.conda: nothing came") as caught:
            if stage == "solve":
                solved(silent, "good")
            else:
                PackageCache.default().bring([replace(package, sha256="0" * 64)], silent)
    assert caught.value.code == "index-unreachable"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ended(tmp_path: Path, number: signal.Signals) -> None:
    """However mpack ends, py-rattler's process ends with it: its connection is closed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        wish = f"Channels(custom={{'t': 'http://127.0.0.1:{server.getsockname()[1]}'}})"
        code = (
            "from mpack.conda.solve import *; from mpack.conda.channels import Channels\n"
            "solve_conda(CondaWish(('x',), ('t',)), platform='linux/amd64', python=None, consent=False, glibc=None,"
            f" channels={wish})"
        )
        environment = {**os.environ, "MPACK_HOME": str(tmp_path)}
        with subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL) as process:
            connection, _ = server.accept()
            process.send_signal(number)
            assert process.wait(60) != 0
        with connection:
            connection.settimeout(60)
            while connection.recv(1 << 16):
                pass


PASSWORD, TOKEN = "hunter2-password", "tk-0123456789"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[str]:
    """A channel's parent behind a password and a token in its path: its address with both."""
    credentials = base64.b64encode(f"me:{PASSWORD}".encode()).decode()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Authorization") != f"Basic {credentials}":
                self.send_error(401)
            elif not self.path.startswith(f"/t/{TOKEN}/"):
                self.send_error(403)
            else:
                self.path = self.path.removeprefix(f"/t/{TOKEN}")
                super().do_GET()

        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = partial(Handler, directory=str(tmp_path / "channels"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://me:{PASSWORD}@127.0.0.1:{server.server_port}/t/{TOKEN}"
        server.shutdown()
        thread.join()


def test_credentials(channel: Make, guarded: str, tmp_path: Path) -> None:
    """A channel behind a password and a token serves, and nothing that is kept or told has either of them."""
    channel(PYTHON, Package("good", files={"a": b"x"}))
    channels = Channels(custom={"t": guarded})
    found = solved(channels, "good")
    assert [item.channel for item in found.environment.packages] == ["t"]
    kept = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert kept
    secrets = [item.encode() for item in (PASSWORD, TOKEN, base64.b64encode(f"me:{PASSWORD}".encode()).decode())]
    assert [path for path in kept if any(secret in path.read_bytes() for secret in secrets)] == []
    (package,) = found.environment.packages
    PackageCache.default().path(package).unlink()
    with pytest.raises(InputError, match="larger than was locked") as larger:
        PackageCache.default().bring([replace(package, size=package.size - 1)], channels)
    assert larger.value.code == "lock-mismatch"
    for wrong in (guarded.replace(PASSWORD, "another-password"), guarded.replace(TOKEN, "another-token")):
        with pytest.raises(MpackError) as caught:
            solved(Channels(custom={"t": wrong}), "good")
        assert caught.value.code == "index-unreachable" and "another-" not in str(caught.value), caught.value
