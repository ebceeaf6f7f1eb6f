"""Types three ways: Triton's config (TYPE_FP32), the V2 protocol (FP32), mpack's signatures (float32).

| signature | V2 | config.pbtxt |
| --- | --- | --- |
| bool | BOOL | TYPE_BOOL |
| int8 … int64, uint8 … uint64 | INT8 … UINT64 | TYPE_INT8 … TYPE_UINT64 |
| float16, float32, float64 | FP16, FP32, FP64 | TYPE_FP16 … |
| bfloat16 | BF16 | TYPE_BF16 |
| str, bytes, object, datetime64 | BYTES | TYPE_STRING |

Everything else (complex64, int4, float8 …) has no V2 type.
"""

from __future__ import annotations

from mpack.errors import InputError

_NUMBERS = {
    "bool": "BOOL",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
    "bfloat16": "BF16",
}
_TEXT = ("str", "string", "bytes", "object")
_COLUMNS = {"boolean": "BOOL", "integer": "INT32", "long": "INT64", "float": "FP32", "double": "FP64"}


def v2_of_dtype(dtype: str) -> str:
    """The V2 type of a NumPy name. Raises InputError artifact-invalid for what V2 cannot carry."""
    if dtype in _TEXT or dtype.startswith("datetime64"):
        return "BYTES"
    if dtype in _NUMBERS:
        return _NUMBERS[dtype]
    hint = "Cast it inside the model, for example to float32 or, for a complex number, to its two parts."
    raise InputError("artifact-invalid", f"Triton cannot serve a tensor of type {dtype}: it has no such type.", hint)


def v2_of_column(kind: str) -> str:
    """The V2 type of an MLflow column type; text, binary, datetime and any are BYTES."""
    return _COLUMNS.get(kind, "BYTES")


def config_type(datatype: str) -> str:
    """V2 -> TYPE_…"""
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"


def v2_of_config(name: str) -> str:
    """TYPE_… -> V2; TYPE_INVALID stays "INVALID"."""
    return "BYTES" if name == "TYPE_STRING" else name.removeprefix("TYPE_")


def widest(datatypes: list[str]) -> str:
    """One type for all columns of a matrix: text beats numbers; whole numbers mixed with floats are FP64."""
    order = ("BOOL", "INT32", "INT64", "FP32", "FP64", "BYTES")
    found = max(datatypes, key=order.index)
    if found == "FP32" and any(item.startswith("INT") for item in datatypes):
        return "FP64"
    return found
