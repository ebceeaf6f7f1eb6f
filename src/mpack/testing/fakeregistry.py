"""A registry in memory whose faults are scripted: a real one cannot be made to lose an answer at a chosen byte."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

_PATH = re.compile(r"/v2/(.+)/(blobs/uploads/|blobs/|manifests/|referrers/)([^/]*)")


@dataclass
class Fault:
    """What befalls the next `times` requests of a method whose path or query has `part` in it.

    With a `status` it is the answer, and nothing else is done. Else the connection is reset: after `after` bytes of
    the body (of a GET: of the answer's), or (None) when all has been done and only the answer is missing.
    """

    method: str
    part: str = ""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    after: int | None = None
    times: int = 1
    #: So many requests that fit pass first.
    skip: int = 0


@dataclass(frozen=True)
class Seen:
    """A request: bytes of its body that arrived, and its Authorization header."""

    method: str
    path: str
    query: dict[str, list[str]]
    size: int
    authorization: str


class FakeRegistry:
    """`host` is where it listens. `resumes`: keeps what came before a reset; `confirms`: says the manifest's digest;
    `token_uses`: asks for a bearer token that is good for so many requests; `lists_referrers`: has the API for them.
    """

    def __init__(self) -> None:
        self.host = ""
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.manifests: dict[tuple[str, str], bytes] = {}
        self.uploads: dict[str, bytearray] = {}
        self.seen: list[Seen] = []
        self.faults: list[Fault] = []
        self.resumes = self.confirms = True
        self.lists_referrers = False
        self.token_uses: int | None = None
        self.tokens: dict[str, int] = {}
        self.connections = 0
        #: Bytes of answers.
        self.given = 0
        self.numbers = itertools.count()
        self.lock = threading.Lock()

    def asked(self, method: str, part: str = "") -> list[Seen]:
        """The requests of a method whose path has `part` in it, in order."""
        return [item for item in self.seen if item.method == method and part in item.path]

    def sent(self) -> int:
        """Bytes of blobs that arrived."""
        return sum(item.size for item in self.seen if item.method in ("PATCH", "PUT") and "/blobs/" in item.path)

    def fault(self, method: str, path: str) -> Fault | None:
        """The fault that befalls a request, if any."""
        with self.lock:
            for fault in self.faults:
                if fault.method == method and fault.part in path and fault.times:
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    @contextmanager
    def serving(self) -> Iterator[FakeRegistry]:
        """Listens on loopback while the context lasts."""
        registry = self

        class Handler(_Handler):
            fake = registry

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.handle_error = lambda request, address: None  # type: ignore[method-assign, assignment]
        self.host = f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    fake: FakeRegistry
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.fake.connections += 1

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test's output is the test's."""

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _handle(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        fault = self.fake.fault(self.command, self.path)
        length = int(self.headers.get("Content-Length") or 0)
        if fault and not fault.status and fault.after is not None:
            length = min(fault.after, length)
        body = self.rfile.read(length)
        authorization = self.headers.get("Authorization", "")
        self.fake.seen.append(Seen(self.command, url.path, query, len(body), authorization))
        if fault and fault.status:
            self._answer(fault.status, fault.headers, fault.body)
        elif fault and fault.after is not None:
            if self.command == "GET":
                status, headers, data = self._serve(url.path, query, body)
                self._answer(status, headers, data, cut=fault.after)
                self.close_connection = True  # a reset would take bytes along that are on their way
            else:
                self._partly(url.path, body)
                self._reset()
        elif url.path == "/token":
            self._token()
        elif not self._allowed(authorization):
            challenge = f'Bearer realm="http://{self.fake.host}/token",service="fake"'
            self._answer(401, {"WWW-Authenticate": challenge})
        else:
            answer = self._serve(url.path, query, body)
            if fault:
                self._reset()
            else:
                self._answer(*answer)

    def _serve(self, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, dict[str, str], bytes]:
        found = _PATH.fullmatch(path)
        if not found:
            return 404, {}, b""
        repository, kind, name = found.groups()
        fake = self.fake
        if kind == "manifests/":
            return self._manifest(repository, name, body)
        if kind == "referrers/":
            return self._referrers(repository, name) if fake.lists_referrers else (404, {}, b"")
        if kind == "blobs/":
            return self._held(fake.blobs.get((repository, name)))
        if self.command == "POST":
            lent = fake.blobs.get((query.get("from", [""])[0], query.get("mount", [""])[0]))
            if lent is not None:
                fake.blobs[repository, query["mount"][0]] = lent
                return 201, {}, b""
            name = f"u{next(fake.numbers)}"
            fake.uploads[name] = bytearray()
            return 202, {"Location": f"/v2/{repository}/blobs/uploads/{name}?state=a%3Db"}, b""
        upload = fake.uploads.get(name)
        if upload is None:
            return 404, {}, _error("BLOB_UPLOAD_UNKNOWN")
        if self.command == "DELETE":
            del fake.uploads[name]
            return 204, {}, b""
        return self._upload(repository, name, upload, query, body)

    def _upload(
        self, repository: str, name: str, upload: bytearray, query: dict[str, list[str]], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        if self.command == "PATCH" and self.headers["Content-Range"] != f"{len(upload)}-{len(upload) + len(body) - 1}":
            return 416, {}, b""
        upload += body
        place = {"Location": f"/v2/{repository}/blobs/uploads/{name}?state=a%3Db", "Range": f"0-{len(upload) - 1}"}
        if self.command != "PUT":
            return (204 if self.command == "GET" else 202), place, b""
        [digest] = query["digest"]
        if "sha256:" + hashlib.sha256(upload).hexdigest() != digest:
            return 400, {}, _error("DIGEST_INVALID")
        self.fake.blobs[repository, digest] = bytes(self.fake.uploads.pop(name))
        return 201, {}, b""

    def _manifest(self, repository: str, name: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if self.command != "PUT":
            return self._held(self.fake.manifests.get((repository, name)))
        manifest = json.loads(body)
        inside = self.fake.manifests if "manifests" in manifest else self.fake.blobs
        named = manifest["manifests"] if "manifests" in manifest else [manifest["config"], *manifest["layers"]]
        if not all((repository, item["digest"]) in inside for item in named):
            return 400, {}, _error("MANIFEST_BLOB_UNKNOWN")
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        self.fake.manifests[repository, name] = self.fake.manifests[repository, digest] = body
        headers = {"Docker-Content-Digest": digest} if self.fake.confirms else {}
        if self.fake.lists_referrers and "subject" in manifest:
            headers["OCI-Subject"] = manifest["subject"]["digest"]
        return 201, headers, b""

    def _referrers(self, repository: str, subject: str) -> tuple[int, dict[str, str], bytes]:
        found = {}
        for (place, _), body in self.fake.manifests.items():
            manifest = json.loads(body)
            if place == repository and (manifest.get("subject") or {}).get("digest") == subject:
                digest = "sha256:" + hashlib.sha256(body).hexdigest()
                found[digest] = {"digest": digest, "size": len(body), "artifactType": manifest["artifactType"]}
        return 200, {}, json.dumps({"schemaVersion": 2, "manifests": list(found.values())}).encode()

    def _held(self, data: bytes | None) -> tuple[int, dict[str, str], bytes]:
        """What a GET or HEAD answers with; from the place that a Range asks for."""
        start = self.headers.get("Range", "").removeprefix("bytes=").rstrip("-")
        if data is None:
            return 404, {}, b""
        return (206, {}, data[int(start) :]) if start else (200, {}, data)

    def _partly(self, path: str, body: bytes) -> None:
        """Takes what came before a reset, or gives the upload up."""
        name = path.rpartition("/")[2]
        if self.command == "PATCH" and name in self.fake.uploads:
            if self.fake.resumes:
                self.fake.uploads[name] += body
            else:
                del self.fake.uploads[name]

    def _allowed(self, authorization: str) -> bool:
        fake = self.fake
        if fake.token_uses is None:
            return True
        with fake.lock:
            left = fake.tokens.get(authorization.removeprefix("Bearer "), 0)
            if left:
                fake.tokens[authorization.removeprefix("Bearer ")] = left - 1
        return left > 0

    def _token(self) -> None:
        with self.fake.lock:
            token = f"t{len(self.fake.tokens)}"
            self.fake.tokens[token] = self.fake.token_uses or 0
        self._answer(200, {}, json.dumps({"token": token}).encode())

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"", cut: int | None = None) -> None:
        """`cut`: so many bytes of the body only, whatever its announced length."""
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(body[:cut])
            self.fake.given += len(body[:cut])

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True


def _error(code: str, message: str = "") -> bytes:
    found: dict[str, Any] = {"errors": [{"code": code, "message": message}]}
    return json.dumps(found).encode()
