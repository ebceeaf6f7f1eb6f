"""An image's documents at Debian's docker-registry, which has no referrers API, and building again elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from mpack.oci.store import Store
from mpack.testing.registryserver import RegistryServer, counting

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("docker_config")]

INVOICES = Path(__file__).parents[2] / "fixtures" / "models" / "odahu-invoices" / "invoices"
SECRET = "hunter2-of-the-key"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, where nobody else builds it."""
    return Path(shutil.copytree(INVOICES, tmp_path_factory.mktemp("supply") / "invoices"))


@pytest.fixture(scope="module")
def built(mpack: Any, plain: RegistryServer, artifact: Path) -> dict[str, Any]:
    """An image of it at the registry."""
    target = f"registry:{plain.host}/team/invoices:1"
    result: dict[str, Any] = mpack.json("build", artifact, "-t", "mpack-test-supply:1", "-o", target)
    return result


def manifest(plain: RegistryServer, target: str) -> tuple[int, Any]:
    """What the registry answers when it is asked for a manifest or index."""
    with plain.http() as http:
        accept = {"Accept": "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"}
        answer = http.get(f"/v2/team/invoices/manifests/{target}", headers=accept)
    return answer.status_code, answer.json()


def test_attached_by_the_tag(plain: RegistryServer, built: dict[str, Any]) -> None:
    """The registry has SBOM and provenance under the fallback tag, each with the image as subject."""
    status, index = manifest(plain, built["digest"].replace(":", "-"))
    assert status == 200
    kinds = {item["artifactType"]: item["digest"] for item in index["manifests"]}
    assert set(kinds) == {"application/vnd.cyclonedx+json", "application/vnd.in-toto+json"}
    for digest in kinds.values():
        assert manifest(plain, digest)[1]["subject"]["digest"] == built["digest"]


def test_a_retrained_model_sends_its_documents_too(
    mpack: Any, plain: RegistryServer, built: dict[str, Any], artifact: Path
) -> None:
    """SBOM and provenance included, counted on the way to the registry: at most 20 kB beyond the model's bytes."""
    trained, size, sent = Path(shutil.copytree(artifact, artifact.with_name("trained"))), 50_000, [0]
    with counting(plain.port) as counter:
        for number in range(2):
            (trained / "odahuflow_model" / "weights.bin").write_bytes(os.urandom(size))
            options = ["-o", f"registry:{counter.host}/team/invoices:trained-{number}", "--no-verify"]
            result = mpack.json("build", trained, "--lock", f"{artifact}.mpack.lock", *options)
            assert manifest(plain, result["digest"].replace(":", "-"))[0] == 200
            sent.append(counter.sent)
    assert size < sent[2] - sent[1] < size + 20_000


def test_sbom_from_the_registry(mpack: Any, plain: RegistryServer, built: dict[str, Any], tmp_path: Path) -> None:
    """Another machine tells the same packages and files; the SBOM is valid, with every locked package, no host path."""
    own = mpack("sbom", built["id"]).stdout
    far = mpack("sbom", f"{plain.host}/team/invoices:1", MPACK_HOME=str(tmp_path / "home")).stdout
    here, there = ({item["bom-ref"]: item for item in json.loads(text)["components"]} for text in (own, far))
    assert set(there) == set(here) - {"python"} and there["model"] == here["model"]
    assert [item.get("licenses") for item in there.values()] == [here[name].get("licenses") for name in there]
    assert str(tmp_path.parent) not in own
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(own) is None
    lock = json.loads(Path(built["lock"]).read_text())["entries"][0]["environment"]["packages"]
    purls = {item.get("purl", "") for item in json.loads(own)["components"]}
    assert {f"pkg:pypi/{item['name']}@{item['version']}" for item in lock} <= purls
    licensed = [item for item in json.loads(own)["components"] if item.get("licenses")]
    assert len(licensed) > len(lock), "the base's packages tell licences as well"


def test_rebuild_elsewhere(
    mpack: Any,
    plain: RegistryServer,
    built: dict[str, Any],
    artifact: Path,
    base_home: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """With the artifact and the registry's record alone, another home makes the same digest; else it says why not."""
    home, name = str(base_home("supply")), f"{plain.host}/team/invoices:1"
    there = {"MPACK_HOME": home, "DOCKER_HOST": "unix:///nonexistent/docker.sock"}
    moved = Path(shutil.copytree(artifact, tmp_path / "moved"))
    done = mpack("rebuild", name, "--artifact", moved, **there)
    assert done.stdout == f"same digest {built['digest']} (linux/amd64)\n"
    assert list((Path(home) / "data" / "store" / "tmp").iterdir()) == []
    assert Store(Path(home) / "data" / "store").gc() == 0, "what was pulled to be compared is gone"
    (moved / "more.txt").write_text("more")
    assert "--artifact" in mpack("rebuild", name, "--artifact", moved, code=3, **there).stderr
    assert "not of this machine" in mpack("rebuild", name, code=3, **there).stderr
    (tmp_path / "invoices.mpack.toml").write_text('version = "7"\n')
    beside = shutil.copytree(artifact, tmp_path / "invoices")
    assert "mpack.toml" in mpack("rebuild", name, "--artifact", beside, code=3, **there).stderr


def test_rebuild_differs(mpack: Any, mpack_home: Path, built: dict[str, Any]) -> None:
    """A record that makes another image: exit 1, and what differs; another encoder or mpack is exit 3."""
    path = mpack_home / "data" / "store" / "provenance" / f"{built['id'].removeprefix('sha256:')}.json"
    before = path.read_text()
    try:
        record = json.loads(before)
        record["predicate"]["buildDefinition"]["internalParameters"]["lock"]["bytecode"]["sources"][-1]["files"].pop()
        path.write_text(json.dumps(record))
        done = mpack("rebuild", built["id"], code=1)
        assert "bytecode" in done.stdout and "same digest" not in done.stdout
        entry = record["predicate"]["buildDefinition"]["internalParameters"]["lock"]
        path.write_text(json.dumps(record).replace(json.dumps(entry["encoder"]), '"deflate 0.0.1"'))
        assert "deflate 0.0.1" in mpack("rebuild", built["id"], code=3).stderr
        record["predicate"]["runDetails"]["builder"]["version"]["mpack"] = "0.0.1"
        path.write_text(json.dumps(record))
        assert "mpack 0.0.1" in mpack("rebuild", built["id"], code=3).stderr
    finally:
        path.write_text(before)


def test_without_documents(mpack: Any, plain: RegistryServer, built: dict[str, Any], tmp_path: Path) -> None:
    """--no-attest pushes the image alone; nothing then tells another machine how it was built."""
    name = f"{plain.host}/team/bare:1"
    mpack("push", built["id"], name, "--no-attest")
    with plain.http() as http:
        assert http.get(f"/v2/team/bare/manifests/{built['digest'].replace(':', '-')}").status_code == 404
    done = mpack("rebuild", name, code=3, MPACK_HOME=str(tmp_path / "home"))
    assert "Nothing tells how" in done.stderr


@pytest.fixture
def cosign(tmp_path: Path) -> dict[str, str]:
    """A fake cosign first on PATH, because Debian 12 has none: it keeps what was signed with which key in a file."""
    program = tmp_path / "bin" / "cosign"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        '[ "$2" = --help ] && { echo "      --tlog-upload  whether to"; exit 0; }\n'
        'for last; do :; done\necho "$@" >>"$0.log"\n'
        '[ "$1" = sign ] && { echo "$3 $last" >>"$0.signed"; exit 0; }\n'
        'grep -qx "${3%.pub}.key $last" "$0.signed" && exit 0\necho "Error: no signatures found" >&2; exit 10\n'
    )
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:{os.environ['PATH']}", "COSIGN_PASSWORD": SECRET}


def test_signed(
    mpack: Any, plain: RegistryServer, built: dict[str, Any], cosign: dict[str, str], tmp_path: Path
) -> None:
    """What is pushed with a key is signed by digest, and verify checks that digest first; the password is nowhere."""
    name, keys = f"{plain.host}/team/signed:1", {}
    for key in ("our.key", "our.pub", "their.pub"):
        keys[key] = str(tmp_path / key)
        (tmp_path / key).write_text("a key")

    def run(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done: subprocess.CompletedProcess[str] = mpack(*words, code=code, **cosign)
        assert SECRET not in done.stdout + done.stderr
        return done

    pinned = run("push", built["id"], name, "--sign-key", keys["our.key"]).stdout.strip()
    assert "passed" in run("verify", name, "--key", keys["our.pub"]).stdout
    assert "no signatures found" in run("verify", name, "--key", keys["their.pub"], code=4).stderr
    run("push", built["id"], name, "--sign-key", str(tmp_path / "no.key"), code=2)
    log = (tmp_path / "bin" / "cosign.log").read_text().splitlines()
    assert [line.split()[0] for line in log] == ["sign", "verify", "verify"]
    assert all(line.endswith(f" {pinned}") for line in log) and pinned.endswith(built["digest"])
    assert SECRET not in "".join(log)


def test_no_cosign(mpack: Any, plain: RegistryServer, built: dict[str, Any], artifact: Path, tmp_path: Path) -> None:
    """Without cosign a key is an error before anything is built or pushed; without a registry it is wrong usage."""
    name, empty = f"{plain.host}/team/unsigned:1", {"PATH": str(tmp_path)}
    for words in (
        ["push", built["id"], name, "--sign-key", "k"],
        ["verify", name, "--key", "k"],
        ["build", artifact, "-o", f"registry:{name}", "--sign-key", "k"],
    ):
        assert "cosign" in mpack(*words, code=3, **empty).stderr
    with plain.http() as http:
        assert http.get("/v2/team/unsigned/tags/list").status_code == 404
    assert "-o registry:REF" in mpack("build", artifact, "-o", "store", "--sign-key", "k", code=2).stderr
