"""Conda environments for real: a channel of small packages, artifacts that need them, each builder, each packager.

No conda channel can be reached from here, so there is one in a directory: its Python is the base image's own files as a
conda package, its library is a real one with a prefix in it, its Python package is noarch with an entry point.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mpack.builders import BuiltImage
from mpack.conda.condalock import read_conda_lock
from mpack.contents import sha256_file
from mpack.engine import Docker
from mpack.oci.rootfs import read_files
from mpack.oci.store import Store
from mpack.plan import CONDA, CondaPackage, ImagePlan
from mpack.testing.builder_contract import BuilderContract, Built, Facts, image_of
from mpack.testing.condachannel import PLACEHOLDER, Link, Package, Program, write_channel

pytestmark = pytest.mark.integration

FIXTURES = Path(__file__).parents[2] / "fixtures" / "models"
BASE = "mpack-base:python3.11"
REST = "mpack-test-conda:rest"
TALLYBOOK = '''
"""Counts by a library of conda's, which it finds by a path that the package was built with."""
import configparser, ctypes, sys
CONF = "{prefix}/etc/tally.conf"
def version():
    parser = configparser.ConfigParser()
    assert parser.read(CONF), CONF
    library = ctypes.CDLL(parser["tally"]["library"])
    library.zlibVersion.restype = ctypes.c_char_p
    return library.zlibVersion().decode()
def main():
    print("tallybook", version(), sys.prefix)
'''
ENTRYPOINT = """
import sys
import tallybook
def init():
    return "matrix"
def predict_on_matrix(matrix, provided_columns_names=None):
    return [[float(row[0]) * 2, tallybook.version(), sys.base_prefix] for row in matrix], ("twice", "library", "python")
def info():
    outputs = [("twice", "number", 2.0), ("library", "string", ""), ("python", "string", "")]
    return ([{"name": "x", "type": "number", "example": 1.0}],
            [{"name": name, "type": kind, "example": example} for name, kind, example in outputs])
"""


@dataclass(frozen=True)
class Conda:
    """The channel's directory, and the variable that tells mpack where it is."""

    directory: Path
    condarc: Path

    @property
    def env(self) -> dict[str, str]:
        return {"CONDARC": str(self.condarc)}


@pytest.fixture(scope="session")
def conda(mpack: Any, mpack_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Conda:
    """A channel called `tally`, which the user's condarc finds."""
    store = Store(mpack_home / "data" / "store")
    if store.find_record(BASE) is None:
        mpack("base", "build", "--python", "3.11")
    root = tmp_path_factory.mktemp("conda")
    write_channel(root / "tally", packages(store))
    condarc = root / "condarc"
    condarc.write_text(f"custom_channels:\n  tally: {root.as_uri()}\n")
    return Conda(root / "tally", condarc)


def packages(store: Store) -> Iterator[Package]:
    """What is in the channel."""
    wanted = ("/usr/bin/python3.11", "/usr/lib/python3.11/", "/usr/lib/x86_64-linux-gnu/libz.so.1", "/lib/x86_64")
    files = read_files(store.resolve(BASE), lambda path: path.startswith(wanted), 64 << 20)
    python: dict[str, bytes | Link | Program] = {"bin/python3": Link("python3.11"), "bin/python": Link("python3.11")}
    for path, node in files.items():
        if node.content is not None and path.startswith(wanted[:2]):
            python[path.removeprefix("/usr/")] = Program(node.content) if "/bin/" in path else node.content
    # Debian's Python looks for them here, and that is frozen into it.
    python["lib/python3/dist-packages"] = Link("../python3.11/site-packages")
    python["lib/python3.11/test/test_nothing.py"] = b"raise SystemExit\n"
    yield Package("python", "3.11.2", files=python)
    zlib = files.read("/usr/lib/x86_64-linux-gnu/libz.so.1") or files.read("/lib/x86_64-linux-gnu/libz.so.1")
    assert zlib is not None
    yield Package(
        "libtally",
        files={
            "lib/libtally.so.1": zlib + b"\0" + PLACEHOLDER.encode() + b"/share/tally\0end",
            "lib/libtally.so": Link("libtally.so.1"),
            "etc/tally.conf": f"[tally]\nlibrary = {PLACEHOLDER}/lib/libtally.so\n".encode(),
            "include/tally.h": b"/* nothing */\n",
            "share/doc/tally/README": b"read me\n",
            "bin/.libtally-post-link.sh": Program(b"#!/bin/sh\nexit 1\n"),
        },
        prefixed={"lib/libtally.so.1": "binary", "etc/tally.conf": "text"},
        depends=("__glibc >=2.17",),
        suffix=".tar.bz2",
    )
    module = TALLYBOOK.replace("{prefix}", PLACEHOLDER).encode()
    for version, library in (("2.0", "libtally >=1"), ("3.0", "libtally >=9")):
        yield Package(
            "tallybook",
            version,
            noarch="python",
            depends=("python >=3.9", library),
            entry_points=("tallybook = tallybook:main",),
            files={
                "site-packages/tallybook/__init__.py": module,
                f"site-packages/tallybook-{version}.dist-info/METADATA": (
                    f"Metadata-Version: 2.1\nName: tallybook\nVersion: {version}\n".encode()
                ),
            },
            prefixed={"site-packages/tallybook/__init__.py": "text"},
        )
    found = importlib.metadata.distribution("itsdangerous")
    yield Package(
        "itsdangerous",
        found.version,
        noarch="python",
        depends=("python",),
        files={f"site-packages/{path}": path.locate().read_bytes() for path in found.files or () if _kept(str(path))},
    )


def _kept(path: str) -> bool:
    return path.startswith("itsdangerous") and path.endswith((".py", "METADATA"))


Artifact = Callable[..., Path]


@pytest.fixture
def odahu(tmp_path: Path) -> Artifact:
    """`odahu(*dependencies)`: an ODAHU artifact whose entry point asks the library of conda's."""
    return lambda *dependencies: odahu_artifact(tmp_path / "twice", dependencies)


def odahu_artifact(folder: Path, dependencies: tuple[str, ...]) -> Path:
    shutil.copytree(FIXTURES / "odahu-invoices" / "invoices", folder)
    (folder / "odahuflow_model" / "entrypoint.py").write_text(ENTRYPOINT)
    (folder / "odahuflow_model" / "conda.yaml").write_text(environment("numpy", dependencies))
    return folder


def environment(pip: str, dependencies: tuple[str, ...]) -> str:
    """A conda.yaml of the channel."""
    listed = "".join(f"- {item}\n" for item in dependencies or ("python=3.11", "pip", "tallybook", "itsdangerous"))
    return f"name: tally\nchannels:\n- tally\n- nodefaults\ndependencies:\n{listed}- pip:\n  - {pip}\n"


def asked(client: Any) -> list[Any]:
    """What the model answers."""
    done = client.post("/api/model/invoke", json={"columns": ["x"], "data": [[1.5], [4]]})
    assert done.status_code == 200, done.text
    return list(done.json()["prediction"])


@pytest.fixture(scope="module")
def built(mpack: Any, conda: Conda, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The ODAHU artifact as a REST image of the embedded builder, its lock beside it."""
    artifact = odahu_artifact(tmp_path_factory.mktemp("odahu") / "twice", ())
    made = mpack.json("build", artifact, "-o", "store", "-o", "docker", "-t", REST, **conda.env)
    yield {**made, "artifact": artifact}
    subprocess.run(["docker", "rmi", "-f", REST], capture_output=True)


def lock_of(built: dict[str, Any]) -> dict[str, Any]:
    """The lock's one entry."""
    (entry,) = json.loads(Path(built["lock"]).read_text())["entries"]
    return dict(entry)


def test_rest_answers(built: dict[str, Any], serve: Any) -> None:
    """The answer is computed by conda's Python, its noarch package and its library; verified before."""
    assert built["verified"]["status"] == "passed", built["verified"]
    with serve(REST) as client:
        answer = asked(client)
    assert [row[0] for row in answer] == [3.0, 8.0]
    assert {row[2] for row in answer} == {CONDA} and {row[1] for row in answer} == {answer[0][1]}
    script = subprocess.run(
        ["docker", "run", "--rm", "--entrypoint", "tallybook", REST], capture_output=True, text=True
    )
    assert script.stdout.split() == ["tallybook", answer[0][1], CONDA], script.stderr


def test_lock(built: dict[str, Any], conda: Conda) -> None:
    """The lock names channel, build and SHA-256, the newest that fits, and neither this machine nor the address; what
    conda brings is not installed from the index as well."""
    text = Path(built["lock"]).read_text()
    assert str(conda.directory.parent) not in text and "file:" not in text
    environment = lock_of(built)["environment"]
    found = {item["name"]: item for item in environment["conda"]["packages"]}
    assert sorted(found) == ["itsdangerous", "libtally", "python", "tallybook"]
    file = conda.directory / "noarch" / "tallybook-2.0-0.conda"
    assert found["tallybook"] == {
        "name": "tallybook",
        "version": "2.0",
        "build": "0",
        "subdir": "noarch",
        "channel": "tally",
        "file": file.name,
        "sha256": sha256_file(file),
        "size": file.stat().st_size,
        "depends": ["python >=3.9", "libtally >=1"],
    }
    sources = {item["name"]: item["source"] for item in environment["packages"]}
    assert sources["itsdangerous"] == "base" and sources["flask"] == sources["numpy"] == "index"


def test_files(built: dict[str, Any], mpack_home: Path) -> None:
    """The prefix is the image's wherever a package wants it; no path of this machine, no header; an environment
    that tools know, and byte code by conda's own Python."""
    store = Store(mpack_home / "data" / "store")
    files = read_files(store.image(built["digest"]), lambda path: path.startswith(f"{CONDA}/"), 64 << 20)
    ours = {path.removeprefix(f"{CONDA}/"): node for path, node in files.items() if path.startswith(f"{CONDA}/")}
    contents = {path: node.content for path, node in ours.items() if node.content is not None}
    assert contents["etc/tally.conf"] == f"[tally]\nlibrary = {CONDA}/lib/libtally.so\n".encode()
    assert f"\0{CONDA}/share/tally\0".encode() in contents["lib/libtally.so.1"]
    assert contents["lib/libtally.so.1"].endswith(b"\0end")
    assert ours["lib/libtally.so"].target == "libtally.so.1"
    assert contents["bin/tallybook"].startswith(f"#!{CONDA}/bin/python3.11\n".encode())
    for wrong in (PLACEHOLDER.encode(), str(mpack_home).encode()):
        assert [path for path, data in contents.items() if wrong in data] == []
    gone = ("include", "share/doc/tally", "lib/python3.11/test", "CACHEDIR.TAG", "__clobbers__")
    assert [path for path in gone if path in ours] == []
    record = json.loads(contents["conda-meta/tallybook-2.0-0.json"])
    assert record["channel"] == "tally" and "bin/tallybook" in record["files"] and "link" not in record
    compiled = [path for path in ours if path.endswith(".pyc")]
    assert "lib/python3.11/json/__pycache__/decoder.cpython-311.pyc" in compiled
    assert "lib/python3.11/site-packages/tallybook/__pycache__/__init__.cpython-311.pyc" in compiled


class TestSameFiles(BuilderContract):
    """The other builders make the same image of the same lock."""

    @pytest.fixture(scope="class", params=["docker", "buildah"])
    @classmethod
    def built(
        cls, request: pytest.FixtureRequest, mpack: Any, conda: Conda, built: Any, mpack_home: Path
    ) -> Iterator[Built]:
        artifact, output = built["artifact"], {"docker": "docker", "buildah": "store"}[request.param]
        words = ("--builder", request.param, "-o", output, "-t", f"{REST}-{request.param}", "--no-verify")
        made = mpack.json("build", artifact, *words, **conda.env)
        store, docker = Store(mpack_home / "data" / "store"), Docker.find()
        plan = ImagePlan.from_json(json.loads(mpack("plan", artifact, **conda.env).stdout))
        image = BuiltImage(made["id"], plan.platform, request.param, output, (), 0, made["digest"])
        try:
            yield Built(
                plan,
                Facts.of(store.image(plan.base.digest)),
                Facts.of(store.image(built["digest"])),
                Facts.of(image_of(image, store, docker)),
            )
        finally:
            if output == "docker":
                docker.remove(made["id"])


def test_same_digest_elsewhere(mpack: Any, conda: Conda, built: dict[str, Any], base_home: Any, tmp_path: Path) -> None:
    """The lock alone, another home with empty caches, the channel at another address: the same image."""
    moved = tmp_path / "mirror" / "somewhere"
    shutil.copytree(conda.directory, moved)
    condarc = tmp_path / "condarc"
    condarc.write_text(f"mirrored_channels:\n  tally: [{moved.as_uri()}]\n")
    lock = tmp_path / "lock.json"
    shutil.copy(built["lock"], lock)
    elsewhere = type(mpack)(base_home("conda-elsewhere"))
    result = elsewhere.json(
        "build", built["artifact"], "-o", "store", "-t", "x:1", "--lock", lock, "--no-verify", CONDARC=str(condarc)
    )
    assert result["digest"] == built["digest"]
    assert [item["kind"] for item in result["layers"] if item["cached"]] == ["base"]


def test_command_line(mpack: Any, conda: Conda, odahu: Artifact, engine: str, tmp_path: Path) -> None:
    """docker-cli: the same environment predicts from a file."""
    (tmp_path / "rows.csv").write_text("x\n1.5\n")
    (tmp_path / "out").mkdir()
    name = "mpack-test-conda:cli"
    mpack("build", odahu(), "-p", "docker-cli", "-o", "docker", "-t", name, "--no-verify", **conda.env)
    try:
        command = [engine, "run", "--rm", "-v", f"{tmp_path}:/data", name, "predict", "/data/rows.csv", "/data/out"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (result,) = (tmp_path / "out").iterdir()
        assert CONDA in result.read_text() and "3.0" in result.read_text()
    finally:
        subprocess.run([engine, "rmi", "-f", name], capture_output=True)


def test_mlflow(mpack: Any, conda: Conda, tmp_path: Path) -> None:
    """An MLflow model whose conda.yaml names such packages beside its requirements.txt: verified, by its own code's
    import of them; for its pip section conda.yaml counts then."""
    model = tmp_path / "model"
    shutil.copytree(FIXTURES / "mlflow-pyfunc" / "model", model)
    code = model / "code" / "shop" / "pricing.py"
    code.write_text("import tallybook\nassert tallybook.version()\n" + code.read_text())
    listed = (model / "requirements.txt").read_text().splitlines()
    (model / "conda.yaml").write_text(
        environment("\n  - ".join(listed), ("python=3.11", "pip<=25", "tally::tallybook"))
    )
    made = mpack.json("build", model, "-o", "store", "-t", "mpack-test-conda:mlflow", "--no-verify", **conda.env)
    assert mpack.json("verify", "mpack-test-conda:mlflow")["status"] == "passed"
    (entry,) = json.loads(Path(made["lock"]).read_text())["entries"]
    assert entry["environment"]["conda"]["interpreter"] is True
    assert [item["name"] for item in entry["environment"]["conda"]["packages"]] == ["libtally", "python", "tallybook"]


def test_triton(mpack: Any, conda: Conda, odahu: Artifact) -> None:
    """docker-triton: Python is in the server, so conda's packages come on the base's Python of the same version; both
    builders' servers answer."""
    artifact = odahu()
    for builder in ("embedded", "docker"):
        name = f"mpack-test-conda:triton-{builder}"
        words = ("-p", "docker-triton", "-a", "base=cpu", "--builder", builder, "-o", "docker", "-t", name)
        made = mpack.json("build", artifact, *words, **conda.env)
        subprocess.run(["docker", "rmi", "-f", name], capture_output=True)
        assert made["verified"]["status"] == "passed", made["verified"]
        (entry,) = json.loads(Path(made["lock"]).read_text())["entries"]
        assert entry["environment"]["conda"]["interpreter"] is False
        assert entry["base"]["python"].startswith("/usr/bin")


FAULTS = {
    "clash": (("python=3.11", "tallybook=3"), "requirements-clash", ("tallybook", "libtally >=9", "no candidates")),
    "unknown": (("python=3.11", "no-such-thing-at-all"), "requirements-clash", ("no-such-thing-at-all",)),
    "python": (("python=3.12", "tallybook"), "requirements-clash", ("python",)),
    "specification": (("tallybook >>1",), "requirements-invalid", ("tallybook",)),
    "channel": (("elsewhere::tallybook",), "index-unreachable", ("elsewhere",)),
}


def test_documents(built: dict[str, Any], mpack: Any) -> None:
    """The SBOM has conda's packages as such, with the hashes of the lock; the provenance names their files."""
    document = json.loads(mpack("sbom", REST).stdout)
    found = {item["purl"]: item for item in document["components"] if item.get("purl", "").startswith("pkg:conda/")}
    locked = lock_of(built)["environment"]["conda"]["packages"]
    assert len(found) == len(locked) == 4
    for item in locked:
        known = found[f"pkg:conda/{item['name']}@{item['version']}?build=0&channel=tally&subdir={item['subdir']}"]
        assert known["hashes"] == [{"alg": "SHA-256", "content": item["sha256"]}]
    assert {item["name"]: item.get("version") for item in document["components"]}["python"] == "3.11.2"


def test_conda_lock(built: dict[str, Any], mpack: Any, conda: Conda, tmp_path: Path) -> None:
    """conda-lock.yml is written of a lock, and decides another; where it does not fit, the message says why."""
    written = tmp_path / "conda-lock.yml"
    mpack("lock", built["artifact"], "--format", "conda-lock", "-o", written, **conda.env)
    pins = {platform: list(items) for platform, items in read_conda_lock(written.read_text()).items()}
    locked = [CondaPackage.from_json(item) for item in lock_of(built)["environment"]["conda"]["packages"]]
    assert pins == {"linux/amd64": [replace(item, size=0) for item in locked]}
    artifact = odahu_artifact(tmp_path / "again", ())
    plan = ImagePlan.from_json(json.loads(mpack("plan", artifact, "--lock", written, **conda.env).stdout))
    assert plan.environment.conda is not None and list(plan.environment.conda.packages) == locked
    text = written.read_text()
    newer = text.replace("tallybook-2.0", "tallybook-3.0").replace("version: '2.0'", "version: '3.0'")
    for changed, word in ((newer, "libtally >=9"), (text.replace(locked[0].sha256, "f" * 64), "SHA-256")):
        written.write_text(changed)
        told = mpack("plan", artifact, "--lock", written, code=1, **conda.env).stderr
        assert "conda-lock.yml" in told and word in told, told


def test_without_python(mpack: Any, conda: Conda, odahu: Artifact) -> None:
    """Without a Python among the packages the base's stays, and they are libraries beside it."""
    plan = ImagePlan.from_json(json.loads(mpack("plan", odahu("tally::libtally"), **conda.env).stdout))
    assert plan.environment.conda is not None and plan.below == plan.base
    assert [item.name for item in plan.environment.conda.packages] == ["libtally"]


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(mpack: Any, conda: Conda, odahu: Artifact, fault: str, tmp_path: Path) -> None:
    """What cannot be had is told by name, and leaves no lock."""
    dependencies, code, words = FAULTS[fault]
    condarc = tmp_path / "condarc"
    condarc.write_text(f"{conda.condarc.read_text()}channel_alias: {(tmp_path / 'none').as_uri()}\n")
    artifact = odahu(*dependencies)
    done = mpack("plan", artifact, code=None, CONDARC=str(condarc))
    assert done.returncode in (1, 3) and done.stdout == ""
    told = json.loads(mpack("build", artifact, "--json", code=None, CONDARC=str(condarc)).stdout)["error"]
    assert told["code"] == code and all(word in told["message"] for word in words), told
    assert list(artifact.parent.glob("*.lock")) == []


def test_rebuild(built: dict[str, Any], mpack: Any, conda: Conda) -> None:
    """A rebuild makes every layer anew, conda's too, and the same image."""
    assert mpack.json("rebuild", REST, **conda.env)["same"] is True
