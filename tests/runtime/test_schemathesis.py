"""schemathesis asks a real server by its own /openapi.json and finds nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.conftest import COLUMNS, Server

#: JSON Schema cannot say that columns are of one length, that a CSV's cells are as many as its header's, or that a V2
#: tensor has as much data as its shape says. So a request that fits the schema may be refused; nothing else may differ.
EXCLUDED = "positive_data_acceptance"
ANY = """
def init():
    return "matrix"

def info():
    return [], []

def predict_on_matrix(matrix, provided_columns_names=None):
    return [[0.5, None] for row in matrix], ["a", "b"]
"""
REQUEST = {"data": [[1.0, 2.0], [3.0, 4.0]]}
TENSOR = {"inputs": [{"kind": "tensor", "name": "x", "dtype": "float32", "shape": [-1, 2]}], "outputs": []}
MODELS: dict[str, dict[str, Any]] = {
    "columns": {"serving": {"arrow": True}},
    "optional columns": {
        "entry": ANY,
        "signature": {"inputs": [{**column, "required": False} for column in COLUMNS], "outputs": []},
        "sample": None,
    },
    "tensor": {"entry": ANY, "signature": TENSOR, "sample": {"request": {"inputs": REQUEST["data"]}}},
    "nothing declared": {"entry": ANY, "signature": None, "sample": {"request": REQUEST}},
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.timeout(300)
def test_schemathesis_finds_nothing(
    tmp_path: Path, make_model: Callable[..., Path], start: Callable[..., Server], name: str
) -> None:
    """Every operation, with what its schema allows and what it does not, alone and one after another."""
    server = start(make_model(**MODELS[name]))
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.url}/openapi.json"]
    options = ["--exclude-checks", EXCLUDED, "--max-examples", "8", "--seed", "1", "--no-color"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr
    assert "Stateful" in done.stdout and " passed" in done.stdout.rsplit("Test cases:", 1)[1]
