"""Traces of the real server. No OTLP collector is to be had here: a small receiver parses the real protobuf instead."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mpack_runtime import tracing
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

GOOD = {"data": [[1.0, "a", 1000]]}
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
Start = Callable[..., Any]


class Collector:
    """Takes OTLP over HTTP; `hold` keeps it from answering."""

    def __init__(self) -> None:
        collector = self
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self.hold = threading.Event()
        self.hold.set()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.hold.wait(30)
                assert self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf"
                packed = self.headers.get("Content-Encoding") == "gzip"
                sent = ExportTraceServiceRequest.FromString(gzip.decompress(body) if packed else body)
                for one in sent.resource_spans:
                    collector.resources.append(attributes(one.resource))
                    collector.spans += [span for scope in one.scope_spans for span in scope.spans]
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


def attributes(of: Any) -> dict[str, Any]:
    """OTLP's attributes as a dictionary."""
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in of.attributes}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that the environment names; what waits is sent by nothing but a stop."""
    made = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield made
    made.hold.set()
    made.server.shutdown()
    made.server.server_close()


def test_one_span_a_request_with_three_in_it(collector: Collector, model_json: Path, start: Start) -> None:
    """The caller's trace goes on, the log has its id, a stop sends all; query and probes are not told."""
    server = start(model_json, workers=2)
    post = server.client.post
    assert post("/api/model/invoke?secret=1", json=GOOD, headers=SAMPLED).status_code == 200
    column = {"datatype": "FP64", "shape": [1], "data": [1.0]}
    year = {"name": "year", "datatype": "INT64", "shape": [1], "data": [1000]}
    assert post("/v2/models/wine/infer", json={"inputs": [{"name": "alcohol", **column}, year]}).status_code == 200
    assert server.client.get("/nowhere").status_code == 404
    assert server.stop()[0] == 0

    [span] = collector.named("POST /api/model/invoke")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, CALLER)
    assert span.kind == Span.SPAN_KIND_SERVER and span.status.code == Status.STATUS_CODE_UNSET
    told = attributes(span)
    assert told["http.route"] == told["url.path"] == "/api/model/invoke"
    assert (told["http.request.method"], told["http.response.status_code"]) == ("POST", 200)
    assert (told["server.address"], told["server.port"]) == ("127.0.0.1", server.port)
    assert (told["mpack.model.name"], told["mpack.model.version"]) == ("wine", "1.2")
    assert told["client.address"] == "127.0.0.1" and told["network.protocol.version"] == "1.1"
    assert "secret" not in str(collector.spans)

    children = sorted((one for one in collector.spans if one.parent_span_id == span.span_id), key=_began)
    assert [one.name for one in children] == ["decode", "predict", "encode"]
    times = [span.start_time_unix_nano]
    for one in children:
        assert one.trace_id == span.trace_id
        times += [one.start_time_unix_nano, one.end_time_unix_nano]
    times.append(span.end_time_unix_nano)
    assert times == sorted(times)
    assert attributes(children[1]) == {"mpack.rows": 1}

    [v2] = collector.named("POST /v2/models/{name}/infer")
    assert not v2.parent_span_id and v2.trace_id.hex() != TRACE
    assert len([one for one in collector.spans if one.parent_span_id == v2.span_id]) == 3
    [nowhere] = collector.named("GET")
    assert "http.route" not in attributes(nowhere) and nowhere.status.code == Status.STATUS_CODE_UNSET
    assert len(collector.spans) == 9, "none for the sample, none for probes"
    assert all((one["service.name"], one["service.version"]) == ("wine", "1.2") for one in collector.resources)
    lines = [json.loads(line) for line in server.stdout().splitlines()]
    assert [line["trace_id"] for line in lines if line["path"].startswith("/api")] == [TRACE]
    assert not any("trace_id" in line for line in lines if line["path"] == "/readyz")


def _began(span: Span) -> int:
    return int(span.start_time_unix_nano)


def test_errors_are_told(collector: Collector, model_json: Path, start: Start) -> None:
    """A model that raises: an event with the exception; one that hangs: a timeout, though its process ends."""
    server = start(model_json, timeout=1)
    assert server.invoke({"data": [[1.0, "boom", 1]]}).status_code == 500
    assert server.invoke({"data": [["x", "boom", 1]]}).status_code == 400
    assert server.invoke({"data": [[1.0, "slow", 100]]}).status_code == 504
    end = time.monotonic() + 10
    while len(collector.named("POST /api/model/invoke")) < 3:
        assert time.monotonic() < end
        time.sleep(0.02)
    raised, refused, hung = sorted(collector.named("POST /api/model/invoke"), key=_began)
    assert (raised.status.code, attributes(raised)["error.type"]) == (Status.STATUS_CODE_ERROR, "500")
    assert refused.status.code == Status.STATUS_CODE_UNSET
    assert (hung.status.code, attributes(hung)["error.type"]) == (Status.STATUS_CODE_ERROR, "timeout")
    [predict] = [one for one in collector.named("predict") if one.parent_span_id == raised.span_id]
    assert predict.status.code == Status.STATUS_CODE_ERROR and attributes(predict)["error.type"] == "ValueError"
    assert "the grapes are off" in attributes(predict.events[0])["exception.message"]


def test_the_standard_variables_decide(
    collector: Collector, model_json: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sampler, service name and compression; a caller that does not sample is followed."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    server = start(model_json)
    server.invoke(GOOD, traceparent=f"00-{TRACE}-{CALLER}-00")
    for odd in ("00-xyz", "ff-" + "0" * 60, f"00-{'0' * 32}-{CALLER}-01", "é"):
        assert server.invoke(GOOD, traceparent=odd.encode("latin-1")).status_code == 200
    server.stop()
    spans = collector.named("POST /api/model/invoke")
    assert len(spans) == 4 and not any(span.parent_span_id or span.trace_id.hex() == TRACE for span in spans)
    assert collector.resources[0]["service.name"] == "shop"
    collector.spans.clear()
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    server = start(model_json)
    assert server.invoke(GOOD, **SAMPLED).status_code == 200
    server.stop()
    assert collector.spans == [] and TRACE in server.stdout()


@pytest.mark.parametrize("hangs", [True, False])
def test_a_collector_that_is_away_costs_nothing(
    collector: Collector, model_json: Path, start: Start, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    """Requests are answered at once, the log is not filled, and a stop has its bound."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    if hangs:
        collector.hold.clear()
    else:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    server = start(model_json)
    begun = time.monotonic()
    assert {server.invoke(GOOD).status_code for _ in range(50)} == {200}
    assert time.monotonic() - begun < 5
    code, seconds = server.stop()
    assert code == 0 and seconds < 8
    assert server.stderr().count("Traceback") == 0 and len(server.stderr().splitlines()) < 12


@pytest.mark.parametrize(
    ("env", "on", "words"),
    [
        ({}, False, ""),
        ({"OTEL_SERVICE_NAME": "x"}, False, ""),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True, ""),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, True, ""),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, False, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "True"}, False, ""),
        ({"OTEL_TRACES_EXPORTER": "jaeger"}, False, "'jaeger'; this service knows otlp and none"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False, "knows http/protobuf"),
    ],
)
def test_when_there_are_traces(env: dict[str, str], on: bool, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Only where somebody asks for them; what cannot be is said, and no reason not to serve."""
    assert tracing.wanted(env) is on
    said = capsys.readouterr().err
    assert (words in said and said.startswith("There are no traces: ")) if words else said == ""


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence names the argument that adds it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not tracing.wanted({"OTEL_TRACES_EXPORTER": "otlp"})
    assert "build it with -a tracing=true" in capsys.readouterr().err


LOOKS = """
import sys

def init():
    return "matrix"

def info():
    return [], []

def predict_on_matrix(matrix, provided_columns_names=None):
    return [float("opentelemetry" in sys.modules or "mpack_runtime.tracing" in sys.modules)], ["quality"]
"""


def test_nothing_is_imported_where_nobody_asks(
    make_model: Callable[..., Path], start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker without OTEL_… has no module of it."""
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    server = start(make_model(LOOKS, sample=None))
    assert server.invoke(GOOD).json()["prediction"] == [0.0]
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    assert start(make_model(LOOKS, sample=None)).invoke(GOOD).json()["prediction"] == [1.0]


def test_half_of_opentelemetry_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models bring its API without an exporter, MLflow's for instance: the image has no traces, and checks itself."""
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry/__init__.py").touch()
    code = (
        "from mpack_runtime import tracing; from mpack_runtime.rest import operations; operations.preload(); "
        "assert not tracing.wanted({'OTEL_TRACES_EXPORTER': 'otlp'})"
    )
    path = os.pathsep.join([str(tmp_path), *(item for item in sys.path if item)])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "no OpenTelemetry" in done.stderr
