"""The sample of a Triton image as a V2 request, and the expected answer as V2 tensors.

A sample has one of two forms: mpack's own, as for every image, or a V2 request, for what only Triton loads:

    {"model_name": "both", "inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 3], "data": [4, 4, 4]}]}
    {"outputs": [{"name": "SUM", "datatype": "FP32", "shape": [1, 1], "data": [30]}]}

mpack's own form is read by the model's signature, or, where Triton alone loads the model, by the server's metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from mpack_runtime import wire
from mpack_runtime.config import ModelConfig, Sample
from mpack_runtime.errors import BadRequest, ModelFailure
from mpack_runtime.frame import Inputs, Prediction
from mpack_runtime.service import Service
from mpack_runtime.signature import Signature, Tensor
from mpack_runtime.triton.client import Metadata
from mpack_runtime.triton.serving import Serving
from mpack_runtime.v2 import inputs, outputs
from mpack_runtime.v2.raw import V2Tensor
from mpack_runtime.v2.spec import Spec
from mpack_runtime.v2.tensors import DTYPES


@dataclass(frozen=True)
class Question:
    """What to ask. `proof` False: made-up values, whose refusal proves nothing."""

    model: str
    tensors: tuple[V2Tensor, ...]
    outputs: tuple[str, ...] = ()
    rows: int | None = None
    asked: Inputs | None = None
    proof: bool = True


def ask(
    config: ModelConfig, serving: Serving, service: Service | None, metadata: Callable[[str], Metadata]
) -> Question | None:
    """The sample, or made-up values, as a V2 request; None if nothing is known to ask.

    Raises ModelFailure for a sample that is not one of this model, BadRequest for one that V2 has no form for.
    """
    if service is None:
        return _ask_native(config.sample.request if config.sample else None, serving, metadata)
    request = service.sample.request if service.sample else None
    proof = request is not None
    request = request if proof else service.example()
    if request is None:
        return None
    asked = _read(request, service.decode)
    tensors = _encoded(asked, config.signature or Signature())
    return Question(_model(None, serving), tensors, (), asked.rows, asked, proof)


def _ask_native(request: Any, serving: Serving, metadata: Callable[[str], Metadata]) -> Question | None:
    """The question to a model that only Triton loads; made-up values go to the model that needs no name."""
    given = request if isinstance(request, Mapping) else {}
    if request is None and serving.model is None:
        return None
    model = _model(given.get("model_name"), serving)
    if isinstance(given.get("inputs"), list) and any(map(_is_v2, given["inputs"])):
        tensors = tuple(map(_given, given["inputs"]))
        wanted = _names(given.get("outputs") or [])
        return Question(model, tensors, wanted, tensors[0].shape[0] if tensors and tensors[0].shape else None)
    declared = _signature(metadata(model).inputs)
    plain = {key: value for key, value in given.items() if key != "model_name"}
    form = wire.example(declared) if request is None else plain
    if form is None:
        return None
    asked = _read(form, lambda body: wire.decode(body, "application/json", declared))
    return Question(model, _encoded(asked, declared), (), asked.rows, proof=request is not None)


def _read(request: Any, decode: Callable[[bytes], Inputs]) -> Inputs:
    try:
        return decode(orjson.dumps(request))
    except BadRequest as error:
        raise ModelFailure(f"The sample is not a request that the model takes: {error.message}") from error


def _given(item: Mapping[str, Any]) -> V2Tensor:
    try:
        return V2Tensor.from_json(item)
    except BadRequest as error:
        raise ModelFailure(f"The sample is not a V2 request: {error.message}") from error


def _model(named: Any, serving: Serving) -> str:
    model = named or serving.model
    if not model:
        raise ModelFailure(
            f"The sample names no model (model_name), and the repository has several: {', '.join(serving.models)}."
        )
    return str(model)


def _is_v2(item: Any) -> bool:
    """True for what is meant as a V2 tensor, and for no record of a table with such columns by chance."""
    return isinstance(item, Mapping) and len({"name", "datatype", "shape", "data"} & item.keys()) > 2


def _names(items: Any) -> tuple[str, ...]:
    """Of the outputs that a V2 request asks for."""
    if not isinstance(items, list) or not all(isinstance(item, Mapping) and "name" in item for item in items):
        raise ModelFailure('The sample is not a V2 request: its outputs must be a list of {"name": …}.')
    return tuple(str(item["name"]) for item in items)


def _signature(specs: Sequence[Spec]) -> Signature:
    """V2 tensors as a model's inputs."""
    names = {datatype: dtype.name if datatype != "BYTES" else "str" for datatype, dtype in DTYPES.items()}
    return Signature(tuple(Tensor(spec.name, names.get(spec.datatype, "any"), spec.shape) for spec in specs))


def _encoded(asked: Inputs, declared: Signature) -> tuple[V2Tensor, ...]:
    return tuple(V2Tensor.of(name, array) for name, array in inputs.encode(asked, declared).items())


def expected(service: Service | None, sample: Sample, metadata: Metadata) -> list[V2Tensor]:
    """The expected answer as V2 tensors. Raises ModelFailure where the outputs cannot hold it."""
    wanted = sample.expected
    if service is None and isinstance(wanted, Mapping) and "outputs" in wanted:
        try:
            return [V2Tensor.from_json(item) for item in wanted["outputs"]]
        except (BadRequest, TypeError) as error:
            raise ModelFailure(f'The expected answer is not of the form {{"outputs": […]}}: {error}') from error
    if not (isinstance(wanted, dict) and "prediction" in wanted):
        wanted = {"prediction": wanted}
    columns = wanted.get("columns") or (service.signature.output_names if service else ())
    try:
        made = outputs.encode(Prediction(wanted["prediction"], tuple(columns)), metadata.outputs, exact=False)
    except ModelFailure as error:
        raise ModelFailure(f"The expected answer does not fit the model's outputs: {error.message}") from error
    return [V2Tensor.of(*item) for item in made.items()]
