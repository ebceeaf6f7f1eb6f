"""The self-check on the real tritonserver: what passes, what fails, and with which reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .test_server import CONFIG, COUNT, PLAIN, SIGNATURE, leftovers

pytestmark = pytest.mark.integration

DECLARED = {
    "m": {
        "inputs": [
            {"name": "alcohol", "datatype": "FP64", "shape": [-1, 1]},
            {"name": "grape", "datatype": "BYTES", "shape": [-1, 1]},
        ],
        "outputs": [{"name": "rows", "datatype": "INT64", "shape": [-1, 1]}],
    }
}
SAMPLE = {"request": {"columns": ["alcohol", "grape"], "data": [[1.0, None], [2.0, "né"]]}, "expected": None}
EXPECTED = {"prediction": [2, 2], "columns": ["rows"]}


def checked(triton: Any, made: Path, *words: str) -> tuple[int, dict[str, Any]]:
    done = triton.run(made, "self-check", *words)
    assert done.stdout.count("\n") == 1, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_it_passes(triton: Any, image: Any) -> None:
    """Against the expected answer, without one against the model itself; --modules has those of the stub."""
    before = leftovers()
    made = image(
        entry=COUNT, config=PLAIN, signature=SIGNATURE, declared=DECLARED, sample={**SAMPLE, "expected": EXPECTED}
    )
    code, report = checked(triton, made, "--modules")
    assert (code, report["status"], report["against"], report["rows"]) == (0, "passed", "expected", 2), report
    assert {path.rsplit("/", 1)[1] for path in report["modules"]} >= {"entry.py", "triton_python_backend_utils.py"}
    code, report = checked(triton, image(entry=COUNT, config=PLAIN, signature=SIGNATURE, sample=SAMPLE))
    assert (code, report["against"], report["reason"]) == (0, "load", None)
    assert not leftovers() - before


def test_outputs_that_nobody_declared_are_the_answers(triton: Any, image: Any) -> None:
    """Auto-completion asks the model its sample; the self-check sees the same."""
    config = CONFIG.split("output")[0].replace(CONFIG.split("\n")[2], "")
    signature = {**SIGNATURE, "outputs": []}
    made = image(entry=COUNT, config=config, signature=signature, sample=SAMPLE, declared=DECLARED)
    done = triton.run(made, "self-check")
    assert json.loads(done.stdout)["reason"] is None and done.returncode == 0


WRONG_NAME = json.loads(json.dumps(DECLARED).replace('"rows"', '"quality"'))
WRONG_TYPE = json.loads(json.dumps(DECLARED).replace("FP64", "FP32"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"declared": WRONG_NAME}, "m: the server's HTTP metadata name the outputs rows; declared are quality."),
        ({"declared": WRONG_TYPE}, "show the input alcohol as FP64 [-1, 1]; declared is FP32 [-1, 1]."),
        (
            {"sample": {**SAMPLE, "expected": {"prediction": [2, 3]}}},
            "prediction['rows'][1][0]: expected 3 within 1e-06, got 2",
        ),
        ({"entry": "def init(): raise OSError('gone')\n"}, "OSError: gone"),
        ({"sample": {"request": {"data": [[1, "boom"]]}}}, "the grapes are off"),
        ({"config": PLAIN.replace("INT64", "BOOL"), "declared": {}}, "2 cannot be BOOL without loss"),
        ({"config": PLAIN.replace("rows", "other")}, "m: the server's HTTP metadata name the outputs other"),
    ],
)
def test_the_self_check_fails_with_the_reason(triton: Any, image: Any, changes: Any, reason: str) -> None:
    """Exit code 4, one line of JSON."""
    base = {"entry": COUNT, "config": PLAIN, "signature": SIGNATURE, "declared": DECLARED, "sample": SAMPLE}
    code, report = checked(triton, image(**{**base, **changes}))
    assert (code, report["status"]) == (4, "failed") and reason in report["reason"], report


NATIVE = """
import numpy as np
import triton_python_backend_utils as utils

class TritonPythonModel:
    def execute(self, requests):
        arrays = [np.from_dlpack(request.inputs()[0]) for request in requests]
        return [utils.InferenceResponse([utils.Tensor.from_dlpack("y", 2 * array)]) for array in arrays]
"""


TWICE = """
max_batch_size: 4
input [{name: "x" data_type: TYPE_FP32 dims: [2]}]
output [{name: "y" data_type: TYPE_FP32 dims: [2]}]
"""


def two_numbers(*values: float) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": list(values)}


ASKED = {"inputs": [two_numbers(1, 2)]}
OFF = "prediction['y'][0][1]: expected 5.0 within 1e-06, got 4.0"


@pytest.mark.parametrize(
    ("sample", "code", "reason"),
    [
        ((ASKED, {"outputs": [{**two_numbers(2, 4), "name": "y"}]}), 0, None),
        ((ASKED, {"outputs": [{**two_numbers(2, 5), "name": "y"}]}), 4, OFF),
        ((ASKED, {"outputs": [{"name": "y"}]}), 4, "The expected answer is not of the form"),
        (({"data": [[1, 2]]}, {"prediction": [[2, 4]]}), 0, None),
        (({"inputs": {"x": [[1, 2]]}}, [[2, 5]]), 4, OFF),
        (({"data": [[1, 2, 3]]}, None), 4, "The sample is not a request that the model takes: "),
        (({"inputs": [two_numbers(1)]}, None), 4, "The sample is not a V2 request: "),
        (({"inputs": [{"name": "x", "shape": [1, 2], "data": [1, 2]}]}, None), 4, "The sample is not a V2 request: "),
        (({**ASKED, "outputs": ["y"]}, None), 4, "its outputs must be a list"),
        (({"model_name": "other", "data": [[1, 2]]}, None), 4, "other"),
    ],
)
def test_the_self_check_of_a_model_that_triton_loads(
    triton: Any, image: Any, sample: tuple[Any, Any], code: int, reason: str | None
) -> None:
    """Sample and expected answer are V2's own, or mpack's, which the server's metadata explain."""
    request, expected = sample
    made = image(config=TWICE, model_py=NATIVE, sample={"request": request, "expected": expected})
    found, report = checked(triton, made)
    assert (found, reason is None) == (code, report["reason"] is None), report
    assert reason is None or reason in report["reason"]


def test_what_triton_loads_is_asked_made_up_values(triton: Any, image: Any) -> None:
    """Without a sample: an answer must be what the configuration promises, a refusal proves nothing."""
    code, report = checked(triton, image(config=TWICE, model_py=NATIVE))
    assert (code, report["against"], report["rows"], report["reason"]) == (0, "load", 1, None)
    code, report = checked(triton, image(config=TWICE.replace('"y"', '"z"'), model_py=NATIVE))
    assert code == 4 and "z" in report["reason"], report
    code, report = checked(triton, image(config=TWICE, model_py=NATIVE.replace("2 * array", "array / None")))
    assert code == 0 and "made-up values are refused" in report["reason"], report
