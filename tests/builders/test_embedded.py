"""The embedded builder on a base of one file: what is in its images, what it takes from its cache, what it leaves."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from mpack.builders import BuiltImage
from mpack.builders.embedded import EmbeddedBuilder
from mpack.contents import Contents, sha256_file
from mpack.env.index import IndexSettings
from mpack.errors import InputError
from mpack.oci.image import OciImage
from mpack.oci.rootfs import read_files
from mpack.oci.store import Store
from mpack.plan import BaseImage, Bytecode, ImagePlan, LockedPackage
from mpack.spec import ImageConfig
from mpack.testing.tiny import tiny_base, tiny_plan
from mpack.testing.wheels import make_wheel


@dataclass
class OneBase:
    """Bases with one image."""

    held: OciImage

    def image(self, base: BaseImage) -> OciImage:
        """The one."""
        assert base.digest == self.held.digest
        return self.held


@dataclass
class FakeCompiler:
    """Gives the byte code it was made with; the images it was asked with are kept."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    asked: list[BuiltImage] = field(default_factory=list)

    def compile(self, image: BuiltImage, *_: object) -> Mapping[str, bytes]:
        """The files."""
        self.asked.append(image)
        return self.files


@dataclass
class Shop:
    """A store, a builder on a tiny base, and a plan with its contents."""

    store: Store
    base: OciImage
    builder: EmbeddedBuilder
    compiler: FakeCompiler
    plan: ImagePlan
    contents: Contents
    model: Path

    def build(self, plan: ImagePlan | None = None) -> BuiltImage:
        """Builds the plan (or another one)."""
        return self.builder.build(plan or self.plan, self.contents)

    def files(self, image: BuiltImage) -> dict[str, bytes | None]:
        """Every file of a built image."""
        assert image.digest is not None
        found = read_files(self.store.image(image.digest), lambda path: True)
        return {path: node.content for path, node in found.items() if node.kind == "file"}

    def with_wheel(self, directory: Path, name: str = "tinydep", version: str = "1.0") -> ImagePlan:
        """The plan with one package, whose wheel the artifact brings."""
        wheel = make_wheel(directory, name, version)
        sha256 = sha256_file(wheel)
        self.contents = self.contents | Contents({sha256: wheel})
        package = LockedPackage(name, version, (f"sha256:{sha256}",), "artifact", wheel.name)
        return replace(self.plan, environment=replace(self.plan.environment, packages=(package,)))


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """An empty store with a tiny base, and a plan of a two-file model."""
    store = Store(tmp_path / "store")
    base = tiny_base(store, {"/etc/os-release": b"ID=tiny\n", "/usr/lib/real/mod.py": b"x = 1\n"})
    model = tmp_path / "model"
    (model / "data").mkdir(parents=True)
    (model / "model.bin").write_bytes(b"weights")
    (model / "data" / "run.sh").write_bytes(b"#!/bin/sh\n")
    (model / "data" / "run.sh").chmod(0o700)
    plan, contents = tiny_plan(base, model)
    compiler = FakeCompiler()
    builder = EmbeddedBuilder(store, OneBase(base), IndexSettings.from_host(), compiler)
    return Shop(store, base, builder, compiler, plan, contents, model)


def kinds(image: BuiltImage) -> list[str]:
    """The kinds of an image's layers, in order."""
    return [layer.kind for layer in image.layers]


def test_layers_and_files(shop: Shop) -> None:
    """On the base's own layer come runtime, model and configuration; without packages the venv needs no layer."""
    image = shop.build()
    assert kinds(image) == ["base", "runtime", "model"]
    assert image.layers[0].digest == shop.base.layers[0].digest
    files = shop.files(image)
    assert files["/opt/mpack/model/model.bin"] == b"weights"
    assert json.loads(files["/opt/mpack/model.json"] or b"") == {"schema": 1, "name": "tiny"}
    assert "/opt/mpack/runtime/mpack_runtime/tiny.json" in files and "/opt/mpack/venv/pyvenv.cfg" in files
    assert image.digest is not None
    nodes = read_files(shop.store.image(image.digest), lambda path: False)
    assert nodes["/opt/mpack/venv/bin/python"].kind == "link"
    assert oct(nodes["/opt/mpack/model/data/run.sh"].mode) == "0o755"
    assert {node.uid for node in nodes.values()} == {0}


def test_configuration(shop: Shop) -> None:
    """The plan's configuration over the base's: PATH begins with the venv, the base's other values and labels stay."""
    image = shop.build()
    assert image.digest is not None
    oci = shop.store.image(image.digest)
    runtime = oci.runtime
    assert runtime["Env"] == ["PATH=/opt/mpack/venv/bin:/usr/bin:/bin", "LANG=C.UTF-8", "PYTHONPATH=/opt/mpack/runtime"]
    assert runtime["Labels"] == {
        "tiny": "yes",
        "dev.mpack.packager": "tiny",
        "org.opencontainers.image.title": "tiny",
    }
    assert (runtime["User"], runtime["WorkingDir"], runtime["StopSignal"]) == ("65532:65532", "/opt/mpack", "SIGTERM")
    assert (runtime["ExposedPorts"], runtime["Cmd"]) == ({"5000/tcp": {}}, ["serve"])
    assert runtime["Healthcheck"]["Interval"] == 30_000_000_000
    assert oci.config["created"] == "1970-01-01T00:00:00Z"
    assert [item["created_by"] for item in oci.config["history"]] == [
        "tiny",
        "mpack: runtime",
        "mpack: model",
    ]
    bare = shop.build(replace(shop.plan, config=ImageConfig()))
    assert bare.digest is not None
    assert not {"Healthcheck", "Entrypoint", "Cmd", "ExposedPorts"} & set(shop.store.image(bare.digest).runtime)


def test_result_tells_of_the_image(shop: Shop) -> None:
    """Id, digest and sizes are the stored image's; it is listed without a name; nothing is left in tmp."""
    image = shop.build()
    [record] = [item for item in shop.store.records() if item.role == "image"]
    assert (record.digest, record.id, record.names) == (image.digest, image.id, ())
    assert image.size == sum(
        shop.store.path(digest).stat().st_size
        for digest in (record.digest, record.id, *(layer.digest or "" for layer in image.layers))
    )
    assert image.size_unpacked == sum(len(data or b"") for data in shop.files(image).values())
    assert list(shop.store.unfinished.iterdir()) == []


def test_dependencies(shop: Shop, tmp_path: Path) -> None:
    """Packages are a layer of their own, taken from the cache for every model that has the same ones."""
    plan = shop.with_wheel(tmp_path / "wheels")
    first = shop.build(plan)
    assert kinds(first) == ["base", "dependencies", "runtime", "model"]
    assert shop.files(first)["/opt/mpack/venv/lib/python3.11/site-packages/tinydep/__init__.py"] == b"version = '1.0'\n"
    assert [layer.cached for layer in first.layers] == [True, False, False, False]
    other = replace(plan, trees=tuple(tree for tree in plan.trees if tree.kind != "model"), model_name="other")
    second = shop.build(other)
    assert [layer.cached for layer in second.layers] == [True] * 3 + [False]
    changed = shop.build(shop.with_wheel(tmp_path / "wheels", version="2.0"))
    assert [layer.cached for layer in changed.layers] == [True, False, True, True]


def test_a_model_that_is_not_small(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its configuration is a layer of its own, so that another one does not move the model's bytes."""
    monkeypatch.setattr("mpack.builders.embedded.SMALL_MODEL", 5)
    assert kinds(shop.build()) == ["base", "runtime", "model", "config"]


def test_second_build_reads_nothing(shop: Shop) -> None:
    """The same plan again: every layer from the cache, the same image, the model's files not even opened."""
    first = shop.build()
    (shop.model / "model.bin").unlink()
    second = shop.build()
    assert (second.digest, [layer.cached for layer in second.layers]) == (first.digest, [True] * 3)


def test_byte_code(shop: Shop) -> None:
    """Byte code stands between runtime and model; it is compiled once, where no model is; the draft goes then."""
    shop.compiler.files = {"/usr/lib/real/__pycache__/mod.cpython-311.pyc": b"code"}
    shop.build()
    plan = replace(shop.plan, bytecode=Bytecode("3.11.2", ("/usr/lib/real/mod.py",)))
    image = shop.build(plan)
    assert kinds(image) == ["base", "runtime", "bytecode", "model"]
    assert shop.files(image)["/usr/lib/real/__pycache__/mod.cpython-311.pyc"] == b"code"
    assert [kinds(asked) for asked in shop.compiler.asked] == [["base", "runtime"]]
    assert [item.digest for item in shop.store.records() if item.role == "image"] == [image.digest]
    again = shop.build(plan)
    assert (again.digest, len(shop.compiler.asked)) == (image.digest, 1)
    shop.build(replace(plan, bytecode=Bytecode("3.11.3", plan.bytecode.sources if plan.bytecode else ())))
    assert len(shop.compiler.asked) == 2


def test_byte_code_behind_a_link(tmp_path: Path) -> None:
    """Byte code of a module below a linked directory of the base lands behind the link, which stays a link."""
    from mpack.oci import tar
    from mpack.oci.compose import append_layers
    from mpack.oci.layer import Entry

    store = Store(tmp_path / "store")
    below = tiny_base(store, {"/usr/lib/py/mod.py": b"x = 1\n"})
    link = store.write_layer([Entry("/lib", tar.LINK, 0o777, target="usr/lib")], kind="base")
    base = append_layers(store, below, [link])
    (tmp_path / "model").mkdir()
    plan, contents = tiny_plan(base, tmp_path / "model")
    compiler = FakeCompiler({"/lib/py/__pycache__/mod.cpython-311.pyc": b"code"})
    builder = EmbeddedBuilder(store, OneBase(base), IndexSettings.from_host(), compiler)
    image = builder.build(replace(plan, bytecode=Bytecode("3.11.2", ("/lib/py/mod.py",))), contents)
    assert image.digest is not None
    nodes = read_files(store.image(image.digest), lambda path: True)
    assert nodes["/lib"].kind == "link"
    assert nodes.read("/lib/py/__pycache__/mod.cpython-311.pyc") == b"code"


def fail(error: BaseException) -> Callable[..., Mapping[str, bytes]]:
    """A function that raises."""

    def raising(*_: object) -> Mapping[str, bytes]:
        raise error

    return raising


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("x")], ids=["Ctrl-C", "error"])
def test_nothing_is_left_of_a_failed_build(shop: Shop, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """A build that breaks off while compiling lists no image and leaves no temporary file."""
    monkeypatch.setattr(shop.compiler, "compile", fail(error))
    with pytest.raises(type(error)):
        shop.build(replace(shop.plan, bytecode=Bytecode("3.11.2", ("/usr/lib/real/mod.py",))))
    assert [item for item in shop.store.records() if item.role == "image"] == []
    assert list(shop.store.unfinished.iterdir()) == []


def test_a_model_that_changed(shop: Shop) -> None:
    """A model file that is another than the plan says ends the build; no image is listed."""
    (shop.model / "model.bin").write_bytes(b"WEIGHTS")
    with pytest.raises(InputError, match=r"model\.bin changed"):
        shop.build()
    assert [item for item in shop.store.records() if item.role == "image"] == []


def test_two_builds_at_once(shop: Shop, tmp_path: Path) -> None:
    """Four builds of one plan at the same time make one image."""
    plan = shop.with_wheel(tmp_path / "wheels")
    made: list[BuiltImage] = []
    threads = [threading.Thread(target=lambda: made.append(shop.build(plan))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4 and len({image.digest for image in made}) == 1
    assert len([item for item in shop.store.records() if item.role == "image"]) == 1
