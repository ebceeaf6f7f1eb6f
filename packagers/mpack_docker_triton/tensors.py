"""A signature as named V2 tensors. mpack's runtime maps requests by the same rules, so both must stay equal.

1. All input columns named: one tensor a column, shape [-1, 1]; a column that is not required is optional.
2. Columns without names: one tensor `input-0`, [-1, n], of the widest type.
3. Tensors: their name, type and shape; a single unnamed one is `input-0`, several `input-0`, `input-1`, ….
4. Nothing known: `input-0`, FP64, [-1, -1].

Outputs alike, with `predict` for a single unnamed one and `output-0`, `output-1`, … for several; nothing known: none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mpack.errors import InputError
from mpack.signature import Column, Field, Signature, Tensor, is_dim

from .dtypes import v2_of_column, v2_of_dtype, widest


@dataclass(frozen=True)
class V2Tensor:
    """One input or output as the V2 protocol shows it; `shape` is whole, the batch dimension included."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


def wrapped_inputs(signature: Signature | None) -> list[V2Tensor]:
    """Inputs of a model behind mpack's Python-backend wrapper. A vector [-1] is shown as [-1, 1], a scalar as [1].

    Raises InputError artifact-invalid for a type that V2 cannot carry, and for two inputs of one name.
    """
    fields = signature.inputs if signature else ()
    return [_as_table(item) for item in named(fields, "inputs")] or [V2Tensor("input-0", "FP64", (-1, -1))]


def wrapped_outputs(signature: Signature | None) -> list[V2Tensor]:
    """Outputs likewise; none where the signature knows none."""
    fields = signature.outputs if signature else ()
    return [_as_table(item) for item in named(fields, "outputs")]


def named(fields: Sequence[Field], side: str) -> list[V2Tensor]:
    """The tensors of one side, "inputs" or "outputs", by the rules above; a tensor's shape is as it stands."""
    columns = [field for field in fields if isinstance(field, Column)]
    stem, single = ("input", "input-0") if side == "inputs" else ("output", "predict")
    if columns and any(column.name is None for column in columns):
        datatype = widest([v2_of_column(column.type) for column in columns])
        found = [V2Tensor(single, datatype, (-1, len(columns)))]
    elif columns:
        found = [
            V2Tensor(str(column.name), v2_of_column(column.type), (-1, 1), optional=not column.required)
            for column in columns
        ]
    else:
        tensors = [field for field in fields if isinstance(field, Tensor)]
        found = []
        for index, tensor in enumerate(tensors):
            spare = single if len(tensors) == 1 else f"{stem}-{index}"
            found.append(V2Tensor(tensor.name or spare, v2_of_dtype(tensor.dtype), tensor.shape))
    _check(found, side)
    return found


def _check(tensors: Sequence[V2Tensor], side: str) -> None:
    """Raises InputError artifact-invalid for names and shapes that no config.pbtxt can have."""
    for name, count in Counter(item.name for item in tensors).items():
        if count > 1:
            reason = f"The signature's {side} name {name!r} {count} times; Triton tells tensors by name."
            raise InputError("artifact-invalid", reason, "Give every column or tensor a name of its own.")
        if not name:
            raise InputError("artifact-invalid", f"The signature's {side} hold an empty name.", "Name it.")
        if re.search("[\ud800-\udfff]", name):
            reason = f"The signature's {side} hold the name {name!r}, which is no Unicode text."
            raise InputError("artifact-invalid", reason, "Name it otherwise.")
    for item in tensors:
        if not all(map(is_dim, item.shape)):
            reason = f"The signature's {side} {item.name!r}: Triton cannot serve the shape {list(item.shape)}."
            raise InputError("artifact-invalid", reason, "A dimension is 1 or more, or -1 for any size.")


def _as_table(tensor: V2Tensor) -> V2Tensor:
    if tensor.shape == (-1,):
        return replace(tensor, shape=(-1, 1))
    return tensor if tensor.shape else replace(tensor, shape=(1,))
