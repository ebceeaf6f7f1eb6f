"""Why two images differ: each kind of difference alone, and layers that no one should have made."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mpack.cli.difftext import text
from mpack.diff import ImageDiff, Side, compare
from mpack.diff.compare import item_changes
from mpack.diff.fields import changes, config_fields
from mpack.diff.items import Budget
from mpack.errors import InputError
from mpack.oci.blobs import sha256_digest
from mpack.oci.image import OciImage, canonical_json
from mpack.oci.layer import GZIP, TAR, Layer
from mpack.oci.store import Store

SITE = "opt/mpack/venv/lib/python3.11/site-packages"


def entry(path: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """A file, or what `type` says."""
    info = tarfile.TarInfo(path)
    info.size = len(data)
    for name, value in fields.items():
        setattr(info, name, value)
    return info, data


def layer_tar(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def files(*paths: str) -> bytes:
    return layer_tar(*(entry(path, path.encode()) for path in paths))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


def layer_of(store: Store, data: bytes, kind: str, packed: Callable[[bytes], bytes] | None = None) -> Layer:
    blob = packed(data) if packed else data
    return Layer(sha256_digest(data), store.add(blob), len(blob), GZIP if packed else TAR, None, kind)


def image_of(store: Store, *layers: Layer, **config: Any) -> OciImage:
    diff_ids = [layer.diff_id for layer in layers]
    made = {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": diff_ids}, **config}
    return store.put_image(canonical_json(made), layers)


def diff(a: OciImage, b: OciImage, budget: Budget | None = None) -> ImageDiff:
    return compare(Side("a:1", a, a.digest), Side("b:1", b, b.digest), budget)


def diff_of(store: Store, a: bytes, b: bytes, budget: Budget | None = None) -> ImageDiff:
    """Of images with one layer each."""
    return diff(image_of(store, layer_of(store, a, "model")), image_of(store, layer_of(store, b, "model")), budget)


def test_same(store: Store) -> None:
    """An image and itself are the same, and no layer is read: its blob may even be gone."""
    image = image_of(store, layer_of(store, files("x"), "model"))
    store.path(image.layers[0].digest).unlink()
    found = diff(image, image)
    assert found.same and found.same_content and [layer.status for layer in found.layers] == ["same"]
    assert text(found, False) == [f"same ({image.digest})"]


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (entry("x", b"two"), {"content": [sha256_digest(b"one"), sha256_digest(b"two")]}),
        (
            entry("x", b"three"),
            {"size": [3, 5], "content": [sha256_digest(b"one"), sha256_digest(b"three")]},
        ),
        (entry("x", b"one", mode=0o4755), {"mode": ["0644", "4755"]}),
        (entry("x", b"one", uid=5, gid=6), {"owner": ["0:0", "5:6"]}),
        (entry("x", b"one", mtime=86400), {"mtime": [0, 86400]}),
        (entry("x", b"one", pax_headers={"mtime": "inf"}), {}),
        (
            entry("x", type=tarfile.SYMTYPE, linkname="y"),
            {"kind": ["file", "link"], "size": [3, 0], "content": [sha256_digest(b"one"), "y"]},
        ),
        (
            entry("x", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
            {"kind": ["file", "device"], "size": [3, 0], "content": [sha256_digest(b"one"), "1:3"]},
        ),
    ],
    ids=["content", "size", "mode", "owner", "mtime", "no time", "link", "device"],
)
def test_one_field_of_a_file(new: tuple[tarfile.TarInfo, bytes], expected: dict[str, Any], store: Store) -> None:
    """What differs in an entry is named, and nothing else; the whole is JSON."""
    found = diff_of(store, layer_tar(entry("x", b"one")), layer_tar(new))
    json.dumps(found.to_json(), allow_nan=False)
    (layer,) = found.layers
    assert layer.status == "changed" and not layer.added and not layer.removed
    assert {path: item_changes(*pair) for path, pair in layer.changed.items()} == ({"/x": expected} if expected else {})
    assert layer.only_form is not bool(expected)


def test_extended_attributes(store: Store) -> None:
    """A capability on a file is a difference of its own."""
    with_capability = entry("x", b"one", pax_headers={"SCHILY.xattr.security.capability": "cap"})
    (layer,) = diff_of(store, layer_tar(entry("x", b"one")), layer_tar(with_capability)).layers
    assert list(item_changes(*layer.changed["/x"])) == ["xattrs"]


def test_order_alone(store: Store) -> None:
    """The same files in another order are told as that."""
    found = diff_of(store, files("x", "y"), files("y", "x"))
    assert not found.same and found.layers[0].only_form
    assert "their order in the tar" in "\n".join(text(found, False))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            {"config": {"Env": ["A=1", "B=x=y"]}},
            {"config": {"Env": ["A=2"]}},
            [("env.A", "1", "2"), ("env.B", "x=y", None)],
        ),
        ({"config": {"User": "0"}}, {"config": {"User": "65532"}}, [("user", "0", "65532")]),
        (
            {"config": {"Cmd": ["a"]}},
            {"config": {"Entrypoint": ["b"]}},
            [("command", ["a"], None), ("entrypoint", None, ["b"])],
        ),
        ({"config": {}}, {"config": {"ExposedPorts": {"1/tcp": {}}}}, [("port.1/tcp", None, {})]),
        ({"created": "1"}, {"created": "2", "os": "linux"}, [("created", "1", "2"), ("os", None, "linux")]),
        (
            {"config": {"User": "0", "Labels": {"org.opencontainers.image.base.name": "x"}}},
            {"config": {"User": "1", "Labels": {"org.opencontainers.image.base.name": "y"}}},
            [("base", "x", "y"), ("user", "0", "1")],
        ),
        ({"config": {"Env": None}}, {}, []),
        (
            {"config": "odd"},
            {"config": {"Env": [1], "Labels": "odd"}},
            [("config", "odd", None), ("env", None, [1]), ("labels", None, "odd")],
        ),
    ],
    ids=["env", "user", "words", "port", "top", "base first", "nothing", "foreign forms"],
)
def test_configuration(old: dict[str, Any], new: dict[str, Any], expected: list[tuple[str, Any, Any]]) -> None:
    """Each field has its name, its old and its new value, whatever form a foreign configuration has."""
    found = changes(config_fields(old), config_fields(new))
    assert [(change.field, change.old, change.new) for change in found] == expected


def test_configuration_in_another_form(store: Store) -> None:
    """An environment in another order has no field to name, and is told all the same."""
    layer = layer_of(store, files("x"), "model")
    a = image_of(store, layer, config={"Env": ["A=1", "B=2"]})
    b = image_of(store, layer, config={"Env": ["B=2", "A=1"]})
    assert "JSON is written otherwise" in text(diff(a, b), False)[0]


def test_layers_are_paired_by_kind(store: Store) -> None:
    """Same ones by their diff id wherever they stand, others in order within their kind, the rest alone."""
    base, model = layer_of(store, files("base"), "base"), layer_of(store, files("m"), "model")
    old, new = layer_of(store, files("d1"), "dependencies"), layer_of(store, files("d2"), "dependencies")
    extra, config = layer_of(store, files("r"), "runtime"), layer_of(store, files("c"), "config")
    found = diff(image_of(store, base, old, extra, model), image_of(store, base, new, model, config))
    assert [(layer.status, layer.kind) for layer in found.layers] == [
        ("same", "base"),
        ("changed", "dependencies"),
        ("only-a", "runtime"),
        ("same", "model"),
        ("only-b", "config"),
    ]
    assert [list(layer.removed) for layer in found.layers] == [[], ["/d1"], ["/r"], [], []]
    assert [list(layer.added) for layer in found.layers] == [[], ["/d2"], [], [], ["/c"]]
    assert not found.reordered
    assert diff(image_of(store, base, model), image_of(store, model, base)).reordered


def test_kinds_by_files(store: Store) -> None:
    """Images whose manifests tell of no kinds, as docker saves them, are paired by what their layers hold."""
    held = {
        "base": "etc/os-release",
        "dependencies": f"{SITE}/numpy/a.py",
        "runtime": "opt/mpack/runtime/mpack_runtime/a.py",
        "bytecode": "usr/lib/python3.11/__pycache__/a.pyc",
        "model": "opt/mpack/model/m.pkl",
        "config": "opt/mpack/model.json",
    }
    first = [layer_of(store, files(path), "base") for path in held.values()]
    second = [layer_of(store, layer_tar(entry(path, b"new")), "base") for path in reversed(held.values())]
    found = diff(image_of(store, *first), image_of(store, *second))
    assert [(layer.kind, list(layer.changed)) for layer in found.layers] == [
        (kind, [f"/{path}"]) for kind, path in held.items()
    ]


def test_packages(store: Store) -> None:
    """Versions come from dist-info in all layers that differ, by normalised name."""
    a = files(
        f"{SITE}/numpy-2.1.0.dist-info/METADATA",
        f"{SITE}/Old_Name-1.dist-info/METADATA",
        f"{SITE}/same-1.dist-info/METADATA",
    )
    b = files(
        f"{SITE}/numpy-2.2.0.dist-info/METADATA",
        f"{SITE}/new-3.dist-info/METADATA",
        f"{SITE}/same-1.dist-info/METADATA",
    )
    found = diff_of(store, a, b)
    assert [(item.name, item.old, item.new) for item in found.packages] == [
        ("new", (), ("3",)),
        ("numpy", ("2.1.0",), ("2.2.0",)),
        ("old-name", ("1",), ()),
    ]
    shown = text(found, False)
    at = shown.index("packages")
    assert shown[at + 1 : at + 4] == ["  + new 3", "  numpy 2.1.0 → 2.2.0", "  - old-name 1"]


def test_compression_alone(store: Store) -> None:
    """The same tar in another blob: another digest, the same content, and the words for it."""
    data = files("x")
    a = image_of(store, layer_of(store, data, "model"))
    b = image_of(store, layer_of(store, data, "model", gzip.compress))
    found = diff(a, b)
    assert (found.same, found.same_content, found.layers[0].status) == (False, True, "compression")
    shown = text(found, False)
    assert "the same configuration and files; only the compression of 1 of 1 layers" in shown[0]
    assert b.layers[0].digest[:19] in shown[-1]


def test_manifest_alone(store: Store) -> None:
    """An annotation in the manifest changes the digest and nothing in the image."""
    a = image_of(store, layer_of(store, files("x"), "model"))
    b = store.image(store.add(canonical_json({**a.manifest, "annotations": {"k": "v"}})))
    found = diff(a, b)
    assert (found.same, found.same_content) == (False, True)
    assert [change.to_json() for change in found.manifest] == [{"field": "annotations", "old": None, "new": {"k": "v"}}]


def test_without_a_manifest_ids_decide(store: Store) -> None:
    """Where one side has no manifest of its own, other blobs are no difference."""
    data = files("x")
    a = image_of(store, layer_of(store, data, "model"))
    b = image_of(store, layer_of(store, data, "model", gzip.compress))
    found = compare(Side("a", a, a.digest), Side("b", b, None))
    assert found.same and found.layers[0].status == "same"
    assert "by image id" in text(found, False)[0]


def test_a_configuration_that_lies(store: Store) -> None:
    """A diff id that its blob does not unpack to, and two diff ids for one blob, are errors and no comparison."""
    true = layer_of(store, files("x"), "model")
    false = replace(layer_of(store, files("y"), "model", gzip.compress), diff_id=true.diff_id)
    with pytest.raises(InputError, match="unpacks to another diff id"):
        diff(image_of(store, true), image_of(store, false))
    other = replace(true, diff_id=sha256_digest(b""))
    with pytest.raises(InputError, match="two diff ids for the one layer"):
        diff(image_of(store, true), image_of(store, other))


def raw_header(kind: bytes, size: int, path: str = "x") -> bytes:
    info = tarfile.TarInfo(path)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


PAX = raw_header(tarfile.XHDTYPE, 10) + b"10 path=x\n".ljust(512, b"\0")
MANY = b"".join(b"%d k%04d=v\n" % (11, number) for number in range(500))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"no tar at all" * 100, "not a tar archive"),
        (files("x")[:1024] + b"junk" * 128, "not a tar archive"),
        (files("x")[:1024] + b"\0" * 512 + b"junk" * 128, None),
        (layer_tar(entry("x", b"1" * 5000))[:2048], "not a tar archive"),
        (raw_header(tarfile.XHDTYPE, 8 << 30), "an extended header has"),
        (raw_header(tarfile.GNUTYPE_LONGNAME, 2 << 20), "an extended header has"),
        (PAX * 3000 + files("x"), "not a tar archive"),
        (raw_header(tarfile.XGLTYPE, len(MANY)) + MANY.ljust(5632, b"\0") + files("x"), "global headers"),
        (raw_header(tarfile.REGTYPE, -1024), "not a tar archive"),
        (raw_header(tarfile.REGTYPE, 1 << 60), "unpack to more than"),
        (files("../x"), "which leaves it"),
    ],
    ids=[
        "no tar",
        "bad header",
        "junk after the end",
        "cut",
        "huge pax",
        "huge name",
        "nested",
        "global",
        "negative",
        "bomb",
        "path",
    ],
)
def test_hostile_layers(data: bytes, words: str | None, store: Store) -> None:
    """What no image should hold is an error that says so; what stands behind a tar's end is no part of it."""
    if words is None:
        assert diff_of(store, data, files("y")).layers[0].status == "changed"
        return
    with pytest.raises(InputError, match=words) as caught:
        diff_of(store, data, files("y"))
    assert caught.value.code == "base-unsuitable"


def test_budget(store: Store) -> None:
    """Bytes and entries of all layers together are bounded."""
    a, b = files(*(f"a{number}" for number in range(100))), layer_tar(entry("b", b"1" * 5000))
    diff_of(store, a, b, Budget(unpacked=6000, memory=1 << 20))
    with pytest.raises(InputError, match="more than 5000 bytes"):
        diff_of(store, a, b, Budget(unpacked=5000))
    with pytest.raises(InputError, match="more files than mpack compares"):
        diff_of(store, a, b, Budget(memory=40_000))


def test_memory(store: Store) -> None:
    """A file of 64 MB is compared in a few."""
    big = layer_of(store, layer_tar(entry("x", bytes(64 << 20))), "model", lambda data: gzip.compress(data, 1))
    image, other = image_of(store, big), image_of(store, layer_of(store, files("x"), "model"))
    tracemalloc.start()
    try:
        found = diff(image, other)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert found.layers[0].changed["/x"][0].size == 64 << 20


def test_text_fits_a_screen(store: Store) -> None:
    """Long lists end with how much was left out, long values are cut around what differs; --all gives everything."""
    env = [f"V{number}={'same' * 50}old" for number in range(30)]
    a = image_of(store, layer_of(store, files(*(f"f{number}" for number in range(90))), "model"), config={"Env": env})
    b = image_of(
        store,
        layer_of(store, files("\x1b[2Jx"), "model"),
        config={"Env": [item.replace("old", "new") for item in env]},
    )
    short, whole = text(diff(a, b), False), text(diff(a, b), True)
    assert len(short) < 45 and max(map(len, short)) < 140
    assert "  and 20 more (--all shows them)" in short and "      and 71 more (--all shows them)" in short
    assert next(line for line in short if "env.V0 " in line) == f"  env.V0 …{'same' * 4}old → …{'same' * 4}new"
    assert len(whole) > 120 and "more (--all" not in "\n".join(whole)
    assert r"      + /\x1b[2Jx  5 bytes" in "\n".join(short)
