"""Artifacts in S3: moto's server, which speaks its protocol, stands for S3 itself."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from mpack.artifact.limits import Limits, parse_size
from mpack.artifact.model import Tree
from mpack.artifact.source import open_tree, tree_digest
from mpack.connections import Connection, Secret
from mpack.errors import MpackError
from mpack.stores import Access
from mpack.stores.model import Bounds
from mpack.stores.places import location_in

FIXTURES = Path(__file__).parents[2] / "fixtures" / "models"
WINE, ODAHU = FIXTURES / "mlflow-wine" / "model", FIXTURES / "odahu-wine" / "wine-1.0.zip"
SECRET = "hunter2"
#: Bytes of the large artifact; MPACK_STORE_SIZE=2GB for the whole of it.
SIZE = parse_size(os.environ.get("MPACK_STORE_SIZE", "96MB"))


def put(s3: Any, folder: Path, prefix: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            s3.put_object(Bucket="models", Key=f"{prefix}/{path.relative_to(folder)}", Body=path.read_bytes())


def opened(location: str, scratch: Path, **options: Any) -> Tree:
    return open_tree(location, Limits(), scratch, **options)


def test_object_and_prefix(s3: Any, tmp_path: Path) -> None:
    """A prefix is the directory, an object the file; both have the digests that they have here; the version is told."""
    put(s3, WINE, "wine/1")
    s3.put_object(Bucket="models", Key="wine/1/", Body=b"")
    s3.put_object(Bucket="models", Key="odahu.zip", Body=ODAHU.read_bytes(), ChecksumAlgorithm="SHA256")
    for location in ("s3://models/wine/1", "s3://models/wine/1/"):
        tree = opened(location, tmp_path)
        assert tree_digest(tree) == tree_digest(opened(str(WINE), tmp_path))
        assert tree.title == "1" and tree.origin is not None and tree.origin.uri == location
    tree = opened("s3://models/odahu.zip", tmp_path)
    assert tree_digest(tree) == tree_digest(opened(str(ODAHU), tmp_path))
    assert tree.origin is not None
    assert tree.origin.version == f'"{hashlib.md5(ODAHU.read_bytes()).hexdigest()}"'
    assert tree.origin.sha256 == hashlib.sha256(ODAHU.read_bytes()).hexdigest()


def test_versions(s3: Any, tmp_path: Path) -> None:
    """`?versionId=` is that version of an object, whatever came after it."""
    s3.put_bucket_versioning(Bucket="models", VersioningConfiguration={"Status": "Enabled"})
    first = s3.put_object(Bucket="models", Key="m.bin", Body=b"one")["VersionId"]
    s3.put_object(Bucket="models", Key="m.bin", Body=b"two")
    assert opened("s3://models/m.bin", tmp_path).read("m.bin") == b"two"
    tree = opened(f"s3://models/m.bin?versionId={first}", tmp_path)
    assert tree.read("m.bin") == b"one" and tree.origin is not None and first in tree.origin.version


def test_changed_midway(s3: Any, relay: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that is written anew while it is fetched is an error, not a mixture."""
    s3.put_object(Bucket="models", Key="m.bin", Body=os.urandom(4_000_000))
    relay.piece, relay.cuts = 2_000_000, 1
    monkeypatch.setattr(
        "mpack.stores.part.faults.pause",
        lambda attempt: s3.put_object(Bucket="models", Key="m.bin", Body=os.urandom(4_000_000)),
    )
    with pytest.raises(MpackError, match="changed while it was being fetched") as caught:
        opened("s3://models/m.bin", tmp_path)
    assert caught.value.code == "artifact-changed" and relay.cut == 1


FAULTS: list[tuple[str, dict[str, str], str, str]] = [
    ("s3://models/none", {}, "artifact-missing", "no object of that name, and none below"),
    ("s3://nobody/none", {}, "artifact-missing", "no such bucket"),
    ("s3://", {}, "artifact-missing", "names no bucket"),
    ("s3://u:hunter2@models/x", {}, "artifact-missing", "names no bucket"),
    ("s3://models/m.bin", {"AWS_ACCESS_KEY_ID": ""}, "artifact-denied", "no credentials"),
    ("s3://models/m.bin", {"AWS_PROFILE": "nobody"}, "artifact-denied", "nobody"),
    ("s3://models/m.bin", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "download-failed", "refused"),
    ("s3://models/m.bin", {"AWS_ENDPOINT_URL": "http://nohost.invalid"}, "download-failed", "nohost.invalid"),
    ("s3://models/m.bin", {"AWS_ENDPOINT_URL": "https"}, "download-failed", "TLS"),
    ("s3://models/big", {}, "artifact-too-large", "is larger than 1000 bytes"),
    ("s3://models/many", {}, "artifact-too-large", "has more than 3 files"),
    ("s3://models/climbs", {}, "artifact-unsafe", "leads outside"),
    ("s3://models/root", {}, "artifact-unsafe", "absolute path"),
    ("s3://models/twice", {}, "artifact-unsafe", "occurs twice"),
    ("s3://models/both", {}, "artifact-unsafe", "both a file and a directory"),
]


def test_faults(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fault has its code, says what it was, and tells no secret."""
    keys = ["m.bin", "climbs/../../x", "root//etc/passwd", "twice/a//b", "twice/a/b", "both/a", "both/a/b"]
    for key in [*keys, *(f"many/{number}" for number in range(5))]:
        s3.put_object(Bucket="models", Key=key, Body=b"x")
    s3.put_object(Bucket="models", Key="big", Body=b"x" * 2000)
    secure = os.environ["AWS_ENDPOINT_URL"].replace("http", "https")
    for location, environment, code, message in FAULTS:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, secure if value == "https" else value)
            with pytest.raises(MpackError) as caught:
                open_tree(location, Limits(total=1000, entries=3), tmp_path)
        told = str(caught.value)
        assert caught.value.code == code and message in told and SECRET not in told, (location, told)


def test_refused(s3: Any, moto: str, tmp_path: Path) -> None:
    """Keys that the store does not know are told from an object that is not there."""
    s3.put_object(Bucket="models", Key="m.bin", Body=b"x")
    httpx.post(f"{moto}/moto-api/reset-auth", content=b"0", trust_env=False)
    try:
        with pytest.raises(MpackError, match="the store answers") as caught:
            opened("s3://models/m.bin", tmp_path)
    finally:
        httpx.post(f"{moto}/moto-api/reset-auth", content=b"1000000000", trust_env=False)
    assert caught.value.code == "artifact-denied" and SECRET not in str(caught.value)


def test_connection(s3: Any, moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection brings endpoint, region and keys where the host has none; a name is looked for in it, .zip too."""
    s3.put_object(Bucket="models", Key="prod/wine.zip", Body=ODAHU.read_bytes())
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    keys = {"key_id": Secret("keyID", lambda: "AKIA"), "key_secret": Secret("keySecret", lambda: "hunter2")}
    connection = Connection("models", "s3", f"{moto}/models/prod", region="us-east-1", **keys)  # type: ignore[arg-type]
    for name in ("wine", "wine.zip"):
        location = location_in(connection, name, Bounds(1 << 40, 100))
        assert location == "s3://models/prod/wine.zip"
    assert "odahuflow.project.yaml" in opened(location, tmp_path, access=Access(connection))
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    role = replace(connection, role="arn:aws:iam::123456789012:role/reader")
    assert list(opened(location, tmp_path, access=Access(role))) == list(opened(str(ODAHU), tmp_path))
    for name in ("none", "../wine.zip"):
        with pytest.raises(MpackError, match=r"is not there|leads out of"):
            location_in(connection, name, Bounds(1 << 40, 100))


def large(s3: Any, tmp_path: Path) -> str:
    """The SHA-256 of an object models/large.zip of about `SIZE` bytes: a model with a file that does not shrink."""
    path = tmp_path / "large.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in filter(Path.is_file, WINE.rglob("*")):
            archive.write(file, str(file.relative_to(WINE)))
        with archive.open("weights.bin", "w", force_zip64=True) as stream:
            seeded = random.Random(1)
            for _ in range(SIZE // 1_000_000):
                stream.write(seeded.randbytes(1_000_000))
    with path.open("rb") as stream:
        made = s3.create_multipart_upload(Bucket="models", Key="large.zip")["UploadId"]
        digest, parts = hashlib.sha256(), []
        while block := stream.read(64 << 20):
            digest.update(block)
            number = len(parts) + 1
            part = s3.upload_part(Bucket="models", Key="large.zip", UploadId=made, PartNumber=number, Body=block)
            parts.append({"PartNumber": number, "ETag": part["ETag"]})
        ready = {"Parts": parts}
        s3.complete_multipart_upload(Bucket="models", Key="large.zip", UploadId=made, MultipartUpload=ready)
    path.unlink()
    return digest.hexdigest()


def test_large(s3: Any, relay: Any, home: Path, tmp_path: Path, mpack_with: Callable[..., Any]) -> None:
    """20 connections are cut, the process is killed; what is there already is never fetched again."""
    sha256 = large(s3, tmp_path)
    size = s3.head_object(Bucket="models", Key="large.zip")["ContentLength"]
    relay.piece, relay.cuts, relay.stall = size // 30, 20, size * 9 // 10
    words = ("inspect", f"s3://models/large.zip@sha256:{sha256}", "--json")
    before = relay.passed
    process = mpack_with(*words)
    end = time.monotonic() + 300
    while relay.passed < relay.stall:
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert relay.cut == 20
    [part] = [path for path in (home / "cache/artifacts/partial").glob("*") if path.suffix != ".lock"]
    had = part.stat().st_size
    assert had > size // 2
    relay.stall = 1 << 60
    between = relay.passed
    process = mpack_with(*words)
    out, told = process.communicate(timeout=300)
    assert process.returncode in (0, 1), told
    shown = json.loads(out)
    assert shown["origin"]["sha256"] == sha256
    again = relay.passed - between
    assert again < size - had + 5_000_000, "only the rest is fetched"
    assert between - before < size, "what was cut off was not fetched twice"
    after = relay.passed
    out, told = mpack_with(*words).communicate(timeout=300)
    assert json.loads(out)["digest"] == shown["digest"] and relay.passed - after < 10_000, "it is in the cache"
    print(f"size {size:,}, in the cache when killed {had:,}, fetched then {again:,}")


def test_memory(s3: Any, relay: Any, tmp_path: Path, mpack_with: Callable[..., Any]) -> None:
    """What is resident while an object is fetched does not grow with it."""
    large(s3, tmp_path)
    process = mpack_with("inspect", "s3://models/large.zip", "--json", status=tmp_path / "status")
    out, told = process.communicate(timeout=300)
    assert json.loads(out)["origin"]["sha256"], told
    peak = re.search(r"VmHWM:\s+(\d+) kB", (tmp_path / "status").read_text())
    assert peak is not None
    print(f"resident at most {int(peak[1]):,} KiB")
    assert int(peak[1]) * 1024 <= 200_000_000
