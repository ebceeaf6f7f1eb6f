"""Pushing to a registry in memory, a fake because a real one cannot be made to fail at a chosen byte."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mpack.errors import EnvironmentFault
from mpack.oci.compose import append_layers
from mpack.oci.image import OciImage
from mpack.oci.layer import bytes_entries
from mpack.oci.store import Store
from mpack.registry import parse_reference
from mpack.registry.auth import merge_scopes
from mpack.registry.parallel import THREADS, in_parallel
from mpack.registry.push import Pushed, push
from mpack.testing.fakeregistry import FakeRegistry, Fault
from mpack.testing.tiny import tiny_base

pytestmark = pytest.mark.usefixtures("docker_config")
PIECE = 64 << 10
BIG = 400_000


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    """A registry without faults yet."""
    with FakeRegistry().serving() as registry:
        yield registry


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


def make(store: Store, text: str = "weights", label: str = "") -> OciImage:
    """An image of a base, a large layer that does not compress, and a small one of its own."""
    layers = store.cache.get("dependencies") or store.write_layer(
        bytes_entries({"/opt/big": os.urandom(BIG)}), kind="dependencies"
    )
    store.cache.put("dependencies", layers)
    model = store.write_layer(bytes_entries({"/opt/model": text.encode()}), kind="model")
    labels = {"org.opencontainers.image.base.name": label} if label else {}
    image = append_layers(store, tiny_base(store), [layers, model], runtime={"Labels": labels})
    store.add_image(image)
    return image


def send(fake: FakeRegistry, image: OciImage, name: str = "team/wine:1", naps: list[float] | None = None) -> Pushed:
    """Pushes in small pieces, without waiting."""
    assert isinstance(image.blobs, Store)
    waited = naps if naps is not None else []
    reference = parse_reference(f"{fake.host}/{name}")
    return push(image, reference, image.blobs, sleep=waited.append, piece=PIECE)


def assert_whole(fake: FakeRegistry, image: OciImage, repository: str = "team/wine", tag: str = "1") -> None:
    """The registry has every byte of the image under its name."""
    assert fake.manifests[repository, tag] == image.blobs.read(image.digest)
    for digest in (image.id, *(layer.digest for layer in image.layers)):
        with image.blobs.open(digest) as stream:
            assert fake.blobs[repository, digest] == stream.read()


def test_push_and_push_again(fake: FakeRegistry, store: Store) -> None:
    """Every byte arrives once, in pieces where there are many, the manifest last; a second push sends nothing."""
    image = make(store)
    pushed = send(fake, image)
    assert_whole(fake, image)
    assert pushed.digest == image.digest and (pushed.sent, pushed.there, pushed.mounted) == (4, 0, 0)
    total = image.size - image.manifest_size
    assert fake.sent() == pushed.sent_bytes == total
    assert {item.size for item in fake.asked("PATCH")} == {PIECE, image.layers[1].size % PIECE}
    assert fake.seen[-1].method == "PUT" and fake.seen[-1].path == "/v2/team/wine/manifests/1"
    # One that asks for TLS and is refused, then no more than there are threads.
    assert fake.connections <= 1 + THREADS < len(fake.seen)
    again = send(fake, image)
    assert (again.sent, again.sent_bytes, again.there) == (0, 0, 4) and fake.sent() == total


@pytest.mark.parametrize(
    "fault",
    [
        Fault("HEAD", "/blobs/", status=503),
        Fault("POST", "/uploads/", status=429, headers={"Retry-After": "7"}),
        Fault("PATCH", status=500),
        Fault("PATCH", status=429),
        Fault("PATCH", skip=2, after=1000),
        Fault("PATCH", skip=1),
        Fault("PATCH", status=416),
        Fault("PUT", "/blobs/", status=504),
        Fault("PUT", "/blobs/", after=10),
        Fault("PUT", "/blobs/"),
        Fault("PUT", "/blobs/", times=4),
        Fault("PUT", "/manifests/", status=502),
        Fault("PUT", "/manifests/"),
    ],
    ids=lambda fault: f"{fault.method}{fault.part}-{fault.status or 'reset'}-{fault.after}-{fault.skip}-{fault.times}",
)
@pytest.mark.parametrize("resumes", [True, False], ids=["resumes", "forgets"])
def test_faults_that_pass(fake: FakeRegistry, store: Store, fault: Fault, resumes: bool) -> None:
    """After a fault that passes the image is whole at the registry, whether that kept what came before or not."""
    image, naps = make(store), []
    fake.faults, fake.resumes = [Fault(**vars(fault))], resumes
    assert send(fake, image, naps=naps).digest == image.digest
    assert_whole(fake, image)
    assert fake.faults[0].times == 0 and naps
    assert "Retry-After" not in fault.headers or naps == [7]


def test_resumes_at_the_byte(fake: FakeRegistry, store: Store) -> None:
    """After a reset in mid-blob the registry is asked how far it came, and not one byte goes twice."""
    image = make(store)
    fake.faults = [Fault("PATCH", skip=2, after=1000), Fault("PATCH", skip=3, after=PIECE - 1)]
    send(fake, image)
    assert len(fake.asked("GET", "/uploads/")) == 2
    assert fake.sent() == image.size - image.manifest_size
    assert_whole(fake, image)


@pytest.mark.parametrize("skip", range(4))
def test_a_lost_answer(fake: FakeRegistry, store: Store, skip: int) -> None:
    """A blob that had arrived when the connection broke is not sent again, in whichever order the blobs went."""
    image = make(store)
    fake.faults = [Fault("PUT", "/blobs/", skip=skip)]
    send(fake, image)
    assert fake.faults[0].times == 0 and fake.sent() == image.size - image.manifest_size
    assert_whole(fake, image)


@pytest.mark.parametrize(
    "answer",
    [
        Fault("PATCH", status=405),
        Fault("PATCH", status=400),
        Fault("PATCH", status=202, headers={"Range": "0-0"}),
        Fault("PATCH", status=202, headers={"Range": "0-99999999"}),
    ],
    ids=lambda answer: f"{answer.status}{answer.headers.get('Range', '')}",
)
def test_one_request_where_pieces_are_refused(fake: FakeRegistry, store: Store, answer: Fault) -> None:
    """A registry that takes no pieces, or says nonsense of them, gets a blob whole by PUT."""
    image = make(store)
    fake.faults = [Fault(**{**vars(answer), "times": 1000})]
    send(fake, image)
    assert_whole(fake, image)
    assert len(fake.asked("PATCH")) == 1
    assert max(item.size for item in fake.asked("PUT")) == image.layers[1].size


def test_tokens_that_expire(fake: FakeRegistry, store: Store, docker_config: Path) -> None:
    """A token that runs out in mid-blob is asked anew, with the right to push; the password goes nowhere else."""
    fake.token_uses = 3
    basic = base64.b64encode(b"me:s3cret").decode()
    (docker_config / "config.json").write_text(json.dumps({"auths": {fake.host: {"auth": basic}}}))
    image = make(store)
    send(fake, image)
    assert_whole(fake, image)
    tokens = fake.asked("GET", "/token")
    assert len(tokens) >= 4
    assert {item.authorization for item in tokens} == {f"Basic {basic}"}
    assert tokens[0].query["scope"] == ["repository:team/wine:pull,push"]
    assert not [item for item in fake.seen if item.path != "/token" and "Basic" in item.authorization]


def test_scopes() -> None:
    """What a challenge names is asked for beside what a push needs, each repository once."""
    assert merge_scopes(["repository:a:pull,push", "repository:b:pull", "repository:a:pull"]) == [
        "repository:a:pull,push",
        "repository:b:pull",
    ]


def body(code: str, **detail: Any) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": "as it is\x1b[31m", "detail": detail}]}).encode()


@pytest.mark.parametrize(
    ("fault", "asked", "words"),
    [
        (Fault("POST", status=401), 1, ["refuses a push without credentials", "docker login"]),
        (Fault("POST", status=403, body=body("DENIED")), 1, ["refuses a push", "HTTP 403"]),
        (Fault("POST", status=404, body=body("NAME_UNKNOWN")), 1, ["NAME_UNKNOWN: as it is", "must be made"]),
        (Fault("POST", status=400, body=body("NAME_INVALID")), 1, ["NAME_INVALID", "Check the name"]),
        (Fault("PATCH", status=413, body=b"<html>nginx"), 1, ["HTTP 413", "limits the size"]),
        (Fault("PATCH", status=500, body=body("UNKNOWN", Enclosed={"Err": 28})), 5, ["its disk is full", "room"]),
        (Fault("PATCH", status=503), 5, ["HTTP 503", "Push again later"]),
        (Fault("PATCH", after=0), 5, ["tried 5 times"]),
        (Fault("PUT", "/manifests/", status=400, body=body("MANIFEST_INVALID")), 1, ["MANIFEST_INVALID"]),
    ],
    ids=lambda value: f"{value.method}-{value.status}" if isinstance(value, Fault) else "",
)
def test_faults_that_stay(fake: FakeRegistry, store: Store, fault: Fault, asked: int, words: list[str]) -> None:
    """What repeating mends is tried five times, what it does not mend once; the error says why and what to do."""
    image = make(store)
    fake.faults = [Fault(**{**vars(fault), "times": 1000})]
    with pytest.raises(EnvironmentFault) as caught:
        send(fake, image)
    assert caught.value.code == "registry-failed"
    assert [word for word in words if word not in str(caught.value)] == [] and "\x1b" not in str(caught.value)
    assert len(fake.asked(fault.method, fault.part)) == asked
    assert fake.manifests == {}


def test_whose_credentials_were_refused(fake: FakeRegistry, store: Store, docker_config: Path) -> None:
    """The error names the user, never the password."""
    basic = base64.b64encode(b"me:s3cret").decode()
    (docker_config / "config.json").write_text(json.dumps({"auths": {fake.host: {"auth": basic}}}))
    fake.faults = [Fault("HEAD", status=401, headers={"WWW-Authenticate": 'Basic realm="r"'}, times=9)]
    with pytest.raises(EnvironmentFault, match="a push as user 'me'") as caught:
        send(fake, make(store))
    assert "s3cret" not in str(caught.value) and basic not in str(caught.value)
    assert len(fake.asked("HEAD")) == 2


@pytest.mark.parametrize("confirms", [True, False])
def test_the_manifests_digest_is_checked(fake: FakeRegistry, store: Store, confirms: bool) -> None:
    """An answer that names another digest is an error; one that names none is asked for by the digest."""
    image = make(store)
    fake.confirms = False
    if confirms:
        other = "sha256:" + "0" * 64
        fake.faults = [Fault("PUT", "/manifests/", status=201, headers={"Docker-Content-Digest": other})]
        with pytest.raises(EnvironmentFault, match="has stored 'sha256:0000"):
            send(fake, image)
    else:
        assert send(fake, image).digest == image.digest
        assert fake.asked("HEAD", "/manifests/")[0].path.endswith(image.digest)


def test_layers_of_other_repositories_are_mounted(fake: FakeRegistry, store: Store) -> None:
    """A second model with the same dependencies sends its own layer and configuration alone."""
    first, second = make(store), make(store, "other")
    send(fake, first)
    store.add_image(first, [f"{fake.host}/team/wine:1"])
    before = fake.sent()
    pushed = send(fake, second, "team/beer:1")
    assert_whole(fake, second, "team/beer")
    assert (pushed.mounted, pushed.sent) == (2, 2)
    assert fake.sent() - before == pushed.sent_bytes < 2000


def test_the_base_is_mounted_by_its_label(fake: FakeRegistry, store: Store) -> None:
    """The repository that the base's label names lends its layers, without any record of a push."""
    image = make(store, label=f"{fake.host}/library/base:1")
    base = image.layers[0].digest
    fake.blobs["library/base", base] = store.read(base)
    assert send(fake, image).mounted == 1
    assert_whole(fake, image)


@pytest.mark.parametrize("refusal", [202, 401, 403, 404, 500])
def test_refused_mounts_are_no_error(fake: FakeRegistry, store: Store, refusal: int) -> None:
    """What cannot be mounted is sent; an upload that was begun for it is given up."""
    image = make(store)
    store.add_image(image, [f"{fake.host}/never/pushed:1", "not.a.registry", "elsewhere.example/x:1"])
    if refusal != 202:
        fake.faults = [Fault("POST", "mount=", status=refusal, times=1000)]
    pushed = send(fake, image)
    assert (pushed.mounted, pushed.sent) == (0, 4)
    assert_whole(fake, image)
    assert {item.query["from"][0] for item in fake.asked("POST") if item.query} == {"never/pushed"}
    assert len(fake.asked("DELETE")) == (3 if refusal == 202 else 0)
    assert fake.uploads == {}


@pytest.mark.parametrize("damage", ["changed", "short", "gone"])
def test_a_damaged_store(fake: FakeRegistry, store: Store, damage: str) -> None:
    """A layer that is not what its name says is the store's fault, in words, and no manifest is sent."""
    image = make(store)
    path = store.path(image.layers[1].digest)
    data = path.read_bytes()
    path.unlink() if damage == "gone" else path.write_bytes(data[: -9 if damage == "short" else -1])
    if damage == "changed":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(EnvironmentFault) as caught:
        send(fake, image)
    assert caught.value.code == "store-corrupt" and image.layers[1].digest in caught.value.message
    assert fake.manifests == {}


def test_in_parallel() -> None:
    """Results come in order; the first failure stops what waits and is raised."""
    assert in_parallel(lambda number: number * 2, range(20), threading.Event()) == list(range(0, 40, 2))
    stop, started = threading.Event(), []

    def task(number: int) -> None:
        started.append(number)
        if number == 0:
            raise ValueError("the first")
        assert stop.wait(10)

    with pytest.raises(ValueError, match="the first"):
        in_parallel(task, range(20), stop)
    assert stop.is_set() and len(started) <= 4


LOCATIONS = [
    ("/v2/team/wine/blobs/uploads/1", "https://registry.example/v2/team/wine/blobs/uploads/1", True),
    ("http://registry.example/up/1?a=b%2Fc", "https://registry.example/up/1?a=b%2Fc", True),
    ("https://cdn.example/up/1", "https://cdn.example/up/1", False),
    ("https://registry.example:8443/up/1", "https://registry.example:8443/up/1", False),
    ("http://cdn.example/up/1", "", False),
]


@pytest.mark.parametrize(("location", "url", "own"), LOCATIONS)
def test_where_a_registry_sends_uploads(store: Store, docker_config: Path, location: str, url: str, own: bool) -> None:
    """Credentials follow to the registry itself only, and nothing goes anywhere without TLS."""
    value = base64.b64encode(b"me:pw").decode()
    (docker_config / "config.json").write_text(json.dumps({"auths": {"registry.example": {"auth": value}}}))
    image, puts = make(store), []

    def answer(request: httpx.Request) -> httpx.Response:
        header = request.headers.get("authorization", "")
        if request.method == "PUT" and "/manifests/" not in request.url.path:
            request.read()
            puts.append((str(request.url).partition("digest=")[0].rstrip("?&"), header))
            return httpx.Response(201)
        if not header:
            return httpx.Response(401, headers={"WWW-Authenticate": 'Basic realm="r"'})
        if request.method == "POST":
            return httpx.Response(202, headers={"Location": location})
        return httpx.Response(404) if request.method == "HEAD" else httpx.Response(201)

    http = httpx.Client(transport=httpx.MockTransport(answer), follow_redirects=True)
    reference = parse_reference("registry.example/team/wine:1")
    with pytest.raises(EnvironmentFault, match="without TLS" if not url else "has stored 'HTTP 404'"):
        push(image, reference, store, http=http, sleep=lambda seconds: None)
    assert set(puts) == ({(url, f"Basic {value}" if own else "")} if url else set())


def test_interrupt(fake: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the registry does not answer: exit 130 at once, no manifest, no name, and the next push succeeds."""
    monkeypatch.setenv("MPACK_HOME", str(tmp_path / "home"))
    store = Store.default()
    image = make(store)
    reached, release = threading.Event(), threading.Event()
    serve = fake.fault

    def stall(method: str, path: str) -> Fault | None:
        if method == "PUT" and len(fake.blobs) >= 1:
            reached.set()
            release.wait(30)
        return serve(method, path)

    monkeypatch.setattr(fake, "fault", stall)
    program = "from mpack.cli.main import run; run()"
    command = [sys.executable, "-c", program, "push", image.digest, f"{fake.host}/team/wine:1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert reached.wait(30), process.communicate()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        release.set()
        process.kill()
    assert (process.returncode, out) == (130, "") and err.endswith("mpack: interrupted\n"), err
    assert fake.manifests == {} and [record.names for record in store.records() if record.role == "image"] == [()]
    monkeypatch.setattr(fake, "fault", serve)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{fake.host}/team/wine@{image.digest}\n"
    assert_whole(fake, image)
    assert store.resolve(f"{fake.host}/team/wine:1").digest == image.digest
