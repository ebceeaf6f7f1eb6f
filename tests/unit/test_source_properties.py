"""Archives made at random: either refused as the user's input, or unpacked below scratch and nowhere else."""

from __future__ import annotations

import io
import stat
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpack.artifact.archive import MAX_PATH, safe_path
from mpack.artifact.limits import Limits
from mpack.artifact.source import open_tree, tree_digest
from mpack.errors import InputError

parts = st.sampled_from(["a", "b", "..", ".", "", "data", "ö", "C:", "a\\b", "..\\x", "\x01", "__MACOSX", "n" * 300])
paths = st.lists(parts, min_size=1, max_size=4).map("/".join)
kinds = st.sampled_from(["file", "directory", "symlink", "hardlink", "fifo", "device"])
entries = st.lists(st.tuples(paths, kinds, st.binary(max_size=40), paths), max_size=6)
slow = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

TAR_TYPES = {
    "file": tarfile.REGTYPE,
    "directory": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
    "fifo": tarfile.FIFOTYPE,
    "device": tarfile.CHRTYPE,
}
ZIP_TYPES = {"directory": stat.S_IFDIR, "symlink": stat.S_IFLNK, "fifo": stat.S_IFIFO, "device": stat.S_IFCHR}


def make_tar(items: list[tuple[str, str, bytes, str]], mode: str) -> bytes:
    """A tar of these entries, however wrong they are."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, kind, data, target in items:
            info = tarfile.TarInfo(name)
            info.type = TAR_TYPES[kind]
            info.linkname = target if kind.endswith("link") else ""
            info.size = len(data) if kind == "file" else 0
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def make_zip(items: list[tuple[str, str, bytes, str]]) -> bytes:
    """A zip of these entries, however wrong they are."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")
        for name, kind, data, target in items:
            info = zipfile.ZipInfo(name)
            info.external_attr = (ZIP_TYPES.get(kind, stat.S_IFREG) | 0o644) << 16
            archive.writestr(info, target.encode() if kind == "symlink" else data)
    return buffer.getvalue()


@contextmanager
def opened(data: bytes) -> Iterator[None]:
    """Opens the bytes as an artifact and checks what any outcome must keep to. Only InputError may come out of it."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        scratch = root / "scratch"
        scratch.mkdir()
        (root / "artifact").write_bytes(data)
        try:
            tree = open_tree(str(root / "artifact"), Limits(), scratch)
        except InputError as error:
            assert error.exit_code == 1
            assert error.message
            assert not list(scratch.iterdir())
        else:
            for path, file in tree.items():
                assert safe_path(path) == path == file.path
                assert file.source == root / "artifact" or file.source.resolve().is_relative_to(scratch)
                assert file.source.is_file()
                assert not file.source.is_symlink()
                assert file.size == file.source.stat().st_size
            assert tree_digest(tree).startswith("sha256:")
        assert {path.name for path in root.iterdir()} == {"artifact", "scratch"}
        yield


@slow
@given(entries, st.sampled_from(["w", "w:gz", "w:xz"]))
def test_any_tar(items: list[tuple[str, str, bytes, str]], mode: str) -> None:
    """Whatever a tar's entries are called and are: refused, or all below scratch."""
    with opened(make_tar(items, mode)):
        pass


@slow
@given(entries)
def test_any_zip(items: list[tuple[str, str, bytes, str]]) -> None:
    """Whatever a zip's entries are called and are: refused, or all below scratch."""
    with opened(make_zip(items)):
        pass


GOOD = [
    ("m/MLmodel", "file", b"flavors: {}", ""),
    ("m/link", "symlink", b"", "MLmodel"),
    ("m/x", "file", b"x" * 99, ""),
]
archives = st.sampled_from([make_tar(GOOD, "w"), make_tar(GOOD, "w:gz"), make_tar(GOOD, "w:bz2"), make_zip(GOOD)])


@settings(slow, max_examples=150)
@given(archives, st.data())
def test_mutated(archive: bytes, data: st.DataObject) -> None:
    """Bytes flipped anywhere never raise anything but InputError."""
    changed = bytearray(archive)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with opened(bytes(changed)):
        pass


@settings(slow, max_examples=60)
@given(archives, st.data())
def test_cut_off(archive: bytes, data: st.DataObject) -> None:
    """An archive cut off anywhere never raises anything but InputError."""
    with opened(archive[: data.draw(st.integers(1, len(archive)))]):
        pass


@settings(max_examples=300)
@given(st.one_of(st.text(max_size=30), paths))
def test_safe_path(name: str) -> None:
    """A name is refused, or comes out relative, without "..", and stays as it is when asked again."""
    try:
        path = safe_path(name)
    except InputError as error:
        assert error.code == "artifact-unsafe"
        return
    assert not path.startswith("/")
    assert ".." not in path.split("/")
    assert "\\" not in path
    assert len(path.encode()) <= MAX_PATH
    assert safe_path(path) == path
