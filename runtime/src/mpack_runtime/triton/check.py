"""`self-check` of a Triton image: the real server is started, asked the sample over HTTP and gRPC, and ended.

Checked are: every model loads; the server's metadata are what model.json declares; both protocols give one answer, of
the types and shapes that the metadata promise; and it is the expected one, or, where none is known and mpack loads the
model, the one that the model gives when it is asked directly. The server listens on unix sockets: a sandbox has no
network, perhaps not even a loopback.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TextIO

import numpy as np

from mpack_runtime import selfcheck
from mpack_runtime.config import ModelConfig, Sample
from mpack_runtime.errors import BadRequest, LoadFailure, ModelFailure, RuntimeFault
from mpack_runtime.frame import Array, Inputs
from mpack_runtime.selfcheck import Report
from mpack_runtime.service import Service
from mpack_runtime.triton.address import listens
from mpack_runtime.triton.client import GrpcClient, HttpClient, Metadata
from mpack_runtime.triton.grpc import GrpcFailure
from mpack_runtime.triton.launch import ready_timeout
from mpack_runtime.triton.model import MODULES_FILE
from mpack_runtime.triton.process import TritonServer
from mpack_runtime.triton.question import Question, ask, expected
from mpack_runtime.triton.serving import Serving
from mpack_runtime.v2 import outputs
from mpack_runtime.v2.raw import V2Tensor
from mpack_runtime.v2.spec import Spec

_POLL = 0.02
#: What the server says of a model whose process has ended.
_DEAD = "is not healthy"


def check(config: ModelConfig, out: TextIO, *, modules: bool = False) -> int:
    """Prints the report as one JSON line; exit code 0 passed, 4 failed."""
    sources: set[str] = set()
    try:
        report = _run(config, sources if modules else None)
    except RuntimeFault as error:
        report = Report("failed", "load", reason=error.message)
    except Exception as error:
        traceback.print_exc()
        report = Report("failed", "load", reason=f"{type(error).__name__}: {error}")
    if modules:
        report = replace(report, modules=tuple(sorted(sources.union(selfcheck.imported_sources()))))
    print(report.line(), file=out)
    return report.exit_code


def _run(config: ModelConfig, sources: set[str] | None) -> Report:
    serving = Serving.of(config)
    service = None if serving.native else Service.load(config)  # first: its reason is the truest
    with TritonServer(serving.repository, (), sockets=True) as server:
        files = server.scratch / "modules"
        server.start({MODULES_FILE: str(files)} if sources is not None else {})
        _wait(server)
        try:
            return _ask(config, serving, service, server)
        finally:
            for path in server.scratch.glob("modules.*"):
                if sources is not None:
                    sources.update(path.read_text().split("\n"))


def _wait(server: TritonServer) -> None:
    """Returns when the server has loaded its models. Raises LoadFailure."""
    timeout = ready_timeout(os.environ)
    until = time.monotonic() + timeout
    while not server.ready():
        if server.poll() is not None:
            server.end()
            raise LoadFailure(server.failure().replace("\n", " "))
        if time.monotonic() > until:
            raise LoadFailure(f"The models are not loaded after {timeout} seconds.")
        time.sleep(_POLL)


def _ask(config: ModelConfig, serving: Serving, service: Service | None, server: TritonServer) -> Report:
    web, rpc = listens(server.flags, "http"), listens(server.flags, "grpc")
    assert web is not None and rpc is not None
    timeout = float(ready_timeout(os.environ))
    http, grpc = HttpClient(web, timeout), GrpcClient(rpc, timeout)
    try:
        _check_models(serving, http, grpc)
        try:
            question = ask(config, serving, service, grpc.metadata)
        except BadRequest as error:
            return Report("passed", "load", reason=f"The sample cannot be sent over V2: {error.message}")
        if question is None:
            return Report("passed", "load")
        metadata = grpc.metadata(question.model)
        try:
            answer = grpc.infer(question.model, question.tensors, outputs=question.outputs)
        except GrpcFailure as error:
            if question.proof or _DEAD in error.detail:
                raise
            text = f"There is no sample; made-up values are refused: {error.message}"
            return Report("passed", "load", reason=text)
        _check_answer(question, metadata, answer)
        raw = not all(tensor.is_json for tensor in answer)
        other = http.infer(question.model, question.tensors, outputs=question.outputs, raw=raw)
        _, reason = _compare(answer, other, 1e-6)
        if reason is not None:
            reason = f"HTTP and gRPC give different answers (gRPC is called expected): {reason}"
            return _differs(service, question, metadata, grpc, reason)
        report = _judge(service, service.sample if service else config.sample, question, metadata, answer)
        if report.status == "failed" and report.against == "load" and report.reason is not None:
            return _differs(service, question, metadata, grpc, report.reason)
        return report
    finally:
        grpc.close()


def _check_models(serving: Serving, http: HttpClient, grpc: GrpcClient) -> None:
    """Every model is ready, and is what model.json declares, over both protocols. Raises ModelFailure."""
    for client in (http, grpc):
        for name in serving.models:
            if not client.ready(name):
                raise ModelFailure(f"The server is up, but the model {name} is not ready ({client.name}).")
        for name, sides in serving.declared.items():
            shown = client.metadata(name)
            if name == serving.model and serving.version not in shown.versions:
                raise ModelFailure(f"{name}: the server has the versions {shown.versions}, not {serving.version}.")
            for side, declared, there in zip(("input", "output"), sides, (shown.inputs, shown.outputs)):
                _check_side(f"{name}: the server's {client.name} metadata", side, declared, there)


def _check_side(where: str, side: str, declared: Sequence[Spec], shown: Sequence[Spec]) -> None:
    if not declared:
        return
    left, right = ({spec.name: (spec.datatype, spec.shape) for spec in specs} for specs in (declared, shown))
    if left.keys() != right.keys():
        raise ModelFailure(f"{where} name the {side}s {_listed(right)}; declared are {_listed(left)}.")
    for name, (datatype, shape) in left.items():
        if right[name] != (datatype, shape):
            there = f"{right[name][0]} {list(right[name][1])}"
            raise ModelFailure(f"{where} show the {side} {name} as {there}; declared is {datatype} {list(shape)}.")


def _listed(names: Any) -> str:
    return ", ".join(names) or "(none)"


def _check_answer(question: Question, metadata: Metadata, answer: Sequence[V2Tensor]) -> None:
    """The answer is as the metadata promise. Raises ModelFailure."""
    promised = {spec.name: spec for spec in metadata.outputs}
    wanted = set(question.outputs or promised)
    if {tensor.name for tensor in answer} != wanted:
        raise ModelFailure(f"The answer has the outputs {_listed(t.name for t in answer)}, not {_listed(wanted)}.")
    for tensor in answer:
        spec = promised[tensor.name]
        fits = len(spec.shape) == len(tensor.shape) and all(d in (-1, t) for d, t in zip(spec.shape, tensor.shape))
        if tensor.datatype != spec.datatype or not fits:
            raise ModelFailure(
                f"The output {tensor.name} is {tensor.datatype} {list(tensor.shape)}, where the metadata promise"
                f" {spec.datatype} {list(spec.shape)}."
            )


def _differs(service: Service | None, question: Question, metadata: Metadata, grpc: GrpcClient, reason: str) -> Report:
    """Two answers to one question that are not the same: the server's fault, unless the model itself (where only
    Triton loads it, the server again) answers it now so and now so."""

    def answer() -> list[V2Tensor]:
        if service is None or question.asked is None:
            return grpc.infer(question.model, question.tensors, outputs=question.outputs)
        return _own(service, question.asked, metadata)

    if _compare(answer(), answer(), 1e-6)[1] is None:
        return Report("failed", "load", rows=question.rows, reason=reason)
    text = f"The model answers one question in several ways: {reason}"
    return Report("passed", "load", rows=question.rows, reason=text)


def _own(service: Service, asked: Inputs, metadata: Metadata) -> list[V2Tensor]:
    """What the model answers when it is asked directly."""
    own = outputs.encode(service.predict(asked), metadata.outputs)
    return [V2Tensor.of(*item) for item in own.items()]


def _judge(
    service: Service | None, sample: Sample | None, question: Question, metadata: Metadata, answer: list[V2Tensor]
) -> Report:
    """Compares the answer with what is expected, or with the model's own."""
    rows = question.rows
    if sample is not None and sample.expected is not None:
        difference, reason = _compare(expected(service, sample, metadata), answer, sample.tolerance)
        if reason is None:
            return Report("passed", "expected", difference, rows)
        if sample.output_file is not None:
            # A trainer may write the true targets there, so a difference proves nothing.
            reason = f"{sample.output_file} is not the model's answer: {reason}"
            return Report("passed", "load", difference, rows, reason)
        return Report("failed", "expected", difference, rows, reason)
    if service is None or question.asked is None:
        return Report("passed", "load", rows=rows)
    tolerance = sample.tolerance if sample else Sample.tolerance
    difference, reason = _compare(_own(service, question.asked, metadata), answer, tolerance)
    if reason is not None:
        reason = f"The server's answer is not the one that the model gives when it is asked directly: {reason}"
        return Report("failed", "load", difference, rows, reason)
    return Report("passed", "load", rows=rows)


def _compare(
    expected: Sequence[V2Tensor], got: Sequence[V2Tensor], tolerance: float
) -> tuple[float | None, str | None]:
    """The largest relative difference, and why the answers differ (None: they do not)."""
    left, right = ({tensor.name: tensor for tensor in tensors} for tensors in (expected, got))
    if left.keys() != right.keys():
        return None, f"expected the outputs {_listed(left)}, got {_listed(right)}"
    for name, tensor in left.items():
        other = right[name]
        if (tensor.datatype, tensor.shape) != (other.datatype, other.shape):
            kinds = [f"{item.datatype} {list(item.shape)}" for item in (tensor, other)]
            return None, f"{name}: expected {kinds[0]}, got {kinds[1]}"
    values = [{name: _comparable(tensor) for name, tensor in side.items()} for side in (left, right)]
    sample = Sample(expected={"prediction": values[0]}, tolerance=tolerance)
    return selfcheck.compare(sample, {"prediction": values[1], "columns": []})


def _comparable(tensor: V2Tensor) -> Any:
    """Nested lists, with null for NaN, and words for the infinities."""
    array: Array = tensor.array
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return tensor.values()
    objects = array.astype(object)
    objects[np.isnan(array)] = None
    objects[array == np.inf] = "Infinity"
    objects[array == -np.inf] = "-Infinity"
    return objects.tolist()
