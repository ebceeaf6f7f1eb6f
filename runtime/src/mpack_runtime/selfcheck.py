"""The image's check of itself: load the model, ask it its sample through the request path it serves, compare.

Numbers may differ by `tolerance`, relative to the larger of the two or to a thousandth of the answer's largest number,
whichever is more (so that noise beside 0 counts for what it is). Strings, booleans, nulls, shapes and names must be
equal.
"""

from __future__ import annotations

import json
import platform
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from mpack_runtime.config import ModelConfig, Sample
from mpack_runtime.errors import ModelFailure, RuntimeFault
from mpack_runtime.service import Service

#: Sends the body of a JSON request to the model's own road and returns HTTP status and answer.
Ask = Callable[[bytes], tuple[int, bytes]]


@dataclass(frozen=True)
class Report:
    """The self-check's result. `against` "expected": the answer was compared; "load": it was only asked for."""

    status: str
    against: str
    max_rel_diff: float | None = None
    rows: int | None = None
    reason: str | None = None
    modules: tuple[str, ...] | None = None

    @property
    def exit_code(self) -> int:
        """0 passed, 4 failed."""
        return 0 if self.status == "passed" else 4

    def line(self) -> str:
        """One line of JSON, as ARCHITECTURE.md shows it."""
        data: dict[str, Any] = {
            "status": self.status,
            "against": self.against,
            "max_rel_diff": self.max_rel_diff,
            "rows": self.rows,
            "reason": self.reason,
            "python": platform.python_version(),
        }
        if self.modules is not None:
            data["modules"] = list(self.modules)
        return json.dumps(data, allow_nan=False)


def run(config: ModelConfig, connect: Callable[[Service], Ask], *, modules: bool = False) -> Report:
    """Loads the model, asks through `connect(service)`, compares. A model that fails makes a report, no exception."""
    try:
        report = check(Service.load(config), connect)
    except RuntimeFault as error:
        report = Report("failed", "load", reason=error.message)
    except Exception as error:
        traceback.print_exc()
        report = Report("failed", "load", reason=f"{type(error).__name__}: {error}")
    return replace(report, modules=imported_sources()) if modules else report


def check(service: Service, connect: Callable[[Service], Ask]) -> Report:
    """Asks a loaded model its sample and compares. Raises RuntimeFault where it does not answer."""
    sample, ask = service.sample, connect(service)
    answer = ask_sample(service, ask)
    if sample is None or answer is None:
        return _ask_example(service, ask)
    rows = service.decode(orjson.dumps(sample.request)).rows
    if sample.expected is None:
        return Report("passed", "load", rows=rows)
    difference, reason = compare(sample, answer)
    if reason is None:
        return Report("passed", "expected", difference, rows)
    if sample.output_file is not None:
        # A trainer may write the true targets there, so a difference proves nothing.
        return Report("passed", "load", difference, rows, f"{sample.output_file} is not the model's answer: {reason}")
    return Report("failed", "expected", difference, rows, reason)


def _ask_example(service: Service, ask: Ask) -> Report:
    """Asks made-up values where there is no sample: an answer is a good sign, and imports what predicting needs; a
    refusal proves nothing and is only told."""
    request = service.example()
    if request is None:
        return Report("passed", "load")
    status, body = ask(orjson.dumps(request))
    if status == 200:
        return Report("passed", "load", rows=1)
    text = body.decode(errors="replace")
    return Report("passed", "load", reason=f"There is no sample; to made-up values it answers {status}: {text}")


def ask_sample(service: Service, ask: Ask) -> Any:
    """The model's answer (JSON) to its sample; None if it has none. Raises ModelFailure unless it answers 200."""
    if service.sample is None or service.sample.request is None:
        return None
    status, body = ask(orjson.dumps(service.sample.request))
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ModelFailure(f"The answer to the sample (status {status}) is not JSON: {error}.") from error
    if status != 200:
        message = answer.get("message") if isinstance(answer, dict) else None
        raise ModelFailure(f"The model does not answer its sample (status {status}): {message or answer}")
    return answer


def compare(sample: Sample, answer: Any) -> tuple[float | None, str | None]:
    """The largest relative difference (None: no numbers) and why answer and sample differ (None: they do not)."""
    expected = sample.expected
    if not (isinstance(expected, dict) and "prediction" in expected):
        expected = {"prediction": expected}
    scale = max((abs(number) for number in _numbers(expected["prediction"])), default=0.0) * 1e-3
    comparison = _Comparison(scale, sample.tolerance, squeeze=sample.output_file is not None)
    comparison.values(expected["prediction"], answer["prediction"], "prediction")
    if expected.get("columns") is not None and list(expected["columns"]) != answer["columns"]:
        comparison.fail("columns", expected["columns"], answer["columns"])
    return comparison.largest, comparison.reason


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value if isinstance(value, list) else value.values():
            yield from _numbers(item)


class _Comparison:
    """Walks two JSON values side by side; keeps the largest difference and the first reason."""

    def __init__(self, floor: float, tolerance: float, squeeze: bool) -> None:
        self.largest: float | None = None
        self.reason: str | None = None
        self._floor, self._tolerance, self._squeeze = floor, tolerance, squeeze

    def fail(self, where: str, expected: Any, got: Any, what: str = "") -> None:
        """Keeps the first reason."""
        if self.reason is None:
            self.reason = f"{where}: expected {what or _short(expected)}, got {_short(got)}"

    def values(self, expected: Any, got: Any, where: str) -> None:
        """Compares two values of whatever kind."""
        if self._squeeze and isinstance(expected, list) and len(expected) == 1 and not isinstance(got, list):
            expected = expected[0]  # a table of one column beside a list of values
        if isinstance(expected, list) and isinstance(got, list):
            if len(expected) != len(got):
                return self.fail(where, None, f"{len(got)}", f"{len(expected)} values")
            for index, (left, right) in enumerate(zip(expected, got)):
                self.values(left, right, f"{where}[{index}]")
        elif isinstance(expected, dict) and isinstance(got, dict):
            if expected.keys() != got.keys():
                return self.fail(where, sorted(expected), sorted(got))
            for key, left in expected.items():
                self.values(left, got[key], f"{where}[{key!r}]")
        elif _number(expected) and _number(got):
            self._close(expected, got, where)
        elif type(expected) is not type(got) or expected != got:
            self.fail(where, expected, got)

    def _close(self, expected: float, got: float, where: str) -> None:
        difference = abs(expected - got)
        relative = difference / max(abs(expected), abs(got), self._floor) if difference else 0.0
        self.largest = max(self.largest or 0.0, relative)
        if relative > self._tolerance:
            self.fail(where, expected, got, f"{expected!r} within {self._tolerance:g}")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) and value.isdigit() else json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."


def imported_sources() -> tuple[str, ...]:
    """Absolute paths of the sources of all modules imported by now (the standard library's too), sorted."""
    paths = set()
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and path.endswith(".py") and Path(path).is_file():
            paths.add(str(Path(path).absolute()))
    return tuple(sorted(paths))
