"""Run by MLflow's own Python: `served_model.py KIND DIRECTORY` writes one model in every form that a server takes."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import joblib  # type: ignore[import-untyped]
import mlflow.sklearn  # type: ignore[import-not-found]
import numpy as np
import pandas as pd
from mlflow.models import infer_signature  # type: ignore[import-not-found]
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression

COLUMNS = 11
ROWS = (1, 1000)
NEEDS = ("cloudpickle", "mlflow", "numpy", "pandas", "scikit-learn", "scipy")


KINDS = {"linear": LinearRegression, "forest": lambda: RandomForestRegressor(100, random_state=11)}


def main(kind: str, target: Path) -> None:
    """`model` is MLflow's and fitted on named columns, `model.joblib` the same fitted on an array; `rows.json` has
    requests and answers by their number of rows."""
    random = np.random.default_rng(11)
    names = [f"feature {number}" for number in range(COLUMNS)]
    table = pd.DataFrame(random.normal(size=(500, COLUMNS)), columns=names)
    truth = table.to_numpy() @ random.normal(size=COLUMNS) + random.normal(size=len(table))
    named, plain = KINDS[kind]().fit(table, truth), KINDS[kind]().fit(table.to_numpy(), truth)
    mlflow.sklearn.save_model(
        named,
        target / "model",
        signature=infer_signature(table, named.predict(table)),
        serialization_format="cloudpickle",  # MLflow takes a forest in no other without being told to trust it
        pip_requirements=[f"{name}=={version(name)}" for name in NEEDS],
    )
    joblib.dump(plain, target / "model.joblib")
    asked = {count: random.normal(size=(count, COLUMNS)).round(6) for count in ROWS}
    samples = {count: {"rows": rows.tolist(), "answer": plain.predict(rows).tolist()} for count, rows in asked.items()}
    (target / "rows.json").write_text(json.dumps({"columns": names, "samples": samples}), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
