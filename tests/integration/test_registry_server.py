"""The registry client against a real registry on loopback: plain, with a password, with TLS under a private CA."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from mpack.bases import Bases
from mpack.cli.main import run
from mpack.errors import EnvironmentFault, InputError
from mpack.oci.image import OciImage, canonical_json
from mpack.oci.layer import Entry
from mpack.oci.store import Store
from mpack.registry import parse_reference
from mpack.registry.pull import pull
from mpack.spec import BaseWish
from mpack.testing.registryserver import PASSWORD, USER, RegistryServer, registry_server

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("docker_config")]


def make_image(store: Store, *, python: str = "3.10.4", architecture: str = "amd64") -> OciImage:
    """An image laid out as the official Python ones are, with a file in place of the interpreter."""
    minor = python.rpartition(".")[0]
    prefix = "/usr/local"
    binary = b"\x7fELF" + os.urandom(200_000) + b"\0" + python.encode() + b"\0"
    files = {
        f"{prefix}/bin/python{minor}": binary,
        f"{prefix}/lib/python{minor}/os.py": b"",
        f"{prefix}/lib/python{minor}/site-packages/pip-23.0.dist-info/METADATA": b"Name: pip\nVersion: 23.0\n\n",
    }
    entries = [Entry(path, mode=0o755, size=len(data), source=data) for path, data in files.items()]
    entries.append(Entry(f"{prefix}/bin/python3", b"2", 0o777, target=f"python{minor}"))
    layer = store.write_layer(entries, kind="base")
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Env": ["PATH=/usr/local/bin:/usr/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
    }
    return store.put_image(canonical_json(config), (layer,))


def test_pull_and_inspect(plain: RegistryServer, tmp_path: Path) -> None:
    """`python:X.Y-slim` from a registry: pulled once, byte for byte, its Python and packages read from its files."""
    image = make_image(Store(tmp_path / "theirs"))
    plain.push("library/python", image, "3.10-slim")
    store, said = Store(tmp_path / "ours"), []
    reference = f"{plain.host}/library/python:3.10-slim"
    base = Bases(store, None, say=said.append).pick("3.10", "linux/amd64", BaseWish(reference))
    assert (base.digest, base.python, base.python_version) == (image.digest, "/usr/local/bin/python3.10", "3.10.4")
    assert base.site_dirs == ("/usr/local/lib/python3.10/site-packages",)
    assert [line.split(":")[0] for line in said] == ["pulling localhost"]
    again = Bases(store, None, say=said.append)
    assert again.pick("3.10", "linux/amd64", BaseWish(reference)) == base and len(said) == 1
    assert dict(again.packages(base)) == {"pip": "23.0"}


def test_locked_base_is_pulled_by_digest(plain: RegistryServer, tmp_path: Path) -> None:
    """A lock's base comes by its digest although the tag has moved; one that is nowhere is named."""
    theirs = Store(tmp_path / "theirs")
    old, new = make_image(theirs), make_image(theirs)
    plain.push("moved", old)
    base = Bases(Store(tmp_path / "a"), None, say=lambda _: None).inspect(f"{plain.host}/moved:1", "linux/amd64")
    plain.push("moved", new)
    bases = Bases(Store(tmp_path / "b"), None, say=lambda _: None)
    assert bases.image(bases.locked(base)).digest == old.digest != new.digest
    gone = replace(base, digest="sha256:" + "0" * 64)
    with pytest.raises(EnvironmentFault, match="0000") as caught:
        bases.locked(gone)
    assert caught.value.code == "base-unavailable"


def test_index_and_platforms(plain: RegistryServer, tmp_path: Path) -> None:
    """From an index the platform's image is taken; a platform that is not there is refused with those that are."""
    store = Store(tmp_path / "theirs")
    images = {name: make_image(store, architecture=name) for name in ("amd64", "arm64")}
    entries = []
    for name, image in images.items():
        plain.push("multi", image, name)
        size = len(store.read(image.digest))
        kind = image.manifest["mediaType"]
        entries.append(
            {"mediaType": kind, "digest": image.digest, "size": size, "platform": {"os": "linux", "architecture": name}}
        )
    kind = "application/vnd.oci.image.index.v1+json"
    with plain.http() as http:
        plain.put(
            "multi",
            "all",
            json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode(),
            kind,
            http,
        )
    ours = Store(tmp_path / "ours")
    reference = parse_reference(f"{plain.host}/multi:all")
    for name, image in images.items():
        assert pull(reference, f"linux/{name}", ours).digest == image.digest
    with pytest.raises(InputError, match="linux/amd64, linux/arm64"):
        pull(reference, "linux/s390x", ours)
    said: list[str] = []
    bases = Bases(Store(tmp_path / "bases"), None, say=said.append)
    for _ in range(2):  # the second time from the store: one name there holds both
        found = {name: bases.inspect(str(reference), f"linux/{name}").digest for name in images}
        assert found == {name: image.digest for name, image in images.items()}
    assert [line.split(":")[0] for line in said] == ["pulling localhost"] * 2
    with pytest.raises(InputError, match="is for linux/arm64, not for linux/amd64") as caught:
        Bases(ours, None, say=lambda _: None).inspect(f"{plain.host}/multi:arm64", "linux/amd64")
    assert caught.value.code == "base-unsuitable"


def test_diff(
    plain: RegistryServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two tags of a registry are pulled and compared, and nothing of them is kept."""
    theirs = Store(tmp_path / "theirs")
    images = {tag: make_image(theirs, python=f"3.10.{tag}") for tag in "45"}
    for tag, image in images.items():
        plain.push("compared", image, tag)
    monkeypatch.setenv("MPACK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SystemExit) as caught:
        run(["diff", f"{plain.host}/compared:4", f"{plain.host}/compared:5", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert caught.value.code == 1
    assert [found[side]["digest"] for side in "ab"] == [image.digest for image in images.values()]
    (layer,) = found["layers"]
    assert [(item["path"], set(item)) for item in layer["changed"]] == [
        ("/usr/local/bin/python3.10", {"path", "content"})
    ]
    assert not any(Store.default().directory.iterdir())


def test_unknown_image(plain: RegistryServer, tmp_path: Path) -> None:
    """A base that is nowhere: every place is named, exit 3."""
    with pytest.raises(
        EnvironmentFault, match=r"the store does not have it, no docker engine answers\. The registry has no"
    ) as caught:
        Bases(Store(tmp_path), None).inspect(f"{plain.host}/nothing:1", "linux/amd64")
    assert caught.value.code == "base-unavailable"


def test_nobody_listens(tmp_path: Path) -> None:
    """A registry that does not answer is an error with what was tried, and no traceback of the HTTP library."""
    with pytest.raises(EnvironmentFault, match="Asking localhost:1 for x") as caught:
        pull(parse_reference("localhost:1/x"), "linux/amd64", Store(tmp_path))
    assert caught.value.code == "registry-failed"


def test_private_ca_and_password(
    secured: RegistryServer, tmp_path: Path, docker_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS under a private CA (SSL_CERT_FILE) with a password from Docker's config.json; each missing is told apart."""
    image = make_image(Store(tmp_path / "theirs"))
    secured.push("team/base", image)
    reference = parse_reference(f"{secured.host}/team/base:1")
    store = Store(tmp_path / "ours")
    with pytest.raises(EnvironmentFault, match="CERTIFICATE_VERIFY_FAILED") as caught:
        pull(reference, "linux/amd64", store)
    assert "SSL_CERT_FILE" in caught.value.hint
    monkeypatch.setenv("SSL_CERT_FILE", str(secured.ca))
    with pytest.raises(EnvironmentFault, match="refuses access"):
        pull(reference, "linux/amd64", store)
    for password in ("wrong", PASSWORD):
        value = base64.b64encode(f"{USER}:{password}".encode()).decode()
        (docker_config / "config.json").write_text(json.dumps({"auths": {secured.host: {"auth": value}}}))
        if password == "wrong":
            with pytest.raises(EnvironmentFault, match="refuses access"):
                pull(reference, "linux/amd64", store)
    assert pull(reference, "linux/amd64", store).digest == image.digest
    assert PASSWORD not in secured.log


def test_damaged_registry_content(tmp_path: Path) -> None:
    """A blob that the registry's disk has damaged is refused and leaves nothing in the store."""
    directory = tmp_path / "registry"
    directory.mkdir()
    with registry_server(directory) as server:
        image = make_image(Store(tmp_path / "theirs"))
        server.push("x", image)
        name = image.layers[0].digest.removeprefix("sha256:")
        [blob] = (directory / "data").rglob(f"sha256/{name[:2]}/{name}/data")
        blob.write_bytes(bytes(blob.stat().st_size))
        store = Store(tmp_path / "ours")
        with pytest.raises(EnvironmentFault, match="damaged"):
            pull(parse_reference(f"{server.host}/x:1"), "linux/amd64", store)
        assert store.records() == [] and not store.has(image.layers[0].digest)
        assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in store.directory.iterdir())
