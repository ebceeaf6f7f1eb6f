"""Debian's docker-registry on loopback: a real registry, with TLS and a password or without."""

from __future__ import annotations

import os
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mpack.oci.image import OciImage
from mpack.testing.relay import relay

if TYPE_CHECKING:
    import httpx

USER, PASSWORD = "tester", "p:ss wörd"
#: Seconds: the longest wait for it to listen.
_PATIENCE = 20.0
_WRITES = re.compile(r'"(?:PUT|PATCH) /v2/\S+/blobs/uploads/\S+ HTTP/1\.1" 20[124]')
_MOUNTS = re.compile(r'"POST /v2/\S+/blobs/uploads/\?\S*mount=\S+ HTTP/1\.1" 201')


@dataclass(frozen=True)
class RegistryServer:
    """A running docker-registry; its files and its log are in `directory`."""

    port: int
    directory: Path
    ca: Path | None = None
    auth: tuple[str, str] | None = None

    @property
    def host(self) -> str:
        return f"localhost:{self.port}"

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return (self.directory / "log").read_text("utf-8", "replace")

    def blob_writes(self) -> int:
        """How many requests with bytes of blobs it has taken."""
        return len(_WRITES.findall(self.log))

    def mounts(self) -> int:
        """How many blobs it has mounted from one repository into another."""
        return len(_MOUNTS.findall(self.log))

    def http(self) -> httpx.Client:
        """A client that may do everything."""
        import httpx

        verify = ssl.create_default_context(cafile=str(self.ca)) if self.ca else False
        base = f"{'https' if self.ca else 'http'}://{self.host}"
        return httpx.Client(base_url=base, verify=verify, auth=self.auth, trust_env=False)

    def push(self, repository: str, image: OciImage, tag: str = "1") -> None:
        """Uploads blobs and manifest by the distribution API alone."""
        import httpx

        with self.http() as http:
            for digest in (image.id, *(layer.digest for layer in image.layers)):
                place = http.post(f"/v2/{repository}/blobs/uploads/").headers["location"]
                with image.blobs.open(digest) as stream:
                    sent = http.put(place, params={**httpx.URL(place).params, "digest": digest}, content=stream.read())
                assert sent.status_code == 201, sent.text
            self.put(repository, tag, image.blobs.read(image.digest), str(image.manifest["mediaType"]), http)

    def put(self, repository: str, tag: str, manifest: bytes, kind: str, http: httpx.Client) -> None:
        """Uploads a manifest."""
        sent = http.put(f"/v2/{repository}/manifests/{tag}", content=manifest, headers={"Content-Type": kind})
        assert sent.status_code == 201, sent.text


@contextmanager
def registry_server(
    directory: Path, *, secured: bool = False, auth: tuple[str, str] = (USER, PASSWORD), name: str = "localhost"
) -> Iterator[RegistryServer]:
    """Runs it while the context lasts; `secured`: TLS under a CA of its own (ca.pem) for a host of that `name`, and a
    user with a password."""
    environment = _secure(directory, auth, name) if secured else {}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = directory / "config.yml"
    http = f"http: {{addr: 'localhost:{port}'}}"
    config.write_text(f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {directory}/data}}}}\n{http}\n")
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(config)], env={**os.environ, **environment}, stdout=log, stderr=log
        )
    try:
        _wait(process, port, directory / "log")
        ca = directory / "ca.pem" if secured else None
        yield RegistryServer(port, directory, ca, auth if secured else None)
    finally:
        process.terminate()
        process.wait()


@dataclass
class Counter:
    """A way to a registry; `sent` counts the bytes that went to it, those of HTTP included."""

    port: int
    sent: int = 0

    @property
    def host(self) -> str:
        return f"localhost:{self.port}"


@contextmanager
def counting(port: int) -> Iterator[Counter]:
    """A counting way to a registry on a port of this machine, while the context lasts."""
    counter, lock = Counter(0), threading.Lock()

    def count(data: bytes) -> bytes:
        with lock:
            counter.sent += len(data)
        return data

    with relay(port, lambda there: count if there else bytes) as counter.port:
        yield counter


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"docker-registry does not listen: {log.read_text('utf-8', 'replace')}")


def _secure(directory: Path, auth: tuple[str, str], name: str) -> dict[str, str]:
    """Makes certificate, key and password file; the settings that name them."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name[:64]}"),
            *("-addext", f"subjectAltName=DNS:localhost,DNS:{name}", "-keyout", "key.pem", "-out", "ca.pem"),
        ],
        cwd=directory,
        check=True,
        capture_output=True,
    )
    users = subprocess.run(
        ["htpasswd", "-iBn", auth[0]], input=auth[1].encode(), check=True, capture_output=True
    ).stdout
    (directory / "htpasswd").write_bytes(users)
    return {
        "REGISTRY_HTTP_TLS_CERTIFICATE": str(directory / "ca.pem"),
        "REGISTRY_HTTP_TLS_KEY": str(directory / "key.pem"),
        "REGISTRY_AUTH": "htpasswd",
        "REGISTRY_AUTH_HTPASSWD_REALM": "test",
        "REGISTRY_AUTH_HTPASSWD_PATH": str(directory / "htpasswd"),
    }
