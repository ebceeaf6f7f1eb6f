"""Tiny real wheels, and a small Python index that asks for a password."""

from __future__ import annotations

import base64
import hashlib
import ssl
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

_DATE = (2020, 1, 1, 0, 0, 0)


def make_wheel(
    directory: Path,
    name: str,
    version: str = "1.0",
    files: Mapping[str, str] | None = None,
    *,
    tag: str = "py3-none-any",
    requires: tuple[str, ...] = (),
    executable: tuple[str, ...] = (),
) -> Path:
    """Writes a wheel with `files` (default: a module of its name) and a correct RECORD; the same bytes every time."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    content = dict(files if files is not None else {f"{name}/__init__.py": f"version = {version!r}\n"})
    content[f"{info}/METADATA"] = metadata + "".join(f"Requires-Dist: {item}\n" for item in requires)
    content[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: mpack\nRoot-Is-Purelib: true\nTag: {tag}\n"
    record = ""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in content.items():
            data = text.encode()
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record += f"{member},sha256={digest},{len(data)}\n"
            entry = zipfile.ZipInfo(member, _DATE)
            entry.external_attr = (0o100755 if member in executable else 0o100644) << 16
            archive.writestr(entry, data)
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD", _DATE), record + f"{info}/RECORD,,\n")
    return path


@contextmanager
def serve_index(
    directory: Path,
    *,
    user: str = "",
    password: str = "",
    tls: tuple[Path, Path] | None = None,
    hashes: bool = True,
) -> Iterator[str]:
    """Serves the wheels of `directory` as a PEP 503 index on loopback; yields its URL without credentials.

    With a password, Basic authentication is asked for; `tls` is (certificate, key) in PEM files.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            if password and self.headers.get("Authorization") != _basic(user, password):
                self._answer(401, b"a password is needed", {"WWW-Authenticate": 'Basic realm="index"'})
                return
            parts = [unquote(part) for part in self.path.split("/") if part]
            page = _page(directory, parts[1], hashes) if len(parts) == 2 and parts[0] == "simple" else None
            file = directory / parts[1] if len(parts) == 2 and parts[0] == "files" else None
            if page is not None:
                self._answer(200, page, {"Content-Type": "text/html"})
            elif file is not None and file.is_file():
                self._answer(200, file.read_bytes(), {"Content-Type": "application/octet-stream"})
            else:
                self._answer(404, b"no such page", {})

        def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the test's output is the test's."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}/simple/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _page(directory: Path, project: str, hashes: bool) -> bytes | None:
    links = ""
    for path in sorted(directory.glob("*.whl")):
        if path.name.split("-")[0].lower().replace("_", "-") == project:
            fragment = "#sha256=" + hashlib.sha256(path.read_bytes()).hexdigest() if hashes else ""
            links += f'<a href="/files/{path.name}{fragment}">{path.name}</a>\n'
    return f"<!DOCTYPE html><html><body>{links}</body></html>".encode() if links else None
