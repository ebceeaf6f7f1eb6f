"""Artifacts by http: fetched with limits, gone on with, checked, opened by content; no secret in any message."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import re
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
    """A small web server: path -> (status, headers, body). Those with an ETag answer ranges; `cut` bytes an answer."""

    pages: ClassVar[dict[str, tuple[int, dict[str, str], bytes]]] = {}
    asked: ClassVar[list[tuple[str, str]]] = []
    cut: ClassVar[int] = 1 << 40
    #: Requests after which it is busy.
    busy: ClassVar[int] = 1 << 40

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        status, headers, body = self.pages.get(path, (404, {}, b"gone"))
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        self.asked.append((path, self.headers.get("Range", "")))
        if len(self.asked) > self.busy:
            status, headers, body = 503, {}, b"later"
        same = self.headers.get("If-Range", headers.get("ETag")) == headers.get("ETag")
        size = len(body)
        if wanted and "ETag" in headers and same and status == 200:
            begin, end = int(wanted[1]), int(wanted[2] or size - 1)
            status, body = 206, body[begin : end + 1]
            headers = {**headers, "Content-Range": f"bytes {begin}-{end}/{size}"}
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            if value:
                self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body[: self.cut])

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The address of a server on this machine; mpack has a home of its own and no patience."""
    monkeypatch.setenv("MPACK_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("mpack.stores.faults.FIRST", 0.001)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Site.pages, Site.asked, Site.cut, Site.busy = {}, [], 1 << 40, 1 << 40
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@functools.cache
def archive_bytes() -> bytes:
    """A tar.gz of a model; gzip notes the second."""
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


def parts(tmp_path: Path) -> list[Path]:
    """What is left of downloads."""
    return [path for path in (tmp_path / "home/cache/artifacts/partial").glob("*") if path.suffix != ".lock"]


def test_url(site: str, scratch: Path) -> None:
    """A URL is fetched and opened by content; the title is its last part without the query."""
    Site.pages = {"/models/wine%201.zip": (200, {}, archive_bytes())}
    tree = open_tree(f"{site}/models/wine%201.zip?token=secret", Limits(), scratch)
    assert contents(tree) == FILES
    assert tree.title == "wine 1"
    assert tree.origin is not None and tree.origin.uri == f"{site}/models/wine%201.zip"
    assert tree.origin.sha256 == hashlib.sha256(archive_bytes()).hexdigest() and not tree.origin.version


def test_url_redirect(site: str, scratch: Path) -> None:
    """Redirects are followed."""
    Site.pages = {"/a": (302, {"Location": "/b"}, b""), "/b": (200, {}, archive_bytes())}
    assert contents(open_tree(f"{site}/a", Limits(), scratch)) == FILES


def test_url_again(site: str, scratch: Path) -> None:
    """What has an ETag is fetched once; without one, or with another, anew; a damaged file of the cache is not used."""
    for headers, fetches in (({"ETag": '"1"'}, [1, 0, 0]), ({}, [1, 1, 1]), ({"ETag": 'W/"1"'}, [1, 1, 1])):
        Site.pages = {"/m.bin": (200, headers, b"hello" + repr(headers).encode())}
        for count in fetches:
            Site.asked.clear()
            open_tree(f"{site}/m.bin", Limits(), scratch)
            assert sum(wanted != "bytes=0-0" for _, wanted in Site.asked) == count, headers
    Site.pages = {"/m.bin": (200, {"ETag": '"2"'}, b"other")}
    tree = open_tree(f"{site}/m.bin", Limits(), scratch)
    assert contents(tree) == {"m.bin": b"other"}
    tree["m.bin"].source.write_bytes(b"OTHER")
    assert contents(open_tree(f"{site}/m.bin", Limits(), scratch)) == {"m.bin": b"other"}


def test_url_cut(site: str, scratch: Path, tmp_path: Path) -> None:
    """A download that is cut goes on where it was; one that was given up goes on the next time."""
    body = bytes(range(256)) * 400
    Site.pages, Site.cut = {"/m.bin": (200, {"ETag": '"1"'}, body)}, 10_000
    assert contents(open_tree(f"{site}/m.bin", Limits(), scratch)) == {"m.bin": body}
    begun = [int(wanted[6:-1]) for _, wanted in Site.asked if wanted not in ("", "bytes=0-0")]
    assert begun == list(range(10_000, len(body), 10_000)) and not parts(tmp_path)
    Site.pages, Site.busy = {"/m.bin": (200, {"ETag": '"2"'}, body)}, len(Site.asked) + 6
    with pytest.raises(EnvironmentFault, match="the server answers 503"):
        open_tree(f"{site}/m.bin", Limits(), scratch)
    assert [path.stat().st_size for path in parts(tmp_path)] == [50_000]
    Site.busy = Site.cut = 1 << 40
    assert contents(open_tree(f"{site}/m.bin", Limits(), scratch)) == {"m.bin": body}
    assert Site.asked[-1] == ("/m.bin", "bytes=50000-") and not parts(tmp_path)


def test_url_changes(site: str, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another content than the one that was begun with is an error, however it shows."""
    body = b"x" * 50_000
    Site.pages, Site.cut = {"/m.bin": (200, {"ETag": '"1"'}, body)}, 10_000
    answer = Site.do_GET

    def change(self: Site) -> None:
        answer(self)
        if len(self.asked) == 3:
            Site.pages = {"/m.bin": (200, {"ETag": '"2"'}, b"y" * 50_000)}

    monkeypatch.setattr(Site, "do_GET", change)
    with pytest.raises(InputError, match=r"m\.bin changed while it was being fetched") as caught:
        open_tree(f"{site}/m.bin", Limits(), scratch)
    assert caught.value.code == "artifact-changed"


@pytest.mark.parametrize("name", ["Content-MD5", "x-goog-hash", "x-amz-checksum-sha256", "Repr-Digest"])
def test_url_checksums(name: str, site: str, scratch: Path, tmp_path: Path) -> None:
    """A checksum of the server's own is held against what came; nothing of a wrong content is kept."""
    forms = {
        "Content-MD5": "{md5}",
        "x-goog-hash": "md5={md5}",
        "x-amz-checksum-sha256": "{sha}",
        "Repr-Digest": "sha-256=:{sha}:",
    }
    sums = {"md5": hashlib.md5(b"hello").digest(), "sha": hashlib.sha256(b"hello").digest()}
    value = forms[name].format(**{key: base64.b64encode(raw).decode() for key, raw in sums.items()})
    Site.pages = {"/m.bin": (200, {name: value}, b"hello")}
    assert contents(open_tree(f"{site}/m.bin", Limits(), scratch)) == {"m.bin": b"hello"}
    Site.pages = {"/m.bin": (200, {name: value}, b"jello")}
    with pytest.raises(EnvironmentFault, match=r"its (md5|sha256) is .*, and the store says") as caught:
        open_tree(f"{site}/m.bin", Limits(), scratch)
    assert caught.value.code == "download-failed" and not parts(tmp_path)


@pytest.mark.parametrize(
    ("path", "kind", "code", "message"),
    [
        ("/none", InputError, "artifact-missing", "the server answers 404"),
        ("/private", EnvironmentFault, "artifact-denied", "the server answers 403"),
        ("/short", EnvironmentFault, "download-failed", "cannot be fetched"),
        ("/busy", EnvironmentFault, "download-failed", "the server answers 503"),
        ("/loop", EnvironmentFault, "download-failed", "cannot be fetched"),
        ("/ftp", EnvironmentFault, "download-failed", "cannot be fetched"),
        ("/empty", InputError, "artifact-empty", "It is empty"),
        ("/big", InputError, "artifact-too-large", "larger than 1000 bytes"),
        ("/endless", InputError, "artifact-too-large", "larger than 1000 bytes"),
        ("/page", InputError, "artifact-digest", "has the SHA-256"),
    ],
)
def test_url_faults(
    path: str, kind: type[MpackError], code: str, message: str, site: str, scratch: Path, tmp_path: Path
) -> None:
    """Every way a download can fail is told apart, names no secret of the URL, and leaves nothing behind."""
    Site.pages = {
        "/private": (403, {}, b"no"),
        "/short": (200, {"Content-Length": "500"}, b"x" * 100),
        "/busy": (503, {}, b"later"),
        "/loop": (302, {"Location": "/loop"}, b""),
        "/ftp": (302, {"Location": "ftp://user:hunter2@127.0.0.1/x"}, b""),
        "/empty": (200, {}, b""),
        "/big": (200, {}, b"x" * 2000),
        "/endless": (200, {"Content-Length": ""}, b"x" * 2000),
        "/page": (200, {}, b"hello"),
    }
    url = site.replace("://", "://user:hunter2@") + path + "?token=hunter2"
    with pytest.raises(kind, match=message) as caught:
        open_tree(url, Limits(total=1000), scratch, digest="sha256:" + "0" * 64 if path == "/page" else None)
    assert caught.value.code == code
    assert "hunter2" not in str(caught.value)
    assert not list(scratch.iterdir()) and not parts(tmp_path)


def test_url_digest(site: str, scratch: Path) -> None:
    """A digest that was given is held against the file's bytes, an archive's as well."""
    for body, name in ((b"hello", "m.onnx"), (archive_bytes(), "MLmodel")):
        Site.pages = {"/m.onnx": (200, {}, body)}
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        assert name in open_tree(f"{site}/m.onnx", Limits(), scratch, digest=digest)
    Site.pages = {"/m.onnx": (200, {}, archive_bytes() + b"more")}
    with pytest.raises(InputError, match="has the SHA-256"):
        open_tree(f"{site}/m.onnx", Limits(), scratch, digest=digest)


def test_url_nobody_answers(site: str, scratch: Path) -> None:
    """No server: exit 3, naming the address and not its password."""
    with pytest.raises(EnvironmentFault, match=r"http://127\.0\.0\.1:9/m\.zip cannot be fetched") as caught:
        open_tree("http://user:hunter2@127.0.0.1:9/m.zip?hunter2", Limits(), scratch)
    assert "hunter2" not in str(caught.value)
