"""Models and runs of a real MLflow tracking server, which hands the artifacts out itself or has them in S3."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from mpack.artifact.limits import Limits
from mpack.artifact.model import Tree
from mpack.artifact.source import open_tree, tree_digest
from mpack.errors import MpackError
from mpack.records import dataclass

WINE = Path(__file__).parents[2] / "fixtures" / "models" / "mlflow-wine" / "model"


@dataclass(frozen=True)
class Tracking:
    """The server's REST API, as MLflow's own client uses it."""

    url: str

    def __call__(self, method: str, what: str, **values: Any) -> Any:
        sent: dict[str, Any] = {"params": values} if method == "GET" else {"json": values}
        answer = httpx.request(method, f"{self.url}/api/2.0/mlflow/{what}", trust_env=False, timeout=30, **sent)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def run(self, experiment: str, **options: str) -> tuple[str, str]:
        """A new run's id, and where its artifacts are."""
        number = self("POST", "experiments/create", name=experiment, **options)["experiment_id"]
        info = self("POST", "runs/create", experiment_id=number, start_time=1)["run"]["info"]
        return info["run_id"], info["artifact_uri"]

    def put(self, root: str, folder: Path) -> None:
        """Puts a folder's files below mlflow-artifacts:/…."""
        for path in filter(Path.is_file, folder.rglob("*")):
            at = f"{root.removeprefix('mlflow-artifacts:/').strip('/')}/{path.relative_to(folder)}"
            sent = httpx.put(
                f"{self.url}/api/2.0/mlflow-artifacts/artifacts/{at}", content=path.read_bytes(), trust_env=False
            )
            assert sent.status_code == 200, sent.text


@pytest.fixture
def tracking(mlflow: str, monkeypatch: pytest.MonkeyPatch) -> Tracking:
    """The server, which mpack asks."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{mlflow}/")
    return Tracking(mlflow)


def opened(location: str, scratch: Path) -> Tree:
    return open_tree(location, Limits(), scratch)


def test_models_and_runs(tracking: Tracking, tmp_path: Path) -> None:
    """Versions, aliases, latest, runs, logged models: what they stand for, told without aliases, with the run."""
    run, root = tracking.run("wine")
    tracking.put(f"{root}/model", WINE)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "weights.bin").write_bytes(os.urandom(3_000_000))
    tracking.put(f"{root}/other", tmp_path / "other")
    tracking("POST", "registered-models/create", name="wine")
    for source in ("model", "other"):
        tracking("POST", "model-versions/create", name="wine", source=f"{root}/{source}", run_id=run)
    tracking("POST", "registered-models/alias", name="wine", alias="champion", version="1")
    logged = tracking("POST", "logged-models", experiment_id="0", name="logged", source_run_id=run)["model"]["info"]
    tracking.put(logged["artifact_uri"], WINE)
    model_id = logged["model_id"]
    for location, uri, title, facts in (
        ("models:/wine/1", "models:/wine/1", "wine", {"model_version": "1", "run_id": run}),
        ("models:/wine@champion", "models:/wine/1", "wine", {"model_version": "1", "run_id": run}),
        (f"runs:/{run}/model", f"runs:/{run}/model", "model", {"run_id": run}),
        (f"runs:/{run}/model/", f"runs:/{run}/model", "model", {"run_id": run}),
        (f"models:/{model_id}", f"models:/{model_id}", "logged", {"model_id": model_id, "run_id": run}),
    ):
        tree = opened(location, tmp_path)
        assert tree_digest(tree) == tree_digest(opened(str(WINE), tmp_path)), location
        assert tree.origin is not None
        assert (tree.origin.uri, tree.title, dict(tree.origin.facts)) == (uri, title, facts)
    for location, uri in (("models:/wine/latest", "models:/wine/2"), (f"runs:/{run}/other/weights.bin", "")):
        tree = opened(location, tmp_path)
        assert tree.read("weights.bin") == (tmp_path / "other" / "weights.bin").read_bytes()
        assert tree.origin is not None and tree.origin.uri == (uri or location)
    tracking("POST", "registered-models/alias", name="wine", alias="champion", version="2")
    assert list(opened("models:/wine@champion", tmp_path)) == ["weights.bin"], "an alias that moved is followed"


def test_artifacts_in_s3(tracking: Tracking, s3: Any, tmp_path: Path) -> None:
    """Artifacts that the server has in a bucket come from there."""
    run, root = tracking.run("in-s3", artifact_location="s3://models/runs")
    for path in filter(Path.is_file, WINE.rglob("*")):
        key = f"{root.removeprefix('s3://models/')}/model/{path.relative_to(WINE)}"
        s3.put_object(Bucket="models", Key=key, Body=path.read_bytes())
    tree = opened(f"runs:/{run}/model", tmp_path)
    assert tree_digest(tree) == tree_digest(opened(str(WINE), tmp_path))
    assert tree.origin is not None and tree.origin.uri == f"runs:/{run}/model"


FAULTS = [
    ("models:/none/1", "artifact-missing", "is not there"),
    ("models:/none@alias", "artifact-missing", "is not there"),
    ("models:/none/latest", "artifact-missing", "is not there"),
    ("models:/m-0000000000000000", "artifact-missing", "is not there"),
    ("runs:/nobody/model", "artifact-missing", "is not there"),
    ("models:/wine", "usage", "is no address of MLflow's"),
    ("runs:/x/../y", "usage", "is no address of MLflow's"),
]


def test_faults(tracking: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not there, what is no address, a server that has artifacts to itself, one that is none."""
    run, _ = tracking.run("own", artifact_location=f"file://{tmp_path}/own")
    own = (f"runs:/{run}/model", "download-failed", "has its artifacts to itself")
    for location, code, message in [*FAULTS, own]:
        with pytest.raises(MpackError) as caught:
            opened(location, tmp_path)
        assert caught.value.code == code and message in str(caught.value), (location, str(caught.value))
    for uri, message in (
        ("", "MLFLOW_TRACKING_URI is not set"),
        ("sqlite:///x.db", "is sqlite:"),
        ("http://u:hunter2@127.0.0.1:9", "refused"),
        (f"{tracking.url}/nowhere", "is not there"),
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(MpackError) as caught:
            opened("models:/wine/1", tmp_path)
        assert message in str(caught.value) and "hunter2" not in str(caught.value), (uri, str(caught.value))
