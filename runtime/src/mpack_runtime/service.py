"""One loaded model and the roads in and out of it: what the REST app, the command line and the self-check share."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mpack_runtime import loaders, render, wire
from mpack_runtime.arrow import MEDIA
from mpack_runtime.config import ModelConfig, Sample
from mpack_runtime.errors import BadRequest, ModelFailure, RuntimeFault
from mpack_runtime.frame import Inputs, Prediction
from mpack_runtime.loaders import pickled
from mpack_runtime.signature import Field, Signature
from mpack_runtime.wire_columns import quote

NO_ARROW = (
    "This image does not speak Arrow; build it with the argument arrow=true, or send application/json and accept it."
)


class Service:
    """A model that answers: `encode(predict(decode(body, content_type)))`. Safe to use from several threads."""

    def __init__(self, config: ModelConfig, model: loaders.Model) -> None:
        self.config = config
        self.model = model
        self.signature = merge(config.signature, model.signature)
        sample = config.sample or model.sample
        self.sample: Sample | None = pickled.resolve(sample, config.root) if sample else None
        #: What is asked where a request names no method.
        self.method = self._known(config.method or model.method)
        #: Is told of every call of the model: its seconds and rows.
        self.observe: Callable[[float, int], None] | None = None
        #: Is called, in the thread that asks, where the model raised.
        self.blame: Callable[[], None] | None = None
        #: Asks the model when it is this request's turn (`mpack_runtime.turns`); None: at once.
        self.queue: Callable[[Inputs], Any] | None = None
        #: Rows of one request at most; None: any number.
        self.max_rows: int | None = None

    @classmethod
    def load(cls, config: ModelConfig) -> Service:
        """Loads the model. Raises LoadFailure."""
        return cls(config, loaders.load(config))

    @property
    def outputs(self) -> tuple[Field, ...]:
        """The outputs as the signature tells them; empty: unknown."""
        return self.signature.outputs

    def example(self) -> dict[str, Any] | None:
        """A request to try: the sample's, the model's own, one row made from the signature, or None."""
        for request in (self.sample.request if self.sample else None, self.model.example):
            if isinstance(request, Mapping):
                return dict(request)
        return wire.example(self.signature)

    def decode(self, body: bytes, content_type: str = "application/json", forms: Sequence[str] = wire.FORMS) -> Inputs:
        """A request's body (already un-gzipped) as the model's inputs. Raises BadRequest."""
        if "arrow" in content_type and content_type.partition(";")[0].strip().lower() == MEDIA:
            return self._decode_arrow(body)
        return wire.decode(body, content_type, self.signature, strict=self.config.strict, forms=forms)

    def _decode_arrow(self, body: bytes) -> Inputs:
        if not self.config.arrow:
            raise BadRequest(NO_ARROW, 415)
        from mpack_runtime.arrow import inputs, stream

        return inputs.from_table(stream.read(body), self.signature, strict=self.config.strict)

    def rows(
        self, names: Sequence[str] | None, rows: Sequence[Sequence[Any]], *, text: bool = False, first_row: int = 1
    ) -> Inputs:
        """Rows of JSON values (`text`: of CSV cells) as the model's inputs; `first_row` is the first one's number."""
        return wire.from_rows(names, rows, self.signature, strict=self.config.strict, text=text, first_row=first_row)

    def methods(self) -> tuple[str, ...]:
        """What a client may ask for by name, the model's own first; nothing where that is all it has."""
        others = tuple(method for method in self.model.methods if method != self.method)
        return (self.method, *others) if others else ()

    def asking(self, inputs: Inputs, method: str) -> Inputs:
        """The inputs for a method that a client names. Raises BadRequest for one that the model does not have."""
        known = self._known(method)
        return inputs if known == self.method else replace(inputs, method=known)

    def _known(self, method: str) -> str:
        if method not in self.model.methods:
            there = ", ".join(self.model.methods)
            raise BadRequest(f"The model has no method {quote(method)} to ask for; it has {there}.")
        return method

    def predict(self, inputs: Inputs) -> Prediction:
        """The model's answer. Raises ModelFailure (the traceback goes to stderr), Overloaded, and BadRequest."""
        if self.max_rows is not None and inputs.rows > self.max_rows:
            raise BadRequest(f"The request has {inputs.rows} rows; {self.max_rows} are allowed (MPACK_MAX_BATCH_ROWS).")
        method = inputs.method or self.method
        if method == self.model.method:
            names = self.signature.output_names
        else:
            names, inputs = self.model.output_names(method), replace(inputs, method=method)
        try:
            raw = self.ask(inputs) if self.queue is None else self.queue(inputs)
            return render.render(raw, names)
        except RuntimeFault:
            raise
        except (Exception, SystemExit) as error:  # whatever the model's own code raises
            if self.blame is not None:
                self.blame()
            traceback.print_exception(type(error), error, error.__traceback__, file=sys.stderr)
            raise ModelFailure(f"Exception during prediction: {str(error) or type(error).__name__}") from error

    def ask(self, inputs: Inputs) -> Any:
        """The model's own answer, now. Raises what the model raises."""
        started = time.perf_counter()
        try:
            return self.model.predict(inputs)
        finally:
            if self.observe is not None:
                self.observe(time.perf_counter() - started, inputs.rows)

    def encode(self, prediction: Prediction) -> bytes:
        """The answer's JSON: {"prediction": …, "columns": […]}."""
        return render.encode(prediction)


def merge(declared: Signature | None, told: Signature | None) -> Signature:
    """The declared signature; sides that it leaves open as the model tells them."""
    declared, told = declared or Signature(), told or Signature()
    return Signature(declared.inputs or told.inputs, declared.outputs or told.outputs, declared.params or told.params)
