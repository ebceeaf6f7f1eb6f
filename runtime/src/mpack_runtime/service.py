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
        #: Is told of every prediction: the seconds that the model took, and whether it raised.
        self.observe: Callable[[float, bool], None] | None = None
        #: What is asked where a request names no method.
        self.method = self._known(config.method or model.method)

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
        """The model's answer. Raises ModelFailure; the traceback goes to stderr."""
        method = inputs.method or self.method
        if method == self.model.method:
            names = self.signature.output_names
        else:
            names, inputs = self.model.output_names(method), replace(inputs, method=method)
        try:
            return render.render(self._ask(inputs), names)
        except RuntimeFault:
            raise
        except (Exception, SystemExit) as error:  # whatever the model's own code raises
            traceback.print_exc(file=sys.stderr)
            raise ModelFailure(f"Exception during prediction: {str(error) or type(error).__name__}") from error

    def _ask(self, inputs: Inputs) -> Any:
        started, failed = time.perf_counter(), True
        try:
            raw = self.model.predict(inputs)
            failed = False
            return raw
        finally:
            if self.observe is not None:
                self.observe(time.perf_counter() - started, failed)

    def encode(self, prediction: Prediction) -> bytes:
        """The answer's JSON: {"prediction": …, "columns": […]}."""
        return render.encode(prediction)


def merge(declared: Signature | None, told: Signature | None) -> Signature:
    """The declared signature; sides that it leaves open as the model tells them."""
    declared, told = declared or Signature(), told or Signature()
    return Signature(declared.inputs or told.inputs, declared.outputs or told.outputs, declared.params or told.params)
