"""The model in Triton's Python backend: a generated model.py in the repository is

    import sys
    sys.path.insert(0, "/opt/mpack/runtime")
    from mpack_runtime.triton.model import TritonPythonModel

The backend's Python is isolated: it reads no PYTHONPATH, no locale and no PYTHONUTF8, so its texts, files and file
names would be ASCII; `_use_utf8` makes them UTF-8.

The model and its signature come from model.json. Requests that the server hands over together are asked as one; where
that fails each is asked alone, so that an error is that of the request that caused it.
"""

from __future__ import annotations

import importlib
import io
import json
import locale
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mpack_runtime import batches
from mpack_runtime.config import ModelConfig
from mpack_runtime.errors import BadRequest, ModelFailure, RuntimeFault
from mpack_runtime.frame import Array, Inputs
from mpack_runtime.service import Service
from mpack_runtime.signature import Signature
from mpack_runtime.triton import numpy2
from mpack_runtime.v2 import core, inputs, outputs
from mpack_runtime.v2.spec import Spec
from mpack_runtime.v2.tensors import output_specs

#: Names a file: each process of the model writes the sources it has imported there, for the self-check.
MODULES_FILE = "MPACK_MODULES_FILE"
#: Characters of an error: gRPC carries it in a header, and its clients take 8 KB of those at most.
ERROR_LENGTH = 2000


class TritonPythonModel:
    """What the Python backend makes, asks and ends; one an instance, in a process of its own."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Writes the outputs where the configuration has none: those of the model's answer to its sample."""
        config = auto_complete_model_config.as_dict()
        if not config["output"]:
            _use_utf8()
            batched = config["max_batch_size"] > 0
            for spec in outputs_of(Service.load(_model_config())):
                dims = list(spec.shape[1:] if batched else spec.shape)
                kind = "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
                auto_complete_model_config.add_output({"name": spec.name, "data_type": kind, "dims": dims})
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the model. Raises LoadFailure, whose words the server logs."""
        _use_utf8()
        self._utils = importlib.import_module("triton_python_backend_utils")
        self._tensor = numpy2.tensor_maker(self._utils)
        config = json.loads(args["model_config"])
        self._batched = config["max_batch_size"] > 0
        self._outputs = tuple(_configured(item, self._batched) for item in config["output"])
        self._service = Service.load(_model_config())
        self._declared = self._service.config.signature or Signature()
        _write_modules()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response a request, in order; errors are responses too."""
        answers: list[dict[str, Array] | RuntimeFault] = [BadRequest("The request was not answered.")] * len(requests)
        groups: dict[Any, list[tuple[int, Inputs]]] = {}
        for index, request in enumerate(requests):
            try:
                asked = self._read(request)
                kind = batches.kind(asked) if self._batched else None
                groups.setdefault(index if kind is None else kind, []).append((index, asked))
            except Exception as error:
                answers[index] = _fault(error)
        for group in groups.values():
            for (index, _), answer in zip(group, self._ask([asked for _, asked in group])):
                answers[index] = answer
        _write_modules()
        return [self._response(request, answer) for request, answer in zip(requests, answers)]

    def _read(self, request: Any) -> Inputs:
        arrays = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        service = self._service
        asked = inputs.decode(arrays, self._declared, service.signature, strict=service.config.strict)
        if not asked.rows:
            raise BadRequest("The request has no rows.")
        return asked

    def _ask(self, parts: list[Inputs]) -> list[dict[str, Array] | RuntimeFault]:
        """An answer or an error for each of several inputs of one kind."""
        try:
            return list(batches.split(self._answer(batches.join(parts)), [part.rows for part in parts]))
        except Exception as error:
            if len(parts) == 1:
                return [_fault(error)]
        return [self._ask([part])[0] for part in parts]

    def _answer(self, asked: Inputs) -> dict[str, Array]:
        found = outputs.encode(self._service.predict(asked), self._outputs)
        for name, array in found.items():
            if self._batched and array.shape[0] != asked.rows:
                raise ModelFailure(f"Output {name!r} has {array.shape[0]} rows for the request's {asked.rows}.")
        return found

    def _response(self, request: Any, answer: dict[str, Array] | RuntimeFault) -> Any:
        utils = self._utils
        if isinstance(answer, RuntimeFault):
            code = "INVALID_ARG" if isinstance(answer, BadRequest) else "INTERNAL"
            codes = [getattr(utils.TritonError, code)] if hasattr(utils.TritonError, code) else []
            return utils.InferenceResponse(output_tensors=[], error=utils.TritonError(_words(answer), *codes))
        wanted = set(request.requested_output_names())
        return utils.InferenceResponse([self._tensor(name, array) for name, array in answer.items() if name in wanted])


def _fault(error: Exception) -> RuntimeFault:
    """Any exception as an error of one request: those of a whole execute() would be every request's."""
    if isinstance(error, RuntimeFault):
        return error
    traceback.print_exception(type(error), error, error.__traceback__)
    return ModelFailure(f"The request cannot be answered: {type(error).__name__}: {error}")


def _words(error: RuntimeFault) -> str:
    """The error in characters that UTF-8 has, not longer than a client takes."""
    text = error.message.encode(errors="backslashreplace").decode()
    return text if len(text) <= ERROR_LENGTH else f"{text[:ERROR_LENGTH]}…"


def outputs_of(service: Service) -> tuple[Spec, ...]:
    """The outputs as the signature tells them, else as the model's answer to its sample does."""
    return output_specs(service.config.signature or Signature()) or core.outputs_of(service)


def _configured(item: dict[str, Any], batched: bool) -> Spec:
    """An output of Triton's model configuration (JSON)."""
    datatype = item["data_type"].replace("TYPE_", "", 1)
    shape = tuple(int(dim) for dim in item["dims"])
    return Spec(item["name"], "BYTES" if datatype == "STRING" else datatype, (-1, *shape) if batched else shape)


def _use_utf8() -> None:
    """Text files, stdout and stderr in UTF-8, as in every other process of an image."""
    locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)


def _model_config() -> ModelConfig:
    """model.json, with the model's path in the form that this Python's file name encoding needs."""
    config = ModelConfig.load()
    path = os.fsdecode(config.loader.path.encode())
    return replace(config, loader=replace(config.loader, path=path))


def _write_modules() -> None:
    name = os.environ.get(MODULES_FILE)
    if name:
        from mpack_runtime.selfcheck import imported_sources

        Path(f"{name}.{os.getpid()}").write_text("\n".join(imported_sources()))
