"""Several platforms in one build: what is refused before it, and the index on its way to every output and verb."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from mpack.builders import BuiltImage
from mpack.cli.main import mpack
from mpack.engine import Docker
from mpack.errors import EnvironmentFault, InputError, UsageError
from mpack.images import stored_image
from mpack.oci.compose import append_layers
from mpack.oci.image import OciImage, canonical_json
from mpack.oci.layer import bytes_entries
from mpack.oci.load import read_archive, read_oci_directory
from mpack.oci.store import Store
from mpack.pipeline import BuildRequest
from mpack.platforms import as_index, require_builder, require_platforms
from mpack.result import PlatformImage
from mpack.sandbox import in_order
from mpack.spec import Requirement
from mpack.targets import parse_output
from mpack.testing.fakeregistry import FakeRegistry, Fault
from mpack.testing.tiny import tiny_base
from mpack.verify import Verification

BOTH = ("linux/amd64", "linux/arm64")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store, which the verbs use too."""
    monkeypatch.setenv("MPACK_HOME", str(tmp_path / "home"))
    return Store.default()


@pytest.fixture
def registry(docker_config: Path) -> Iterator[FakeRegistry]:
    """A registry in memory."""
    with FakeRegistry().serving() as fake:
        yield fake


def image_for(store: Store, platform: str) -> OciImage:
    """An untagged image for a platform: a layer of its own, and one that all platforms share."""
    system, architecture = platform.split("/")
    base = tiny_base(store, {"/bin": architecture.encode()})
    config = {**base.config, "os": system, "architecture": architecture}
    model = store.write_layer(bytes_entries({"/opt/mpack/model/text": b"weights"}), kind="model")
    labels = {"org.opencontainers.image.title": "wine", "dev.mpack.packager": "docker-rest"}
    made = append_layers(
        store, store.put_image(canonical_json(config), base.layers), [model], runtime={"Labels": labels}
    )
    store.add_image(made)
    return made


@pytest.fixture
def index(store: Store) -> BuiltImage:
    """The index of two images, as a build makes it."""
    images = [stored_image(image_for(store, platform)) for platform in BOTH]
    plan: Any = None
    return as_index(store, [PlatformImage(image, plan, Verification("skipped")) for image in images])


def run(*words: str) -> Any:
    """A verb's result; its error is raised."""
    return CliRunner().invoke(mpack, list(words), catch_exceptions=False, standalone_mode=False)


def spec(*lines: str) -> Any:
    """A spec with these requirements."""
    return SimpleNamespace(requirements=[Requirement(line, "model", "conda.yaml") for line in lines], variants=())


@pytest.fixture
def on_amd64(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine is an amd64 one, wherever the test runs."""
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


@pytest.mark.parametrize(
    ("platforms", "line", "outputs", "told"),
    [
        (BOTH, "lib", ("store", "oci:{tmp}/x", "oci-archive:{tmp}/x", "registry:localhost/x:1", "docker"), None),
        (BOTH[:1], "x @ git+https://h/x", ("docker-archive:{tmp}/x",), None),
        (BOTH[1:], "lib", ("docker-archive:{tmp}/x", "docker"), None),
        (BOTH, "x @ git+https://h/x@1", (), r"git URL.*on this machine, which is linux/amd64 and not linux/arm64"),
        (BOTH[1:], "git+https://h/x@1", (), "git URL"),
        (BOTH, "lib", ("store", "docker-archive:{tmp}/x"), "one platform, not for linux/amd64 and linux/arm64"),
        ((BOTH[1], "linux/s390x"), "lib", ("docker",), "the docker engine's platform is linux/amd64"),
    ],
)
@pytest.mark.usefixtures("on_amd64")
def test_what_several_platforms_cannot(
    platforms: tuple[str, ...], line: str, outputs: tuple[str, ...], told: str | None, tmp_path: Path
) -> None:
    """A package to build here, a docker archive of two platforms, an engine of a third: told before any work."""
    targets = [parse_output(text.format(tmp=tmp_path)) for text in outputs]
    engine: Any = SimpleNamespace(platform="linux/amd64")
    if told is None:
        require_platforms(platforms, spec(line), targets, engine)
        return
    with pytest.raises((InputError, UsageError), match=told):
        require_platforms(platforms, spec(line), targets, engine)


@pytest.mark.usefixtures("on_amd64")
def test_the_option(tmp_path: Path) -> None:
    """Each platform once, this machine's first; one request a platform; verbs for one image refuse several."""
    assert in_order(["linux/arm64", "linux/amd64", "linux/arm64"]) == BOTH
    request = BuildRequest("x", platforms=BOTH)
    assert [(item.options.platform, item.platforms) for item in request.each()] == [(name, ()) for name in BOTH]
    assert BuildRequest("x").each() == [BuildRequest("x")]
    for verb in (["plan", "x"], ["export", "x", str(tmp_path / "out")]):
        with pytest.raises(UsageError, match="takes one platform, not linux/amd64 and linux/arm64"):
            run(*verb, "--platform", "linux/arm64,linux/amd64")
    require_builder("embedded", BOTH)
    require_builder("docker", BOTH[1:])
    with pytest.raises(UsageError, match="docker cannot build for linux/amd64 and linux/arm64 at once"):
        require_builder("docker", BOTH)


def test_files(store: Store, index: BuiltImage, tmp_path: Path) -> None:
    """A layout and an archive hold the index, both images and what they share once; the docker archive refuses it."""
    for kind in ("oci", "oci-archive"):
        parse_output(f"{kind}:{tmp_path}/{kind}").write(index, "wine:1", store, None)
    other = Store(tmp_path / "other")
    with (tmp_path / "oci-archive").open("rb") as stream:
        loaded = read_archive(other, stream, "x")
    assert loaded == read_oci_directory(other, tmp_path / "oci")
    assert [item.image.platform for item in loaded] == list(BOTH) and {item.names for item in loaded} == {("wine:1",)}
    [entry] = json.loads((tmp_path / "oci" / "index.json").read_bytes())["manifests"]
    assert entry["digest"] == index.digest and "platform" not in entry
    blobs = list((tmp_path / "oci" / "blobs" / "sha256").iterdir())
    assert len(blobs) == 1 + 2 * 3 + 1  # the index; two manifests, configurations and bases; the model
    with pytest.raises(UsageError, match="one platform"):
        parse_output(f"docker-archive:{tmp_path}/d.tar").write(index, "wine:1", store, None)
    assert not (tmp_path / "d.tar").exists()


def test_push(store: Store, index: BuiltImage, registry: FakeRegistry) -> None:
    """A registry gets each blob once, each image by its digest, and the index last, by its tag."""
    reference = f"{registry.host}/team/wine:1"
    told = parse_output(f"registry:{reference}").write(index, "wine:1", store, None)
    assert told == f"{registry.host}/team/wine@{index.digest}"
    digests = [image.digest for image in index.members]
    put = [item.path.rpartition("/")[2] for item in registry.asked("PUT", "/manifests/")]
    assert put == [*digests, "1"]
    assert registry.manifests["team/wine", "1"] == store.read(index.digest or "")
    assert len(registry.blobs) == 2 * 2 + 1
    [record] = [item for item in store.records() if item.role == "image"]
    assert set(record.names) == {"wine:1", reference}
    sent = registry.sent()
    run("push", "wine:1", f"{registry.host}/other/wine:2")
    configurations = sum(len(store.read(image.id)) for image in index.members)
    assert registry.sent() == sent + configurations  # layers are mounted
    assert registry.manifests["other/wine", "2"] == store.read(index.digest or "")


def test_an_index_of_a_registry_is_not_pushed_in_part(
    store: Store, index: BuiltImage, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an index that only a registry has nothing goes on, and it says what to do; one image of it by digest does."""
    monkeypatch.setattr(Docker, "answering", lambda: None)
    parse_output(f"registry:{registry.host}/team/wine:1").write(index, "wine:1", store, None)
    store.forget(index.digest or "")
    store.gc()
    copy = f"{registry.host}/copy/wine:1"
    with pytest.raises(UsageError, match=r"there for linux/amd64, linux/arm64") as caught:
        run("push", f"{registry.host}/team/wine:1", copy)
    assert "skopeo copy --all" in caught.value.hint
    assert ("copy/wine", "1") not in registry.manifests
    own = index.members[0].digest
    run("push", f"{registry.host}/team/wine@{own}", copy)
    assert registry.manifests["copy/wine", "1"] == registry.manifests["team/wine", own or ""]


def test_a_push_that_breaks_off_moves_no_tag(store: Store, index: BuiltImage, registry: FakeRegistry) -> None:
    """Where the second image is refused, the tag is not there: nobody sees an index with a hole."""
    second = index.members[1].digest or ""
    registry.faults = [Fault("PUT", second, status=403)]
    with pytest.raises(EnvironmentFault, match="refuses a push"):
        parse_output(f"registry:{registry.host}/wine:1").write(index, "wine:1", store, None)
    assert ("wine", "1") not in registry.manifests and store.find_any(f"{registry.host}/wine:1") is None


@pytest.mark.usefixtures("on_amd64")
def test_verbs(store: Store, index: BuiltImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`images`, `diff` and `rm` treat an index as one image: of `diff` this machine's platform is compared."""
    monkeypatch.setattr(Docker, "answering", lambda: None)
    parse_output(f"oci:{tmp_path}/layout").write(index, "wine:1", store, None)
    [row] = json.loads(run("images", "--json").stdout)
    assert (row["digest"], row["names"], row["platform"]) == (index.digest, ["wine:1"], ",".join(BOTH))
    assert row["size"] == index.size and row["packager"] == "docker-rest"
    assert "linux/amd64,linux/arm64" in run("images").stdout
    own = index.members[0].digest
    for other, code in ((own or "", 0), (f"oci:{tmp_path}/layout", 0), (index.members[1].digest or "", 1)):
        assert CliRunner().invoke(mpack, ["diff", "wine:1", other]).exit_code == code
    run("rm", "wine:1")
    assert store.find_any(index.digest or "") is None and not store.has(own or "")


@pytest.mark.docker
def test_an_engine_gets_its_own(store: Store, index: BuiltImage, engine: str) -> None:
    """docker holds the image of its own platform under the name that is the index's in the store."""
    docker = Docker.find()
    own = index.for_platform(docker.platform)
    try:
        parse_output("docker").write(index, "mpack-test-platforms:1", store, docker)
        found = docker.inspect("mpack-test-platforms:1")
        assert found is not None and found["Id"] == own.id
        assert store.find_any("mpack-test-platforms:1") == store.load(index.digest or "")
    finally:
        docker.remove(own.id)
    with pytest.raises(UsageError, match="not for linux/s390x"):
        index.for_platform("linux/s390x")
