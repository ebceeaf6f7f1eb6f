"""Artifacts in Google's store, for which an emulator stands, and in Azure's, for which its own Azurite does."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from mpack.artifact.limits import Limits
from mpack.artifact.source import open_tree, tree_digest
from mpack.connections import Connection, Secret
from mpack.errors import MpackError
from mpack.stores import Access

WINE = Path(__file__).parents[2] / "fixtures" / "models" / "mlflow-wine" / "model"
FILES = {f"wine/1/{path.relative_to(WINE)}": path.read_bytes() for path in WINE.rglob("*") if path.is_file()}


@pytest.fixture
def gs(google: str, clients: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator with a model."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", google)
    for name, data in {**FILES, "m.bin": b"hello"}.items():
        params = {"uploadType": "media", "name": name}
        sent = httpx.post(f"{google}/upload/storage/v1/b/models/o", params=params, content=data, trust_env=False)
        assert sent.status_code == 200


@pytest.fixture
def abfs(azurite: str, clients: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Azurite with a model."""
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite)
    from azure.storage.blob import ContainerClient

    container = ContainerClient.from_connection_string(azurite, "models")
    if not container.exists():
        container.create_container()
    for name, data in {**FILES, "m.bin": b"hello", "large.bin": b"x" * 20_000_000}.items():
        container.upload_blob(name, data, overwrite=True)
    return azurite


@pytest.mark.parametrize("scheme", ["gs", "abfs"])
def test_object_and_prefix(scheme: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A prefix is the directory, an object the file; the second time it is the cache's; its version is told."""
    request.getfixturevalue(scheme)
    for _ in range(2):
        tree = open_tree(f"{scheme}://models/wine/1", Limits(), tmp_path)
        assert tree_digest(tree) == tree_digest(open_tree(str(WINE), Limits(), tmp_path))
        tree = open_tree(f"{scheme}://models/m.bin", Limits(), tmp_path)
        assert tree.read("m.bin") == b"hello" and tree.origin is not None
        assert tree.origin.version and tree.origin.sha256 == hashlib.sha256(b"hello").hexdigest()


@pytest.mark.parametrize("scheme", ["gs", "abfs"])
def test_faults(scheme: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: Any) -> None:
    """What is not there, what is too large, no credentials; no secret is told."""
    request.getfixturevalue(scheme)
    cases = [
        (f"{scheme}://models/none", "artifact-missing"),
        (f"{scheme}://nobody/none", "artifact-missing"),
        (f"{scheme}://MODELS!/x", "artifact-missing"),
        (f"{scheme}://models/wine", "artifact-too-large"),
    ]
    for location, code in cases:
        with pytest.raises(MpackError) as caught:
            open_tree(location, Limits(total=1000), tmp_path)
        assert caught.value.code == code, (location, str(caught.value))
    for name in ("STORAGE_EMULATOR_HOST", "AZURE_STORAGE_CONNECTION_STRING"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(MpackError) as caught:
        open_tree(f"{scheme}://models/m.bin", Limits(), tmp_path)
    assert caught.value.code == "artifact-denied"


def test_abfs_connection(abfs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection's key opens the container where the host has none; a wrong key is refused, and not told."""
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    for secret, code in ((abfs, ""), (abfs.replace("Eby8", "Eby9"), "artifact-denied"), ("a=b;c=d", "artifact-denied")):
        key = Secret("keySecret", lambda secret=secret: secret)  # type: ignore[misc]
        access = Access(Connection("blobs", "azureblob", "models", key_secret=key))
        if not code:
            tree = open_tree("abfs://models/large.bin", Limits(), tmp_path, access=access)
            assert tree.read("large.bin", 1 << 30) == b"x" * 20_000_000
            continue
        with pytest.raises(MpackError) as caught:
            open_tree("abfs://models/large.bin", Limits(), tmp_path, access=access)
        assert caught.value.code == code and "Eby" not in str(caught.value)


def test_gs_connection(gs: None, tmp_path: Path) -> None:
    """A connection's key must be a service account's; it is told in no message."""
    for text in ("hunter2", json.dumps({"type": "service_account", "private_key": "hunter2"})):
        key = Secret("keySecret", lambda text=text: text)  # type: ignore[misc]
        with pytest.raises(MpackError) as caught:
            access = Access(Connection("g", "gcs", "models", key_secret=key))
            open_tree("gs://models/m.bin", Limits(), tmp_path, access=access)
        assert caught.value.code == "artifact-denied" and "hunter2" not in str(caught.value)
    assert os.environ["STORAGE_EMULATOR_HOST"]
