"""Traces by OpenTelemetry: a span for each request, and in it one each for decoding, predicting and encoding.

What carries the requests opens the request's span (`Tracing.request`); the model's is made around `Service.predict`,
and the time before and after it is decoding and encoding, so that every road to the model has them. All of it is set by
OpenTelemetry's own variables; where none asks for traces, nothing of it is imported.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mpack_runtime import extras
from mpack_runtime.service import Service

#: Any of these says where traces go, or that there are to be some.
_WANTED = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_MODULES = ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk.trace.export")
_QUIET = 60.0


def wanted(env: Mapping[str, str] | None = None) -> bool:
    """True if the environment asks for traces and this image can make them; says on stderr why it cannot."""
    env = os.environ if env is None else env
    if not any(env.get(name) for name in _WANTED) or env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = env.get("OTEL_TRACES_EXPORTER", "").strip().lower() or "otlp"
    if exporter == "none":
        return False
    protocol = (
        env.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or env.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    )
    fault = ""
    if exporter != "otlp":
        fault = f"OTEL_TRACES_EXPORTER is {exporter!r}; this service knows otlp and none"
    elif protocol != "http/protobuf":
        fault = f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}; this service knows http/protobuf"
    elif not all(map(extras.has, _MODULES)):
        fault = "OTEL_… asks for traces, but this image has no OpenTelemetry; build it with -a tracing=true"
    if fault:
        # They may be a cluster's, for all that runs there: no reason not to serve.
        print(f"There are no traces: {fault}.", file=sys.stderr, flush=True)
    return not fault


class Request:
    """A request that is being answered; times are nanoseconds since the epoch."""

    def __init__(self, span: Any) -> None:
        self.span = span
        #: False: the sampler leaves it out, and all that would be in it.
        self.recorded = bool(span.is_recording())
        self.began = time.time_ns()
        #: When its body had been read, and when the model had answered; 0: not yet.
        self.read = self.predicted = 0

    @property
    def trace_id(self) -> str:
        """As `traceparent` writes it."""
        return f"{self.span.get_span_context().trace_id:032x}"


class Tracing:
    """Made in each worker, after it was forked: the exporter has a thread. Safe to use from several threads."""

    def __init__(self, name: str, version: str) -> None:
        from opentelemetry import propagate, trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        logging.getLogger("opentelemetry").addFilter(_once_a_minute())
        resource = Resource.create()
        if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": name, "service.version": version}))
        self._trace, self._extract = trace, propagate.extract
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("mpack_runtime")
        self._model = {"mpack.model.name": name, "mpack.model.version": version}
        self._requests: dict[int, Request] = {}

    @contextmanager
    def request(self, name: str, carrier: Mapping[str, str], attributes: Mapping[str, Any]) -> Iterator[Request]:
        """The span of a request that this thread answers, child of what `carrier` (lower-case headers) tells, and this
        thread's current one: clients that the model uses pass it on. Who opens it sets what came of it."""
        context, kind = self._extract(carrier), self._trace.SpanKind.SERVER
        opened = self._tracer.start_as_current_span(name, context, kind, {**self._model, **attributes})
        with opened as span:
            request = self._requests[threading.get_ident()] = Request(span)
            try:
                yield request
            finally:
                self._requests.pop(threading.get_ident(), None)
                if request.predicted:
                    self._child("encode", request.predicted)

    def fail(self, request: Request, kind: str) -> None:
        """The service is at fault for a request; `kind` is a status, or a word for what happened."""
        request.span.set_attribute("error.type", kind)
        request.span.set_status(self._trace.StatusCode.ERROR)

    def watch(self, service: Service) -> None:
        """Makes the spans in the requests' own, from now on."""
        ask: Callable[..., Any] = service.predict

        def predict(inputs: Any, *more: Any, **named: Any) -> Any:
            request = self._requests.get(threading.get_ident())
            if request is None or not request.recorded:
                return ask(inputs, *more, **named)
            if not request.predicted:
                self._child("decode", request.read or request.began)
            try:
                return self._predicted(ask, inputs, *more, **named)
            finally:
                request.predicted = time.time_ns()

        service.predict = predict  # type: ignore[method-assign]

    def _predicted(self, ask: Callable[..., Any], inputs: Any, *more: Any, **named: Any) -> Any:
        with self._tracer.start_as_current_span(
            "predict", attributes={"mpack.rows": inputs.rows}, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                return ask(inputs, *more, **named)
            except Exception as error:
                if getattr(error, "status", 500) < 500:
                    raise
                span.record_exception(error)
                span.set_attribute("error.type", type(error.__cause__ or error).__qualname__)
                span.set_status(self._trace.StatusCode.ERROR)
                raise

    def late(self, timeout: float) -> None:
        """The worker is about to end for a model that did not answer: what it was busy with is sent as that."""
        for request in list(self._requests.values()):
            self.fail(request, "timeout")
            request.span.end()
        self.close(timeout)

    def close(self, timeout: float) -> None:
        """Sends what waits; gives up after `timeout` seconds."""
        sender = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        sender.start()
        sender.join(timeout)

    def _child(self, name: str, began: int) -> None:
        """A span that ends now, of the current one."""
        self._tracer.start_span(name, start_time=began).end()


def _once_a_minute() -> Callable[[logging.LogRecord], bool]:
    """Of what OpenTelemetry logs: a collector that is away is no news each time."""
    said: dict[str, float] = {}

    def lets(record: logging.LogRecord) -> bool:
        now = time.monotonic()
        new = now - said.get(record.name, -_QUIET) >= _QUIET
        if new:
            said[record.name] = now
        return new

    return lets


def preload() -> None:
    """Imports what traces need, where the image has it, so that the self-check can tell its sources."""
    extras.preload(*_MODULES)
