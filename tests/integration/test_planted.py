"""Secrets planted in a connection of every type and in the environment, through whole runs of `mpack pack run`."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from urllib.parse import quote

import httpx
import pytest
import yaml

from mpack.registry.client import OCI_MANIFEST
from mpack.testing.echoregistry import echo_registry
from mpack.testing.moto import moto_server
from mpack.testing.processes import watched_environments, watched_processes
from mpack.testing.proxy import leading_proxy
from mpack.testing.registryserver import RegistryServer, registry_server
from mpack.testing.wheels import serve_index

ROOT = Path(__file__).parents[2]
INVOICES = ROOT / "fixtures" / "models" / "odahu-invoices" / "invoices"
ECR = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
#: What moto takes for the password of an account's ECR.
ECR_PASSWORD = "123456789012-auth-token"
USER = "tester"

pytestmark = pytest.mark.integration


def planted(name: str) -> str:
    """A secret that stands nowhere else; its core is the same in any quoting, the rest is not. Key ids and
    tokens are words."""
    return f"{name}{token_hex(12)}" + ("" if name.endswith("keyid") or name == "bearer" else "@/:% ü")


#: Where a manifest or the environment has it -> the secret.
SECRETS = {
    name: planted(name)
    for name in (
        *("dockerpassword", "wrongpassword", "ecrkeyid", "ecrsecret", "s3keyid", "s3secret", "gcskey", "blobkey"),
        *("gitpassword", "gitkey", "gitpublic", "index", "proxy", "cosign", "bearer"),
    )
}


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def forms(secret: str) -> set[bytes]:
    """Its core as it is, and what of its base64 does not depend on what stands around it."""
    core = secret.partition("@")[0].encode()
    found = {core}
    for before in (0, 1, 2):
        whole = base64.b64encode(b"\0" * before + core)
        found.add(whole[(before * 8 + 5) // 6 : (before + len(core)) * 8 // 6])
    return found


FORMS = {form: name for name, secret in SECRETS.items() for form in forms(secret)}


def leaks(data: bytes) -> list[str]:
    """The names of the secrets in some bytes."""
    return sorted({name for form, name in FORMS.items() if form in data})


def unpacked(data: bytes) -> bytes:
    """What is in gzip, all members; else nothing."""
    found = b""
    while data[:2] == b"\x1f\x8b":
        inflater = zlib.decompressobj(31)
        found += inflater.decompress(data)
        data = inflater.unused_data
    return found


def leaking_files(*places: Path) -> dict[str, list[str]]:
    """Every file below some directories, as it is and unpacked, that has a secret in it."""
    found = {}
    count = 0
    for place in places:
        for path in place.rglob("*"):
            if path.is_file() and not path.is_symlink():
                data = path.read_bytes()
                count += 1
                names = sorted({*leaks(str(path).encode()), *leaks(data), *leaks(unpacked(data))})
                if names:
                    found[str(path)] = names
    assert count > 20, "there is something to look through"
    return found


def test_the_search_itself() -> None:
    """It finds what it is to find: plain, amid base64, in gzip; and nothing in what has no secret."""
    secret = SECRETS["gitkey"]
    for data in (f"x{secret}y", b64(f"ab{secret}"), b64(f"abc{secret}d"), b64(f"a{secret}"), json.dumps([secret])):
        assert leaks(data.encode()) == ["gitkey"]
    packer = zlib.compressobj(wbits=31)
    packed = packer.compress(f"1234{secret}".encode()) + packer.flush()
    assert leaks(packed) == [] and leaks(unpacked(packed + packed)) == ["gitkey"]
    assert leaks(b"nothing here") == []


def manifests(place: Path, uris: dict[str, str]) -> Path:
    """A connection of every type, secrets in all forms of a reference, and a packaging for each of `uris`."""
    place.mkdir()
    (place.parent / "s3keyid").write_text(SECRETS["s3keyid"] + "\n")
    (place.parent / "s3keyid").chmod(0o600)
    account = json.dumps({"type": "service_account", "private_key": f"-----BEGIN\n{SECRETS['gcskey']}\n-----END\n"})
    specs = {
        "s3-ci": {"type": "s3", "uri": "s3://models", "region": "us-east-1"}
        | {"keyID": "file:../s3keyid", "keySecret": "${PLANTED_S3SECRET}"},
        "gcs-ci": {"type": "gcs", "uri": "gs://models", "region": "project", "keySecret": b64(account)},
        "blob-ci": {"type": "azureblob", "uri": "models", "keySecret": "${PLANTED_BLOBKEY}"},
        "git-ci": {"type": "git", "uri": "git@example.com:a/b.git", "password": "${PLANTED_GITPASSWORD}"}
        | {"keySecret": b64(SECRETS["gitkey"]), "publicKey": b64(SECRETS["gitpublic"])},
    }
    for name, uri in uris.items():
        specs[name] = {"type": "docker", "uri": uri, "username": USER, "password": "${PLANTED_DOCKERPASSWORD}"}
        if "amazonaws" in uri:
            keys = {"keyID": b64(SECRETS["ecrkeyid"]), "keySecret": "${PLANTED_ECRSECRET}"}
            specs[name] = {"type": "ecr", "uri": uri, **keys}
        if name == "wrong":
            specs[name]["password"] = "${PLANTED_WRONGPASSWORD}"
    packagings = {
        name: {
            "integrationName": "docker-cli",
            "artifactName": "invoices.zip",
            "arguments": {
                "imageName": "mpack-test-planted:{{ RandomUUID }}" if name == "crashing" else "mpack-test-planted:1"
            },
            "targets": [{"name": f"docker-{way}", "connectionName": name} for way in ("push", "pull")],
        }
        for name in uris
    }
    packagings["stored"]["outputConnection"] = "s3-ci"
    documents = [{"kind": "Connection", "id": name, "spec": spec} for name, spec in specs.items()]
    documents += [{"kind": "ModelPackaging", "id": name, "spec": spec} for name, spec in packagings.items()]
    (place / "all.yaml").write_text(yaml.safe_dump_all(documents))
    return place


@dataclass(frozen=True)
class Run:
    """One run of mpack: exit code, both streams as bytes."""

    code: int
    out: bytes
    err: bytes


@dataclass(frozen=True)
class Ground:
    """Where secrets are planted: mpack's home and TMPDIR, the manifests, the registries, the lock."""

    home: Path
    scratch: Path
    directory: Path
    registry: RegistryServer
    ecr: RegistryServer
    environment: dict[str, str]
    main: str

    def run(self, *words: str, before: str = "") -> Run:
        """mpack as a process of its own, with a traceback where there is one; `before`: what Python does first."""
        command = [sys.executable, "-c", f"{before}\n{self.main}", "--debug", *words]
        done = subprocess.run(command, capture_output=True, env=self.environment, cwd=self.scratch)
        assert leaks(done.stdout + done.stderr) == [], (done.stdout + done.stderr).decode()
        return Run(done.returncode, done.stdout, done.stderr)

    def pack(self, name: str, *words: str, before: str = "") -> Run:
        """`mpack pack run` of one packaging, with its targets."""
        files = ["-d", str(self.directory / "manifests")]
        if name != "stored":
            files += ["--artifact-path", str(self.directory)]
        own = ("--id", name, "--no-disable-package-targets", "--lock", str(self.directory / "lock"))
        return self.run("pack", "run", *files, *own, *words, before=before)


@pytest.fixture(scope="module")
def ground(moto: Path, base_home: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Both registries, AWS, an index and a proxy with passwords, and two registries that repeat what they hear."""
    place = tmp_path_factory.mktemp("planted")
    for name in ("docker", "ecr", "tmp", "served"):
        (place / name).mkdir()
    password, token = SECRETS["dockerpassword"], SECRETS["bearer"]
    shutil.copytree(INVOICES, place / "invoices")
    with (
        registry_server(place / "docker", secured=True, auth=(USER, password)) as registry,
        registry_server(place / "ecr", secured=True, auth=("AWS", ECR_PASSWORD), name=ECR) as ecr,
        moto_server(moto) as aws,
        serve_index(place / "served", user=USER, password=SECRETS["index"]) as index,
        leading_proxy({f"{ECR}:443": ecr.port}) as proxy,
        echo_registry(token, stumble=False) as refusing,
        echo_registry(token, stumble=True) as stumbling,
    ):
        uris = {"right": registry.host, "stored": registry.host, "wrong": registry.host, "crashing": registry.host}
        uris |= {"refusing": refusing, "stumbling": stumbling}
        uris |= {"ecr": ECR, "away": "localhost:9", "nowhere": "registry.invalid"}
        manifests(place / "manifests", {name: f"{uri}/team" for name, uri in uris.items()})
        assert registry.ca is not None and ecr.ca is not None
        (place / "ca.pem").write_bytes(registry.ca.read_bytes() + ecr.ca.read_bytes())
        connections = {
            f"PLANTED_{name.upper()}": SECRETS[name]
            for name in ("dockerpassword", "wrongpassword", "ecrsecret", "s3secret", "blobkey", "gitpassword")
        }
        site = next(moto.parents[1].glob("lib/*/site-packages"))
        environment = {
            **{name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")},
            **connections,
            "MPACK_HOME": str(base_home("planted")),
            "TMPDIR": str(place / "tmp"),
            "DOCKER_CONFIG": os.devnull,
            "DOCKER_HOST": "unix:///nonexistent",
            "SSL_CERT_FILE": str(place / "ca.pem"),
            "PIP_EXTRA_INDEX_URL": index.replace("://", f"://{USER}:{quote(SECRETS['index'], safe='')}@"),
            "HTTPS_PROXY": proxy.url.replace("://", f"://{USER}:{quote(SECRETS['proxy'], safe='')}@"),
            "NO_PROXY": "localhost,127.0.0.1",
            "COSIGN_PASSWORD": SECRETS["cosign"],
            "AWS_ENDPOINT_URL": aws,
            "AWS_CONFIG_FILE": os.devnull,
        }
        main = f"import sys; sys.path.append({str(site)!r}); from mpack.cli.main import run; run()"
        home = Path(environment["MPACK_HOME"])
        archive = shutil.make_archive(str(place / "archive"), "zip", place / "invoices")
        for path, content in (("", b""), ("/invoices.zip", Path(archive).read_bytes())):
            # moto looks for a signature, and does not check it.
            signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=x/20261121/us-east-1/s3/aws4_request"}
            answer = httpx.put(f"{aws}/models{path}", content=content, headers=signed, trust_env=False)
            assert answer.status_code == 200, answer.text
        yield Ground(home, place / "tmp", place, registry, ecr, environment, main)


#: A bug that comes out with what it was told in confidence.
BUG = """
import mpack.registry.push
def broken(connection, image, target):
    header = connection._auth.headers()["Authorization"]
    raise RuntimeError(f"cannot send {header!r}") from ValueError(header)
mpack.registry.push.put_manifest = broken
"""
#: Packaging -> exit code, a word of its error.
ENDINGS = [
    ("right", 0, ""),
    ("ecr", 0, ""),
    ("stored", 0, ""),
    ("wrong", 3, "refuses a push as user 'tester' (HTTP 401)"),
    ("away", 3, "Connection refused"),
    ("nowhere", 3, "registry.invalid"),
    ("refusing", 3, "DENIED"),
    ("stumbling", 3, "it names a place that is no URL"),
    ("crashing", 70, "This is a bug in mpack: RuntimeError: cannot send 'Basic *****"),
]


def test_planted(ground: Ground) -> None:
    """Runs that succeed, that are refused, and that crash: no output, file or process has a secret. What a registry
    repeats of them is *****."""
    texts = [secret.encode() for name, secret in SECRETS.items() if f"PLANTED_{name.upper()}" in ground.environment]
    with watched_processes() as seen, watched_environments(texts) as had:
        for number, (name, code, said) in enumerate(ENDINGS):
            words = ("--no-verify",) if number else ()
            done = ground.pack(name, *words, before=BUG if name == "crashing" else "")
            told = done.err.decode()
            assert (done.code, said in told, "Traceback" in told) == (code, True, code != 0), told
            assert ("*****" in told) is (name in ("refusing", "stumbling", "crashing")), told
    assert [line for line in seen if leaks(line.encode())] == []
    assert any("uv" in line and "install" in line for line in seen), "the watch was awake"
    # The process that was given them has them, and no program that it started.
    assert {line for line in had if "pack run" in line} == had != set()
    # They were used: both registries have the image.
    for server in (ground.registry, ground.ecr):
        with server.http() as http:
            answer = http.get("/v2/team/mpack-test-planted/manifests/1", headers={"Accept": OCI_MANIFEST})
            assert answer.status_code == 200
    for words in (("get", "-o", "json"), ("list", "--json"), *(("logs", "--id", name) for name, _, _ in ENDINGS)):
        told_of = ground.run("pack", *words)
        assert told_of.code == 0 and told_of.out
    lock = ground.directory / "lock"
    assert ground.run("plan", str(ground.directory / "invoices"), "-p", "docker-cli", "--lock", str(lock)).code == 0
    assert list(ground.scratch.iterdir()) == [] and leaks(lock.read_bytes()) == []
    assert leaking_files(ground.home, ground.directory / "docker", ground.directory / "ecr") == {}


def test_local_name(ground: Ground) -> None:
    """Through a connection the image has the registry's name alone; with --keep-local its own, too."""
    pushed = f"{ground.registry.host}/team/mpack-test-planted"
    for words, kept in (((), False), (("--keep-local",), True)):
        told = json.loads(ground.pack("right", "--no-verify", "--json", *words).out)
        *local, remote = told["build"]["outputs"]
        assert local == (["mpack-test-planted:1"] if kept else [])
        assert remote == told["results"][0]["value"] == f"{pushed}@{told['build']['digest']}"
        listed = ground.run("images").out.decode().split()
        assert f"{pushed}:1" in listed and ("mpack-test-planted:1" in listed) is kept
