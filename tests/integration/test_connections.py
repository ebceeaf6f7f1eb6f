"""docker connections at Debian's docker-registry: whose credentials it gets, who else gets none, and broken pushes."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mpack.bases.sources import fetch_from_registry
from mpack.connections import Connection, parse_secret
from mpack.connections.login import login_of, place_of, reference_of
from mpack.errors import EnvironmentFault, InputError
from mpack.oci.compose import append_layers
from mpack.oci.image import OciImage
from mpack.oci.layer import bytes_entries
from mpack.oci.store import Store
from mpack.registry import parse_reference
from mpack.registry.credentials import Credentials
from mpack.registry.push import push
from mpack.targets.registry import RegistryTarget
from mpack.testing.registryserver import PASSWORD, USER, RegistryServer, counting
from mpack.testing.relay import relay
from mpack.testing.tiny import tiny_base

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("docker_config")]

#: Layers of this many bytes that do not compress, and how many of them.
BIG, LAYERS = 3 << 20, 4


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


def make(store: Store, count: int = 1, size: int = 1000) -> OciImage:
    """An image of `count` layers of its own."""
    layers = [
        store.write_layer(bytes_entries({f"/opt/{number}": os.urandom(size)}), kind="model") for number in range(count)
    ]
    image = append_layers(store, tiny_base(store), layers, runtime={})
    store.add_image(image)
    return image


def connection(uri: str, password: str = PASSWORD, username: str = USER) -> Connection:
    """A docker connection as a manifest has it."""
    secret = parse_secret(base64.b64encode(password.encode()).decode(), "spec.password of docker-ci")
    return Connection("docker-ci", "docker", uri, username=username, password=secret)


def test_push_and_pull(
    secured: RegistryServer, store: Store, tmp_path: Path, docker_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """<uri>/<image>, by the connection's password and not Docker's wrong one; a base of there comes the same way."""
    monkeypatch.setenv("SSL_CERT_FILE", str(secured.ca))
    wrong = base64.b64encode(b"somebody:else").decode()
    (docker_config / "config.json").write_text(json.dumps({"auths": {secured.host: {"auth": wrong}}}))
    image = make(store)
    target = RegistryTarget.through(connection(f"https://{secured.host}/team/models/"), "wine:1")
    target.check_login()
    with store.lease():
        pushed = target.push(image, store)
    name = f"{secured.host}/team/models/wine"
    assert target.named(pushed) == f"{name}@{image.digest}" and store.resolve(f"{name}:1").digest == image.digest
    ours = Store(tmp_path / "ours")
    with pytest.raises(EnvironmentFault, match="as user 'somebody'"):
        fetch_from_registry(f"{name}:1", "linux/amd64", ours, print)
    found = fetch_from_registry(f"{name}:1", "linux/amd64", ours, print, login_of(connection(secured.host)))
    assert found.digest == image.digest


def test_wrong_password(secured: RegistryServer, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence that names the connection, after one attempt to log in; a newline at the end is told."""
    monkeypatch.setenv("SSL_CERT_FILE", str(secured.ca))
    for password, hint in (("wrong word", "connection docker-ci: it takes"), (f"{PASSWORD}\n", "ends with a newline")):
        before = len(re.findall('HTTP/1.1" 401', secured.log))
        with pytest.raises(EnvironmentFault, match=f"refuses a push as user '{USER}'") as caught:
            RegistryTarget.through(connection(f"{secured.host}/team", password), "wine").check_login()
        assert "password of the connection docker-ci" in caught.value.hint and hint in caught.value.hint
        assert password.strip() not in str(caught.value)
        # Without credentials, as every client asks first, and with them.
        assert len(re.findall('HTTP/1.1" 401', secured.log)) - before == 2


def test_for_its_own_registry_only() -> None:
    """Another registry, or another port of the same host, gets nothing of a connection's."""
    login = login_of(connection("registry.example:5000/team"))
    assert login.credentials(parse_reference("registry.example:5000/other/x")) == Credentials(USER, PASSWORD)
    for other in ("registry.example/team/x", "registry.example:5001/team/x", "docker.io/team/x"):
        assert login.credentials(parse_reference(other)) is None
        assert login.remedy(parse_reference(other)).startswith("Run `docker login")


def test_docker_store(docker_config: Path) -> None:
    """A connection without user and password has Docker's."""
    auth = base64.b64encode(b"me:pw").decode()
    (docker_config / "config.json").write_text(json.dumps({"auths": {"registry.example": {"auth": auth}}}))
    login = login_of(Connection("docker-ci", "docker", "registry.example/team"))
    assert login.credentials(parse_reference("registry.example/team/x")) == Credentials("me", "pw")


@pytest.mark.parametrize(
    ("uri", "image", "expected"),
    [
        ("localhost:5000", "wine:1", "localhost:5000/wine:1"),
        ("localhost:5000/team/models", "wine:1", "localhost:5000/team/models/wine:1"),
        ("https://ghcr.io/team/", "wine", "ghcr.io/team/wine:latest"),
        ("docker.io/team", "wine:1", "docker.io/team/wine:1"),
        ("ghcr.io", "a/b/wine:1", "ghcr.io/a/b/wine:1"),
        ("", "wine:1", "is empty"),
        ("team", "wine:1", "does not begin with a registry's host"),
        ("http://ghcr.io/team", "wine:1", "has a scheme"),
        ("oci://ghcr.io/team", "wine:1", "has a scheme"),
        ("me:planted@ghcr.io/team", "wine:1", "has an @"),
        ("ghcr.io/Team", "wine:1", "cannot stand before an image's name"),
        ("ghcr.io/team:1", "wine:1", "cannot stand before an image's name"),
    ],
)
def test_uri(uri: str, image: str, expected: str) -> None:
    """HOST[:PORT][/PREFIX]; https:// is cut, any other scheme refused, and a password in it is not repeated."""
    if "/" in expected or "localhost" in expected:
        assert str(reference_of(connection(uri), image)) == expected
        assert login_of(connection(uri)).registry == expected.partition("/")[0]
        return
    with pytest.raises(InputError, match=re.escape(expected)) as caught:
        place_of(connection(uri))
    assert caught.value.code == "connection-invalid" and "planted" not in str(caught.value)


def test_other_types() -> None:
    """Images go through docker and ecr connections; a user without a password is refused."""
    for kind in ("s3", "gcs", "azureblob", "git"):
        with pytest.raises(InputError, match=f"is {kind}, and images go through"):
            login_of(Connection("x", kind, "registry.example"))
    with pytest.raises(InputError, match=r"goes with spec\.username"):
        login_of(Connection("x", "docker", "registry.example", username="me"))


@dataclass
class Narrow:
    """A way to a registry for so many bytes; `reached` is set once they have been carried."""

    host: str
    left: int
    reached: threading.Event = field(default_factory=threading.Event)


@contextmanager
def narrow(port: int, after: int, *, hold: bool = False) -> Iterator[Narrow]:
    """After these bytes it is gone for good, or with `hold` it carries nothing more and stays."""
    way, lock, over = Narrow("", after), threading.Lock(), threading.Event()

    def carry(data: bytes) -> bytes | None:
        with lock:
            way.left -= len(data)
        if way.left >= 0:
            return data
        way.reached.set()
        if hold:
            over.wait()
        return None

    with relay(port, lambda there: carry if there else bytes) as number:
        way.host = f"localhost:{number}"
        try:
            yield way
        finally:
            over.set()


def told(text: str) -> tuple[int, int, float, float]:
    """What a push that broke off says: blobs and megabytes, those that are there and all."""
    found = re.search(
        r"At least (\d+) of (\d+) blobs are there, ([\d.]+) of ([\d.]+) MB; the manifest was not written", text
    )
    assert found is not None, text
    return int(found[1]), int(found[2]), float(found[3]), float(found[4])


def test_broken_off(plain: RegistryServer, store: Store) -> None:
    """A push that breaks off says what arrived; nothing is visible; the next one sends the rest and no byte more."""
    image = make(store, LAYERS, BIG)
    total = sum(layer.size for layer in image.layers) + int(image.manifest["config"]["size"])
    with narrow(plain.port, 3 * BIG + BIG // 2) as way, pytest.raises(EnvironmentFault) as caught:
        push(image, parse_reference(f"{way.host}/broken/wine:1"), store, sleep=lambda seconds: None)
    there, blobs, done, whole = told(str(caught.value))
    assert 0 < there < blobs == LAYERS + 2 and 0 < done < whole == round(total / 1e6, 1)
    with plain.http() as http:
        assert http.get("/v2/broken/wine/manifests/1").status_code == 404
    with counting(plain.port) as counter:
        again = push(image, parse_reference(f"{counter.host}/broken/wine:1"), store)
        sent = counter.sent
    # Of a blob whose answer was lost nobody could tell that it had arrived.
    assert there <= again.there and again.there + again.sent == blobs
    assert again.sent_bytes <= (whole - done) * 1e6 + 100_000
    assert again.sent_bytes < sent < again.sent_bytes + 20_000


def test_refused(secured: RegistryServer, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused push says that nothing was pushed."""
    monkeypatch.setenv("SSL_CERT_FILE", str(secured.ca))
    target = RegistryTarget.through(connection(f"{secured.host}/team", "wrong word"), "wine")
    with store.lease(), pytest.raises(EnvironmentFault, match=r"Nothing was pushed\."):
        target.push(make(store), store)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(number: int, code: int, plain: RegistryServer, tmp_path: Path) -> None:
    """Ctrl-C, and the end of a CI job, in the middle of a push: the same sentence, on stderr, and no traceback."""
    image = make(Store(tmp_path / "data" / "store"), LAYERS, BIG)
    with narrow(plain.port, 3 * BIG + BIG // 2, hold=True) as way:
        command = [sys.executable, "-c", "from mpack.cli.main import run; run()", "push", image.digest]
        process = subprocess.Popen(
            [*command, f"{way.host}/interrupted-{number}/wine:1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "MPACK_HOME": str(tmp_path)},
        )
        assert way.reached.wait(30)
        process.send_signal(number)
        out, said = process.communicate(timeout=30)
    assert (process.returncode, out) == (code, "") and "Traceback" not in said
    assert told(said)[1] == LAYERS + 2
