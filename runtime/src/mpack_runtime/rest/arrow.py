"""Arrow streams over HTTP: bodies of the content type, answers to who accepts them. pyarrow is imported when asked."""

from __future__ import annotations

from dataclasses import replace

from mpack_runtime.arrow import MEDIA
from mpack_runtime.errors import BadRequest
from mpack_runtime.frame import Inputs, Prediction
from mpack_runtime.service import NO_ARROW, Service


def accepted(service: Service, accept: str) -> bool:
    """True if the answer must be an Arrow stream. Raises BadRequest (406) where nothing else is accepted."""
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    if MEDIA not in kinds:
        return False
    if not service.config.arrow and not {"application/json", "application/*", "*/*"}.intersection(kinds):
        raise BadRequest(NO_ARROW, 406)
    return service.config.arrow


def stream(service: Service, inputs: Inputs, prediction: Prediction) -> bytes:
    """The answer to these inputs: as the signature tells it, or another method's as it tells itself."""
    from mpack_runtime.arrow import answers
    from mpack_runtime.v2.tensors import output_specs

    if not inputs.method:
        return answers.stream(prediction, output_specs(service.signature), service.outputs)
    columns = prediction.columns or (inputs.method,)
    return answers.stream(replace(prediction, columns=columns), ())


def preload() -> None:
    """Imports what reads and writes streams, so that the self-check can tell its sources."""
    import mpack_runtime.arrow.answers
    import mpack_runtime.arrow.inputs
    import mpack_runtime.arrow.stream  # noqa: F401
