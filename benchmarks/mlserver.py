"""The peer MLServer: the same LightGBM file served by its LightGBM runtime, from requirements/mlserver.txt."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.bench import ROOT
from benchmarks.buildkit import UvDockerfile, copy_uv
from benchmarks.subjects import Serving, freshly

REQUIREMENTS = ROOT / "requirements" / "mlserver.txt"
TEMPLATE = Path(__file__).with_name("mlserver.Dockerfile")
MODEL = "model"
#: debug: false leaves out the access log, as one does when it matters.
SETTINGS: dict[str, Any] = {"http_port": 8080, "grpc_port": 8081, "debug": False}
MODEL_SETTINGS: dict[str, Any] = {"name": MODEL, "implementation": "mlserver_lightgbm.LightGBMModel"}


class MlServer(UvDockerfile):
    """`docker build` of benchmarks/mlserver.Dockerfile."""

    name = "MLServer"
    serving = Serving(SETTINGS["http_port"], "/v2/health/ready", f"/v2/models/{MODEL}/infer")

    def prepare(self) -> None:
        """Nothing: a context is written for each build."""

    def _context(self, model: Path, case: str) -> Path:
        """`model` is a LightGBM text file."""
        directory = freshly(self._bench.scratch / "mlserver" / case)
        place = directory / "models" / MODEL
        place.mkdir(parents=True)
        shutil.copyfile(model, place / model.name)
        settings = {**MODEL_SETTINGS, "parameters": {"uri": f"./{model.name}"}}
        (place / "model-settings.json").write_text(json.dumps(settings), "utf-8")
        (place.parent / "settings.json").write_text(json.dumps(SETTINGS), "utf-8")
        shutil.copyfile(REQUIREMENTS, directory / "requirements.txt")
        copy_uv(directory)
        self._write_dockerfile(TEMPLATE, case, directory)
        return directory
