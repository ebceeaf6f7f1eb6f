"""Targets and the verbs of the store: outputs parsed, written whole or not at all, named everywhere."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mpack.builders import BuiltImage
from mpack.engine import Docker
from mpack.errors import EnvironmentFault, MpackError, UsageError
from mpack.images import stored_image
from mpack.oci.compose import append_layers
from mpack.oci.layer import bytes_entries
from mpack.oci.load import read_archive, read_oci_directory
from mpack.oci.store import Store
from mpack.targets import default_outputs, parse_output
from mpack.targets.docker import load_image
from mpack.testing.fakeregistry import FakeRegistry, Fault
from mpack.testing.tiny import tiny_base


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store, which the verbs use too."""
    monkeypatch.setenv("MPACK_HOME", str(tmp_path / "home"))
    return Store.default()


def make(store: Store, text: str = "weights") -> BuiltImage:
    """An untagged image with a base and a model layer, as a builder leaves it."""
    layer = store.write_layer(bytes_entries({"/opt/mpack/model/text": text.encode()}), kind="model")
    base = tiny_base(store)
    labels = {"org.opencontainers.image.title": "wine", "org.opencontainers.image.version": "1"}
    image = append_layers(store, base, [layer], runtime={"Labels": {**labels, "dev.mpack.packager": "docker-rest"}})
    store.add_image(image)
    return stored_image(image)


def rest(directory: Path) -> list[str]:
    """Names in a directory, hidden ones too."""
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not an output"),
        ("oci", "not an output"),
        ("oci:", "not an output"),
        ("docker:x", "not an output"),
        ("zip:x.zip", "not an output"),
        ("registry:", "not an output"),
        ("registry:wine:1", "which registry"),
        ("registry:team/wine:1", "which registry"),
        (f"registry:localhost/x@sha256:{'0' * 64}", "under a tag"),
        ("oci-archive:/nowhere/at/all.tar", "is not a directory"),
        ("docker-archive:/", "is a directory"),
        ("oci:/etc", "no OCI layout"),
    ],
)
def test_what_is_no_output(text: str, why: str) -> None:
    """Unknown kinds, missing places and places that cannot take an image are usage errors, before anything is built."""
    with pytest.raises(UsageError, match=why):
        parse_output(text)


def test_outputs_and_defaults(tmp_path: Path) -> None:
    """Every output is printed as it was written; without an engine the store is the default."""
    texts = ["docker", "store", *(f"{kind}:{tmp_path}/x" for kind in ("oci", "oci-archive", "docker-archive"))]
    texts.append("registry:localhost:5000/team/wine:1")
    targets = [parse_output(text) for text in texts]
    assert [str(target) for target in targets] == texts
    assert [target.kind for target in targets] == [text.partition(":")[0] for text in texts]
    assert [target.kind for target in default_outputs(None)] == ["store"]


def test_store_target(store: Store) -> None:
    """The store target names the image."""
    image = make(store)
    assert parse_output("store").write(image, "wine:1", store, None) == "wine:1"
    assert store.resolve("wine:1").digest == image.digest


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_archives(store: Store, tmp_path: Path, kind: str) -> None:
    """An archive holds the image under its name, replaces an old file, and the store knows the name too."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "image.tar").write_text("old")
    image = make(store)
    assert parse_output(f"{kind}:{out}/image.tar").write(image, "wine:1", store, None) == f"{out}/image.tar"
    with (out / "image.tar").open("rb") as stream:
        [loaded] = read_archive(Store(tmp_path / "other"), stream, "image.tar")
    assert (loaded.image.id, loaded.names) == (image.id, ("wine:1",))
    assert store.resolve("wine:1").id == image.id and rest(out) == ["image.tar"]


def test_oci_directory(store: Store, tmp_path: Path) -> None:
    """An absent directory is made; one that is an OCI layout takes the image as a further one."""
    out = tmp_path / "out"
    out.mkdir()
    target = parse_output(f"oci:{out}/layout")
    first, second = make(store, "one"), make(store, "two")
    for image, name in ((first, "wine:1"), (second, "wine:2")):
        assert target.write(image, name, store, None) == f"{out}/layout"
    loaded = read_oci_directory(Store(tmp_path / "other"), out / "layout")
    assert {item.names: item.image.digest for item in loaded} == {
        ("wine:1",): first.digest,
        ("wine:2",): second.digest,
    }
    assert rest(out) == ["layout"]
    assert parse_output(f"oci:{out}/layout").kind == "oci"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRegistry]:
    """A registry in memory; no credentials and no proxy of this machine's user."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FakeRegistry().serving() as fake:
        yield fake


def test_registry_target(store: Store, registry: FakeRegistry) -> None:
    """A push is told by digest, and the store knows the image by its name and by the registry's."""
    image = make(store)
    target = parse_output(f"registry:{registry.host}/team/wine:1")
    assert target.write(image, "wine:1", store, None) == f"{registry.host}/team/wine@{image.digest}"
    [record] = [item for item in store.records() if item.digest == image.digest]
    assert set(record.names) == {"wine:1", f"{registry.host}/team/wine:1"}
    assert registry.manifests["team/wine", "1"] == store.read(image.digest or "")


def test_a_failed_push_gives_no_name(store: Store, registry: FakeRegistry) -> None:
    """A refused push leaves the store without the registry's name, and the registry without a manifest."""
    registry.faults = [Fault("PUT", "/manifests/", status=403)]
    with pytest.raises(EnvironmentFault, match="refuses a push"):
        parse_output(f"registry:{registry.host}/wine:1").write(make(store), "wine:1", store, None)
    assert store.find("wine:1") and not store.find(f"{registry.host}/wine:1") and registry.manifests == {}


def test_push_verb(store: Store, registry: FakeRegistry) -> None:
    """`mpack push` prints a line a reference, says what it sent, and leaves a base a base."""
    image = make(store)
    store.tag(image.digest or "", "wine:1")
    names = [f"{registry.host}/{name}" for name in ("a/wine:1", "b/wine:2")]
    done = run("push", "wine:1", *names)
    assert done.stdout.split() == [f"{name.rpartition(':')[0]}@{image.digest}" for name in names]
    assert "sent 3 blobs" in done.stderr and "2 were mounted" in done.stderr
    told = json.loads(run("push", image.id, names[0], "--json").stdout)
    assert told == {"id": image.id, "digest": image.digest, "outputs": [f"{registry.host}/a/wine@{image.digest}"]}
    run("push", "tiny-base:1", f"{registry.host}/bases/tiny:1")
    assert [record.role for record in store.records() if "tiny-base:1" in record.names] == ["base"]
    with pytest.raises(UsageError, match="which registry"):
        run("push", "wine:1", names[0], "wine:1")


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive", "oci"])
def test_a_failed_write_leaves_nothing(store: Store, tmp_path: Path, kind: str) -> None:
    """A damaged layer ends the write: no file, no directory, no temporary one; an old file stays."""
    out = tmp_path / "out"
    out.mkdir()
    if kind != "oci":
        (out / "image").write_text("old")
    image = make(store)
    assert image.layers[-1].digest is not None
    path = store.path(image.layers[-1].digest)
    path.write_bytes(path.read_bytes()[:-9] + b"123456789")
    with pytest.raises(EnvironmentFault) as caught:
        parse_output(f"{kind}:{out}/image").write(image, "wine:1", store, None)
    assert caught.value.code == "store-corrupt"
    assert rest(out) == ([] if kind == "oci" else ["image"])
    assert kind == "oci" or (out / "image").read_text() == "old"


def run(*args: str) -> Any:
    """A verb, in this process; an mpack error comes out as it is."""
    from mpack.cli.main import mpack

    result = CliRunner().invoke(mpack, list(args))
    if isinstance(result.exception, MpackError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_images_groups_by_digest(store: Store) -> None:
    """`mpack images` shows one entry a digest with all names, its model and packager; bases are not among them."""
    image = make(store)
    for name in ("wine:1", "wine:best"):
        store.tag(image.digest or "", name)
    [row] = json.loads(run("images", "--json").stdout)
    assert (row["digest"], row["id"], row["names"]) == (image.digest, image.id, ["wine:1", "wine:best"])
    assert (row["packager"], row["model"]) == ("docker-rest", {"name": "wine", "version": "1"})
    assert (row["size"], row["platform"], row["error"]) == (image.size, "linux/amd64", None)
    text = run("images").stdout
    assert "wine:best" in text and "docker-rest" in text and "tiny-base" not in text


def test_images_shows_a_damaged_one(store: Store) -> None:
    """An image whose manifest is damaged is listed as such, and `mpack rm` removes it."""
    image = make(store)
    store.path(image.digest or "").write_text("{}")
    assert "damaged" in run("images").stdout
    run("rm", image.digest or "")
    assert json.loads(run("images", "--json").stdout) == []


def test_rm(store: Store) -> None:
    """One name of several goes alone; a digest, or the last name, takes the image and its space."""
    image = make(store)
    for name in ("wine:1", "wine:2", "other:1"):
        store.tag(image.digest or "", name)
    assert run("rm", "wine:1").stdout.split() == ["wine:1"]
    assert store.find("wine:1") is None and store.resolve("wine:2").digest == image.digest
    assert run("rm", "wine", "--all-tags").stdout.split() == ["wine:2"]
    run("rm", image.id[7:20])
    assert store.find(image.digest or "") is None and not store.has(image.digest or "")
    assert store.find("tiny-base:1") is not None
    for missing in ("wine:1", "wine"):
        with pytest.raises(EnvironmentFault, match="no image wine"):
            run("rm", missing)


def test_rm_older_than(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """--older-than takes old images with all their names and leaves young ones and bases."""
    now = time.time()
    monkeypatch.setattr("mpack.oci.store.time.time", lambda: now - 8 * 86400)
    old = make(store, "old")
    store.tag(old.digest or "", "old:1")
    monkeypatch.undo()
    monkeypatch.setenv("MPACK_HOME", str(store.root.parents[1]))
    young = make(store, "young")
    run("rm", "--older-than", "7d")
    assert [record.digest for record in store.records() if record.role == "image"] == [young.digest]
    assert store.find("tiny-base:1") is not None
    with pytest.raises(UsageError, match="No image was named"):
        run("rm")


def test_cache(store: Store) -> None:
    """`mpack cache` tells sizes; `prune` forgets what was of no use lately and frees it."""
    layer = store.write_layer(bytes_entries({"/d": b"x" * 100}), kind="dependencies")
    store.cache.put("key", layer)
    told = json.loads(run("cache", "--json").stdout)
    assert (told["store"]["size"], told["layers"]["size"]) == (layer.size, layer.size) and told["uv"]["path"]
    assert told["layers"]["entries"] == 1 and told["layers"]["oldest"] < 60
    run("cache", "prune")
    assert store.cache.get("key") == layer
    run("cache", "prune", "--older-than", "0s")
    assert store.cache.get("key") is None and not store.has(layer.digest)


def test_cache_prune_by_size(store: Store) -> None:
    """--keep-size leaves the newest within the size and says what was freed; while another mpack works nothing goes."""
    layers = [store.write_layer(bytes_entries({f"/{n}": os.urandom(100_000)}), kind="dependencies") for n in "ab"]
    for number, layer in enumerate(layers):
        store.cache.put(str(number), layer)
        path = store.cache._path(str(number))
        os.utime(path, (time.time() - 1000 + number,) * 2)
    with store.lease():
        assert "nothing was pruned" in run("cache", "prune", "--keep-size", "0B").stderr
    assert "freed 0.1 MB" in run("cache", "prune", "--keep-size", "150kB").stderr
    assert store.cache.get("0") is None and store.cache.get("1") == layers[1]
    assert not store.has(layers[0].digest)
    with pytest.raises(UsageError):
        run("cache", "prune", "--keep-size", "much")


@pytest.fixture
def docker(engine: str) -> Docker:
    """The engine."""
    return Docker.find()


@pytest.mark.docker
def test_docker_target(store: Store, docker: Docker, tmp_path: Path) -> None:
    """The engine gets image, name and files; a second image of the same base is sent without its layers."""
    first, second = make(store, "one"), make(store, "two")
    target = parse_output("docker")
    try:
        assert target.write(first, "mpack-test-targets:1", store, docker) == "mpack-test-targets:1"
        found = docker.inspect("mpack-test-targets:1")
        assert found is not None and found["Id"] == first.id and found["Config"]["Labels"]["dev.mpack.packager"]
        assert found["RootFS"]["Layers"] == [layer.diff_id for layer in first.layers]
        # Proof of thinness: the base's blob is gone, so that only an archive without it can be made.
        store.path(second.layers[0].digest or "").unlink()
        target.write(second, "mpack-test-targets:2", store, docker)
        assert docker.exists(second.id)
        assert target.write(second, "mpack-test-targets:3", store, docker) == "mpack-test-targets:3"
        assert store.find_record("mpack-test-targets:3") is not None
        exported = tmp_path / "files.tar"
        container = subprocess.run(
            ["docker", "create", second.id, "none"], capture_output=True, text=True, check=True
        ).stdout.strip()
        try:
            subprocess.run(["docker", "export", "-o", str(exported), container], check=True)
        finally:
            subprocess.run(["docker", "rm", container], capture_output=True, check=True)
        with tarfile.open(exported) as archive:
            assert archive.extractfile("opt/mpack/model/text").read() == b"two"  # type: ignore[union-attr]
    finally:
        for image in (first, second):
            docker.remove(image.id)


@pytest.mark.docker
def test_docker_without_a_name(store: Store, docker: Docker) -> None:
    """An image loaded without a name is there by its id, and goes with `remove_untagged`."""
    image = make(store, "nameless")
    load_image(docker, store, image)
    try:
        found = docker.inspect(image.id)
        assert found is not None and not found["RepoTags"]
    finally:
        docker.remove_untagged(image.id)
    assert not docker.exists(image.id)


@pytest.mark.docker
def test_full_archive_after_a_refusal(store: Store, docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the engine refuses an archive without the layers it was thought to have, all of them are sent."""
    image = make(store, "refused")
    monkeypatch.setattr("mpack.targets.docker._held", lambda docker, store, image: len(image.layers))
    try:
        load_image(docker, store, image, ["mpack-test-targets:refused"])
        assert docker.exists("mpack-test-targets:refused")
    finally:
        docker.remove(image.id)


@pytest.mark.docker
def test_gzip_layers_as_they_are(store: Store, docker: Docker) -> None:
    """A layer of several gzip members, sent as it is stored, arrives whole: the engine checks its diff id."""
    layer = store.write_layer(bytes_entries({"/big": os.urandom(2 << 20) + b"text" * (1 << 20)}), kind="model")
    image = append_layers(store, tiny_base(store), [replace(layer, tar_size=None)])
    load_image(docker, store, stored_image(image))
    try:
        assert docker.exists(image.id)
    finally:
        docker.remove(image.id)


@pytest.mark.docker
def test_an_engines_image_as_files(store: Store, docker: Docker, tmp_path: Path) -> None:
    """An image that only the engine has is saved out of it for file targets, with the same id."""
    image = make(store, "engine")
    load_image(docker, store, image)
    other = Store(tmp_path / "other")
    built = BuiltImage(image.id, image.platform, "docker", "docker", (), 0)
    try:
        for output in (f"oci:{tmp_path}/layout", f"docker-archive:{tmp_path}/image.tar", "store"):
            parse_output(output).write(built, "wine:1", other, docker)
        assert parse_output("docker").write(built, "mpack-test-targets:4", other, docker) == "mpack-test-targets:4"
    finally:
        docker.remove(image.id)
    assert other.resolve("wine:1").id == image.id
    [loaded] = read_oci_directory(Store(tmp_path / "third"), tmp_path / "layout")
    assert loaded.image.id == image.id
