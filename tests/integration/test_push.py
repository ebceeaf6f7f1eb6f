"""Pushing to Debian's docker-registry: what arrives, what is not sent again, and what goes wrong on the way."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mpack.engine import Docker
from mpack.errors import EnvironmentFault
from mpack.images import stored_image
from mpack.oci.compose import append_layers
from mpack.oci.image import OciImage
from mpack.oci.layer import Layer, bytes_entries
from mpack.oci.store import Store
from mpack.registry import parse_reference
from mpack.registry.pull import pull
from mpack.registry.push import Pushed, push
from mpack.targets.docker import load_image
from mpack.testing.processes import watched_processes
from mpack.testing.registryserver import PASSWORD, USER, RegistryServer, counting, registry_server
from mpack.testing.relay import Carry, relay
from mpack.testing.tiny import tiny_base

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("docker_config")]

BIG = 5 << 20
PIECE = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


def dependencies(store: Store) -> Layer:
    """A layer of five megabytes that do not compress."""
    return store.write_layer(bytes_entries({"/opt/big": os.urandom(BIG)}), kind="dependencies")


def make(store: Store, layer: Layer, text: str) -> OciImage:
    """An image of a base, the dependencies, and a small layer of its own."""
    model = store.write_layer(bytes_entries({"/opt/model": text.encode()}), kind="model")
    image = append_layers(store, tiny_base(store), [layer, model], runtime={})
    store.add_image(image)
    return image


def send(store: Store, image: OciImage, name: str) -> Pushed:
    """Pushes in pieces of a megabyte, without waiting after faults."""
    return push(image, parse_reference(name), store, sleep=lambda seconds: None, piece=PIECE)


def log_in(directory: Path, host: str, password: str = PASSWORD) -> None:
    """What `docker login` leaves."""
    value = base64.b64encode(f"{USER}:{password}".encode()).decode()
    (directory / "config.json").write_text(json.dumps({"auths": {host: {"auth": value}}}))


def test_push_and_pull_back(plain: RegistryServer, store: Store, tmp_path: Path) -> None:
    """The image comes back with the same digest; a second push of it sends no byte of a blob."""
    image = make(store, dependencies(store), "one")
    name = f"{plain.host}/team/wine:1"
    pushed = send(store, image, name)
    assert (pushed.digest, pushed.sent) == (image.digest, 4) and '"PATCH /v2/team/wine' in plain.log
    assert pull(parse_reference(name), "linux/amd64", Store(tmp_path / "ours")).digest == image.digest
    writes = plain.blob_writes()
    assert writes >= BIG // PIECE
    assert send(store, image, name).there == send(store, image, f"{plain.host}/team/wine:best").there == 4
    assert plain.blob_writes() == writes


def test_a_second_model_sends_no_dependencies(plain: RegistryServer, store: Store, tmp_path: Path) -> None:
    """In another repository the base and the dependencies are mounted: its own layer and configuration are sent."""
    layer = dependencies(store)
    first, second = make(store, layer, "first"), make(store, layer, "second")
    send(store, first, f"{plain.host}/one/wine:1")
    store.add_image(first, [f"{plain.host}/one/wine:1"])
    writes, mounts = plain.blob_writes(), plain.mounts()
    pushed = send(store, second, f"{plain.host}/two/beer:1")
    assert (pushed.sent, pushed.mounted) == (2, 2) and pushed.sent_bytes < 2000
    assert (plain.blob_writes() - writes, plain.mounts() - mounts) == (2, 2)
    pulled = pull(parse_reference(f"{plain.host}/two/beer:1"), "linux/amd64", Store(tmp_path / "ours"))
    assert pulled.digest == second.digest


def test_a_retrained_model_sends_itself(plain: RegistryServer, store: Store) -> None:
    """Counted on the way to the registry, HTTP included: at most 20 kB beyond the model's bytes, whether it is the next
    version in its repository or another model on the same dependencies."""
    layer, weights = dependencies(store), 200_000
    texts = [base64.b85encode(os.urandom(weights)).decode()[:weights] for _ in range(3)]
    first, retrained, another = (make(store, layer, text) for text in texts)
    with counting(plain.port) as counter:
        sent = [0]
        for image, name in ((first, "one/wine:1"), (retrained, "one/wine:2"), (another, "two/beer:1")):
            send(store, image, f"{counter.host}/{name}")
            store.add_image(image, [f"{counter.host}/{name}"])
            sent.append(counter.sent)
    assert sent[1] > BIG + weights / 2, "everything was counted"
    for before, after in pairwise(sent[1:]):
        assert weights / 2 < after - before < weights + 20_000


def test_password_and_private_ca(
    secured: RegistryServer, mpack: Any, tmp_path: Path, docker_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mpack push` with a private CA and Docker's credentials; each that is missing is told, the password never is."""
    home = tmp_path / "home"
    store = Store(home / "data" / "store")
    image = make(store, dependencies(store), "one")
    name = f"{secured.host}/team/wine:1"

    def run(code: int, **environment: str) -> subprocess.CompletedProcess[str]:
        done = mpack("--debug", "push", image.digest, name, code=code, MPACK_HOME=str(home), **environment)
        assert PASSWORD not in done.stdout + done.stderr
        assert base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode() not in done.stdout + done.stderr
        return done

    trusted = {"SSL_CERT_FILE": str(secured.ca)}
    assert "SSL_CERT_FILE" in run(3).stderr
    assert "refuses a push without credentials" in run(3, **trusted).stderr
    log_in(docker_config, secured.host, "wrong")
    assert f"refuses a push as user '{USER}'" in run(3, **trusted).stderr
    assert store.find(name) is None
    log_in(docker_config, secured.host)
    with watched_processes() as seen:
        done = run(0, **trusted)
    assert done.stdout == f"{secured.host}/team/wine@{image.digest}\n" and "sent 4 blobs" in done.stderr
    assert not [line for line in seen if PASSWORD in line] and PASSWORD not in secured.log
    monkeypatch.setenv("SSL_CERT_FILE", str(secured.ca))
    assert pull(parse_reference(name), "linux/amd64", Store(tmp_path / "ours")).digest == image.digest
    assert store.resolve(name).digest == image.digest


@contextmanager
def cutting(port: int, after: int, times: int, *, back: bool = False) -> Iterator[str]:
    """A way to the registry that cuts the first `times` connections that carried more than `after` bytes to it, or
    `back` from it."""
    left = [times]

    def carrier(there: bool) -> Carry:
        done = 0

        def carry(data: bytes) -> bytes | None:
            nonlocal done
            done += len(data)
            if there != back and left[0] and done > after:
                left[0] -= 1
                return None
            return data

        return carry

    with relay(port, carrier) as way:
        yield f"localhost:{way}"
    assert left == [0], "nothing was cut"


def test_cut_connections(plain: RegistryServer, store: Store, tmp_path: Path) -> None:
    """Connections cut in mid-blob: the image arrives whole all the same."""
    image = make(store, dependencies(store), "one")
    with cutting(plain.port, 2_500_000, 3) as host:
        assert send(store, image, f"{host}/cut/wine:1").digest == image.digest
    with cutting(plain.port, 1_500_000, 3, back=True) as host:
        reference = parse_reference(f"{host}/cut/wine:1")
        found = pull(reference, "linux/amd64", Store(tmp_path / "ours"))
    assert found.digest == image.digest
    for layer in found.layers:
        with found.blobs.open(layer.digest) as stream:  # its end is checked
            assert len(stream.read()) == layer.size


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True)
    assert mounted.returncode == 0, f"this test mounts a small disk, as root: {mounted.stderr.decode()}"
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_full_registry(store: Store, small: Path, tmp_path: Path) -> None:
    """A registry whose disk is full: the error says so, and there is no manifest."""
    image = make(store, dependencies(store), "one")
    with registry_server(small) as server:
        with pytest.raises(EnvironmentFault, match="its disk is full") as caught:
            send(store, image, f"{server.host}/full/wine:1")
        assert caught.value.code == "registry-failed" and "make room" in caught.value.hint
        with pytest.raises(EnvironmentFault, match="has no image"):
            pull(parse_reference(f"{server.host}/full/wine:1"), "linux/amd64", Store(tmp_path / "ours"))


def test_pull_onto_a_full_disk(plain: RegistryServer, store: Store, small: Path) -> None:
    """A base that the store has no room for: disk-full with what to do, no half blob, no manifest."""
    image = make(store, dependencies(store), "one")
    send(store, image, f"{plain.host}/large/wine:1")
    ours = Store(small)
    with pytest.raises(EnvironmentFault, match="no space is left") as caught:
        pull(parse_reference(f"{plain.host}/large/wine:1"), "linux/amd64", ours)
    assert caught.value.code == "disk-full" and "mpack cache prune" in caught.value.hint
    assert list(ours.unfinished.iterdir()) == [] and not ours.has(image.digest)
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in ours.directory.iterdir())


@pytest.mark.docker
@pytest.mark.parametrize("builder", ["embedded", "docker"])
def test_build_to_a_registry(
    builder: str,
    plain: RegistryServer,
    mpack: Any,
    engine: str,
    echo: dict[str, str],
    model: Path,
    tmp_path: Path,
    remove_image: Any,
) -> None:
    """`-o registry:REF` prints a name by digest, which docker pulls and runs; with the docker builder too."""
    place = f"{plain.host}/echo/{builder}"
    options = ("-p", "echo", "-a", "greeting=Hello", "--builder", builder, "-t", f"mpack-test-push:{builder}")
    remove_image(f"mpack-test-push:{builder}")
    built = mpack.json("build", model, *options, "-o", f"registry:{place}:1", "--lock", tmp_path / "lock", **echo)
    assert built["outputs"] == [f"{place}@{built['digest']}"]
    remove_image(built["outputs"][0])
    subprocess.run([engine, "pull", built["outputs"][0]], capture_output=True, check=True)
    done = subprocess.run([engine, "run", "--rm", built["outputs"][0]], capture_output=True, text=True)
    assert done.stdout == "Hello scores 0\nscores.onnx\n", done.stderr
    mpack("rm", f"mpack-test-push:{builder}", f"{place}:1")


@pytest.mark.docker
def test_push_of_an_engines_image(plain: RegistryServer, store: Store, mpack: Any, engine: str, tmp_path: Path) -> None:
    """An image that only the engine has is pushed too, with the same configuration."""
    image = make(store, dependencies(store), "engine")
    docker = Docker.find()
    load_image(docker, store, stored_image(image), ["mpack-test-push:engine"])
    try:
        name = f"{plain.host}/engine/wine:1"
        done = mpack("push", "mpack-test-push:engine", name, MPACK_HOME=str(tmp_path / "home"))
    finally:
        docker.remove(image.id)
    pulled = pull(parse_reference(name), "linux/amd64", Store(tmp_path / "ours"))
    assert done.stdout == f"{plain.host}/engine/wine@{pulled.digest}\n" and pulled.id == image.id
