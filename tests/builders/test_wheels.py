"""The dependencies' layers: what environments share, what is made again, and paths that two wheels have."""

from __future__ import annotations

import tarfile
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import pytest

from mpack.builders import wheels
from mpack.builders.sources import Sources
from mpack.builders.wheels import Dependencies, WheelLayers
from mpack.contents import Contents, sha256_file
from mpack.env.index import IndexSettings
from mpack.errors import InputError
from mpack.oci.compression import open_gzip
from mpack.oci.layer import Layer
from mpack.oci.store import Store
from mpack.plan import Bytecode, ImagePlan, LockedPackage
from mpack.testing.tiny import tiny_base, tiny_plan
from mpack.testing.wheels import make_wheel

SITE = "opt/mpack/venv/lib/python3.11/site-packages"
BIG = "x" * 5000


@dataclass
class Shop:
    """A store, and wheels by name and content."""

    store: Store
    plan: ImagePlan
    directory: Path
    #: By package: a file that its wheel has besides, and the line for it in its RECORD.
    extra: dict[str, tuple[str, bytes, str]] = field(default_factory=dict)

    def build(self, files: Mapping[str, Mapping[str, str]]) -> Dependencies:
        """The layers of an environment of these packages."""
        return WheelLayers(self.store, IndexSettings(no_index=True)).layers(*self.planned(files))

    def planned(self, files: Mapping[str, Mapping[str, str]]) -> tuple[ImagePlan, Contents]:
        """A plan of these packages, and their wheels."""
        packages, contents = [], Contents()
        for name, content in files.items():
            wheel = make_wheel(self.directory, name, files=content)
            if name in self.extra:
                _smuggle(wheel, *self.extra[name])
            digest = sha256_file(wheel)
            contents |= Contents({digest: wheel})
            packages.append(LockedPackage(name, "1.0", (f"sha256:{digest}",), "artifact", wheel.name))
        plan = replace(self.plan, environment=replace(self.plan.environment, packages=tuple(packages)))
        return plan, contents

    def members(self, layer: Layer) -> list[tarfile.TarInfo]:
        """Every entry of a layer, in order."""
        return [member for member, _ in self.entries(layer)]

    def entries(self, layer: Layer) -> list[tuple[tarfile.TarInfo, bytes]]:
        """Every entry of a layer, in order, with the content of files."""
        with open_gzip(self.store.open(layer.digest)) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            return [(item, _content(archive, item)) for item in archive]

    def files(self, layers: Sequence[Layer]) -> dict[str, bytes]:
        """The files of the layers, a later one over an earlier."""
        return {member.name: data for layer in layers for member, data in self.entries(layer) if member.isfile()}


def sources_of(shop: Shop, files: Mapping[str, Mapping[str, str]], path: str) -> dict[str, bytes]:
    """One source of an environment whose wheels are laid out now."""
    plan, contents = shop.planned(files)
    plan = replace(plan, trees=(), bytecode=Bytecode("3.11.2", (path,)))
    layers = WheelLayers(shop.store, IndexSettings(no_index=True))
    layers.layers(plan, contents)
    base = shop.store.image(plan.base.digest)
    return Sources(shop.store, layers, plan, base, (path,), contents).read([path])


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member) if member.isfile() else None
    return stream.read() if stream is not None else b""


def _smuggle(wheel: Path, path: str, data: bytes, line: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in {**held, path: data}.items():
            archive.writestr(name, content + line.encode() if name.endswith("/RECORD") else content)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """With wheels of 4,000 bytes and more called large, and two layers of their own at most."""
    monkeypatch.setattr(wheels, "LARGE", 4000)
    monkeypatch.setattr(wheels, "MOST_LAYERS", 2)
    store = Store(tmp_path / "store")
    plan, _ = tiny_plan(tiny_base(store, {"/etc/x": b""}), tmp_path)
    return Shop(store, plan, tmp_path / "wheels")


def package(name: str, text: str = "") -> dict[str, str]:
    """The files of a package."""
    return {f"{name}/__init__.py": text}


def layers(made: Dependencies) -> list[Layer]:
    """Without what was cached."""
    return [layer for layer, _ in made.layers]


def test_what_environments_share(shop: Shop) -> None:
    """The layer of a large wheel is the same in each environment; the small ones are one layer; all again is cached."""
    first = shop.build({"big": package("big", BIG), "one": package("one"), "two": package("two")})
    assert [cached for _, cached in first.layers] == [False, False]
    second = shop.build({"big": package("big", BIG), "one": package("one"), "six": package("six")})
    assert [cached for _, cached in second.layers] == [True, False]
    assert layers(first)[0] == layers(second)[0] and layers(first)[1] != layers(second)[1]
    assert f"{SITE}/six/__init__.py" in shop.files(layers(second))
    assert f"{SITE}/big/__init__.py" not in shop.files(layers(second)[1:])
    again = shop.build({"big": package("big", BIG), "one": package("one"), "two": package("two")})
    assert layers(again) == layers(first) and all(cached for _, cached in again.layers)


def test_a_joined_layer_is_whole(shop: Shop) -> None:
    """Its directories come first, each once and in order, then links and files, each once, and the sizes are true."""
    [layer] = layers(shop.build({"one": package("one"), "two": {**package("two"), "two/sub/x.py": "x = 1\n"}}))
    members = shop.members(layer)
    directories = [member.name for member in members if member.isdir()]
    assert directories == sorted(directories, key=lambda path: path.split("/"))
    assert directories == [member.name for member in members[: len(directories)]]
    names = [member.name for member in members]
    assert len(set(names)) == len(names) and {"opt/mpack/venv/bin/python", f"{SITE}/two/sub/x.py"} <= set(names)
    assert layer.unpacked_size == sum(member.size for member in members)


def test_more_large_wheels_than_layers(shop: Shop) -> None:
    """The largest are layers of their own, the rest is joined with the small ones."""
    made = shop.build({name: package(name, BIG * size) for size, name in enumerate("abcd", 1)})
    assert len(made.layers) == 3
    found = [next(path for path in shop.files([layer]) if path.endswith("__init__.py")) for layer in layers(made)[:2]]
    assert found == [f"{SITE}/d/__init__.py", f"{SITE}/c/__init__.py"]
    assert {f"{SITE}/{name}/__init__.py" for name in "ab"} <= shop.files(layers(made)[2:]).keys()


@pytest.mark.parametrize("size", [1, 5000], ids=["small", "large"])
def test_a_path_of_two_wheels(shop: Shop, size: int) -> None:
    """The last by name has it, once; a note says so where the bytes differ; alone, the loser still has its own."""
    text = "#" * size + "\n"
    ours = {**package("aa", text), "shared/f.py": "a = 1\n", "shared/g.py": "same\n"}
    both = shop.build({"aa": ours, "zz": {**package("zz", text), "shared/f.py": "z = 22\n", "shared/g.py": "same\n"}})
    names = [member.name for layer in layers(both) for member in shop.members(layer) if not member.isdir()]
    assert len(set(names)) == len(names)
    assert shop.files(layers(both))[f"{SITE}/shared/f.py"] == b"z = 22\n"
    assert [note.split("/")[-1] for note in both.notes] == ["f.py is in aa and in zz: the one of zz is kept"]
    assert shop.files(layers(shop.build({"aa": ours})))[f"{SITE}/shared/f.py"] == b"a = 1\n"


def test_a_damaged_cache_entry_is_none(shop: Shop) -> None:
    """An entry whose bytes are not what was written, or whose blob has gone, is made again, to the same layers."""
    files = {"big": package("big", BIG), "one": package("one")}
    first = shop.build(files)
    for path in shop.store.cache.directory.iterdir():
        path.write_bytes(path.read_bytes().replace(b"one/__init__", b"two/__init__"))
    shop.store.path(layers(first)[0].digest).unlink()
    assert layers(shop.build(files)) == layers(first)


def test_a_large_wheel_that_loses_what_made_it_large(shop: Shop) -> None:
    """It is joined with the small ones, for what is left of it is no layer."""
    files = {"shared/f.py": BIG}
    made = shop.build({"aa": {**package("aa"), **files}, "zz": {**package("zz"), **files}})
    assert len(made.layers) == 2
    assert {f"{SITE}/aa/__init__.py", f"{SITE}/zz/__init__.py"} <= shop.files(layers(made)).keys()
    assert all(member.isdir() for layer in layers(made) for member in shop.members(layer)[:1])


@pytest.mark.parametrize("path", ["bin/python", "bin/python3.11", "_mpack_base.pth"])
def test_what_is_the_environments_own(shop: Shop, path: str) -> None:
    """A wheel cannot bring the interpreter that compiles what other models get, nor what decides its paths."""
    plan = replace(shop.plan, base=replace(shop.plan.base, site_dirs=("/usr/lib/python3/dist-packages",)))
    with pytest.raises(InputError, match="environment's own") as caught:
        replace(shop, plan=plan).build({"evil": {**package("evil"), path: "x"}})
    assert caught.value.code == "requirements-invalid"


@pytest.mark.parametrize("listed", [False, True], ids=["unlisted", "listed as the other's"])
def test_a_record_that_lies(shop: Shop, listed: bool) -> None:
    """A wheel that brings another one's file, whatever its RECORD says, leaves that one's piece as it is alone."""
    path, clean = "good/__init__.py", {"good": package("good", "x = 1\n")}
    told = "sha256=" + urlsafe_b64encode(sha256(b"x = 1\n").digest()).rstrip(b"=").decode()
    for _ in range(4):
        for entry in shop.store.cache.directory.glob("*"):
            entry.unlink()
        shop.extra = {"evil": (path, b"evil = 1\n", f"{path},{told},6\n" if listed else "")}
        shop.build({"evil": package("evil"), **clean})
        shop.extra = {}
        assert shop.files(layers(shop.build(clean)))[f"{SITE}/{path}"] == b"x = 1\n"


def test_what_was_pruned_is_made_again(shop: Shop) -> None:
    """The hashes of an environment's files are to be had after its wheels went from the cache, and it stayed."""
    plan, contents = shop.planned({"big": package("big", BIG), "one": package("one")})
    made = WheelLayers(shop.store, IndexSettings(no_index=True))
    made.layers(plan, contents)
    before = made.hashes(plan, contents)
    for path in shop.store.cache.directory.iterdir():
        if b'"key": "wheel' in path.read_bytes():
            path.unlink()
    assert made.hashes(plan, contents) == before and f"/{SITE}/one/__init__.py" in before


@pytest.mark.parametrize("late", ["aaa", "bbb"])
def test_the_source_is_the_one_that_wins(shop: Shop, late: str) -> None:
    """Of two wheels with one path the last by name has it, whichever is laid out last; byte code is made of that."""
    files = {"aaa": {"shared/__init__.py": "a = 1"}, "bbb": {"shared/__init__.py": "b = 2"}}
    files[late]["large.txt"] = "y" * 3000
    path = f"/{SITE}/shared/__init__.py"
    assert sources_of(shop, files, path) == {path: b"b = 2"}


def test_sources_of_wheels_that_are_there(shop: Shop) -> None:
    """Laid out by an earlier build, a source comes out of its layer; an empty one too."""
    files = {"aaa": {"a/__init__.py": "", "a/b.py": "b = 2"}}
    for _ in range(2):
        for name, data in (("__init__", b""), ("b", b"b = 2")):
            path = f"/{SITE}/a/{name}.py"
            assert sources_of(shop, files, path) == {path: data}
