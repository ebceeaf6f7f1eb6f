"""A signature as named V2 tensors, and exact conversion between number types. Knows nothing of Triton.

 1. Columns that all have a name: one tensor a column, shape [-1, 1]. boolean BOOL, integer INT32, long INT64, float
    FP32, double FP64, everything else BYTES.
 2. Columns without names: one tensor [-1, n] of the widest type (BOOL < INT32 < INT64 < FP32 < FP64 < BYTES; whole
    numbers beside floats: FP64).
 3. Tensors: their own name, type and shape; [-1] is shown as [-1, 1], a scalar as [1].
 4. Nothing known: one input FP64 [-1, -1]; outputs are told by an answer (`mpack_runtime.v2.outputs`).

What has no name is `input-0`, `input-1`, … and `output-0`, …; a single output is `predict`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mpack_runtime.frame import Array
from mpack_runtime.signature import Column, Field, Signature, Tensor
from mpack_runtime.v2.spec import Spec

_NUMBERS = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)
#: V2's type of a NumPy name, and the other way; BYTES are objects (bytes).
DATATYPES = {name: name.upper().replace("FLOAT", "FP") for name in _NUMBERS}
DTYPES: dict[str, Any] = {**{DATATYPES[name]: np.dtype(name) for name in _NUMBERS}, "BYTES": np.dtype(object)}
_BY_DTYPE: dict[Any, str] = {np.dtype(name): datatype for name, datatype in DATATYPES.items()}
_COLUMNS = {"boolean": "BOOL", "integer": "INT32", "long": "INT64", "float": "FP32", "double": "FP64"}
_WIDER = ("BOOL", "INT32", "INT64", "FP32", "FP64", "BYTES")


def input_specs(signature: Signature) -> tuple[Spec, ...]:
    """The inputs by the rules above."""
    return _specs(signature.inputs, "input") or (Spec("input-0", "FP64", (-1, -1)),)


def output_specs(signature: Signature) -> tuple[Spec, ...]:
    """The outputs by the rules above; none where the signature does not tell them."""
    specs = _specs(signature.outputs, "output")
    if len(specs) == 1 and specs[0].name == "output-0" and signature.outputs[0].name != "output-0":
        return (Spec("predict", specs[0].datatype, specs[0].shape),)
    return specs


def _specs(fields: Sequence[Field], side: str) -> tuple[Spec, ...]:
    columns = [field for field in fields if isinstance(field, Column)]
    if columns and all(column.name is not None for column in columns):
        return tuple(
            Spec(str(column.name), column_datatype(column.type), (-1, 1), column.required) for column in columns
        )
    if columns:
        return (Spec(f"{side}-0", widest([column_datatype(column.type) for column in columns]), (-1, len(columns))),)
    tensors = [field for field in fields if isinstance(field, Tensor)]
    return tuple(_tensor(tensor, f"{side}-{index}") for index, tensor in enumerate(tensors))


def _tensor(tensor: Tensor, position: str) -> Spec:
    name = position if tensor.name is None else tensor.name
    if tensor.dtype == "any":
        return Spec(name, "FP64", tensor.shape or (-1, -1))
    shape = (-1, 1) if tensor.shape == (-1,) else tensor.shape or (1,)
    return Spec(name, DATATYPES.get(tensor.dtype, "BYTES"), shape)


def datatype_of(array: Array) -> str:
    """The V2 type of an array; BYTES where it is none of numbers."""
    # A dtype's name takes NumPy longer to tell than all the rest of a small answer.
    return _BY_DTYPE.get(array.dtype) or DATATYPES.get(array.dtype.name, "BYTES")


def column_datatype(kind: str) -> str:
    """The V2 type of a column type."""
    return _COLUMNS.get(kind, "BYTES")


def widest(datatypes: Sequence[str]) -> str:
    """One type that holds all of these column types."""
    found = max(datatypes, key=_WIDER.index)
    return "FP64" if found == "FP32" and {"INT32", "INT64"}.intersection(datatypes) else found


class Unfit(Exception):
    """Values that a tensor cannot hold; the words are a sentence without its end."""


def fit(array: Array, shape: Sequence[int], what: str) -> Array:
    """The array in a declared shape; a last dimension of 1 may be there or not. Raises Unfit."""
    given = array.shape
    if len(given) + 1 == len(shape) and shape[-1] in (1, -1):
        given = (*given, 1)
    elif len(given) == len(shape) + 1 and given[-1] == 1:
        given = given[:-1]
    if len(given) != len(shape) or any(dim not in (-1, there) for dim, there in zip(shape, given)):
        raise Unfit(f"{what} has the shape {list(array.shape)}, where {list(shape)} is declared (-1 is free)")
    return array.reshape(given)


def cast(array: Array, datatype: str, what: str, *, exact: bool = True) -> Array:
    """Numbers in a V2 number type, only if nothing is lost (not `exact`: floats may be rounded). Raises Unfit."""
    target = DTYPES[datatype]
    if array.dtype == target:
        return array
    if array.dtype.kind not in "biuf":
        raise Unfit(f"{what} holds {_kind(array)}, where {datatype} is declared")
    with np.errstate(all="ignore"):
        out: Array = array.astype(target)
        same = (out.astype(array.dtype) == array) & _in_range(array, target)
    if target.kind == array.dtype.kind == "f":
        same |= (array != array) | (out == array)
        same |= np.isfinite(out) & (not exact or _same_digits(array, out, same))
    if not same.all():
        index = int(np.argmin(same.ravel()))
        value = array.ravel()[index].item()
        row = f", row {index // max(1, array.size // max(1, array.shape[0])) + 1}" if array.ndim else ""
        raise Unfit(f"{what}{row}: {value!r} cannot be {datatype} without loss")
    return out


def _in_range(array: Array, target: Any) -> Any:
    """Where a type holds the values at all: casting integers wraps around, and floats out of range do anything."""
    if target.kind == "b":
        return (array == 0) | (array == 1)
    if target.kind == "f":  # back from a float, the largest integers may be out of range
        if array.dtype.kind not in "iu":
            return True
        back = array.astype(target).astype(np.float64)
        return np.isfinite(back) & (back < float(int(np.iinfo(array.dtype).max) + 1))
    limits = np.iinfo(target)
    if array.dtype.kind == "f":
        return (array >= float(limits.min)) & (array < float(limits.max) + (0.0 if limits.max > 2**53 else 1.0))
    return (array >= 0) | (limits.min < 0) if array.dtype.kind != "u" else array <= np.uint64(limits.max)


def _same_digits(array: Array, out: Array, known: Any) -> Any:
    """Where a narrower float has the same shortest digits, as 0.1 has in FP32: that is how JSON brought it here."""
    same = np.array(known, copy=True)
    unknown = ~same
    if unknown.any():
        same[unknown] = out[unknown].astype(str).astype(np.float64) == array[unknown].astype(np.float64)
    return same


def _kind(array: Array) -> str:
    if array.dtype == object:
        odd = [item for item in array.ravel().tolist() if not isinstance(item, (int, float))]
        if not odd:
            return "a number beyond 64 bits"
        return "a missing value" if odd[0] is None else f"the {type(odd[0]).__name__} {str(odd[0])[:60]!r}"
    return f"values of the type {array.dtype}"


def objects(values: Sequence[Any]) -> Array:
    """A 1-D array of the values themselves."""
    array: Array = np.empty(len(values), dtype=object)
    array[:] = list(values)
    return array


def plain_array(value: Any) -> Array:
    """Nested lists as an array: of one number type if all of it is numbers (missing: NaN), else of objects."""
    if isinstance(value, np.ndarray):
        return value
    array: Array = np.array(value, dtype=object)
    flat = array.ravel().tolist()
    kinds = {type(item) for item in flat}
    try:
        if kinds == {bool}:
            return array.astype(np.bool_)
        if kinds <= {int, bool} and kinds:
            return array.astype(np.int64 if min(flat) < 0 or max(flat) < 2**63 else np.uint64)
        exact = all(type(item) is not int or abs(item) <= 2**53 for item in flat)
        if kinds <= {int, float, bool, type(None)} and kinds != {type(None)} and exact:
            return array.astype(np.float64)
    except OverflowError:
        pass
    return array
