"""The other verbs as processes: verify, diff, plan, export, images, rm, doctor."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpack.engine import Docker
from mpack.plan import ImagePlan

pytestmark = [pytest.mark.docker, pytest.mark.integration]

MPACK = str(Path(sys.executable).with_name("mpack"))
INVOICES = Path(__file__).parents[2] / "fixtures" / "models" / "odahu-invoices" / "invoices"
IMAGE = "mpack-test-verbs:1"


@pytest.fixture(scope="module")
def lock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One lock for the module's builds, plan and export."""
    return tmp_path_factory.mktemp("verbs") / "invoices.lock"


@pytest.fixture(scope="module")
def built(mpack: Any, lock: Path) -> dict[str, Any]:
    """An image of a small model in the store."""
    result: dict[str, Any] = mpack.json("build", INVOICES, "-o", "store", "-t", IMAGE, "--lock", lock)
    return result


def test_verify(mpack: Any, built: dict[str, Any]) -> None:
    """A sound image passes by name and by id, in words and as JSON; an unknown one is exit 3."""
    assert mpack("verify", IMAGE).stdout.startswith("passed (against load")
    assert mpack.json("verify", built["id"]) == built["verified"]
    done = mpack("verify", "mpack-test-absent:1", code=3)
    assert done.stdout == "" and "mpack-test-absent:1" in done.stderr


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    """The model with a sample whose expected answer is not what it gives."""
    expect = json.loads((INVOICES.parent / "expect.json").read_text("utf-8"))
    request = expect["requests"][0]
    answer = json.dumps(request["answer"])
    assert "INV-0008" in answer
    (tmp_path / "request.json").write_text(json.dumps(request["body"]))
    (tmp_path / "answer.json").write_text(answer.replace("INV-0008", "INV-0080"))
    sample = 'request-file = "request.json"\nexpected-file = "answer.json"\n'
    (tmp_path / "invoices.mpack.toml").write_text(f"[sample]\n{sample}")
    return Path(shutil.copytree(INVOICES, tmp_path / "invoices"))


def test_wrong_answer(mpack: Any, built: dict[str, Any], lock: Path, wrong: Path, tmp_path: Path, engine: str) -> None:
    """Exit 4; nothing is tagged, written or locked; the image is kept by its id, and fails `mpack verify` as well."""
    own = Path(shutil.copy(lock, tmp_path / "own.lock"))
    before = own.read_bytes()
    name, archive = "mpack-test-wrong:1", tmp_path / "image.tar"
    outputs = ("-o", "docker", "-o", "store", "-o", f"oci-archive:{archive}")
    done = mpack("build", wrong, *outputs, "-t", name, "--lock", own, "--json", code=4)
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "verification-failed"
    assert not archive.exists() and own.read_bytes() == before
    listed = json.loads(mpack("images", "--json").stdout)
    assert name not in [known for item in listed for known in item["names"]]
    assert subprocess.run([engine, "image", "inspect", name], capture_output=True).returncode != 0
    kept = re.search(r"sha256:[0-9a-f]{64}", error["hint"])
    assert kept, error
    again = mpack("verify", kept[0], "--json", code=4)
    assert json.loads(again.stdout.splitlines()[0])["status"] == "failed"
    mpack("rm", kept[0])


def test_diff(
    mpack: Any, built: dict[str, Any], lock: Path, tmp_path: Path, remove_image: Callable[[str], None]
) -> None:
    """A port alone differs in the configuration and in no layer; the engine's copy is the same image as a layout's."""
    other, layout = "mpack-test-diff:1", tmp_path / "layout"
    remove_image(other)
    outputs = ("-t", other, "-o", "docker", "-o", f"oci:{layout}")
    mpack("build", INVOICES, "-a", "port=8080", "--no-verify", "--lock", lock, *outputs)
    found = json.loads(mpack("diff", IMAGE, other, "--json", code=1).stdout)
    assert {layer["status"] for layer in found["layers"]} == {"same"} and len(found["layers"]) == len(built["layers"])
    assert {change["field"]: change["new"] for change in found["configuration"]}["env.MPACK_PORT"] == "8080"
    assert mpack("diff", IMAGE, built["id"]).stdout == f"same ({built['digest']})\n"
    done = mpack("diff", other, f"oci:{layout}", MPACK_HOME=str(tmp_path / "home"))
    assert "by image id" in done.stdout and f"copying {other} from docker" in done.stderr
    mpack("rm", other)


def test_plan(mpack: Any, built: dict[str, Any], lock: Path) -> None:
    """The plan of a locked artifact is the plan that was built: whole, JSON both ways, with the base by digest."""
    plan = json.loads(mpack("plan", INVOICES, "--lock", lock).stdout)
    assert ImagePlan.from_json(plan).to_json() == plan
    assert plan["base"]["digest"] == built["base"]["digest"] and plan["packager"] == "docker-rest"
    assert mpack("plan", INVOICES, "--lock", lock).stdout == json.dumps(plan, indent=2, ensure_ascii=False) + "\n"


def test_spec_without_network(tmp_path: Path) -> None:
    """`plan --spec` needs no network, engine or base: it answers in an empty network namespace and an empty home."""
    alone = ["unshare", "-n"] if os.getuid() == 0 else ["unshare", "-rn"]
    environment = {**os.environ, "MPACK_HOME": str(tmp_path / "home"), "DOCKER_HOST": "tcp://127.0.0.1:9"}
    done = subprocess.run(
        [*alone, MPACK, "plan", "--spec", str(INVOICES)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    spec = json.loads(done.stdout)
    assert spec["model"]["name"] == "invoices" and {tree["kind"] for tree in spec["trees"]} >= {"runtime", "model"}
    assert not (tmp_path / "home").exists()


def test_export(mpack: Any, built: dict[str, Any], lock: Path, tmp_path: Path, engine: str) -> None:
    """The exported context is built by the docker client without a network, and the image passes its self-check."""
    target = tmp_path / "context"
    assert mpack("export", INVOICES, target, "--lock", lock).stdout == f"{target}\n"
    docker = Docker.find()
    image_file = tmp_path / "iid"
    done = subprocess.run(
        [docker.client, "build", "--network=none", f"--iidfile={image_file}", str(target)],
        capture_output=True,
        text=True,
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
    )
    assert done.returncode == 0, done.stderr
    image = image_file.read_text()
    try:
        check = [engine, "run", "--rm", "--network=none", "--read-only", "--cap-drop=ALL", image, "self-check"]
        answer = subprocess.run(check, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
        assert json.loads(answer.stdout)["status"] == "passed"
    finally:
        docker.remove(image)
    done = mpack("export", INVOICES, target, "--lock", lock, code=2)
    assert "not empty" in done.stderr


def test_images_and_rm(base_home: Any, mpack: Any, model: Path, echo: dict[str, str], tmp_path: Path) -> None:
    """`images` tells names, age and size; `rm --older-than` takes the old ones and no base."""
    home = {"MPACK_HOME": str(base_home("home-verbs")), **echo}
    options = ("-p", "echo", "-o", "store", "--lock", tmp_path / "lock")
    for name in ("one:1", "two:2"):
        mpack("build", model, *options, "-t", name, **home)
    (listed,) = json.loads(mpack("images", "--json", **home).stdout)
    assert (listed["names"], listed["packager"], listed["model"]["name"]) == (["one:1", "two:2"], "echo", "scores")
    assert listed["size"] > 1_000_000 and 0 <= listed["age"] < 600
    shown = mpack("images", **home).stdout
    assert "one:1" in shown and "two:2" in shown and "mpack-base" not in shown
    assert mpack("rm", "--older-than", "7d", **home).stdout == ""
    assert mpack("rm", "two:2", **home).stdout == "two:2\n"
    assert [item["names"] for item in json.loads(mpack("images", "--json", **home).stdout)] == [["one:1"]]
    assert mpack("rm", "--older-than", "0s", **home).stdout == "one:1\n"
    assert json.loads(mpack("images", "--json", **home).stdout) == []
    assert [item["image"] for item in json.loads(mpack("base", "list", "--json", **home).stdout)]
    assert "No image was named" in mpack("rm", code=2, **home).stderr
    assert "not a duration" in mpack("rm", "--older-than", "soon", code=2, **home).stderr
    assert "absent:1" in mpack("rm", "absent:1", code=3, **home).stderr


def test_doctor(mpack: Any, tmp_path: Path) -> None:
    """Here all works; without an engine it says so and still can build; without a place for the store it is exit 3."""
    told = mpack.json("doctor", "--offline")
    assert told["can_build"]
    checks = {check["name"]: check for check in told["checks"]}
    assert {checks[name]["status"] for name in ("python", "uv", "docker", "runc")} == {"ok"}
    alone = mpack.json("doctor", "--offline", DOCKER_HOST="unix:///nonexistent/docker.sock")
    checks = {check["name"]: check for check in alone["checks"]}
    assert alone["can_build"] and checks["docker"]["status"] == "warn" and checks["docker"]["todo"]
    done = mpack("doctor", "--offline", code=3, MPACK_HOME="/proc/mpack")
    assert "MPACK_HOME" in done.stdout
