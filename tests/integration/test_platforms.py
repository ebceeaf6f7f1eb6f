"""One build for amd64 and arm64: real wheels and a real base for both, one name, every output."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpack.oci.imageindex import ImageIndex
from mpack.oci.rootindex import read_files
from mpack.oci.store import Store
from mpack.testing.registryserver import RegistryServer

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "fixtures" / "models" / "onnx-two-inputs" / "scores.onnx"
BOTH = ("linux/amd64", "linux/arm64")
NAME = "mpack-test-platforms:real"
#: e_machine of an ELF file.
MACHINES = {"linux/amd64": 62, "linux/arm64": 183}


def test_two_platforms(
    mpack: Any,
    mpack_home: Path,
    engine: str,
    plain: RegistryServer,
    docker_config: Path,
    remove_image: Callable[[str], None],
    tmp_path: Path,
) -> None:
    """Each image holds programs of its platform alone; equal layers are one; the lock makes the same index again."""
    remove_image(NAME)
    reference, lock = f"{plain.host}/{NAME}", tmp_path / "lock"
    words = ["build", MODEL, "-t", NAME, "--lock", lock, "--platform", "linux/arm64,linux/amd64"]
    told = mpack.json(*words, "-o", "docker", "-o", f"registry:{reference}")
    assert told["outputs"] == [NAME, f"{plain.host}/mpack-test-platforms@{told['digest']}"]
    own, other = told["platforms"]
    assert [own["platform"], other["platform"]] == list(BOTH) and told["id"] == own["id"]
    assert own["verified"]["status"] == "passed" and other["verified"]["status"] == "skipped"
    assert other["verified"]["reason"] == "the image is for linux/arm64, this machine is linux/amd64"
    digests = [{layer["kind"]: layer["digest"] for layer in item["layers"]} for item in (own, other)]
    assert {kind for kind in digests[1] if digests[0][kind] == digests[1][kind]} == {"runtime", "model"}

    store = Store(mpack_home / "data" / "store")
    index = store.find_any(NAME)
    assert isinstance(index, ImageIndex) and index.digest == told["digest"]
    for image in index.images:
        files = read_files(image, lambda path: path.endswith(".so") or path.endswith("/python3.11"), 1 << 30)
        programs = [node.content for node in files.values() if (node.content or b"").startswith(b"\x7fELF")]
        assert len(programs) > 30
        assert {struct.unpack_from("<H", data or b"", 18)[0] for data in programs} == {MACHINES[image.platform]}

    entries = json.loads(lock.read_bytes())["entries"]
    assert [entry["environment"]["platform"] for entry in entries] == list(BOTH)
    [inspected] = json.loads(subprocess.run([engine, "inspect", NAME], capture_output=True, check=True).stdout)
    assert inspected["Id"] == own["id"]
    with plain.http() as http:
        listed = http.get(f"/v2/mpack-test-platforms/manifests/{told['digest']}", headers={"Accept": index.media_type})
        assert listed.content == store.read(index.digest)
        for item in told["platforms"]:
            kind = "application/vnd.oci.image.manifest.v1+json"
            path = f"/v2/mpack-test-platforms/manifests/{item['digest']}"
            assert http.get(path, headers={"Accept": kind}).status_code == 200

    again = mpack.json(*words, "-o", f"oci:{tmp_path}/layout")
    assert again["digest"] == told["digest"]
    assert all(layer["cached"] for item in again["platforms"] for layer in item["layers"])
    assert mpack.json("verify", NAME)["status"] == "passed"
    one = mpack.json("build", MODEL, "-t", f"{NAME}-arm64", "--lock", lock, "--platform", BOTH[1], "-o", "store")
    assert one["digest"] == other["digest"] and "platforms" not in one
    mpack("rm", NAME, reference, f"{NAME}-arm64")


def test_refused_before_any_work(mpack: Any, tmp_path: Path) -> None:
    """What cannot hold two platforms is a usage error, and nothing is resolved."""
    done = mpack("build", MODEL, "--platform", ",".join(BOTH), "-o", f"docker-archive:{tmp_path}/x.tar", code=2)
    assert "one platform" in done.stderr and "resolving" not in done.stderr
