"""ODAHU's own examples as manifests: packaged, pushed to a registry with TLS and a password, pulled back, asked."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from mpack.oci.image import canonical_json
from mpack.oci.store import Store
from mpack.testing.moto import moto_server
from mpack.testing.processes import watched_processes
from mpack.testing.registryserver import PASSWORD, USER, RegistryServer

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "fixtures" / "manifests"
WINE = ROOT / "fixtures" / "models" / "odahu-wine"
INVOICES = ROOT / "fixtures" / "models" / "odahu-invoices" / "invoices"
SEED = ROOT / "fixtures" / "triton" / "seed-python"
BASE = "mpack-base:python3.11"

pytestmark = [pytest.mark.docker, pytest.mark.integration]


@dataclass(frozen=True)
class Workplace:
    """Manifests that name a running registry, artifacts of the names in them, and the other base at the registry."""

    manifests: Path
    artifacts: Path
    server: RegistryServer
    other_base: str
    docker: Path

    @property
    def environment(self) -> dict[str, str]:
        """What the manifests' secret is in; Docker's own credentials are not there."""
        return {"REGISTRY_PASSWORD": PASSWORD, "SSL_CERT_FILE": str(self.server.ca), "DOCKER_CONFIG": os.devnull}

    def pull(self, reference: str) -> None:
        """As somebody who knows the registry's password, and nothing of mpack."""
        subprocess.run(["docker", "--config", self.docker, "pull", reference], capture_output=True, check=True)


@pytest.fixture(scope="module")
def workplace(secured: RegistryServer, mpack: Any, mpack_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The fixtures' manifests with the registry's port."""
    place = tmp_path_factory.mktemp("pack")
    (place / "manifests").mkdir()
    for path in MANIFESTS.glob("*.yaml"):
        text = path.read_text("utf-8").replace("localhost:5000", secured.host)
        (place / "manifests" / path.name).write_text(text, "utf-8")
    artifacts = place / "artifacts"
    artifacts.mkdir()
    shutil.copy(WINE / "wine-1.0.zip", artifacts / "wine-model-123456789.zip")
    with tarfile.open(artifacts / "model-123456789.tar", "w") as archive:
        archive.add(SEED / "project", ".")
    shutil.copy(SEED / "project.mpack.toml", artifacts / "model-123456789.tar.mpack.toml")
    docker = place / "docker"
    docker.mkdir()
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (docker / "config.json").write_text(json.dumps({"auths": {secured.host: {"auth": auth}}}))
    return Workplace(place / "manifests", artifacts, secured, push_other_base(mpack, mpack_home, secured), docker)


def push_other_base(mpack: Any, home: Path, server: RegistryServer) -> str:
    """Puts a base that mpack did not make, though much like its own, into the registry; its digest."""
    store = Store(home / "data" / "store")
    if store.find_record(BASE) is None:
        mpack("base", "build", "--python", "3.11")
    base = store.resolve(BASE)
    config = json.loads(store.read(base.id))
    config["config"]["Labels"] = {"made.by": "somebody"}
    other = store.put_image(canonical_json(config), base.layers)
    server.push("bases/python", other, "3.11")
    return other.digest


def pack(mpack: Any, workplace: Workplace, *words: str) -> tuple[str, dict[str, Any]]:
    """`mpack pack run` with the targets: the reference, and what is told of the build."""
    told = mpack.json(
        *("pack", "run", "-d", workplace.manifests, "--artifact-path", workplace.artifacts),
        *("--no-disable-package-targets", *words),
        **workplace.environment,
    )
    reference = told["results"][0]["value"]
    assert reference.startswith(f"{workplace.server.host}/project/odahuflow/") and "@sha256:" in reference
    return reference, told["build"]


def expected(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "expect.json").read_text("utf-8"))
    return found


@pytest.fixture(scope="module")
def pulled(workplace: Workplace) -> Iterator[Any]:
    """`pulled(reference)`: has the engine pull it, and forget it at the end."""
    references: list[str] = []

    def pull(reference: str) -> str:
        references.append(reference)
        workplace.pull(reference)
        return reference

    yield pull
    for reference in references:
        subprocess.run(["docker", "rmi", "-f", reference], capture_output=True)


@pytest.mark.parametrize(
    ("identifier", "name", "options"),
    [("docker-rest-minimal", "wine-1.0", ()), ("docker-rest-packager-example", "wine-test", ("--no-verify",))],
)
def test_rest(
    identifier: str,
    name: str,
    options: tuple[str, ...],
    mpack: Any,
    workplace: Workplace,
    pulled: Any,
    serve: Any,
    assert_same: Any,
) -> None:
    """The minimal example, and the one with a name and workers of its own; nothing of it stays in the engine."""
    reference, _ = pack(mpack, workplace, "--id", identifier, *options)
    repository = reference.partition("@")[0]
    assert repository.rpartition("/")[2] == name
    names = subprocess.run(["docker", "images", "--format", "{{.Repository}}"], capture_output=True, text=True)
    assert repository not in names.stdout.split() and names.returncode == 0
    case = expected(WINE)
    with serve(pulled(reference)) as client:
        for request in case["requests"]:
            answer = client.post("/api/model/invoke", json=request["body"])
            assert answer.status_code == request["status"]
            if "answer" in request:
                assert_same(answer.json(), request["answer"])
    value = mpack("pack", "get", "--id", identifier, "-o", "jsonpath=$[0].status.results[0].value").stdout
    assert value == f"{reference}\n"
    arguments = json.loads(mpack("pack", "get", "--id", identifier, "-o", "jsonpath=[*].spec.arguments").stdout)
    assert arguments == (
        {"imageName": "wine-test:prefix-{{ RandomUUID }}", "workers": 4} if name == "wine-test" else []
    )


def test_cli_with_another_base(mpack: Any, workplace: Workplace, pulled: Any, tmp_path: Path, assert_same: Any) -> None:
    """The base comes from the registry with the connection of docker-pull; a file is predicted."""
    reference, build = pack(mpack, workplace, "--id", "docker-cli-packager-example", "--no-verify")
    assert build["base"]["digest"] == workplace.other_base
    case = expected(WINE)["cli"]
    (tmp_path / "x.json").write_text(json.dumps(case["input"]))
    words = ["docker", "run", "--rm", "-v", f"{tmp_path}:/volume", pulled(reference), "predict"]
    done = subprocess.run([*words, "/volume/x.json", "/volume"], capture_output=True, text=True)
    assert done.stdout == "Prediction is successful. Result file: /volume/results.json\n", done.stderr
    assert_same(json.loads((tmp_path / "results.json").read_text()), case["answer"])


def test_triton(mpack: Any, workplace: Workplace, pulled: Any) -> None:
    """The Python backend's example under its custom name, asked over V2."""
    reference, _ = pack(mpack, workplace, "--id", "triton-packager-example")
    words = ["docker", "run", "-d", "-p", "127.0.0.1::8000", pulled(reference)]
    container = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    try:
        told = subprocess.run(["docker", "port", container, "8000"], capture_output=True, text=True, check=True)
        case = expected(SEED)["requests"][0]
        transport = httpx.HTTPTransport(retries=0)
        with httpx.Client(base_url=f"http://{told.stdout.split()[0]}", transport=transport, timeout=60) as client:
            wait_ready(client, container)
            answer = client.post(f"/v2/models/{case['model_name']}/infer", json=case["request"]).json()
        assert {item["name"]: item["data"] for item in answer["outputs"]} == {
            item["name"]: item["data"] for item in case["outputs"]
        }
    finally:
        subprocess.run(["docker", "rm", "-f", "-v", container], capture_output=True, check=True)


def wait_ready(client: httpx.Client, container: str) -> None:
    """Returns once the server is ready; fails when its container ends."""
    while True:
        try:
            if client.get("/v2/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        alive = subprocess.run(["docker", "inspect", "-f", "{{.State.Running}}", container], capture_output=True)
        assert alive.stdout.strip() == b"true"


@pytest.fixture
def invoices(tmp_path: Path) -> Path:
    """A packaging of a model without dependencies, within a gigabyte."""
    shutil.copytree(INVOICES, tmp_path / "invoices-1")
    manifest = {
        "kind": "ModelPackaging",
        "id": "invoices",
        "spec": {
            "integrationName": "docker-rest",
            "artifactName": "invoices-1.zip",
            "arguments": {"imageName": "mpack-test-pack:{{ RandomUUID }}"},
            "resources": {"limits": {"cpu": "500m", "memory": "1G"}},
            "nodeSelector": {"disk": "fast"},
        },
    }
    (tmp_path / "invoices.json").write_text(json.dumps(manifest))
    return tmp_path


def get(mpack: Any, identifier: str) -> dict[str, Any]:
    [document] = json.loads(mpack("pack", "get", "--id", identifier, "-o", "json").stdout)
    return dict(document["status"])


def test_stays_here(mpack: Any, invoices: Path, remove_image: Any, serve: Any) -> None:
    """Without targets, within one processor and a gigabyte: the image is in the engine; the record tells of it."""
    done = mpack("pack", "run", "-f", invoices / "invoices.json", "--artifact-path", invoices, "--json")
    told = json.loads(done.stdout)
    image = told["results"][0]["value"]
    remove_image(image)
    assert image.startswith("mpack-test-pack:") and "spec.nodeSelector" in done.stderr
    with serve(image) as client:
        assert client.get("/readyz").status_code == 200
    status = get(mpack, "invoices")
    assert (status["state"], status["exitCode"], status["image"]) == ("succeeded", 0, image)
    assert status["results"] == told["results"]
    assert status["artifact"] == {"name": "invoices-1.zip", "digest": told["build"]["artifact_digest"]}
    assert status["planDigest"].startswith("sha256:") and status["timings"]["build"] > 0
    assert "verifying the image" in mpack("pack", "logs", "--id", "invoices").stdout


def test_artifact_of_a_store(mpack: Any, moto: Path, invoices: Path, remove_image: Any) -> None:
    """Without --artifact-path the artifact comes out of the bucket of outputConnection, by its keys; the record says
    which bytes those were, and a name that is not there is the state artifact_not_found."""
    document = json.loads((invoices / "invoices.json").read_text())
    document["spec"]["outputConnection"] = "models"
    keys = {"keyID": "${STORE_KEY}", "keySecret": "${STORE_SECRET}", "region": "eu-west-1"}
    store = {"kind": "Connection", "id": "models", "spec": {"type": "s3", "uri": "s3://models/trained", **keys}}
    (invoices / "manifests.json").write_text(json.dumps([document, store]))
    archive = Path(shutil.make_archive(str(invoices / "packed"), "zip", invoices / "invoices-1"))
    with moto_server(moto) as url:
        for method, path, content in (("PUT", "/models", b""), ("PUT", "/models/trained/invoices-1.zip", archive)):
            body = content.read_bytes() if isinstance(content, Path) else content
            assert httpx.request(method, url + path, content=body, trust_env=False).status_code == 200
        packages = [
            *os.environ.get("PYTHONPATH", "").split(":"),
            *map(str, moto.parents[1].glob("lib/*/site-packages")),
        ]
        environment = {
            **{"STORE_KEY": "AKIAEXAMPLE", "STORE_SECRET": "a-secret-of-the-store", "AWS_ENDPOINT_URL": url},
            **{"PYTHONPATH": ":".join(filter(None, packages)), "NO_PROXY": "127.0.0.1"},
        }
        words = ("pack", "run", "-f", invoices / "manifests.json", "--no-verify")
        told = mpack.json(*words, **environment)
        remove_image(told["results"][0]["value"])
        missing = mpack(*words, "-a", "invoices-2", code=1, **environment)
    assert "s3://models/trained/invoices-2" in missing.stderr
    last, first = json.loads(mpack("pack", "list", "--id", "invoices", "--limit", "2", "--json").stdout)
    assert (first["status"]["state"], last["status"]["state"]) == ("succeeded", "artifact_not_found")
    assert first["status"]["artifact"] == {"name": "invoices-1.zip", "digest": told["build"]["artifact_digest"]}
    assert "s3://models/trained/invoices-1.zip" in json.dumps(told["build"])
    assert "a-secret" not in json.dumps([told, first, last]) + missing.stderr


@pytest.mark.parametrize("builder", ["embedded", "docker"])
def test_more_memory_than_it_may_have(builder: str, mpack: Any, invoices: Path, remove_image: Any) -> None:
    """In runc and in docker, a model that takes a gigabyte fails its verification, and the limit is named."""
    entrypoint = invoices / "invoices-1" / "odahuflow_model" / "entrypoint.py"
    greedy = 'def init():\n    global hoard\n    hoard = bytearray(b"x" * (1 << 30))\n'
    entrypoint.write_text(entrypoint.read_text().replace("def init():\n", greedy))
    words = ("--builder", builder, "--artifact-path", invoices)
    done = mpack("pack", "run", "-f", invoices / "invoices.json", *words, code=4)
    [kept] = re.findall(r"keeps it as (\S+) for a look", done.stderr)
    remove_image(kept)
    assert "1000 MB of memory" in done.stderr and "spec.resources.limits.memory is 1000 MB" in done.stderr
    status = get(mpack, "invoices")
    assert (status["state"], status["exitCode"], status["results"]) == ("failed", 4, [])
    assert "1000 MB of memory" in status["message"]


@pytest.mark.parametrize(
    ("number", "state", "code", "message"),
    [
        (signal.SIGINT, "failed", 130, "interrupted"),
        (signal.SIGTERM, "failed", 143, "ended by signal 15"),
        (signal.SIGKILL, "unknown", None, "Its process ended before it could say how it went."),
    ],
)
def test_interrupted(
    number: signal.Signals, state: str, code: int | None, message: str, mpack: Any, mpack_home: Path, invoices: Path
) -> None:
    """While it runs it is `running`; however it is ended, the record says so."""
    from tests.conftest import MPACK

    words = [MPACK, "pack", "run", "-f", invoices / "invoices.json", "--artifact-path", invoices, "--update-lock"]
    environment = {**os.environ, "MPACK_HOME": str(mpack_home)}
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    while "reading the artifact" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGSTOP)  # so that it does not end meanwhile
    assert get(mpack, "invoices")["state"] == "running"
    assert "is running" in mpack("pack", "delete", "--id", "invoices", code=2).stderr
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    process.communicate()
    assert process.returncode == (code or -number)
    status = get(mpack, "invoices")
    assert (status["state"], status["exitCode"], status["message"]) == (state, code, message)


def test_password(mpack: Any, mpack_home: Path, workplace: Workplace, invoices: Path) -> None:
    """It is in no output, record or process list, whether it is right or wrong; a wrong one is a clear error."""
    document = json.loads((invoices / "invoices.json").read_text())
    document["spec"]["targets"] = [{"name": "docker-push", "connectionName": "test-docker-registry"}]
    (invoices / "invoices.json").write_text(json.dumps(document))
    words = ("-f", invoices / "invoices.json", "-f", workplace.manifests / "registry.yaml", "--artifact-path", invoices)
    for password, code in ((PASSWORD, 0), ("wrong-pässword", 3)):
        environment = {**workplace.environment, "REGISTRY_PASSWORD": password}
        with watched_processes() as seen:
            done = mpack("--debug", "pack", "create", *words, code=code, **environment)
        told = mpack("pack", "get", "-o", "json").stdout + mpack("pack", "logs", "--id", "invoices").stdout
        store = b"".join(path.read_bytes() for path in (mpack_home / "state").glob("results.sqlite*"))
        login = base64.b64encode(f"{USER}:{password}".encode()).decode()
        if code == 0:
            assert done.stdout == f"{get(mpack, 'invoices')['results'][0]['value']}\n"
        for form in (password, login, base64.b64encode(password.encode()).decode()):
            assert form not in done.stdout + done.stderr + told + " ".join(seen)
            assert form.encode() not in store
        assert any("pack create" in line for line in seen)
    assert get(mpack, "invoices")["state"] == "failed"
    assert "refuses" in get(mpack, "invoices")["message"]
