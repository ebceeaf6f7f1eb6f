"""Puts a gate before a service's model, so that it is asked by as many at once as the settings allow."""

from __future__ import annotations

from mpack_runtime import threads
from mpack_runtime.batching import Batching
from mpack_runtime.config import Settings
from mpack_runtime.gate import Gate, Watch
from mpack_runtime.service import Service
from mpack_runtime.signature import Signature, Tensor

#: Rows of a joined call where the settings tell none.
ROWS = 256


def take_turns(service: Service, settings: Settings, watch: Watch) -> Gate:
    """From now on `service.predict` waits its turn, whatever the road, and joins what waits where the settings and the
    model allow it."""
    load = settings.load
    gate = Gate(settings.threads, settings.threads + load.queue, load.queue_timeout, watch)
    rows = has_rows(service.signature)
    if rows:
        service.max_rows = load.max_batch_rows
    if load.batching == "off" or not rows:
        service.queue = lambda inputs: gate.ask(inputs, service.ask)
        return gate
    service.queue = Batching(
        gate,
        service.ask,
        service.model.rowwise,
        always=load.batching == "on",
        rows=load.max_batch_rows or ROWS,
        delay=load.max_batch_delay / 1000,
        processors=threads.processors(settings),
    ).ask
    return gate


def has_rows(signature: Signature) -> bool:
    """True unless a tensor's first dimension is a fixed number: such a model takes one example, and no rows."""
    sides = (*signature.inputs, *signature.outputs)
    return all(field.shape[:1] in ((), (-1,)) for field in sides if isinstance(field, Tensor))
