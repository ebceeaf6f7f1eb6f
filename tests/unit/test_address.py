"""What names an artifact: addresses and paths told apart, digests split off, secrets left out."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from mpack.address import is_remote, public, split_digest
from mpack.artifact.limits import Limits
from mpack.artifact.source import open_tree, tree_digest
from mpack.errors import InputError, UsageError

HEX = "ab" * 32


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://user:pw@host/a/m.zip?token=pw#pw", "https://host/a/m.zip"),
        ("HTTP://host/m.zip?a", "http://host/m.zip"),
        ("https://[broken", "https://…"),
        ("s3://bucket/a/m.zip", "s3://bucket/a/m.zip"),
        ("s3://key:pw@bucket/a@b/m.zip", "s3://bucket/a@b/m.zip"),
        ("s3://bucket/m.zip?versionId=v1", "s3://bucket/m.zip?versionId=v1"),
        ("s3://bucket/m.zip?versionId=v1&X-Amz-Signature=pw", "s3://bucket/m.zip"),
        ("abfs://box@account.dfs.core.windows.net/m?sig=pw", "abfs://box@account.dfs.core.windows.net/m"),
        ("models:/wine@champion", "models:/wine@champion"),
        ("runs:/0123/model", "runs:/0123/model"),
    ],
)
def test_public(location: str, shown: str) -> None:
    """An address is told without what may be secret in it."""
    assert is_remote(location) and public(location) == shown


@pytest.mark.parametrize("location", ["", "model.zip", "/a/b", "./models:/x", "ftp://host/x", "model:/x", "oci:x"])
def test_paths(location: str) -> None:
    """Everything else is a path, and told as it is."""
    assert not is_remote(location) and public(location) == location


def test_split_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest is what stands behind the last @sha256:, unless a file has that very name."""
    monkeypatch.chdir(tmp_path)
    for location in ("m.zip", "https://host/m.zip?a=@b", "models:/wine@champion", "s3://bucket/k"):
        assert split_digest(location) == (location, None)
        assert split_digest(f"{location}@sha256:{HEX.upper()}") == (location, f"sha256:{HEX}")
    name = f"m.zip@sha256:{HEX}"
    Path(name).write_bytes(b"x")
    assert split_digest(name) == (name, None)
    for wrong in ("m.zip@sha256:abc", "https://u:hunter2@host/m@sha256:", f"https://u:hunter2@host/m#sha256={HEX}"):
        with pytest.raises(UsageError) as caught:
            split_digest(wrong)
        assert "hunter2" not in str(caught.value)


def test_digest_of_what_is_here(tmp_path: Path) -> None:
    """A file has its own bytes' digest, a directory that of its files; another content is refused."""
    scratch, folder = tmp_path / "scratch", tmp_path / "model"
    scratch.mkdir()
    folder.mkdir()
    (folder / "a").write_bytes(b"hello")
    (folder / "b").write_bytes(b"x")
    whole, one = tree_digest(open_tree(str(folder), Limits(), scratch)), hashlib.sha256(b"hello").hexdigest()
    assert list(open_tree(str(folder), Limits(), scratch, digest=whole)) == ["a", "b"]
    assert list(open_tree(str(folder / "a"), Limits(), scratch, digest=f"sha256:{one}")) == ["a"]
    for path in (folder, folder / "b"):
        with pytest.raises(InputError, match="has the SHA-256") as caught:
            open_tree(str(path), Limits(), scratch, digest=f"sha256:{one}")
        assert caught.value.code == "artifact-digest"
