"""Answers out: whatever a model returns as JSON `{"prediction": …, "columns": […]}`.

NaN, NaT, None, pandas' NA and infinities are null. Arrays, Series, DataFrames and sparse matrices are nested lists of
their own shape; dicts stay objects (keys as strings), tuples are lists. Dates are ISO 8601, with their zone if they
have one; bytes are base64, time spans are seconds, Decimals are numbers, complex numbers are strings.

`columns` are a DataFrame's own names, or those that the model gives beside its answer; else the signature's, where the
width fits; else [].
"""

from __future__ import annotations

import base64
import datetime
import json
import math
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import orjson

from mpack_runtime.errors import ModelFailure
from mpack_runtime.frame import Array, Prediction

_NATIVE = frozenset(np.dtype(name) for name in (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64"
))  # fmt: skip


_MOMENTS = (datetime.date, datetime.time, datetime.timedelta, np.datetime64, np.timedelta64)


def render(raw: Any, names: Sequence[str] = ()) -> Prediction:
    """A model's answer in the form that JSON can hold. `names` are the signature's. Raises ModelFailure."""
    if type(raw) is np.ndarray and raw.ndim and raw.dtype in _NATIVE and raw.dtype.isnative:
        return Prediction(np.ascontiguousarray(raw), tuple(names) if names and _width(raw) == len(names) else ())
    try:
        if isinstance(raw, Prediction):
            return Prediction(plain(raw.value), raw.columns, raw.table)
        if _is_pandas(raw, "DataFrame"):
            names = tuple(str(name) for name in raw.columns)
            return Prediction(_frame(raw), names, names)
        value = plain(raw)
    except RecursionError as error:
        raise ModelFailure(
            "The model's answer is nested too deeply, or holds itself, and cannot be written as JSON."
        ) from error
    table = (str(0 if raw.name is None else raw.name),) if _is_pandas(raw, "Series") else ()
    return Prediction(value, tuple(names) if names and _width(value) == len(names) else (), table)


def encode(prediction: Prediction) -> bytes:
    """The answer's JSON, UTF-8. Raises ModelFailure."""
    return to_bytes({"prediction": prediction.value, "columns": list(prediction.columns)})


def to_bytes(answer: Mapping[str, Any]) -> bytes:
    """An object that holds values of predictions as JSON, UTF-8. Raises ModelFailure."""
    try:
        return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:  # orjson knows no number beyond 64 bits, no lone surrogate and no deep nesting
        try:
            return json.dumps(plain(answer, numpy=False), allow_nan=False, separators=(",", ":")).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ModelFailure(f"The model's answer cannot be written as JSON: {error}.") from error


def _is_pandas(value: Any, name: str) -> bool:
    kind = type(value)
    return any(base.__name__ == name and base.__module__.split(".")[0] == "pandas" for base in kind.__mro__)


def _frame(frame: Any) -> list[list[Any]]:
    """Rows of a DataFrame; columns may share a name."""
    columns = [plain(frame.iloc[:, index].to_numpy(dtype=object), numpy=False) for index in range(frame.shape[1])]
    return [list(row) for row in zip(*columns)] if columns else [[] for _ in range(len(frame))]


def _width(value: Any) -> int | None:
    """How many columns an answer has: of a table its width, of a list of values 1, of an object its keys."""
    if isinstance(value, np.ndarray):
        return int(value.shape[1]) if value.ndim == 2 else 1 if value.ndim == 1 else None
    if isinstance(value, list) and value:
        widths = {len(row) if isinstance(row, list) else 1 for row in value}
        return widths.pop() if len(widths) == 1 else None
    return 1 if isinstance(value, list) else None


def plain(value: Any, numpy: bool = True) -> Any:
    """Lists, dicts, strings, numbers, booleans and None; with `numpy` also arrays that orjson writes by itself."""
    if value is None or isinstance(value, (str, bool)):
        return str(value) if isinstance(value, np.str_) else value
    if isinstance(value, np.ndarray):
        return _array(value, numpy)
    if isinstance(value, Mapping):
        return {key if type(key) is str else str(key): plain(item, numpy) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, numpy) for item in value]
    return _other(value, numpy)


def _array(array: Array, numpy: bool) -> Any:
    # Where nothing has imported numpy.ma, as `np.ma` would here, there is no masked array.
    if "numpy.ma" in sys.modules and isinstance(array, np.ma.MaskedArray):
        objects = np.asarray(array.data).astype(object)
        objects[np.ma.getmaskarray(array)] = None
        return plain(objects, False)
    if numpy and array.dtype in _NATIVE and array.dtype.isnative and array.ndim:
        return np.ascontiguousarray(array)
    if array.dtype.kind in "Mm":
        array = _objects_of_dates(array)
    elif array.dtype.kind == "f" and array.dtype.itemsize < 8:
        array = _shortest(array)
    return plain(array.tolist(), False)


def _objects_of_dates(array: Array) -> Array:
    """datetime64 and timedelta64 of any unit as objects; NaT as None."""
    objects = np.empty(array.shape, dtype=object)
    for index, item in np.ndenumerate(array):
        objects[index] = item
    return objects


def _shortest(array: Array) -> Array:
    """float16 and float32 as the float64 of the same shortest digits, as orjson writes float32."""
    return array.astype(str).astype(np.float64)


def _other(value: Any, numpy: bool) -> Any:
    """Scalars, and what is not a plain container."""
    if isinstance(value, _MOMENTS):  # first: NumPy's timedelta64 is an integer
        return _moment(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        number = float(str(value)) if isinstance(value, (np.float16, np.float32)) else float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(bytes(value)).decode("ascii")
    if isinstance(value, Decimal):
        return _decimal(value)
    if isinstance(value, (complex, np.complexfloating)):
        return str(value)
    return _library(value, numpy)


def _decimal(value: Decimal) -> Any:
    if not value.is_finite():
        return None
    return int(value) if value == value.to_integral_value() and abs(value) < 2**63 else float(value)


def _moment(value: Any) -> Any:
    """Dates as ISO 8601, spans as seconds, not-a-time as None."""
    if isinstance(value, np.timedelta64):
        return None if np.isnat(value) else _seconds(value)
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else _trim(str(value))
    if value != value:  # pandas.NaT
        return None
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    return _trim(value.isoformat())


def _seconds(span: Any) -> Any:
    """A timedelta64 in seconds; of years, months or no unit, which have no length in seconds, its words."""
    unit, count = np.datetime_data(span.dtype)
    if unit not in _UNITS:
        return str(span)
    size, divisor = _UNITS[unit]
    return int(span.astype(np.int64)) * count * size / divisor


_UNITS = {
    "W": (604800, 1), "D": (86400, 1), "h": (3600, 1), "m": (60, 1), "s": (1, 1),
    "ms": (1, 10**3), "us": (1, 10**6), "ns": (1, 10**9), "ps": (1, 10**12), "fs": (1, 10**15), "as": (1, 10**18),
}  # fmt: skip


def _trim(text: str) -> str:
    """Without a fraction of zeros, as Python's own isoformat writes them."""
    head, dot, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    tail = rest[len(digits) :]
    digits = digits.rstrip("0")
    return f"{head}.{digits}{tail}" if dot and digits else head + tail


def _library(value: Any, numpy: bool) -> Any:
    """Objects of pandas, scipy and torch, known by what they offer, without importing them."""
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if _is_pandas(value, "DataFrame"):
        return _frame(value)
    if hasattr(value, "detach") and hasattr(value, "numpy"):  # torch
        return plain(value.detach().cpu().numpy(), numpy)
    if hasattr(value, "toarray"):  # scipy sparse
        return plain(value.toarray(), numpy)
    if hasattr(value, "to_numpy"):  # pandas Series, Index and extension arrays
        array = value.to_numpy()
        return plain(array if array.dtype.kind in "biuf" else value.to_numpy(dtype=object), numpy)
    if hasattr(value, "__array__"):
        return plain(np.asarray(value), numpy)
    raise ModelFailure(
        f"The model's answer holds a {type(value).__module__}.{type(value).__name__}, which cannot be written as JSON."
    )
