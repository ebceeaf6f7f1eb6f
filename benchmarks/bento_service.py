"""The peer BentoML's service, as its guide writes one; it becomes service.py in the image."""

from __future__ import annotations

import bentoml  # type: ignore[import-not-found]
import joblib  # type: ignore[import-untyped]
import numpy as np


@bentoml.service(workers=1)
class Linear:
    def __init__(self) -> None:
        self.model = joblib.load("model.joblib")

    @bentoml.api
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.model.predict(rows)
