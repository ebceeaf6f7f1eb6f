"""What surrounds a conversion: which models it is for, what may come out of the sandbox, what is kept and locked."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mpack.cli.options import build_request
from mpack.describe import described as reading
from mpack.env.lockfile import LockFile, LockInputs
from mpack.errors import InputError, UsageError, VerificationError
from mpack.optimize import described, flow
from mpack.optimize.flow import Optimization, Workplace, optimize
from mpack.optimize.kept import Conversions
from mpack.optimize.outcome import Conversion, Outcome, parse
from mpack.optimize.wish import CONVERTERS, PACKAGER, conversion_spec, optimized_artifact, unfit
from mpack.pipeline import BuildRequest, Workshop
from mpack.progress import Progress
from mpack.resolve import lock_inputs
from mpack.sandbox import Completed
from mpack.spec import BaseWish

MODELS = Path(__file__).parents[2] / "fixtures" / "models"
FOREST = str(MODELS / "sklearn-joblib" / "forest.joblib")
GRAPH = b"\x08\x09graph"
TOLD: dict[str, Any] = {
    "status": "converted",
    "options": {"converted": {"inputs": ["matrix"]}},
    "rows": 7,
    "max_rel_diff": 0.0,
    "lost": None,
    "size": len(GRAPH),
}


def printed(value: Any, graph: bytes = GRAPH) -> bytes:
    return json.dumps(value).encode() + b"\n" + graph


def quiet() -> Progress:
    return Progress(1, io.StringIO())


def test_a_conversion_is_read() -> None:
    """Options, figures and the graph as they were printed; a reason as a clause of one line."""
    found = parse(printed(TOLD))
    assert isinstance(found, Conversion) and found.graph == GRAPH and found.rows == 7
    assert parse(printed({"status": "kept", "reason": "no\x1b[31m such\nop."}, b"")) == "no [31m such op"
    assert len(str(parse(printed({"status": "kept", "reason": "x" * 10**6}, b"")))) == 1000


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"\xff\n",
        b"[" * 100_000,
        printed([]),
        printed({"status": "kept"}),
        printed({"status": "kept", "reason": {}}),
        printed({**TOLD, "status": "fine"}),
        printed(TOLD, GRAPH + b"more"),
        printed({**TOLD, "size": 0}, b""),
        printed({**TOLD, "rows": 0}),
        printed({**TOLD, "max_rel_diff": float("nan")}),
        printed({**TOLD, "options": {"converted": {}, "trusted": []}}),
        printed({**TOLD, "lost": 1}),
    ],
)
def test_what_a_model_prints_itself_is_no_conversion(output: bytes) -> None:
    """A model's own code runs beside the conversion: anything else than mpack writes is a ValueError, and no more."""
    with pytest.raises(ValueError):
        parse(output)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("sklearn-joblib/forest.joblib", None),
        ("mlflow-churn/model", None),
        ("xgboost-json/quality.json", None),
        ("lightgbm-text/petals.txt", None),
        ("mlflow-pyfunc/model", "loader pyfunc"),
        ("odahu-wine/wine-1.0.zip", "loader odahu"),
        ("onnx-iris/iris.onnx", "loader onnx"),
    ],
)
def test_which_models_are_converted(path: str, reason: str | None) -> None:
    """scikit-learn's, xgboost's and lightgbm's, whatever they came in; others are named."""
    with reading(BuildRequest(str(MODELS / path)), quiet()) as found:
        told = unfit(found.artifact)
        assert told is None if reason is None else reason in str(told)


def test_the_image_has_the_graph_and_nothing_of_the_model(tmp_path: Path) -> None:
    """Name, version, digest and sample stay; requirements are numpy and onnxruntime; the pickle is gone."""
    conversion = parse(printed(TOLD))
    assert isinstance(conversion, Conversion)
    with reading(BuildRequest(FOREST), quiet()) as found:
        made = optimized_artifact(found.artifact, conversion, {"numpy": "2.0", "onnxruntime": "1.20"}, tmp_path)
        spec = found.packager.spec(made, found.arguments)
        assert (made.name, made.version, made.digest) == (found.artifact.name, "0", found.artifact.digest)
    model = next(tree for tree in spec.trees if tree.kind == "model")
    assert [file.path for file in model.files] == ["model.onnx"]
    assert spec.contents.open(model.files[0].sha256).read() == GRAPH
    assert dict(spec.config.labels)["dev.mpack.optimized"] == "onnx"
    lines = [item.line for item in spec.requirements]
    assert {"numpy==2.0", "onnxruntime==1.20"} < set(lines)
    assert not any("scikit" in line or "skl2onnx" in line for line in lines)


def test_each_environment_has_a_lock_entry_of_its_own() -> None:
    """The model's image, the optimized one and the converters' stand beside each other in one lock file."""
    request = BuildRequest(FOREST)
    with reading(request, quiet()) as found:
        spec = conversion_spec(found.artifact, None)
        keys = {
            lock_inputs(found.spec, request.options).key,
            lock_inputs(found.spec, replace(request.options, optimize="onnx")).key,
            flow.conversion_key(found.artifact, request.options, None),
        }
    assert len(keys) == 3 and any(key.startswith(PACKAGER) for key in keys)
    assert {item.line for item in spec.requirements} > set(CONVERTERS)
    inputs = LockInputs("docker-rest", "linux/amd64", "3.11", BaseWish(), True, (), "onnx")
    assert inputs.key.endswith(" optimize=onnx")


def test_conversions_are_kept(tmp_path: Path) -> None:
    """What was kept comes back; a damaged file is a missing one; each is an entry that pruning may take."""
    kept = Conversions(tmp_path / "converted")
    assert kept.get("a") is None and kept.entries() == []
    kept.put("a", b"1\n2")
    kept.put("b", b"")
    assert (kept.get("a"), kept.get("b")) == (b"1\n2", b"")
    assert len(kept.entries()) == 2
    for path in kept.directory.iterdir():
        path.write_bytes(path.read_bytes() + b"x")
    assert kept.get("a") is None
    for entry in kept.entries():
        entry.remove()
    assert kept.entries() == []


class Place:
    """A sandbox whose box ends as it is told to."""

    name = "told"

    def __init__(self, done: Completed) -> None:
        self.done = done

    def run(self, args: Any, **more: Any) -> Completed:
        return self.done


@pytest.mark.parametrize(
    ("done", "reason"),
    [
        (Completed(124, b"", ""), "not converted within"),
        (Completed(125, b"", ""), "too large"),
        (Completed(137, b"", ""), "GB of memory"),
        (Completed(3, b"", "Traceback\nImportError: x"), "ended with 3: ImportError: x"),
        (Completed(1, b"", ""), "it printed nothing"),
    ],
)
def test_a_sandbox_that_ends_otherwise(done: Completed, reason: str) -> None:
    """Time, output, memory and a crash are reasons to keep the model, in words."""
    output, fault = flow._ask(Place(done), 1e-6)
    assert output == b"" and reason in str(fault)


def place_of(tmp_path: Path) -> Workplace:
    nothing: Any = None
    return Workplace(nothing, None, nothing, nothing, Conversions(tmp_path / "converted"), tmp_path)


def test_without_a_sandbox_the_model_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither docker nor runc, or no environment with the converters: the reason says so."""
    plan: Any = SimpleNamespace(digest="sha256:1", environment=SimpleNamespace(packages=()))
    entry: Any = SimpleNamespace(product=None)
    found: Any = SimpleNamespace(plan=plan, entry=entry, fresh=True)
    monkeypatch.setattr(flow, "resolve", lambda *args, **more: found)
    monkeypatch.setenv("PATH", str(tmp_path))
    with reading(BuildRequest(FOREST), quiet()) as model:
        options = BuildRequest(FOREST).options
        made = optimize(model.artifact, place_of(tmp_path), options, LockFile({}), quiet())
        assert made.outcome == Outcome("kept", flow.NO_SANDBOX) and made.artifact is model.artifact

        def clash(*args: Any, **more: Any) -> Any:
            raise InputError("requirements-clash", "numpy 1 and numpy 2.")

        monkeypatch.setattr(flow, "resolve", clash)
        made = optimize(model.artifact, place_of(tmp_path), options, LockFile({}), quiet())
        assert "numpy 1 and numpy 2" in str(made.outcome.reason) and made.conversion is None


@pytest.mark.parametrize("strict", [False, True])
def test_strict(strict: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is kept is a warning and its own image, or, strictly, an error with exit code 4."""
    outcome = Outcome("kept", "the operator X is unknown")
    monkeypatch.setattr(described, "optimize", lambda artifact, *args, **more: Optimization(artifact, outcome))
    request = BuildRequest(FOREST, optimize="onnx", optimize_strict=strict, lock=tmp_path / "lock")
    workshop: Any = Workshop(None, None, None)  # type: ignore[arg-type]
    progress = quiet()
    with reading(request, quiet()) as found:
        if strict:
            with pytest.raises(VerificationError, match="operator X") as caught:
                described.optimized(request, found, workshop, progress)
            assert (caught.value.code, caught.value.exit_code) == ("not-optimized", 4)
            return
        again, same, told = described.optimized(request, found, workshop, progress)
    assert (again, same, told) == (request, found, outcome)
    assert "operator X is unknown" in progress.warnings[0]


def test_packagers_that_make_no_such_image(tmp_path: Path) -> None:
    """docker-triton, and a packager that does not say that it can, are refused before anything is resolved."""
    request = BuildRequest(FOREST, packager="docker-triton", optimize="onnx")
    workshop: Any = Workshop(None, None, None)  # type: ignore[arg-type]
    with reading(request, quiet()) as found, pytest.raises(UsageError, match="docker-triton makes no images") as caught:
        described.optimized(request, found, workshop, quiet())
    assert caught.value.code == "packager-unfit"


def test_strict_alone_is_a_usage_error() -> None:
    """--optimize-strict says how --optimize is meant."""
    with pytest.raises(UsageError, match="--optimize-strict"):
        build_request(artifact=FOREST, platforms=(), optimize_strict=True)
