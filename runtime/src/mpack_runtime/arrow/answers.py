"""A model's answer as an Arrow IPC stream of one table.

Its columns are V2's outputs: their names, and the signature's types where nothing is lost. An output of more
dimensions is a column of fixed-size lists; outputs of different numbers of rows are one row of lists. What is null in
JSON because it is missing (NaN, None) is null here; an infinity, for which JSON has no word, stays.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mpack_runtime.frame import Prediction
from mpack_runtime.signature import Column, Field
from mpack_runtime.v2 import answers
from mpack_runtime.v2.raw import V2Tensor
from mpack_runtime.v2.spec import Spec
from mpack_runtime.wire_columns import parse_date


def stream(prediction: Prediction, specs: Sequence[Spec], fields: Sequence[Field] = ()) -> bytes:
    """The answer as a stream. `specs` and the signature's `fields` are empty where the answer tells them itself."""
    kinds = [field.type if isinstance(field, Column) else "" for field in fields]
    batch = _labels(prediction, specs, kinds) or _batch(answers.answer(prediction, specs), kinds)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def _labels(prediction: Prediction, specs: Sequence[Spec], kinds: Sequence[str]) -> pa.RecordBatch | None:
    """One column of text, which is what most classifiers answer, without a detour over V2's bytes."""
    value, names = prediction.value, [spec.name for spec in specs] or list(prediction.columns) or ["predict"]
    types = set(map(type, value)) if type(value) is list else set()
    if not {str} <= types <= {str, type(None)} or len(names) > 1 or any(spec.datatype != "BYTES" for spec in specs):
        return None
    if {"binary", "datetime"}.intersection(kinds):
        return None
    try:
        return pa.RecordBatch.from_arrays([pa.array(value, pa.string())], names)
    except UnicodeEncodeError:  # half a character
        return None


def _batch(tensors: Sequence[V2Tensor], kinds: Sequence[str]) -> pa.RecordBatch:
    told = [*kinds, *[""] * len(tensors)]
    columns = [_column(tensor, kind) for tensor, kind in zip(tensors, told)]
    if len({len(column) for column in columns}) > 1:
        columns = [pa.ListArray.from_arrays([0, len(column)], column) for column in columns]
    return pa.RecordBatch.from_arrays(columns, [tensor.name for tensor in tensors])


def _column(tensor: V2Tensor, kind: str) -> pa.Array:
    """One output; `kind` is the type of its column in the signature, or ""."""
    flat = np.ascontiguousarray(tensor.array).reshape(-1)
    column = _text(flat.tolist(), kind) if tensor.datatype == "BYTES" else pa.array(flat, from_pandas=True)
    shape = tensor.shape if tensor.shape[1:] != (1,) else tensor.shape[:1]
    for axis in reversed(range(1, len(shape))):
        if shape[axis]:
            column = pa.FixedSizeListArray.from_arrays(column, shape[axis])
        else:  # pyarrow makes no fixed size of 0
            column = pa.ListArray.from_arrays(np.zeros(math.prod(shape[:axis]) + 1, np.int32), column)
    return column


def _text(items: list[bytes | None], kind: str) -> pa.Array:
    """UTF-8 text; as bytes or as moments where the signature declares these and all of the text is such."""
    try:
        if kind == "binary":
            return pa.array([None if item is None else base64.b64decode(item, validate=True) for item in items])
        if kind == "datetime":
            moments: Any = [np.datetime64("NaT") if item is None else parse_date(item.decode()) for item in items]
            return pa.array(np.array(moments, "datetime64[ns]"), pa.timestamp("ns", "UTC"))
    except (ValueError, binascii.Error):
        pass
    return pa.array(items, pa.string())
