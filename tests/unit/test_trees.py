"""Unpacked layers: kept by content, laid upon one another as the image says, made again when they have changed."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import stat
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from mpack.errors import EnvironmentFault
from mpack.oci.image import OciImage, canonical_json
from mpack.oci.layer import TAR, Layer
from mpack.oci.rootfs import unpack
from mpack.oci.store import Store
from mpack.pruning import prune
from mpack.sandbox.farm import lay
from mpack.sandbox.scratch import locked, scratch, sweep
from mpack.sandbox.trees import Trees

Item = tuple[str, str, str]


def image_of(store: Store, *layers: list[Item]) -> OciImage:
    """An image of layers of (kind, path, content, target or mode); kinds: f, d, l."""
    made = []
    for items in layers:
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w") as archive:
            for kind, path, rest in items:
                info = tarfile.TarInfo(path)
                info.type = {"f": tarfile.REGTYPE, "d": tarfile.DIRTYPE, "l": tarfile.SYMTYPE}[kind]
                info.mode = int(rest, 8) if kind == "d" else 0o644
                info.linkname = rest if kind == "l" else ""
                info.size = len(rest) if kind == "f" else 0
                archive.addfile(info, io.BytesIO(rest.encode()))
        digest = store.add(sink.getvalue())
        made.append(Layer(digest, digest, len(sink.getvalue()), TAR))
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [layer.diff_id for layer in made]}}
    return store.put_image(canonical_json(config), tuple(made))


def files_below(root: Path) -> dict[str, tuple[int, str]]:
    """Relative path -> mode, and content, target or "/"."""
    return {
        path.relative_to(root).as_posix(): (
            stat.S_IMODE(path.lstat().st_mode),
            str(path.readlink()) if path.is_symlink() else "/" if path.is_dir() else path.read_text(),
        )
        for path in sorted(root.rglob("*"))
    }


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def trees(tmp_path: Path) -> Trees:
    return Trees(tmp_path / "trees")


BASE: list[Item] = [("d", "usr", "755"), ("d", "usr/lib", "755"), ("f", "usr/lib/x", "1"), ("l", "lib", "usr/lib")]
CASES: dict[str, tuple[list[list[Item]], int]] = {
    "plain": ([BASE, [("d", "usr", "755"), ("f", "usr/y", "2")], [("d", "opt", "700"), ("f", "opt/z", "3")]], 3),
    "replaced": ([BASE, [("d", "usr", "755"), ("f", "usr/lib", "2")]], 2),
    "file over a link": ([BASE, [("f", "lib", "2")]], 2),
    "whiteout": ([BASE, [("d", "usr", "755"), ("f", "usr/lib/.wh.x", "")]], 1),
    "opaque": ([BASE, [("d", "usr", "755"), ("d", "usr/lib", "755"), ("f", "usr/lib/.wh..wh..opq", "")]], 1),
    "parents left out": ([[("d", "tmp", "1777")], [("f", "tmp/x", "1")]], 1),
    "through a link": ([BASE, [("d", "lib", "755"), ("f", "lib/y", "2")]], 1),
}


@pytest.mark.parametrize("name", CASES)
def test_layers_make_the_image(name: str, store: Store, trees: Trees, tmp_path: Path) -> None:
    """Laid upon one another the trees are what unpacking the whole gives; where they would not be, one tree is."""
    layers, count = CASES[name]
    image = image_of(store, *layers)
    whole, laid = tmp_path / "whole", tmp_path / "laid"
    whole.mkdir()
    laid.mkdir()
    unpack(image, whole)
    with trees.hold(image) as held:
        assert len(held) == count
        for tree in held:
            lay(str(tree), str(laid))
    assert files_below(laid) == files_below(whole)


def test_shared_and_linked(store: Store, trees: Trees, tmp_path: Path) -> None:
    """A second image with the same base takes the same tree; laying it out copies no content."""
    (tmp_path / "laid").mkdir()
    with trees.hold(image_of(store, BASE)) as one, trees.hold(image_of(store, BASE, [("f", "m", "1")])) as two:
        assert two[0] == one[0]
        lay(str(one[0]), str(tmp_path / "laid"))
        assert (tmp_path / "laid/usr/lib/x").samefile(one[0] / "usr/lib/x")


@pytest.mark.parametrize("harm", ["content", "missing", "mode", "note", *(["owner"] if os.getuid() == 0 else [])])
def test_what_is_not_as_it_was_is_made_again(harm: str, store: Store, trees: Trees) -> None:
    """A tree that was edited, lost a file or its note is never used."""
    image = image_of(store, BASE)
    with trees.hold(image) as (root,):
        before = files_below(root)
    victim = root / "usr/lib/x"
    if harm == "content":
        victim.write_text("22")
    elif harm == "missing":
        victim.unlink()
    elif harm == "mode":
        victim.chmod(0o600)
    elif harm == "owner":
        os.chown(victim, 1, 1)
    else:
        (root.parent / "tree.json").write_text("{")
    with trees.hold(image) as (root,):
        assert files_below(root) == before and (root / "usr/lib/x").stat().st_uid == os.getuid()
    assert [path.name for path in trees.directory.iterdir()] == [root.parent.name]


def test_a_lying_diff_id_reaches_no_other_image(store: Store, trees: Trees) -> None:
    """An image that calls its layer by the diff id of another's gets its own bytes, and the other one its own."""
    good, evil = image_of(store, BASE), image_of(store, [("f", "evil", "1")])
    named = Layer(good.layers[0].diff_id, evil.layers[0].digest, evil.layers[0].size, TAR)
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [named.diff_id]}}
    with trees.hold(store.put_image(canonical_json(config), (named,))) as (root,):
        assert list(files_below(root)) == ["evil"]
    with trees.hold(good) as (root,):
        assert "usr/lib/x" in files_below(root)


def test_pruning_passes_over_what_is_in_use(store: Store, trees: Trees) -> None:
    """A held tree stays, an old unused one goes, a young one stays."""
    image = image_of(store, BASE)
    with trees.hold(image) as (root,):
        assert prune(trees.entries(), older_than=0) == 1 and root.is_dir()
    assert prune(trees.entries(), older_than=3600) == 0 and root.is_dir()
    os.utime(root.parent / "tree.json", (time.time() - 7200,) * 2)
    assert prune(trees.entries(), older_than=3600) == 1 and list(trees.directory.iterdir()) == []


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    """A directory of a live process stays; that of one killed by SIGKILL goes, with its closed directories."""
    program = (
        "import sys, pathlib, time\nfrom mpack.sandbox.scratch import scratch\n"
        "with scratch(pathlib.Path(sys.argv[1])) as work:\n"
        "    (work / 'closed').mkdir(); (work / 'closed/x').touch(); (work / 'closed').chmod(0o500)\n"
        "    print(work, flush=True); time.sleep(60)"
    )
    with scratch(tmp_path) as mine:
        process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        theirs = Path(process.stdout.readline().strip())
        assert sweep(tmp_path) == 0 and theirs.is_dir()
        process.kill()
        process.wait()
        process.stdout.close()
        assert sweep(tmp_path) == 1
        assert mine.is_dir() and not theirs.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_on_the_directory_of_that_name(tmp_path: Path) -> None:
    """No lock on what is gone, none that another holds."""
    place = tmp_path / "place"
    assert locked(place, fcntl.LOCK_SH) is None
    place.mkdir()
    lock = locked(place, fcntl.LOCK_SH)
    assert lock is not None and locked(place, fcntl.LOCK_EX | fcntl.LOCK_NB) is None
    os.close(lock)


def descend(place: Path, levels: int) -> None:
    """Directories in one another below `place`, deeper than a path may be long, each closed to writing."""
    here = os.open(place, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("deep", dir_fd=here)
        there = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=there))
        os.fchmod(here, 0o500)
        os.close(here)
        here = there
    os.close(here)


def test_any_depth_is_removed(tmp_path: Path) -> None:
    """Neither depth nor the length of a path keeps a directory; what links lead to stays; no descriptor leaks."""
    (tmp_path / "kept").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    with scratch(tmp_path / "trees") as work:
        (work / "link").symlink_to(tmp_path / "kept")
        (work / "below").mkdir()
        descend(work / "below", 3000)
    left = tmp_path / "trees" / "run-left"
    left.mkdir()
    descend(left, 3000)
    assert sweep(tmp_path / "trees") == 1
    assert list((tmp_path / "trees").iterdir()) == [] and (tmp_path / "kept").is_dir()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("refusal", [errno.ENOLCK, errno.EMFILE])
def test_a_lock_that_is_refused_is_an_error(refusal: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No endless loop: the reason and what to do, no directory left, and a sweep goes on."""
    (tmp_path / "run-old").mkdir()

    def refuse(*_: object) -> int:
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(*((fcntl, "flock") if refusal == errno.ENOLCK else (os, "open")), refuse)
    with pytest.raises(EnvironmentFault, match=os.strerror(refusal)) as caught, scratch(tmp_path):
        pass
    assert caught.value.code == "disk-unwritable" and "MPACK_HOME" in caught.value.hint
    assert sweep(tmp_path) == 0
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["run-old"]
