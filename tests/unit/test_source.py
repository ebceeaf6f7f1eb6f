"""Opening artifacts by content: what they may be, what they are called, what they cost, and what is refused."""

from __future__ import annotations

import bz2
import functools
import gzip
import lzma
import os
import pickle
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mpack.artifact import archive as archive_module
from mpack.artifact.limits import Limits, parse_size
from mpack.artifact.model import Tree
from mpack.artifact.source import open_tree, steady, tree_digest
from mpack.errors import EnvironmentFault, InputError, UsageError

FILES = {"MLmodel": b"flavors: {}\n", "data/model.pkl": b"x" * 3000, "code/run.sh": b"#!/bin/sh\n"}


def folder(root: Path) -> Path:
    """A model directory with an executable in it."""
    for name, data in FILES.items():
        path = root / "wine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / "wine" / "code" / "run.sh").chmod(0o755)
    return root / "wine"


def tar(directory: Path, path: Path, mode: str = "w", name: str = ".", form: int = tarfile.PAX_FORMAT) -> Path:
    """A tar of the directory, its members below `name`."""
    with tarfile.open(path, mode, format=form) as archive:  # type: ignore[call-overload]
        archive.add(directory, name)
    return path


def zipped(directory: Path, path: Path, prefix: str = "", separator: str = "/") -> Path:
    """A zip of the directory, as the zip program makes it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(directory.rglob("*")):
            if file.is_file():
                info = zipfile.ZipInfo(prefix + str(file.relative_to(directory)).replace("/", separator))
                info.external_attr = file.stat().st_mode << 16
                archive.writestr(info, file.read_bytes())
    return path


MAKERS: dict[str, Callable[[Path, Path], Path]] = {
    "directory": lambda source, path: source,
    "zip": lambda source, path: zipped(source, path),
    "zip-wrapped": lambda source, path: zipped(source, path, "wine/"),
    "zip-backslash": lambda source, path: zipped(source, path, "wine\\", "\\"),
    "tar": lambda source, path: tar(source, path),
    "tar-gnu": lambda source, path: tar(source, path, form=tarfile.GNU_FORMAT),
    "tar-wrapped": lambda source, path: tar(source, path, name="wine"),
    "tar-gz": lambda source, path: tar(source, path, "w:gz"),
    "tar-bz2": lambda source, path: tar(source, path, "w:bz2"),
    "tar-xz": lambda source, path: tar(source, path, "w:xz"),
}


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """The caller's scratch directory."""
    path = tmp_path / "scratch"
    path.mkdir()
    return path


def contents(tree: Tree) -> dict[str, bytes]:
    """Every file's bytes."""
    return {path: tree.read(path) for path in tree}


@pytest.mark.parametrize("kind", MAKERS)
def test_same_model_same_digest(kind: str, tmp_path: Path, scratch: Path) -> None:
    """Whatever it is packed as, and whatever it is called, the files and the digest are the folder's."""
    source = folder(tmp_path)
    tree = open_tree(str(MAKERS[kind](source, tmp_path / "wine-1.0.zip")), Limits(), scratch)
    assert contents(tree) == FILES
    assert tree_digest(tree) == tree_digest(open_tree(str(source), Limits(), scratch))
    assert [path for path, file in tree.items() if file.executable] == ["code/run.sh"]
    assert tree.title == ("wine" if kind == "directory" else "wine-1.0")


def test_digest_sees_names_contents_and_modes(tmp_path: Path, scratch: Path) -> None:
    """A changed byte, a renamed file and a lost executable bit each change the digest."""
    source = folder(tmp_path)
    digests = [tree_digest(open_tree(str(source), Limits(), scratch))]
    (source / "code" / "run.sh").chmod(0o644)
    digests.append(tree_digest(open_tree(str(source), Limits(), scratch)))
    (source / "MLmodel").write_bytes(b"flavors: []\n")
    digests.append(tree_digest(open_tree(str(source), Limits(), scratch)))
    (source / "MLmodel").rename(source / "MLmodel2")
    digests.append(tree_digest(open_tree(str(source), Limits(), scratch)))
    assert len(set(digests)) == 4


def test_directory_is_used_in_place(tmp_path: Path, scratch: Path) -> None:
    """A directory is not copied: its files are read where they are."""
    source = folder(tmp_path)
    tree = open_tree(str(source), Limits(), scratch)
    assert tree["MLmodel"].source == source / "MLmodel"
    assert not [path for path in scratch.rglob("*") if path.is_file()]


@pytest.mark.parametrize("kind", ["directory", "tar", "zip"])
def test_links_inside_are_followed(kind: str, tmp_path: Path, scratch: Path) -> None:
    """Links to files and to directories, through one another, become the files that they lead to."""
    source = folder(tmp_path)
    (source / "latest.pkl").symlink_to("data/model.pkl")
    (source / "weights").symlink_to("data")
    (source / "code" / "again").symlink_to("../weights/model.pkl")
    path = {"directory": lambda: source, "tar": lambda: tar(source, tmp_path / "a.tar")}.get(
        kind, lambda: linked_zip(source, tmp_path / "a.zip")
    )()
    tree = open_tree(str(path), Limits(), scratch)
    same = {"data/model.pkl", "latest.pkl", "weights/model.pkl", "code/again"}
    assert set(tree) == {*FILES, *same}
    assert {path for path in tree if tree.read(path) == FILES["data/model.pkl"]} == same


def linked_zip(directory: Path, path: Path) -> Path:
    """A zip that keeps symbolic links, as `zip -y` makes it."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(directory.rglob("*")):
            info = zipfile.ZipInfo(str(file.relative_to(directory)))
            info.external_attr = file.lstat().st_mode << 16
            if file.is_symlink():
                archive.writestr(info, os.readlink(file))
            elif file.is_file():
                archive.writestr(info, file.read_bytes())
    return path


def test_hard_links_in_tar(tmp_path: Path, scratch: Path) -> None:
    """tar writes the second name of a file as a hard link; both names have its content."""
    source = folder(tmp_path)
    os.link(source / "data" / "model.pkl", source / "zz.pkl")
    tree = open_tree(str(tar(source, tmp_path / "a.tar")), Limits(), scratch)
    assert tree.read("zz.pkl") == tree.read("data/model.pkl") == FILES["data/model.pkl"]


def test_links_that_multiply_are_counted(tmp_path: Path, scratch: Path) -> None:
    """Twenty links of two names each would be a million files: the entry limit holds while they are followed."""
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("d20/file"))
        for level in range(20):
            for name in "ab":
                link = tarfile.TarInfo(f"d{level}/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, f"../d{level + 1}"
                archive.addfile(link)
    with pytest.raises(InputError, match="more than 1000 entries"):
        open_tree(str(tmp_path / "a.tar"), Limits(entries=1000), scratch)


def test_junk_of_macos_is_left_out(tmp_path: Path, scratch: Path) -> None:
    """__MACOSX, .DS_Store and AppleDouble files are no part of the artifact, nor do they hide a wrapping folder."""
    source = folder(tmp_path)
    (source / ".DS_Store").write_bytes(b"junk")
    (source / "data" / "._model.pkl").write_bytes(b"junk")
    path = zipped(source, tmp_path / "a.zip", "wine/")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/wine/._MLmodel", "junk")
    assert contents(open_tree(str(path), Limits(), scratch)) == contents(open_tree(str(source), Limits(), scratch))
    assert contents(open_tree(str(path), Limits(), scratch)) == FILES


def test_version_directory_is_no_wrapping_folder(tmp_path: Path, scratch: Path) -> None:
    """A sole directory called 1 is a version of a model repository and stays."""
    (tmp_path / "repo" / "1").mkdir(parents=True)
    (tmp_path / "repo" / "1" / "model.onnx").write_bytes(b"x")
    assert list(open_tree(str(tmp_path / "repo"), Limits(), scratch)) == ["1/model.onnx"]


@pytest.mark.parametrize(
    ("name", "title"),
    [("wine.onnx", "wine"), ("wine-1.0.pkl", "wine-1.0"), ("wine-1.0", "wine-1.0"), (".onnx", ".onnx"), ("a b", "a b")],
)
def test_single_file(name: str, title: str, tmp_path: Path, scratch: Path) -> None:
    """A single file is a tree of one, in place, called as it is called."""
    (tmp_path / name).write_bytes(b"some model")
    tree = open_tree(str(tmp_path / name), Limits(), scratch)
    assert contents(tree) == {name: b"some model"}
    assert tree[name].source == tmp_path / name
    assert tree.title == title


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_pickle_stays_whole(compress: Callable[[bytes], bytes], tmp_path: Path, scratch: Path) -> None:
    """What joblib writes with compress=… is one model file, not an archive."""
    (tmp_path / "m.joblib").write_bytes(compress(pickle.dumps([1, 2])))
    assert list(open_tree(str(tmp_path / "m.joblib"), Limits(), scratch)) == ["m.joblib"]


@pytest.mark.parametrize(
    "names", [{"schema.json": '{"__loader__": "x"}', "1.npy": ""}, {"m/data.pkl": "", "m/version": "3"}]
)
def test_models_that_are_zips_stay_whole(names: dict[str, str], tmp_path: Path, scratch: Path) -> None:
    """A skops file and a PyTorch file are zips, and one model file each."""
    with zipfile.ZipFile(tmp_path / "model", "w") as archive:
        for name, text in names.items():
            archive.writestr(name, text)
    assert list(open_tree(str(tmp_path / "model"), Limits(), scratch)) == ["model"]


def test_current_directory_has_a_title(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mpack build .` falls back to the directory's real name."""
    monkeypatch.chdir(folder(tmp_path))
    assert open_tree(".", Limits(), scratch).title == "wine"


def test_link_to_an_artifact_is_opened(tmp_path: Path, scratch: Path) -> None:
    """The location itself may be a link; the title is the link's."""
    source = folder(tmp_path)
    (tmp_path / "current").symlink_to(source)
    tree = open_tree(str(tmp_path / "current"), Limits(), scratch)
    assert contents(tree) == FILES
    assert tree.title == "current"


def test_empty_files_inside_are_fine(tmp_path: Path, scratch: Path) -> None:
    """An __init__.py of no bytes is a file like others."""
    source = folder(tmp_path)
    (source / "code" / "__init__.py").touch()
    for path in (source, zipped(source, tmp_path / "a.zip"), tar(source, tmp_path / "a.tar")):
        assert open_tree(str(path), Limits(), scratch)["code/__init__.py"].size == 0


def test_changed_while_read(tmp_path: Path, scratch: Path) -> None:
    """A file that grows while it is hashed is refused, not packaged half."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"x")
    os.truncate(path, 400_000_000)
    done = threading.Event()

    def write() -> None:
        with path.open("ab") as stream:
            while not done.wait(0.001):
                stream.write(b"y")
                stream.flush()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with pytest.raises(InputError, match=r"model\.onnx changed while it was being read") as caught:
            open_tree(str(path), Limits(), scratch)
    finally:
        done.set()
        writer.join()
    assert (caught.value.code, caught.value.exit_code) == ("artifact-changed", 1)
    assert not list(scratch.iterdir())


def test_change_wins_over_the_damage_it_does(tmp_path: Path) -> None:
    """An archive that is rewritten under the reader is called changed, not corrupt."""
    path = tmp_path / "a.zip"
    path.write_bytes(b"old")
    with pytest.raises(InputError, match="changed while"), steady(path):
        path.write_bytes(b"longer")
        raise InputError("artifact-corrupt", "damaged")


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_unreadable(kind: str, tmp_path: Path, scratch: Path) -> None:
    """A file without read permission is named, with exit 1."""
    source = folder(tmp_path)
    open_tree(str(source), Limits(), scratch)
    locked = source / "MLmodel" if kind == "file" else source / "data"
    mode = locked.stat().st_mode
    locked.chmod(0)
    try:
        with as_nobody(tmp_path), pytest.raises(InputError, match=f"cannot be read: .*{locked.name}") as caught:
            open_tree(str(source), Limits(), scratch)
    finally:
        locked.chmod(mode)
    assert caught.value.code == "artifact-missing"


class as_nobody:
    """Drops root's right to read everything, for a block; for others nothing is to be dropped."""

    def __init__(self, reachable: Path) -> None:
        self._opened: list[tuple[Path, int]] = []
        self._path = reachable

    def __enter__(self) -> None:
        if os.geteuid() == 0:
            for path in (self._path / "scratch", self._path, *self._path.parents):
                mode = path.stat().st_mode
                if mode & 0o011 != 0o011:
                    self._opened.append((path, mode))
                    path.chmod(stat.S_IMODE(mode) | 0o011)
            (self._path / "scratch").chmod(0o777)
            os.seteuid(65534)

    def __exit__(self, *_: object) -> None:
        if self._opened:
            os.seteuid(0)
            for path, mode in self._opened:
                path.chmod(stat.S_IMODE(mode))


@pytest.mark.parametrize("kind", ["zip", "tar-gz"])
def test_disk_full(kind: str, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is the environment's fault (exit 3), and nothing is left behind. /dev/full is a disk that is full."""
    path = MAKERS[kind](folder(tmp_path), tmp_path / "a")
    full = functools.partial(Path("/dev/full").open, "wb", buffering=0)
    monkeypatch.setattr(archive_module, "create", lambda path: full())
    with pytest.raises(EnvironmentFault, match="disk is full") as caught:
        open_tree(str(path), Limits(), scratch)
    assert (caught.value.code, caught.value.exit_code) == ("disk-full", 3)
    assert not list(scratch.iterdir())


def test_failure_leaves_nothing(tmp_path: Path, scratch: Path) -> None:
    """An archive that turns bad in its last entry leaves none of the earlier ones."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("good", b"x" * 5000)
        archive.writestr("../bad", b"x")
    with pytest.raises(InputError):
        open_tree(str(tmp_path / "a.zip"), Limits(), scratch)
    assert not list(scratch.iterdir())


MEMORY = """
import resource, sys
from pathlib import Path
from mpack.artifact.limits import Limits
from mpack.artifact.source import open_tree
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
open_tree(sys.argv[1], Limits(), Path(sys.argv[2]))
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("kind", ["file", "tar-gz", "zip"])
def test_memory_stays_small(kind: str, tmp_path: Path, scratch: Path) -> None:
    """200 MB cost less than 30 MB of memory, whatever they are packed as."""
    size = 200_000_000
    path = tmp_path / "model.onnx"
    path.write_bytes(b"x")
    os.truncate(path, size)
    if kind == "tar-gz":
        big = tarfile.TarInfo("model.onnx")
        big.size = size
        with tarfile.open(tmp_path / "a.tgz", "w:gz", compresslevel=1) as archive, path.open("rb") as stream:
            archive.addfile(big, stream)
        path = tmp_path / "a.tgz"
    elif kind == "zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_STORED) as zip_file:
            zip_file.write(path, "model.onnx")
        path = tmp_path / "a.zip"
    done = subprocess.run([sys.executable, "-c", MEMORY, path, scratch], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after - before < 30_000


@pytest.mark.parametrize(
    ("text", "size"), [("500", 500), ("64k", 64_000), ("1.5 GB", 1_500_000_000), ("2GiB", 2 << 30)]
)
def test_sizes(text: str, size: int) -> None:
    """Sizes as people write them."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "many", "-5", "5 parsecs", "1e9"])
def test_no_sizes(text: str) -> None:
    """What is no size is a usage error."""
    with pytest.raises(UsageError, match="is not a size"):
        parse_size(text)


def test_own_limits_win_over_the_file() -> None:
    """What the command line sets wins over mpack.toml's; what it leaves at the default does not."""
    assert Limits(entries=5).over(Limits(entries=7, ratio=9)) == Limits(entries=5, ratio=9)


def test_zip64(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zip with zip64 records opens like others. The writer's own limit is lowered to have it write them."""
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        with archive.open("model.onnx", "w", force_zip64=True) as entry:
            entry.write(b"model")
        for number in range(7):
            archive.writestr(f"parts/{number}", b"")
    tree = open_tree(str(tmp_path / "a.zip"), Limits(), scratch)
    assert len(tree) == 8
    assert tree.read("model.onnx") == b"model"
