"""Stores and servers that lie, and credentials that must not go elsewhere: no leak, no traceback, no mixture."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from mpack.connections import Connection
from mpack.errors import EnvironmentFault, InputError, MpackError
from mpack.progress import Progress
from mpack.stores import abfs, http
from mpack.stores.cache import ArtifactCache, Blob
from mpack.stores.fetch import Fetch
from mpack.stores.listing import found
from mpack.stores.model import Body, Bounds, Remote, RemoteFile
from mpack.stores.places import locate

BOUNDS = Bounds(1 << 20, 100)
PLANTED = "planted-secret"


class Tracking(BaseHTTPRequestHandler):
    """A tracking server that answers as it is told: for a run, and for a list of artifacts."""

    run: ClassVar[Any] = None
    page: ClassVar[Any] = None

    def do_GET(self) -> None:
        data = json.dumps(self.page if "mlflow-artifacts" in self.path else self.run).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def tracking(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The server, in MLFLOW_TRACKING_URI."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Tracking)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
    Tracking.run, Tracking.page = {"run": {"info": {"artifact_uri": "mlflow-artifacts:/0"}}}, {"files": []}
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("tracking")
@pytest.mark.parametrize(
    ("run", "page"),
    [
        ({"run": {}}, None),
        ({"run": []}, None),
        ([], None),
        ({"run": {"info": {"artifact_uri": "http://[x"}}}, None),
        (None, {"files": 5}),
        (None, {"files": ["x"]}),
        (None, {"files": [{"file_size": 1}]}),
        (None, {"files": [{"path": "a", "file_size": "many"}]}),
        (None, {"files": [{"path": "a", "file_size": -5}]}),
    ],
)
def test_answers_of_another_form(run: Any, page: Any) -> None:
    """An error that says whose answer it is, and no traceback."""
    Tracking.run, Tracking.page = run if run is not None else Tracking.run, page
    with pytest.raises(EnvironmentFault, match="the server's answer is another than MLflow's") as caught:
        locate("runs:/abc/model", BOUNDS)
    assert caught.value.code == "download-failed"


@pytest.mark.usefixtures("tracking")
@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("MLFLOW_TRACKING_TOKEN", f"{PLANTED}\n", "lists no artifact there"),
        ("MLFLOW_TRACKING_TOKEN", f"{PLANTED}\nX-More: 1", "has characters that no token has"),
        ("MLFLOW_TRACKING_TOKEN", f"{PLANTED}ß", "has characters that no token has"),
        ("MLFLOW_TRACKING_SERVER_CERT_PATH", "/nowhere.pem", "CERT_PATH cannot be read"),
        ("SSL_CERT_FILE", "/nowhere.pem", "the CA bundle cannot be read"),
    ],
)
def test_environment(name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is never quoted, not by the library's words either; a bundle that is not there is named."""
    monkeypatch.setenv(name, value)
    with pytest.raises(MpackError, match=told) as caught:
        locate("runs:/abc/model", BOUNDS)
    assert PLANTED not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "good"),
    [
        ("wine.dfs.core.windows.net", True),
        ("wine.dfs.core.chinacloudapi.cn", True),
        ("wine.z01.dfs.storage.azure.net", True),
        ("evil.example", False),
        ("core.windows.net.evil.example", False),
        ("evilcore.windows.net:8443", False),
        ("evil.example/core.windows.net", False),
    ],
)
def test_azure_credentials_stay_with_azure(host: str, good: bool) -> None:
    """An address, perhaps of a tracking server's choice, does not say to whom a token is sent."""
    connection = Connection("az", "azureblob", "https://wine.blob.core.windows.net/c")
    for own in (None, connection):
        if good:
            assert abfs._endpoint(host, own, "abfs://c") == f"https://{host.replace('.dfs.', '.blob.', 1)}"
            continue
        with pytest.raises(EnvironmentFault, match="no host of Azure's") as caught:
            abfs._endpoint(host, own, "abfs://c")
        assert caught.value.code == "artifact-denied"


def test_redirects_stay_encrypted() -> None:
    """Not even on the way: what is asked for in the clear may be answered by anybody."""
    first, middle, last = (httpx.Request("GET", url) for url in ("https://a/x", "http://b/x", "https://c/x"))
    history = [httpx.Response(302, request=request) for request in (first, middle)]
    answer = httpx.Response(200, request=last, history=history)
    with pytest.raises(EnvironmentFault, match="redirects to an unencrypted address"):
        http.check(answer, "https://a/x", "https://a/x")


def test_no_url() -> None:
    """An address that is no URL is the user's mistake."""
    with pytest.raises(EnvironmentFault, match="it is no URL"):
        locate("https://[x/y", BOUNDS)


class Plain:
    """A store without versions that tells no sizes; each `open` waits until `together` have begun."""

    def __init__(self, data: bytes, together: threading.Barrier | None = None) -> None:
        self.data, self.together = data, together

    def open(self, file: RemoteFile, start: int) -> Any:
        from contextlib import nullcontext

        return nullcontext(Body(self._blocks()))

    def _blocks(self) -> Iterator[bytes]:
        for at in range(0, len(self.data), 1000):
            if self.together is not None:
                self.together.wait(20)
            yield self.data[at : at + 1000]


def fetch(cache: ArtifactCache, store: Plain, bounds: Bounds = BOUNDS, count: int = 1) -> list[Blob]:
    files = tuple(RemoteFile(str(number), str(number), None) for number in range(count))
    remote = Remote("https://a/m", "m", files, True, store, "plain")
    with cache.held(), Progress(1, StringIO()).transfer("fetching", None) as transfer:
        return Fetch(remote, bounds, cache, transfer).all(files)


def test_two_of_one_process_id(tmp_path: Path) -> None:
    """Of what has no version two may fetch different states at once, in two containers with the same process id too:
    each gets its own."""
    cache, together = ArtifactCache(tmp_path / "artifacts"), threading.Barrier(2)
    states = [letter * 5000 for letter in (b"a", b"b")]
    ours: list[bytes] = []
    threads = [
        threading.Thread(target=lambda data=data: ours.append(fetch(cache, Plain(data, together))[0].path.read_bytes()))
        for data in states
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ours) == states
    assert not list((tmp_path / "artifacts/partial").iterdir())


def test_sizes_that_nobody_tells(tmp_path: Path) -> None:
    """The limit is for all files together, also where a store does not say how large they are."""
    with pytest.raises(InputError, match="larger than 10000 bytes"):
        fetch(ArtifactCache(tmp_path / "artifacts"), Plain(b"x" * 4000), Bounds(10_000, 100), count=3)


def test_listing_without_files() -> None:
    """Markers of directories are no files, and a listing of nothing else ends at the limit all the same."""
    listed: list[int] = []

    def below(prefix: str) -> Iterator[RemoteFile]:
        for number in range(1000):
            listed.append(number)
            yield RemoteFile(f"{prefix}{number}/", "", 0, "1")

    with pytest.raises(InputError, match="more than 100 files"):
        found("s3://b/m", "m", BOUNDS, one=lambda: None, below=below, store=Plain(b""), identity="")
    assert len(listed) == 101


def test_others_do_not_read(tmp_path: Path) -> None:
    """What took credentials to fetch is for this user alone, whatever the umask."""
    before = os.umask(0)
    try:
        fetch(ArtifactCache(tmp_path / "cache/artifacts"), Plain(b"x"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "cache/artifacts").stat().st_mode) == 0o700
