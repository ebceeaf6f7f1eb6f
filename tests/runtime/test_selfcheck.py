"""The self-check: what passes, what fails, and the words it fails with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mpack_runtime import selfcheck
from mpack_runtime.config import ModelConfig, Sample
from mpack_runtime.errors import RuntimeFault
from mpack_runtime.loaders import Model
from mpack_runtime.service import Service
from mpack_runtime.signature import Column, Signature


def connect(service: Service) -> selfcheck.Ask:
    """The request path without a server."""

    def ask(body: bytes) -> tuple[int, bytes]:
        try:
            return 200, service.encode(service.predict(service.decode(body)))
        except RuntimeFault as error:
            return error.status, json.dumps({"message": error.message}).encode()

    return ask


class Echo(Model):
    """Answers the rows it gets."""

    def predict(self, inputs: Any) -> Any:
        if inputs.rows > 5:
            raise ValueError("too many rows")
        return inputs.matrix()


def check(tmp_path: Path, sample: dict[str, Any] | None) -> selfcheck.Report:
    loader = {"kind": "sklearn", "path": "", "options": {}}
    model = {"schema": 1, "name": "m", "version": "1", "loader": loader, "sample": sample}
    (tmp_path / "model.json").write_text(json.dumps(model))
    return selfcheck.check(Service(ModelConfig.load(tmp_path / "model.json"), Echo()), connect)


REQUEST = {"data": [[1.0, 2.0], [3.0, None]]}


def test_right_answer_passes_against_expected(tmp_path: Path) -> None:
    """Numbers within the tolerance, nulls equal; the largest difference is told."""
    expected = {"prediction": [[1.0, 2.000001], [3.0, None]], "columns": []}
    report = check(tmp_path, {"request": REQUEST, "expected": expected})
    assert (report.status, report.against, report.rows, report.exit_code) == ("passed", "expected", 2, 0)
    assert report.max_rel_diff == pytest.approx(5e-7, rel=1e-3)


@pytest.mark.parametrize(
    ("expected", "reason"),
    [
        ([[1.0, 2.1], [3.0, None]], "prediction[0][1]: expected 2.1 within 1e-06, got 2.0"),
        ([[1.0, 2.0], [3.0, 4.0]], "prediction[1][1]: expected 4.0, got null"),
        ([[1.0, 2.0]], "prediction: expected 1 values, got 2"),
        ([[1.0, 2.0], 3.0], "prediction[1]: expected 3.0, got [3.0, null]"),
        ([["1.0", 2.0], [3.0, None]], 'prediction[0][0]: expected "1.0", got 1.0'),
        ([[True, 2.0], [3.0, None]], "prediction[0][0]: expected true, got 1.0"),
        ({"prediction": [[1.0, 2.0], [3.0, None]], "columns": ["a", "b"]}, 'columns: expected ["a", "b"], got []'),
    ],
)
def test_wrong_answer_fails_with_its_place(tmp_path: Path, expected: Any, reason: str) -> None:
    """Values, shapes, types and names: the first difference is named, exit code 4."""
    report = check(tmp_path, {"request": REQUEST, "expected": expected})
    assert (report.status, report.against, report.exit_code, report.reason) == ("failed", "expected", 4, reason)


def test_noise_beside_zero_is_not_a_difference() -> None:
    """A difference counts against a thousandth of the largest number, not against 1e-17."""
    sample = Sample(request={}, expected=[100.0, 1e-17])
    assert selfcheck.compare(sample, {"prediction": [100.0, 0.0], "columns": []})[1] is None
    assert selfcheck.compare(sample, {"prediction": [100.0, 1e-5], "columns": []})[1] is not None


def test_without_expected_answer_or_sample_it_only_asks(tmp_path: Path) -> None:
    """Against "load", with or without rows."""
    assert check(tmp_path, {"request": REQUEST}).line() == check(tmp_path, {"request": REQUEST}).line()
    assert (check(tmp_path, {"request": REQUEST}).rows, check(tmp_path, None).rows) == (2, None)
    assert {check(tmp_path, sample).against for sample in (None, {"request": REQUEST})} == {"load"}


def test_without_sample_made_up_values_are_asked(tmp_path: Path) -> None:
    """An answer counts a row; a refusal is told and fails nothing."""

    class Strict(Echo):
        signature = Signature((Column("a", "double"),))
        fails = False

        def predict(self, inputs: Any) -> Any:
            if self.fails:
                raise ValueError("a must not be 0")
            return super().predict(inputs)

    loader = {"kind": "sklearn", "path": "", "options": {}}
    (tmp_path / "model.json").write_text(json.dumps({"schema": 1, "name": "m", "version": "1", "loader": loader}))
    service = Service(ModelConfig.load(tmp_path / "model.json"), Strict())
    assert selfcheck.check(service, connect) == selfcheck.Report("passed", "load", rows=1)
    Strict.fails = True
    report = selfcheck.check(service, connect)
    assert report.status == "passed" and report.rows is None
    assert report.reason is not None and "answers 500" in report.reason and "a must not be 0" in report.reason


def test_output_sample_that_differs_is_told_but_proves_nothing(tmp_path: Path) -> None:
    """A trainer may save true targets beside the inputs: compared where equal, else passed against "load"."""
    files = {"input_file": "in.pkl", "output_file": "out.pkl"}
    sample = {"request": {"data": [[1.0], [2.0]]}, **files}
    same = check(tmp_path, {**sample, "expected": {"prediction": [[1.0], [2.0]]}})
    assert (same.status, same.against, same.reason) == ("passed", "expected", None)
    other = check(tmp_path, {**sample, "expected": {"prediction": [[1.0], [9.0]]}})
    assert (other.status, other.against) == ("passed", "load")
    assert other.reason is not None and other.reason.startswith("out.pkl is not the model's answer: prediction[1][0]")


def test_pickled_table_of_one_column_equals_a_list_of_values() -> None:
    """A sample saved as a one-column table is the 1-D answer; an answer given as JSON must have its shape."""
    answer = {"prediction": [1.0, 2.0], "columns": []}
    expected = {"prediction": [[1.0], [2.0]]}
    assert selfcheck.compare(Sample(expected=expected, output_file="head_output.pkl"), answer) == (0.0, None)
    assert selfcheck.compare(Sample(expected=expected), answer)[1] == "prediction[0]: expected [1.0], got 1.0"


def test_model_that_does_not_answer_fails_with_its_message(tmp_path: Path) -> None:
    """An error of the request path is the reason."""
    with pytest.raises(RuntimeFault, match=r"\(status 500\): Exception during prediction: too many rows"):
        check(tmp_path, {"request": {"data": [[1]] * 6}})
    with pytest.raises(RuntimeFault, match=r"\(status 400\): Matrix is not provided"):
        check(tmp_path, {"request": {"data": []}})


def test_run_reports_what_cannot_be_loaded(tmp_path: Path) -> None:
    """A load failure is a report on one line, not an exception; modules are absolute sources, sorted."""
    loader = {"kind": "sklearn", "path": "none.pkl", "options": {}}
    (tmp_path / "model.json").write_text(json.dumps({"schema": 1, "name": "m", "version": "1", "loader": loader}))
    report = selfcheck.run(ModelConfig.load(tmp_path / "model.json"), connect, modules=True)
    data = json.loads(report.line())
    assert list(data) == ["status", "against", "max_rel_diff", "rows", "reason", "python", "modules"]
    assert data["status"] == "failed" and "none.pkl" in data["reason"] and "\n" not in report.line()
    assert data["modules"] == sorted(data["modules"]) and any(
        path.endswith("json/__init__.py") for path in data["modules"]
    )
    assert all(Path(path).is_absolute() and path.endswith(".py") for path in data["modules"])
