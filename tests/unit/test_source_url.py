"""Artifacts from URLs: fetched with limits, opened by content, and no secret of the URL in any message."""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mpack.artifact.limits import Limits
from mpack.artifact.model import Tree
from mpack.artifact.source import open_tree
from mpack.errors import EnvironmentFault, InputError, MpackError

FILES = {"MLmodel": b"flavors: {}\n", "data/model.pkl": b"x" * 3000}


class Site(BaseHTTPRequestHandler):
    """A small web server: path -> (status, headers, body)."""

    pages: ClassVar[dict[str, tuple[int, dict[str, str], bytes]]] = {}

    def do_GET(self) -> None:
        status, headers, body = self.pages.get(self.path.partition("?")[0], (404, {}, b"gone"))
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def site() -> Iterator[str]:
    """The address of a server on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Site.pages = {}
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def archive_bytes() -> bytes:
    """A tar.gz of a model."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """The caller's scratch directory."""
    path = tmp_path / "scratch"
    path.mkdir()
    return path


def contents(tree: Tree) -> dict[str, bytes]:
    """Every file's bytes."""
    return {path: tree.read(path) for path in tree}


def test_url(site: str, scratch: Path) -> None:
    """A URL is fetched into scratch and opened by content; the title is its last part without the query."""
    Site.pages = {"/models/wine%201.zip": (200, {}, archive_bytes())}
    tree = open_tree(f"{site}/models/wine%201.zip?token=secret", Limits(), scratch)
    assert contents(tree) == FILES
    assert tree.title == "wine 1"


def test_url_redirect(site: str, scratch: Path) -> None:
    """Redirects are followed."""
    Site.pages = {"/a": (302, {"Location": "/b"}, b""), "/b": (200, {}, archive_bytes())}
    assert contents(open_tree(f"{site}/a", Limits(), scratch)) == FILES


@pytest.mark.parametrize(
    ("path", "kind", "code", "message"),
    [
        ("/none", InputError, "artifact-missing", "the server answers 404"),
        ("/private", EnvironmentFault, "download-failed", "the server answers 403"),
        ("/short", EnvironmentFault, "download-failed", "cannot be fetched"),
        ("/loop", EnvironmentFault, "download-failed", "cannot be fetched"),
        ("/empty", InputError, "artifact-empty", "It is empty"),
        ("/big", InputError, "artifact-too-large", "larger than 1000 bytes"),
        ("/page", InputError, "artifact-digest", "has the SHA-256"),
    ],
)
def test_url_faults(path: str, kind: type[MpackError], code: str, message: str, site: str, scratch: Path) -> None:
    """Every way a download can fail is told apart, names no secret of the URL, and leaves nothing behind."""
    Site.pages = {
        "/private": (403, {}, b"no"),
        "/short": (200, {"Content-Length": "500"}, b"x" * 100),
        "/loop": (302, {"Location": "/loop"}, b""),
        "/empty": (200, {}, b""),
        "/big": (200, {}, b"x" * 2000),
        "/page": (200, {}, b"hello"),
    }
    url = site.replace("://", "://user:hunter2@") + path + "?token=hunter2"
    with pytest.raises(kind, match=message) as caught:
        open_tree(url + ("#sha256=" + "0" * 64 if path == "/page" else ""), Limits(total=1000), scratch)
    assert caught.value.code == code
    assert "hunter2" not in str(caught.value)
    assert not list(scratch.iterdir())


def test_url_digest(site: str, scratch: Path) -> None:
    """A digest given in the URL's fragment is checked, and right ones pass."""
    Site.pages = {"/m.onnx": (200, {}, b"hello")}
    sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert list(open_tree(f"{site}/m.onnx#sha256={sha256}", Limits(), scratch)) == ["m.onnx"]


def test_url_nobody_answers(scratch: Path) -> None:
    """No server: exit 3, naming the address and not its password."""
    with pytest.raises(EnvironmentFault, match=r"http://127\.0\.0\.1:9/m\.zip cannot be fetched") as caught:
        open_tree("http://user:hunter2@127.0.0.1:9/m.zip?hunter2", Limits(), scratch)
    assert "hunter2" not in str(caught.value)
