"""The peer BentoML: a service of one class, from requirements/bentoml.txt."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.bench import ROOT
from benchmarks.buildkit import UvDockerfile, copy_uv
from benchmarks.subjects import Serving, freshly

REQUIREMENTS = ROOT / "requirements" / "bentoml.txt"
TEMPLATE = Path(__file__).with_name("bento.Dockerfile")
SERVICE = Path(__file__).with_name("bento_service.py")


class BentoMl(UvDockerfile):
    """`docker build` of benchmarks/bento.Dockerfile."""

    name = "BentoML"
    serving = Serving(3000, "/readyz", "/predict")

    def prepare(self) -> None:
        """Nothing: a context is written for each build."""

    def _context(self, model: Path, case: str) -> Path:
        """`model` is a joblib file."""
        directory = freshly(self._bench.scratch / "bentoml" / case)
        shutil.copyfile(model, directory / "model.joblib")
        shutil.copyfile(SERVICE, directory / "service.py")
        shutil.copyfile(REQUIREMENTS, directory / "requirements.txt")
        copy_uv(directory)
        self._write_dockerfile(TEMPLATE, case, directory)
        return directory
