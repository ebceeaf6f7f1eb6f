"""What mpack writes, read by the tools that Debian has, and what these write, taken as a base.

The tools run as root, as the suite does in its set-up; each keeps what it reads in a scratch directory.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mpack.bases import Bases
from mpack.bases.sources import fetch
from mpack.engine import Docker
from mpack.images import stored_image
from mpack.oci import tar
from mpack.oci.compose import append_layers
from mpack.oci.image import OciImage, canonical_json
from mpack.oci.imageindex import ImageIndex
from mpack.oci.layer import Entry, bytes_entries
from mpack.oci.rootfs import unpack
from mpack.oci.store import Store
from mpack.targets import parse_output
from mpack.targets.docker import load_image
from mpack.testing.registryserver import RegistryServer
from mpack.testing.tiny import tiny_base

ROOT = Path(__file__).parents[2]
#: What is hard to store: a path longer than ustar's fields, and names outside ASCII.
LONG = "/opt/mpack/model/" + "/".join(["a-directory-with-a-long-name"] * 5) + "/" + "f" * 110
ODD = "/opt/mpack/model/größe λ.txt"


@dataclass(frozen=True)
class Written:
    """An image in a store and in the three kinds of files, each under the name `NAME`."""

    store: Store
    image: OciImage
    layout: Path
    archive: Path
    docker: Path


NAME = "mpack-test-tools:1"


def run(*command: str | Path) -> str:
    """A command's output; the test fails with what it says when it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr}"
    return done.stdout


def tiny(store: Store, architecture: str = "amd64") -> OciImage:
    """An image of two layers with a link, a program and awkward names."""
    base = tiny_base(store)
    config = {**base.config, "architecture": architecture}
    files = bytes_entries({LONG: b"long", ODD: b"odd", "/opt/mpack/model/empty": b""})
    program = Entry("/opt/mpack/bin/run", mode=0o755, size=4, source=b"#!\n\n")
    link = Entry("/opt/mpack/bin/python", tar.LINK, target="../model/empty")
    with store.lease():
        layer = store.write_layer([*files, program, link], kind="model")
        image = append_layers(store, store.put_image(canonical_json(config), base.layers), [layer])
        store.add_image(image)
    return image


@pytest.fixture(scope="module", params=["tiny", "real"])
def written(request: Any, mpack: Any, mpack_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Every kind of file of a tiny image and of an ONNX model's."""
    out = tmp_path_factory.mktemp(request.param)
    files = (out / "layout", out / "oci.tar", out / "docker.tar")
    targets = [f"{kind}:{path}" for kind, path in zip(("oci", "oci-archive", "docker-archive"), files, strict=True)]
    if request.param == "tiny":
        store = Store(out / "store")
        image = tiny(store)
        for target in targets:
            parse_output(target).write(stored_image(image), NAME, store, None)
        return Written(store, image, *files)
    model = ROOT / "fixtures" / "models" / "onnx-two-inputs" / "scores.onnx"
    outputs = [word for target in targets for word in ("-o", target)]
    mpack("build", model, "-t", NAME, "--no-verify", "--lock", out / "lock", *outputs)
    store = Store(mpack_home / "data" / "store")
    return Written(store, store.resolve(NAME), *files)


def tree(directory: Path) -> dict[str, tuple[Any, ...]]:
    """Path -> kind, mode, owner and content of everything below a directory."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in directory.rglob("*"):
        state = path.lstat()
        content = str(path.readlink()) if path.is_symlink() else ""
        if path.is_file() and not path.is_symlink():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        mode = 0 if path.is_symlink() else state.st_mode
        found[str(path.relative_to(directory))] = (mode, state.st_uid, state.st_gid, content)
    return found


def test_skopeo(written: Written, tmp_path: Path) -> None:
    """skopeo reads all three; a copy of an OCI form has the digest that mpack gave, one of the docker form the id."""
    layout, archive = f"oci:{written.layout}:{NAME}", f"oci-archive:{written.archive}:{NAME}"
    for source in (layout, archive):
        assert json.loads(run("skopeo", "inspect", source))["Digest"] == written.image.digest
        run("skopeo", "copy", "--quiet", source, f"dir:{tmp_path}/{source.partition(':')[0]}")
        [manifest] = (tmp_path / source.partition(":")[0]).glob("manifest.json")
        assert f"sha256:{hashlib.sha256(manifest.read_bytes()).hexdigest()}" == written.image.digest
    run("skopeo", "copy", "--quiet", f"docker-archive:{written.docker}:{NAME}", f"dir:{tmp_path}/docker")
    manifest_json = json.loads((tmp_path / "docker" / "manifest.json").read_bytes())
    assert manifest_json["config"]["digest"] == written.image.id


def test_umoci(written: Written, tmp_path: Path) -> None:
    """umoci unpacks the layout into the very tree that mpack reads: kinds, modes, owners, links, bytes."""
    run("umoci", "unpack", "--image", f"{written.layout}:{NAME}", tmp_path / "bundle")
    (tmp_path / "own").mkdir()
    unpack(written.image, tmp_path / "own")
    own = tree(tmp_path / "own")
    assert tree(tmp_path / "bundle" / "rootfs") == own and len(own) > 10


# Both are one library, whose storage "vfs" copies every layer: a large image is for one of them.
@pytest.mark.parametrize(
    ("written", "tool"), [("tiny", "podman"), ("tiny", "buildah"), ("real", "podman")], indirect=["written"]
)
def test_podman_and_buildah(written: Written, tool: str) -> None:
    """Both pull every form, find the image's id, and know an archive's image by its short name."""
    # podman refuses a run root of more than 50 characters.
    with tempfile.TemporaryDirectory(prefix="mpt-") as place:
        command = (tool, "--root", f"{place}/root", "--runroot", f"{place}/run", "--storage-driver", "vfs")
        asked = ("--format", "{{.Id}}") if tool == "podman" else ("--type", "image", "--format", "{{.FromImageID}}")
        try:
            for form in (f"oci-archive:{written.archive}", f"docker-archive:{written.docker}"):
                assert run(*command, "pull", "--quiet", form).strip() == written.image.id.removeprefix("sha256:")
                assert run(*command, "inspect", *asked, NAME).strip() == written.image.id.removeprefix("sha256:")
                if written.image.size < 1_000_000:
                    run(*command, "rmi", NAME)
            run(*command, "pull", "--quiet", f"oci:{written.layout}:{NAME}")
        finally:
            run(*command, "rmi", "--all", "--force")


@pytest.fixture(scope="module")
def ctr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """`ctr(…)` asks a containerd of the test's own."""
    place = tmp_path_factory.mktemp("containerd")
    lines = ["version = 2", f'root = "{place}/root"', f'state = "{place}/state"']
    lines += ['disabled_plugins = ["io.containerd.grpc.v1.cri"]']
    lines += [f'[{name}]\naddress = "{place}/{name}.sock"' for name in ("grpc", "ttrpc")]
    (place / "config.toml").write_text("\n".join(lines))
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(["containerd", "--config", place / "config.toml"], stdout=log, stderr=log)
    command = ["ctr", "--address", str(place / "grpc.sock")]
    try:
        deadline = time.monotonic() + 20
        while subprocess.run([*command, "version"], capture_output=True).returncode:
            assert time.monotonic() < deadline and process.poll() is None, (place / "log").read_text()
        yield lambda *words: run(*command, *words)
    finally:
        process.terminate()
        process.wait()


def test_containerd(written: Written, ctr: Callable[..., str]) -> None:
    """ctr imports both archives under the name that Kubernetes looks for, and unpacks what it imports."""
    for archive, options in ((written.archive, []), (written.docker, ["--no-unpack"])):
        ctr("images", "import", "--snapshotter", "native", *options, archive)
        [line] = [line for line in ctr("images", "check", "--snapshotter", "native").splitlines() if NAME in line]
        assert line.split()[0] == f"docker.io/library/{NAME}" and "complete" in line
        assert archive == written.docker or (written.image.digest in line and line.split()[-1] == "true")
        ctr("images", "rm", "--sync", f"docker.io/library/{NAME}")


@pytest.fixture
def index(tmp_path: Path) -> tuple[Store, ImageIndex]:
    """An index of a tiny image for two platforms."""
    store = Store(tmp_path / "store")
    return store, store.add_index([tiny(store, "arm64"), tiny(store)])


def test_an_index(
    index: tuple[Store, ImageIndex], ctr: Callable[..., str], plain: RegistryServer, docker_config: Path, tmp_path: Path
) -> None:
    """Tools take all platforms of an index, or their own: out of a layout, an archive and a registry."""
    store, found = index
    built = replace(stored_image(found.images[0]), digest=found.digest, id=found.id)
    for place in (f"oci:{tmp_path}/layout", f"oci-archive:{tmp_path}/a.tar", f"registry:{plain.host}/{NAME}"):
        parse_output(place).write(built, NAME, store, None)
    sources = [f"oci:{tmp_path}/layout:{NAME}", f"oci-archive:{tmp_path}/a.tar", f"docker://{plain.host}/{NAME}"]
    for number, source in enumerate(sources):
        plainly = ["--src-tls-verify=false"] if source.startswith("docker:") else []
        run("skopeo", "copy", "--quiet", "--all", *plainly, source, f"oci:{tmp_path}/all{number}:x")
        assert found.digest in (tmp_path / f"all{number}" / "index.json").read_text()
        for image in found.images:
            arch = str(image.config["architecture"])
            one = tmp_path / f"{arch}{number}"
            run("skopeo", "--override-arch", arch, "copy", "--quiet", *plainly, source, f"oci:{one}:x")
            assert image.digest in (one / "index.json").read_text()
    ctr("images", "import", "--all-platforms", "--no-unpack", tmp_path / "a.tar")
    [line] = [line for line in ctr("images", "ls").splitlines() if NAME in line]
    assert found.digest in line and "linux/amd64,linux/arm64" in line
    ctr("images", "rm", "--sync", line.split()[0])


@pytest.mark.parametrize("written", ["tiny"], indirect=True)
def test_what_others_write_is_a_base(written: Written, tmp_path: Path) -> None:
    """A layout or an archive that skopeo wrote, from whatever form, is a base with the same layers."""
    store = Store(tmp_path / "store")
    wanted = [layer.diff_id for layer in written.image.layers]
    for number, source in enumerate((f"oci:{written.layout}:{NAME}", f"docker-archive:{written.docker}:{NAME}")):
        for kind, tag in (("oci", ""), ("oci-archive", ""), ("docker-archive", ":x:1")):
            form = f"{kind}:{tmp_path}/{kind}{number}"
            run("skopeo", "copy", "--quiet", source, form + tag)
            image, digest = fetch(form, "linux/amd64", store, None, print)
            assert [layer.diff_id for layer in image.layers] == wanted and digest == image.digest, form


@pytest.mark.parametrize("tool", ["docker", "skopeo"])
def test_an_archive_as_base(base_home: Callable[..., Path], engine: str, tool: str, tmp_path: Path) -> None:
    """`--base docker-archive:FILE` takes what `docker save` or skopeo wrote; no path of this machine is in the plan."""
    store = Store(base_home(f"tools-{tool}") / "data" / "store")
    base, archive = store.resolve("mpack-base:python3.11"), tmp_path / "base.tar"
    if tool == "skopeo":
        run(tool, "copy", "--quiet", f"oci:{store.root}:mpack-base:python3.11", f"docker-archive:{archive}:x:1")
    else:
        name = "mpack-test-tools:base"
        load_image(Docker.find(), store, stored_image(base), [name])
        try:
            run(engine, "save", "-o", archive, name)
        finally:
            run(engine, "rmi", name)
    found = Bases(Store(tmp_path / "store"), None).inspect(f"docker-archive:{archive}", "linux/amd64")
    assert found.reference == "docker-archive:base.tar" and found.python_version.startswith("3.11")
