"""`mpack build --optimize onnx` with a real sandbox, engine and index: the image answers as the model does."""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

MODELS = Path(__file__).parents[2] / "fixtures" / "models"

pytestmark = [pytest.mark.docker, pytest.mark.integration]

#: text and numbers, missing ones too, through a pipeline; a forest; float32 trees; float64 trees with probabilities.
CASES = ("mlflow-churn", "sklearn-joblib", "xgboost-json", "lightgbm-text")


@pytest.fixture(scope="module")
def locks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the builds of this module keep their locks."""
    return tmp_path_factory.mktemp("locks")


@pytest.mark.parametrize("name", CASES)
def test_the_image_answers_as_the_model(
    name: str, mpack: Any, serve: Any, engine: str, locks: Path, remove_image: Any, assert_same: Any
) -> None:
    """Every request of the fixture gets its status and answer from an image that has no library of the model's."""
    expect = json.loads((MODELS / name / "expect.json").read_text("utf-8"))
    artifact, image, lock = MODELS / name / expect["artifact"], f"mpack-test-optimized:{name}", locks / f"{name}.lock"
    remove_image(image)
    built = mpack.json("build", artifact, "--optimize", "onnx", "-o", "docker", "-t", image, "--lock", lock)
    told = built["optimized"]
    assert (told["status"], told["lost"], built["verified"]["status"]) == ("converted", None, "passed")
    assert told["rows"] > 1000 and told["max_rel_diff"] < 1e-12
    entries = {item["key"].split()[0]: item for item in json.loads(lock.read_text("utf-8"))["entries"]}
    assert entries["optimize-onnx"]["product"]["graph"] == told["digest"]
    installed = {item["name"] for item in entries["docker-rest"]["environment"]["packages"]}
    assert "onnxruntime" in installed and not installed & {"scikit-learn", "xgboost-cpu", "lightgbm", "pandas", "onnx"}
    with serve(image, "--read-only", "--cap-drop", "ALL") as client:
        for request in expect["requests"]:
            body = request["body"] if isinstance(request["body"], str) else json.dumps(request["body"])
            headers = {"Content-Type": request["content_type"]}
            answer = client.post("/api/model/invoke", content=body.encode(), headers=headers)
            assert answer.status_code == request["status"], answer.text
            if "answer" in request:
                assert_same(answer.json(), request["answer"])


def test_the_same_image_again(mpack: Any, locks: Path, tmp_path: Path) -> None:
    """By its lock another machine makes the same image, and a rebuild makes it of nothing that was kept."""
    expect = json.loads((MODELS / CASES[0] / "expect.json").read_text("utf-8"))
    artifact, lock = MODELS / CASES[0] / expect["artifact"], locks / f"{CASES[0]}.lock"
    command = ("build", artifact, "--optimize", "onnx", "-o", "store", "-t", "mpack-test-optimized:again")
    first = mpack.json(*command, "--lock", lock)
    again = mpack.json(*command, "--lock", lock, "--no-verify")
    assert again["digest"] == first["digest"] and again["optimized"] == first["optimized"]
    assert mpack.json("rebuild", "mpack-test-optimized:again")["same"] is True
    cli = mpack.json(*command, "--lock", tmp_path / "cli.lock", "-p", "docker-cli")
    assert cli["optimized"]["digest"] == first["optimized"]["digest"]


def test_an_unknown_operator_keeps_the_model(mpack: Any, tmp_path: Path) -> None:
    """The step without a graph is named and the model packaged as it is; strictly that is exit code 4, and no image."""
    rows = np.random.default_rng(0).normal(size=(50, 3))
    model = make_pipeline(FunctionTransformer(np.cbrt), Ridge()).fit(rows, rows[:, 0])
    artifact = tmp_path / "odd.pkl"
    artifact.write_bytes(pickle.dumps(model))
    name = f"mpack-test-odd-{uuid.uuid4().hex}:1"
    command = ("build", artifact, "--trust-pickle", "--optimize", "onnx", "-o", "store", "-t", name)
    done = mpack(*command, "--optimize-strict", "--json", code=4)
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "not-optimized" and "FunctionTransformer" in error["message"]
    assert name not in mpack("images").stdout
    built = mpack.json(*command)
    assert built["optimized"]["status"] == "kept" and "FunctionTransformer" in built["optimized"]["reason"]
    assert built["verified"]["status"] == "passed"


class Caller:
    """A pickle that calls home when it is loaded, and tells in its error whether that worked."""

    def __init__(self, port: int) -> None:
        self.port = port

    def __reduce__(self) -> Any:
        code = (
            "import os, socket\n"
            "found = [os.getuid()]\n"
            "for host in ('127.0.0.1', '1.1.1.1'):\n"
            "    try:\n"
            f"        socket.create_connection((host, {self.port}), 2); found.append('reached')\n"
            "    except OSError: found.append('not reached')\n"
            "try:\n"
            "    open('/opt/mpack/model.json', 'a'); found.append('written')\n"
            "except OSError: found.append('not written')\n"
            "raise RuntimeError(str(found))"
        )
        return exec, (code,)


def test_a_hostile_pickle_reaches_nothing(mpack: Any, tmp_path: Path) -> None:
    """The model is loaded as nobody, without network, on a read-only root; what it raises is the reason."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        artifact = tmp_path / "hostile.pkl"
        artifact.write_bytes(pickle.dumps(make_pipeline(Caller(server.getsockname()[1]))))
        command = ("build", artifact, "--trust-pickle", "--optimize", "onnx", "--optimize-strict", "-o", "store")
        done = mpack(*command, "--json", code=4)
        with pytest.raises(TimeoutError):
            server.accept()
    told = json.loads(done.stdout)["error"]["message"]
    assert "[65532, 'not reached', 'not reached', 'not written']" in told


def test_without_docker_and_runc(mpack: Any, tmp_path: Path, locks: Path) -> None:
    """No sandbox at hand: the model is packaged as it is, and the reason is told."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "env"):
        found = subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout.strip()
        (programs / name).symlink_to(found)
    artifact = MODELS / "sklearn-joblib" / "forest.joblib"
    options = ("-o", "store", "-t", "mpack-test-optimized:none", "--lock", tmp_path / "none.lock")
    # With a tolerance of its own there is no conversion that an earlier test left.
    options += ("--tolerance", "3e-7")
    environment = {"PATH": f"{programs}:{os.path.dirname(os.path.realpath(MODELS))}", "DOCKER_HOST": "unix:///nowhere"}
    built = mpack.json("build", artifact, "--optimize", "onnx", *options, "--no-verify", **environment)
    assert "neither a container engine nor runc" in built["optimized"]["reason"]
