"""config.pbtxt from a signature, what a configuration promises to clients, and the user's wishes on top of one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mpack.errors import InputError, UsageError
from mpack.signature import Signature, Tensor

from .backends import COMPLETING
from .dtypes import config_type, v2_of_config
from .schema import Message, new_config, pb2
from .tensors import V2Tensor, named, wrapped_inputs, wrapped_outputs

DEFAULT_MAX_BATCH = 64
_PYTORCH_NAME = re.compile(r".*__\d+", re.DOTALL)


def generate(
    name: str,
    backend: str,
    signature: Signature | None,
    *,
    max_batch_size: int = DEFAULT_MAX_BATCH,
    dynamic_batching: bool = True,
) -> Message:
    """The ModelConfig of a model that brought none; `backend` is always written.

    Backend "python" is mpack's wrapper: inputs are always named, outputs only if known (the wrapper completes them).
    The others are native: what the signature does not know is left to the backend; pytorch cannot complete anything.
    The model batches if every first dimension is free and `max_batch_size` is above 0; dynamic batching only then.
    Raises InputError artifact-invalid.
    """
    config = new_config()
    config.name, config.backend = name, backend
    inputs, outputs = (wrapped_inputs(signature), wrapped_outputs(signature))
    if backend != "python":
        inputs = _native(backend, "inputs", signature)
        outputs = _native(backend, "outputs", signature)
    whole = bool(inputs and outputs) or backend == "python"
    batched = bool(inputs) and all(item.shape[:1] == (-1,) for item in (*inputs, *outputs))
    if whole and batched and max_batch_size > 0:
        config.max_batch_size = max_batch_size
    _fill(config, "inputs", inputs)
    _fill(config, "outputs", outputs)
    if dynamic_batching and config.max_batch_size > 0:
        set_dynamic_batching(config, True)
    return config


def declared(config: Message) -> dict[str, list[dict[str, Any]]]:
    """{"inputs": [{"name", "datatype", "shape"}], "outputs": […]} as V2 metadata shows them: batch dimension first."""
    batch = [-1] if config.max_batch_size > 0 else []

    def side(tensors: Sequence[Message]) -> list[dict[str, Any]]:
        kinds = pb2().DataType
        return [
            {"name": item.name, "datatype": v2_of_config(kinds.Name(item.data_type)), "shape": [*batch, *item.dims]}
            for item in tensors
        ]

    return {"inputs": side(config.input), "outputs": side(config.output)}


def apply(
    config: Message,
    *,
    instances: int | None = None,
    dynamic_batching: bool | None = None,
    max_queue_delay_us: int | None = None,
    max_batch_size: int | None = None,
) -> None:
    """Puts on a configuration what the user said, and only that (None: nothing said).

    A new `max_batch_size` keeps what clients see: the batch dimension moves from dims or to dims. A queue delay means
    dynamic batching unless that is refused. Raises UsageError argument-invalid where the model cannot have it.
    """
    if max_batch_size is not None:
        set_max_batch_size(config, max_batch_size)
    if dynamic_batching is not None or max_queue_delay_us is not None:
        set_dynamic_batching(config, dynamic_batching is not False, max_queue_delay_us)
    if instances is not None:
        set_instances(config, instances)


def set_max_batch_size(config: Message, size: int) -> None:
    """`max_batch_size: size`, with dims following where batching begins or ends."""
    begins, ends = size > 0 >= config.max_batch_size, config.max_batch_size > 0 >= size
    for item in (*config.input, *config.output) if begins or ends else ():
        dims = list(item.dims)
        inner = list(item.reshape.shape) if item.HasField("reshape") else None
        if begins and (dims[:1] != [-1] or (inner is not None and inner[:1] != [-1])):
            reason = f"the first dimension of {item.name} is fixed: dims {dims}"
            raise _wish(f"maxBatchSize={size} cannot be had for {_title(config)}: {reason}.")
        if begins:
            _set_shape(item, dims[1:], inner if inner is None else inner[1:])
        else:
            _set_shape(item, [-1, *dims], inner if inner is None else [-1, *inner])
    if ends and config.HasField("dynamic_batching"):
        config.ClearField("dynamic_batching")
    config.max_batch_size = size


def set_dynamic_batching(config: Message, wanted: bool, max_queue_delay_us: int | None = None) -> None:
    """Dynamic batching on or off, with the longest wait in microseconds where it was said."""
    if not wanted:
        config.ClearField("dynamic_batching")
        return
    chosen = config.WhichOneof("scheduling_choice")
    if chosen not in (None, "dynamic_batching"):
        raise _wish(f"Dynamic batching cannot be had for {_title(config)}: its config.pbtxt has {chosen}.")
    if config.max_batch_size <= 0:
        raise _wish(f"Dynamic batching cannot be had for {_title(config)}: max_batch_size is 0, it does not batch.")
    config.dynamic_batching.SetInParent()
    if max_queue_delay_us is not None:
        config.dynamic_batching.max_queue_delay_microseconds = max_queue_delay_us


def set_instances(config: Message, count: int) -> None:
    """`count` copies in every instance group; one group if there is none (on the CPU for the Python backend)."""
    if config.HasField("ensemble_scheduling"):
        raise _wish(f"instances cannot be had for {_title(config)}: an ensemble has no instances of its own.")
    if not config.instance_group:
        kinds = pb2().ModelInstanceGroup
        config.instance_group.add(kind=kinds.KIND_CPU if config.backend == "python" else kinds.KIND_AUTO)
    for group in config.instance_group:
        group.count = count


def _native(backend: str, side: str, signature: Signature | None) -> list[V2Tensor]:
    """The tensors of the model's file. Columns describe a table around the model, not the file, and do not count."""
    fields = getattr(signature, side) if signature else ()
    tensors = named([field for field in fields if isinstance(field, Tensor)], side)
    if not tensors and backend not in COMPLETING:
        reason = f"The model's {side} are not known, and Triton's backend {backend} cannot read them from the file."
        hint = "Describe them in config.pbtxt, or under [signature] in mpack.toml."
        raise InputError("artifact-invalid", reason, hint)
    if backend == "pytorch" and not all(_PYTORCH_NAME.fullmatch(item.name) for item in tensors):
        stem = "INPUT" if side == "inputs" else "OUTPUT"
        tensors = [
            V2Tensor(f"{stem}__{index}", item.datatype, item.shape, item.optional) for index, item in enumerate(tensors)
        ]
    return tensors


def _fill(config: Message, side: str, tensors: Sequence[V2Tensor]) -> None:
    for tensor in tensors:
        item = _side(config, side).add(name=tensor.name)
        item.data_type = pb2().DataType.Value(config_type(tensor.datatype))
        if tensor.optional:
            item.optional = True
        _set_shape(item, list(tensor.shape[1:] if config.max_batch_size > 0 else tensor.shape), None)


def _set_shape(item: Message, dims: list[int], reshape: list[int] | None) -> None:
    """Triton wants at least one dimension: a scalar is shown as [1], and reshaped for the model."""
    item.ClearField("reshape")
    if not dims:
        dims, reshape = [1], reshape or []
    item.dims[:] = dims
    if reshape is not None and reshape != dims:
        item.reshape.SetInParent()
        item.reshape.shape.extend(reshape)


def _side(config: Message, side: str) -> Message:
    return config.input if side == "inputs" else config.output


def _title(config: Message) -> str:
    return f"model {config.name}" if config.name else "the model"


def _wish(message: str) -> UsageError:
    return UsageError("argument-invalid", message, "Leave the argument out, or change the model's config.pbtxt.")
