"""The V2 protocol for one model, from a parsed request to the answer's tensors: what REST and gRPC share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mpack_runtime import wire
from mpack_runtime.errors import BadRequest, RuntimeFault
from mpack_runtime.frame import Inputs
from mpack_runtime.service import Service
from mpack_runtime.v2 import answers, outputs
from mpack_runtime.v2.decode import check_content_type, decode, from_base64
from mpack_runtime.v2.raw import V2Tensor
from mpack_runtime.v2.spec import Spec
from mpack_runtime.v2.tensors import column_datatype, input_specs, output_specs, widest
from mpack_runtime.wire_columns import describe, quote, sentence

#: The output of a model that tells nothing of it.
UNKNOWN = (Spec("predict", "FP64", (-1, -1)),)


@dataclass(frozen=True)
class Request:
    """A parsed request. Text is objects of bytes, a missing value None; no `outputs`: all are wanted.

    `content_types` are those of inputs that have one, by name.
    """

    inputs: tuple[V2Tensor, ...]
    outputs: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    content_types: Mapping[str, Any] = field(default_factory=dict)


class Core:
    """One model as V2 shows it. Safe to use from several threads."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.name, self.version = service.config.name, service.config.version
        declared = service.config.signature
        self._declared = bool(declared and declared.inputs)
        self._signature = service.signature
        self._outputs = output_specs(service.signature)
        self._told: tuple[Spec, ...] | None = None

    def metadata(self) -> dict[str, Any]:
        """The model's metadata. Outputs that no signature tells are those of the answer to the sample."""
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": self._service.config.loader.kind,
            "inputs": _shown(self._inputs()),
            "outputs": _shown(self._outputs or self._told_outputs()),
        }

    def decode(self, request: Request, method: str = "") -> Inputs:
        """The model's inputs, for `method` or the one that the request's parameter of that name tells. Raises
        BadRequest."""
        given: dict[str, V2Tensor] = {}
        for tensor in request.inputs:
            if tensor.name in given:
                raise BadRequest(f"The input {quote(tensor.name)} stands twice; each must stand once.")
            kind = check_content_type(request.content_types.get(tensor.name), f"input {quote(tensor.name)}")
            given[tensor.name] = from_base64(tensor) if kind == "base64" else tensor
        if len(set(request.outputs)) < len(request.outputs):
            raise BadRequest("An output is requested twice; each must stand once.")
        method = self._method(request, method)
        if self._outputs and method in ("", self._service.method):
            _pick(request.outputs, [spec.name for spec in self._outputs])
        table = check_content_type(request.parameters.get("content_type"), "the request") == "pd"
        found = decode(given, self._signature, declared=self._declared, table=table)
        known = {param.name for param in self._signature.params}
        params = {name: value for name, value in request.parameters.items() if name in known}
        if params:
            found = wire.with_params(found, wire.read_params(params, self._signature.params, True)[0])
        return self._service.asking(found, method) if method else found

    def _method(self, request: Request, method: str) -> str:
        """The method that is asked for, "" for the model's own; a signature may use the parameter's name itself."""
        told = request.parameters.get("method")
        if told is None or any(param.name == "method" for param in self._signature.params):
            return method
        if type(told) is not str or not told:
            raise BadRequest(f"The parameter method is {describe(told)}; it must be a method's name.")
        if method not in ("", told):
            raise BadRequest(f"The address asks for the method {quote(method)}, the request for {quote(told)}.")
        return told

    def predict(self, inputs: Inputs, wanted: Sequence[str] = ()) -> list[V2Tensor]:
        """The answer's tensors, those `wanted` alone. Raises ModelFailure, and BadRequest for an unknown name.

        The signature tells the outputs of the model's own method; another one's answer is an output of its name.
        """
        prediction, specs = self._service.predict(inputs), self._outputs
        if inputs.method:
            specs = ()
            if not prediction.table:
                prediction = replace(prediction, columns=(inputs.method,))
        found = answers.answer(prediction, specs)
        by_name = {tensor.name: tensor for tensor in found}
        return [by_name[name] for name in _pick(wanted, list(by_name))]

    def _inputs(self) -> tuple[Spec, ...]:
        """As declared; columns that only the model itself tells are one matrix, of FP64 where it tells no types."""
        columns = self._signature.input_columns
        if columns and not self._declared:
            told = [column_datatype(column.type) for column in columns if column.type != "any"]
            return (Spec("input-0", widest(told) if told else "FP64", (-1, len(columns))),)
        return input_specs(self._signature)

    def _told_outputs(self) -> tuple[Spec, ...]:
        if self._told is None:
            self._told = outputs_of(self._service) if self._service.sample is not None else UNKNOWN
        return self._told


def check_output(parameters: Mapping[str, Any], what: str) -> None:
    """Raises BadRequest where a requested output is wanted in a form that is not offered."""
    if parameters.get("classification"):
        raise BadRequest(f"{sentence(what)}: classification is not offered; ask for the output itself.")


def outputs_of(service: Service) -> tuple[Spec, ...]:
    """The outputs as the model's answer to its sample, or else to made-up values, tells them. Raises RuntimeFault."""
    request = service.example()
    if request is None:
        return UNKNOWN
    try:
        return outputs.told_by(service.predict(service.decode(json.dumps(request).encode())))
    except RuntimeFault:
        if service.sample is not None:
            raise
        return UNKNOWN  # made-up values prove nothing


def _pick(wanted: Sequence[str], there: Sequence[str]) -> Sequence[str]:
    """What is wanted, or all. Raises BadRequest."""
    for name in wanted:
        if name not in there:
            raise BadRequest(f"The model has no output {quote(name)}; it has {', '.join(map(quote, there))}.")
    return wanted or there


def _shown(specs: Sequence[Spec]) -> list[dict[str, Any]]:
    return [{"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)} for spec in specs]
