"""Faults of inputs and outputs: each tensor by itself, reshape, batching, and against what the model's file says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod

from mpack.signature import Tensor

from .backends import BY_NAME, COMPLETING
from .dtypes import v2_of_config
from .faults import Report, listed
from .positions import Path
from .schema import Message, pb2
from .tensors import V2Tensor, named

_INDEXED = re.compile(r".+__(\d+)", re.DOTALL)


def check_tensors(report: Report) -> None:
    """Adds the faults of `input` and `output`."""
    subject, config = report.subject, report.subject.config
    completed = subject.backend in COMPLETING or subject.completes
    for side, tensors in (("input", config.input), ("output", config.output)):
        if not tensors and not completed:
            hint = "Name every one, with data_type and dims."
            if subject.backend == "python":
                hint += " Or give model.py a method auto_complete_config."
            report.add((side,), f"the model has no {side}s, and the backend does not add them.", hint)
        seen: set[str] = set()
        for index, item in enumerate(tensors):
            _one(report, (side, index), item, side)
            if item.name in seen:
                reason = f"a second {side} is called {item.name!r}; Triton would load this."
                report.add((side, index, "name"), reason, "Give each a name of its own.")
            seen.add(item.name)
    if subject.backend == "pytorch":
        _pytorch(report, "input", config.input)
        _pytorch(report, "output", config.output)
    if subject.backend in BY_NAME and subject.signature is not None:
        _against_file(report, "input", config.input, _tensors(report, "inputs"))
        _against_file(report, "output", config.output, _tensors(report, "outputs"))


def _one(report: Report, where: Path, item: Message, side: str) -> None:
    if not item.name:
        report.add((*where, "name"), f"the {side} has no name.")
    if item.data_type == 0:
        report.add((*where, "data_type"), f"{item.name}: data_type is missing.", "Write, for example, TYPE_FP32.")
    if not item.dims:
        report.add((*where, "dims"), f"{item.name}: dims is missing.", "A scalar is dims: [1].")
    for index, size in enumerate(item.dims):
        if size == 0 or size < -1:
            reason = f"{item.name}: a dimension must be 1 or more, or -1 for any size, not {size}."
            report.add((*where, "dims", index), reason)
    if item.HasField("reshape"):
        _reshape(report, (*where, "reshape"), item)
    if side == "input" and item.optional and report.subject.backend not in ("python", "ensemble"):
        reason = f"{item.name}: only the Python backend is sure to take a request without an optional input."
        report.add((*where, "optional"), reason, level="warning")


def _reshape(report: Report, where: Path, item: Message) -> None:
    """Both shapes must hold as many elements: fixed sizes alike in product, free ones as many."""
    dims, shape = list(item.dims), list(item.reshape.shape)
    if not shape and report.subject.config.max_batch_size <= 0:
        hint = "Leave reshape out, or set max_batch_size."
        report.add(where, f"{item.name}: an empty reshape makes a scalar, which only a batching model can have.", hint)
        return
    bad = [size for size in shape if size == 0 or size < -1]
    if bad:
        report.add((*where, "shape"), f"{item.name}: {bad[0]} is not a size.")
        return
    sizes = [prod(size for size in side if size > 0) for side in (dims, shape)]
    if sizes[0] != sizes[1] or dims.count(-1) != shape.count(-1):
        report.add(where, f"{item.name}: dims {dims} and shape {shape} do not hold the same number of elements.")


def _pytorch(report: Report, side: str, tensors: Sequence[Message]) -> None:
    """Names NAME__INDEX say a tensor's place; where one does, all must, from 0 on. Other names go by their order."""
    places = [_INDEXED.fullmatch(item.name) for item in tensors]
    if not any(places):
        return
    seen: set[int] = set()
    for index, (item, match) in enumerate(zip(tensors, places, strict=True)):
        where = (side, index, "name")
        if match is None:
            report.add(where, f"{item.name} has no place at its end, as others have.", f"Name it {item.name}__{index}.")
        elif int(match[1]) in seen:
            report.add(where, f"{item.name}: another {side} has place {int(match[1])}, too.")
        elif int(match[1]) >= len(tensors):
            reason = f"{item.name}: there are {len(tensors)} {side}s, so places go from 0 to {len(tensors) - 1}."
            report.add(where, reason)
        if match is not None:
            seen.add(int(match[1]))


def _tensors(report: Report, side: str) -> list[V2Tensor]:
    assert report.subject.signature is not None
    fields = [field for field in getattr(report.subject.signature, side) if isinstance(field, Tensor) and field.name]
    return named(fields, side)


def _against_file(report: Report, side: str, tensors: Sequence[Message], file: Sequence[V2Tensor]) -> None:
    """Names, types and shapes as the model's file has them. Nothing is said where the file says nothing."""
    known = {tensor.name: tensor for tensor in file}
    if not known or not tensors:
        return
    for index, item in enumerate(tensors):
        where = (side, index)
        tensor = known.get(item.name)
        if tensor is None:
            report.add((*where, "name"), f"the model has no {side} {item.name!r}; it has: {listed(known)}.")
            continue
        datatype = v2_of_config(pb2().DataType.Name(item.data_type))
        if item.data_type and datatype != tensor.datatype:
            report.add((*where, "data_type"), f"{item.name} is {tensor.datatype} in the model's file, not {datatype}.")
        inner = item.reshape.shape if item.HasField("reshape") else item.dims
        batch = [-1] if report.subject.config.max_batch_size > 0 else []
        if item.dims and not agree([*batch, *inner], tensor.shape):
            reason = f"{item.name} is {list(tensor.shape)} in the model's file, not {[*batch, *inner]}"
            if batch and tensor.shape[:1] != (-1,):
                reason += "; it does not batch, so max_batch_size must be 0"
            report.add((*where, "dims"), f"{reason}.")
    missing = sorted(set(known) - {item.name for item in tensors})
    if side == "input" and missing:
        report.add((side,), f"the model's file has more inputs: {listed(missing)}.", "Name them all.")


def agree(one: Sequence[int], other: Sequence[int]) -> bool:
    """Equal in length and, where neither is free, in size."""
    return len(one) == len(other) and all(a == b or a < 0 or b < 0 for a, b in zip(one, other, strict=True))
