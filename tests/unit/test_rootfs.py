"""Root file systems: layers applied as container runtimes do, and nothing outside touched whatever they hold."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import time
from pathlib import Path

import pytest

from mpack.errors import InputError, MpackError
from mpack.oci.image import OciImage, canonical_json
from mpack.oci.layer import TAR, Layer
from mpack.oci.rootfs import read_files, unpack
from mpack.oci.store import Store

Item = tuple[str, str] | tuple[str, str, object]


def layer_tar(*items: Item) -> bytes:
    """A tar of (kind, path[, content, target or mode]) items, in order; kinds: f, d, l (link), h (hard link), c, p."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for kind, path, *rest in items:
            info = tarfile.TarInfo(path)
            info.mode = 0o644 if kind == "f" else 0o755
            data = b""
            if kind == "f":
                data = str(rest[0]).encode() if rest else b""
                info.size = len(data)
            elif kind == "d":
                info.type = tarfile.DIRTYPE
                info.mode = int(str(rest[0])) if rest else 0o755
            else:
                info.type = {"l": tarfile.SYMTYPE, "h": tarfile.LNKTYPE, "c": tarfile.CHRTYPE, "p": tarfile.FIFOTYPE}[
                    kind
                ]
                info.linkname = str(rest[0]) if rest else ""
            archive.addfile(info, io.BytesIO(data))
    return sink.getvalue()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


def image_of(store: Store, *layers: bytes) -> OciImage:
    """An image of the given uncompressed layers."""
    made = tuple(Layer(store.add(data), store.add(data), len(data), TAR) for data in layers)
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [layer.diff_id for layer in made]}}
    return store.put_image(canonical_json(config), made)


def files_below(root: Path) -> dict[str, str]:
    """Relative path -> content of a file, target of a link, or "/" for a directory."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        found[name] = f"-> {path.readlink()}" if path.is_symlink() else "/" if path.is_dir() else path.read_text()
    return found


def both_ways(store: Store, target: Path, *layers: bytes) -> dict[str, str]:
    """The files of an image, unpacked; the index of `read_files` must say the same."""
    image = image_of(store, *layers)
    target.mkdir()
    unpack(image, target)
    found = files_below(target)
    index = read_files(image, lambda path: True)
    shown = {
        path[1:]: {"link": f"-> {node.target}", "directory": "/"}.get(node.kind, (node.content or b"").decode())
        for path, node in index.items()
        if node.kind != "other"
    }
    assert shown == found
    return found


def test_whiteouts_and_opaque_directories(store: Store, tmp_path: Path) -> None:
    """A whiteout hides lower files, an opaque marker a lower directory's content, neither what its own layer brings."""
    found = both_ways(
        store,
        tmp_path / "root",
        layer_tar(
            ("d", "a"), ("f", "a/old", 1), ("f", "gone", 1), ("d", "tree"), ("f", "tree/x", 1), ("f", "b/kept", 1)
        ),
        layer_tar(
            ("f", "a/first", 2), ("f", "a/.wh..wh..opq"), ("f", "a/second", 2), ("f", ".wh.gone"), ("f", ".wh.tree")
        ),
    )
    assert found == {"a": "/", "a/first": "2", "a/second": "2", "b": "/", "b/kept": "1"}


def test_kinds_replace_each_other(store: Store, tmp_path: Path) -> None:
    """A file over a directory, a directory over a link and a link over a file: the upper layer wins."""
    found = both_ways(
        store,
        tmp_path / "root",
        layer_tar(("d", "x"), ("f", "x/in", 1), ("l", "y", "/etc"), ("d", "etc"), ("f", "z", 1)),
        layer_tar(("f", "x", 2), ("d", "y"), ("f", "y/in", 2), ("l", "z", "x")),
    )
    assert found == {"etc": "/", "x": "2", "y": "/", "y/in": "2", "z": "-> x"}


def test_links_among_directories_are_followed_inside(store: Store, tmp_path: Path) -> None:
    """usr-merge: a file at lib/x lands in usr/lib, and hard links keep one content."""
    found = both_ways(
        store,
        tmp_path / "root",
        layer_tar(("d", "usr"), ("d", "usr/lib"), ("l", "lib", "usr/lib"), ("l", "abs", "/usr/lib")),
        layer_tar(("f", "lib/x", 1), ("f", "abs/y", 2), ("h", "hard", "lib/x")),
    )
    assert found == {
        "abs": "-> /usr/lib",
        "hard": "1",
        "lib": "-> usr/lib",
        "usr": "/",
        "usr/lib": "/",
        "usr/lib/x": "1",
        "usr/lib/y": "2",
    }


def test_links_that_lead_out_lead_to_the_root(store: Store, tmp_path: Path) -> None:
    """A link to ../../outside or an absolute path, then a file through it: written inside, nothing outside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("safe")
    up = "../" * 12
    target = tmp_path / "root"
    target.mkdir()
    layers = (
        layer_tar(
            ("l", "abs", str(outside)), ("l", "up", f"{up}{str(outside)[1:]}"), ("l", "victim", f"{outside}/victim")
        ),
        layer_tar(
            ("f", "abs/victim", "evil"), ("f", "up/victim", "evil"), ("f", "victim", "evil"), ("f", "up/.wh.victim")
        ),
    )
    unpack(image_of(store, *layers), target)
    assert (outside / "victim").read_text() == "safe" and len(list(outside.iterdir())) == 1
    assert (target / str(outside)[1:]).is_dir()


@pytest.mark.parametrize(
    "items",
    [
        [("f", "../evil", 1)],
        [("f", "a/../../evil", 1)],
        [("h", "evil", "../../../etc/passwd")],
        [("h", "evil", "/etc/passwd")],
        [("l", "a", "b"), ("l", "b", "a"), ("f", "a/x", 1)],
    ],
    ids=["up", "up inside", "hard link up", "hard link to the host", "circle"],
)
def test_what_no_image_may_hold(store: Store, tmp_path: Path, items: list[Item]) -> None:
    """Paths and hard links out of the root, and circles of links, are refused; nothing is written beside the root."""
    target = tmp_path / "in" / "root"
    target.mkdir(parents=True)
    with pytest.raises(InputError) as caught:
        unpack(image_of(store, layer_tar(*items)), target)
    assert caught.value.code == "base-unsuitable"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "store"]
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["root"]


def test_devices_are_left_out(store: Store, tmp_path: Path) -> None:
    """Device nodes and FIFOs are not made; everything else is."""
    target = tmp_path / "root"
    target.mkdir()
    unpack(image_of(store, layer_tar(("c", "dev/null"), ("p", "pipe"), ("f", "x", 1))), target)
    assert files_below(target) == {"dev": "/", "x": "1"}


def test_closed_directories_take_their_files(store: Store, tmp_path: Path) -> None:
    """A directory without write permission gets its files first and its mode last, also from a later layer."""
    target = tmp_path / "root"
    target.mkdir()
    unpack(image_of(store, layer_tar(("d", "ro", 0o555), ("f", "ro/a", 1)), layer_tar(("f", "ro/b", 2))), target)
    assert stat.S_IMODE((target / "ro").stat().st_mode) == 0o555
    assert files_below(target) == {"ro": "/", "ro/a": "1", "ro/b": "2"}
    (target / "ro").chmod(0o755)


def test_as_another_user(store: Store, tmp_path: Path) -> None:
    """Without root an image unpacks too: the files are the user's, a set-uid bit is dropped."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        info = tarfile.TarInfo("su")
        info.mode, info.uid = 0o4755, 0
        archive.addfile(info)
    image = image_of(store, data.getvalue())
    target = tmp_path / "root"
    target.mkdir(mode=0o777)
    target.chmod(0o777)
    if os.getuid() != 0:
        unpack(image, target)
    else:
        for path in (tmp_path, *tmp_path.parents):
            if path.stat().st_uid == 0 and path != Path("/") and not path.stat().st_mode & 0o001:
                path.chmod(path.stat().st_mode | 0o011)
        child = os.fork()
        if child == 0:
            os.setgid(65534)
            os.setuid(65534)
            try:
                unpack(image, target)
            except BaseException:
                os._exit(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    found = (target / "su").stat()
    assert stat.S_IMODE(found.st_mode) == 0o755 and found.st_uid == (os.getuid() or 65534)


def test_no_set_uid_file_is_left_on_this_machine(store: Store, tmp_path: Path) -> None:
    """As root, too: whoever may walk to where a hostile base is unpacked could become root by its files."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        info = tarfile.TarInfo("su")
        info.mode, info.uid = 0o6755, 0
        archive.addfile(info)
    (tmp_path / "root").mkdir()
    unpack(image_of(store, data.getvalue()), tmp_path / "root")
    assert stat.S_IMODE((tmp_path / "root" / "su").stat().st_mode) == 0o755


def test_reading_a_few_files(store: Store) -> None:
    """Only what is wanted has content; links are followed inside the image; a large file has none."""
    image = image_of(
        store,
        layer_tar(
            ("d", "usr"),
            ("f", "usr/real", "text"),
            ("l", "etc/link", "../usr/real"),
            ("f", "other", 1),
            ("f", "big", "x" * 99),
        ),
        layer_tar(("h", "usr/hard", "usr/real")),
    )
    files = read_files(image, lambda path: path in ("/usr/hard", "/big"), limit=50)
    assert files.read("/usr/hard") == b"text"
    assert (files.read("/other"), files.read("/big"), files.read("/none")) == (None, None, None)
    assert files.resolve("/etc/link") == "/usr/real" and files.resolve("/etc/none") is None
    assert files["/etc/link"].target == "../usr/real" and files["/big"].size == 99


@pytest.mark.parametrize(
    "data", [b"no tar at all" * 100, layer_tar(("f", "x", "y" * 5000))[:2000]], ids=["text", "cut"]
)
def test_what_is_no_tar(store: Store, tmp_path: Path, data: bytes) -> None:
    """A layer that is no tar, or ends early, is an error of mpack's, by both roads."""
    image = image_of(store, data)
    target = tmp_path / "root"
    target.mkdir()
    with pytest.raises(MpackError, match="not a tar"):
        unpack(image, target)
    with pytest.raises(MpackError, match="not a tar"):
        read_files(image, lambda path: True)


def deep(levels: int) -> bytes:
    """Directories inside of each other, as far as links to the deepest of them so far lead."""
    inner = "/".join("d" * 200)
    items: list[Item] = [("d", inner), ("l", "l0", inner)]
    for number in range(levels // 200):
        items += [("d", f"l{number}/{inner}"), ("l", f"l{number + 1}", f"l{number}/{inner}")]
    return layer_tar(*items)


ROUND = "/".join(["up", *["..", "up"] * 600])
HOSTILE = {
    "very deep": layer_tar(("f", "d/" * 1000 + "f", 1)),
    "deep by links": deep(2000),
    "very long": layer_tar(("f", "d" * 255 + "/" + "e" * 4000, 1)),
    "a long name": layer_tar(("f", "n" * 300, 1)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_paths_that_no_image_has(store: Store, tmp_path: Path, name: str) -> None:
    """What takes more levels or longer names than Linux and its tools bear is refused, not an OSError of ours."""
    target = tmp_path / "root"
    target.mkdir()
    image = image_of(store, HOSTILE[name])
    with pytest.raises(InputError, match=r"levels deep|than 4096 bytes|too long") as caught:
        unpack(image, target)
    assert caught.value.code == "base-unsuitable"
    if name != "a long name":
        with pytest.raises(InputError, match=r"levels deep|than 4096 bytes"):
            read_files(image, lambda path: False)


def test_links_that_cost_time(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every entry behind links that go round and round looks up thousands of names: there is an end to it."""
    monkeypatch.setattr("mpack.oci.rootfs._MAX_STEPS", 10_000)
    monkeypatch.setattr("mpack.oci.rootindex._MAX_STEPS", 10_000)
    items: list[Item] = [("d", "up"), ("l", "l", ROUND)]
    for number in range(100):
        items += [("d", f"l/{number}"), ("l", f"s{number}", "up")]
    image = image_of(store, layer_tar(*items))
    target = tmp_path / "root"
    target.mkdir()
    for road in (lambda: unpack(image, target), lambda: read_files(image, lambda path: False)):
        with pytest.raises(InputError, match="too many links and levels"):
            road()


def test_contents_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """All wanted files together, and all paths, have a limit in memory; what nobody wants counts by its path alone."""
    monkeypatch.setattr("mpack.oci.rootindex.MEMORY_LIMIT", 1 << 20)
    image = image_of(store, *(layer_tar(("f", f"f{number}", "x" * 300_000)) for number in range(4)))
    assert len(read_files(image, lambda path: path == "/f1")) == 4
    with pytest.raises(InputError, match="more than 1 MiB of memory"):
        read_files(image, lambda path: True)
    many = image_of(store, layer_tar(*(("d", f"d{number}") for number in range(3000))))
    with pytest.raises(InputError, match="more than 1 MiB of memory"):
        read_files(many, lambda path: False)


def test_a_chain_of_hard_links(store: Store) -> None:
    """However long, the last link has the first file's content, and layers are read twice."""
    links = [("h", f"l{number}", f"l{number - 1}" if number else "first") for number in range(2000)]
    image = image_of(store, layer_tar(("f", "first", "text"), *links))
    asked: list[str] = []
    files = read_files(image, lambda path: asked.append(path) or path == "/l1999")  # type: ignore[func-returns-value]
    assert files.read("/l1999") == b"text" and files.read("/l5") == b"text"
    assert asked.count("/first") == 2


def test_hiding_again_and_again_is_quick(store: Store) -> None:
    """Whiteouts of each of many directories, and many of one, cost no look at all that is there."""
    many = [("d", f"d{number}") for number in range(10_000)]
    hidden = [("f", f".wh.d{number}") for number in range(10_000)]
    opaque = [("f", ".wh..wh..opq")] * 10_000
    image = image_of(store, layer_tar(*many), layer_tar(("f", "kept/f"), *hidden, *many, *opaque))
    start = time.process_time()
    files = read_files(image, lambda path: False)
    assert time.process_time() - start < 20 and len(files) == 10_002


def test_directories_nobody_names_count(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry can need hundreds of directories: they count as entries."""
    monkeypatch.setattr("mpack.oci.rootfs.ENTRIES_LIMIT", 1000)
    target = tmp_path / "root"
    target.mkdir()
    with pytest.raises(InputError, match="or 1000 files"):
        unpack(image_of(store, layer_tar(*(("f", f"{n}/" + "d/" * 200 + "f", 1) for n in range(10)))), target)
