"""Reading a file a second time: when its checksum is enough, and that no change is missed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import pytest

from mpack import contents
from mpack.contents import Check, Sha256, hash_file, sha256_bytes
from mpack.testing.trees import wait_for_rest

DATA = bytes(range(256)) * (3 << 12)
OTHER = DATA[:-1] + b"!"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file at rest that this process has hashed."""
    path = tmp_path / "weights"
    path.write_bytes(DATA)
    wait_for_rest(path)
    with path.open("rb") as stream:
        assert hash_file(stream) == (len(DATA), sha256_bytes(DATA))
    return path


def passed(stream: BinaryIO) -> bool:
    check = Check(sha256_bytes(DATA), stream)
    while block := stream.read(1 << 19):
        check.update(block)
    return check.passed()


def test_unchanged(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is as it was hashed is not hashed again."""
    monkeypatch.setattr(Sha256, "update", lambda self, data: pytest.fail("hashed again"))
    with file.open("rb") as stream:
        assert passed(stream)


def test_changed_before(file: Path) -> None:
    """Other bytes of the same size are found, also when the time of change was set back."""
    state = file.stat()
    file.write_bytes(OTHER)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    with file.open("rb") as stream:
        assert not passed(stream)


def test_changed_while_read(file: Path) -> None:
    """A change is found even of bytes that were read before it."""
    with file.open("rb") as stream:
        check = Check(sha256_bytes(DATA), stream)
        check.update(stream.read())
        file.write_bytes(OTHER)
        assert not check.passed()


def test_checksum_counts(file: Path) -> None:
    """Other bytes than those hashed do not pass, even where the file system tells of no change."""
    with file.open("rb") as stream:
        check = Check(sha256_bytes(DATA), stream)
        check.update(OTHER)
        assert not check.passed()


def test_just_written(tmp_path: Path) -> None:
    """A file written a moment ago is hashed each time: a clock's tick may hide the next change."""
    path = tmp_path / "fresh"
    path.write_bytes(DATA[::-1])
    with path.open("rb") as stream:
        _, sha256 = hash_file(stream)
    assert sha256 not in {known for known, _ in contents._hashed.values()}


@pytest.mark.parametrize("size", [0, 100, 1 << 18, 1 << 20])
def test_sha256(size: int) -> None:
    """The same as hashlib's, for blocks hashed at once and for blocks hashed beside."""
    digest, blocks = Sha256(), [bytes([number]) * size for number in range(9)]
    for block in blocks:
        digest.update(block)
    assert digest.hexdigest() == sha256_bytes(b"".join(blocks))
    digest.update(b"more")
    assert digest.hexdigest() == sha256_bytes(b"".join([*blocks, b"more"]))
