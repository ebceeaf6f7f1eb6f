"""The peer MLServer: the same file served by its LightGBM or scikit-learn runtime, from requirements/mlserver.txt."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.bench import ROOT, Bench
from benchmarks.buildkit import UvDockerfile, copy_uv
from benchmarks.subjects import Serving, freshly

REQUIREMENTS = ROOT / "requirements" / "mlserver.txt"
TEMPLATE = Path(__file__).with_name("mlserver.Dockerfile")
MODEL = "model"
SETTINGS: dict[str, Any] = {"http_port": 8080, "grpc_port": 8081}
LIGHTGBM, SKLEARN = "mlserver_lightgbm.LightGBMModel", "mlserver_sklearn.SKLearnModel"


class MlServer(UvDockerfile):
    """`docker build` of benchmarks/mlserver.Dockerfile."""

    name = "MLServer"
    serving = Serving(SETTINGS["http_port"], "/v2/health/ready", f"/v2/models/{MODEL}/infer")

    def __init__(self, bench: Bench, base: str, runtime: str = LIGHTGBM, *, log: bool = False) -> None:
        """`log`: with an access log, which is left out as one does when it matters."""
        super().__init__(bench, base)
        self._runtime, self._log = runtime, log

    def prepare(self) -> None:
        """Nothing: a context is written for each build."""

    def _context(self, model: Path, case: str) -> Path:
        """`model` is a file that the runtime knows."""
        directory = freshly(self._bench.scratch / "mlserver" / case)
        place = directory / "models" / MODEL
        place.mkdir(parents=True)
        shutil.copyfile(model, place / model.name)
        settings = {"name": MODEL, "implementation": self._runtime, "parameters": {"uri": f"./{model.name}"}}
        (place / "model-settings.json").write_text(json.dumps(settings), "utf-8")
        (place.parent / "settings.json").write_text(json.dumps({**SETTINGS, "debug": self._log}), "utf-8")
        shutil.copyfile(REQUIREMENTS, directory / "requirements.txt")
        copy_uv(directory)
        self._write_dockerfile(TEMPLATE, case, directory)
        return directory
