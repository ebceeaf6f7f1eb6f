"""MLflow's signatures and input examples in mpack's form."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

from mpack.artifact.model import Finding, Sample, Tree
from mpack.errors import InputError
from mpack.signature import COLUMN_TYPES, Column, Field, Param, Signature, Tensor

#: MLflow's tensor types that NumPy calls otherwise.
_DTYPES = {"object": "str", "string": "str"}
#: Examples larger than this are not asked in the self-check.
MAX_EXAMPLE = 16 << 20


def parse_signature(value: Any, path: str) -> Signature | None:
    """The `signature` of an MLmodel: JSON strings or lists for inputs, outputs and params; None if it has none.

    Raises InputError artifact-invalid.
    """
    if value is None:
        return None
    if not isinstance(value, dict):
        raise _invalid(path, "signature is no mapping")
    inputs = tuple(_field(item, path) for item in _schema(value.get("inputs"), "inputs", path))
    outputs = tuple(_field(item, path) for item in _schema(value.get("outputs"), "outputs", path))
    params = tuple(_param(item, path) for item in _schema(value.get("params"), "params", path))
    try:
        return Signature(inputs, outputs, params) if inputs or outputs or params else None
    except ValueError as error:
        raise _invalid(path, f"signature: {error}") from None


def _schema(value: Any, side: str, path: str) -> list[Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise _invalid(path, f"signature.{side} is no JSON ({error})") from None
    if isinstance(value, dict):  # the earliest form: one tensor, or a mapping of columns
        value = [value]
    if value is not None and not isinstance(value, list):
        raise _invalid(path, f"signature.{side} is no list")
    return value or []


def _field(item: Any, path: str) -> Field:
    if not isinstance(item, dict) or not isinstance(item.get("type"), str):
        raise _invalid(path, f"signature holds {item!r}, which has no type")
    name = item.get("name")
    name = None if name is None else str(name)
    if item["type"] == "tensor":
        return _tensor(name, item.get("tensor-spec"), path)
    # Arrays, objects and maps (MLflow 2.10 and later) are JSON values of any shape to mpack.
    kind = item["type"] if item["type"] in COLUMN_TYPES else "any"
    required = item.get("required", not item.get("optional", False))
    return Column(name, kind, bool(required))


def _tensor(name: str | None, spec: Any, path: str) -> Tensor:
    try:
        dtype, shape = str(spec["dtype"]), tuple(int(dim) for dim in spec["shape"])
    except (TypeError, KeyError, ValueError):
        raise _invalid(path, f"signature holds a tensor of an unknown form: {spec!r}") from None
    dtype = "str" if dtype.lstrip("<>|=").startswith(("U", "S")) else dtype
    return Tensor(name, _DTYPES.get(dtype, dtype), tuple(max(dim, -1) for dim in shape))


def _param(item: Any, path: str) -> Param:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise _invalid(path, f"signature.params holds {item!r}, which has no name")
    kind = item.get("dtype", item.get("type", "any"))
    return Param(item["name"], str(kind), item.get("default"))


def read_example(tree: Tree, root: str, info: Any) -> tuple[Sample | None, tuple[Finding, ...]]:
    """The saved input example as a request, or a note why not. `root` ends with "/" or is "".

    A table becomes {"columns": …, "data": …}, tensors {"inputs": …}; parameters stay beside them.
    """
    if not isinstance(info, dict):
        return None, ()
    for key in ("serving_input_path", "artifact_path"):
        path = root + str(info.get(key))
        if path not in tree:
            continue
        if tree[path].size > MAX_EXAMPLE:
            return None, (Finding("note", f"the input example has more than {MAX_EXAMPLE >> 20} MiB; not used", path),)
        try:
            request = _request(tree.read(path), path, info)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            return None, (Finding("warning", f"the input example cannot be used: {error}", path),)
        if request is not None:
            return Sample(request=request), ()
    kind = info.get("type", "unknown")
    return None, (Finding("note", f"the input example (of the type {kind}) cannot be sent as a request; not used"),)


def _request(data: bytes, path: str, info: dict[str, Any]) -> Any:
    if path.endswith(".csv"):
        return _from_csv(data.decode("utf-8-sig"))
    value = json.loads(data, parse_constant=lambda text: None)  # NaN is null in every request
    if not isinstance(value, (dict, list)):
        return None
    if isinstance(value, list):
        return _from_list(value, info)
    params = {"params": value["params"]} if value.get("params") else {}
    if "dataframe_split" in value:
        return _from_split(value["dataframe_split"]) | params
    if "dataframe_records" in value:
        return _from_records(value["dataframe_records"]) | params
    if "inputs" in value or "instances" in value:
        key = "inputs" if "inputs" in value else "instances"
        return {key: value[key]} | params
    if "data" in value and info.get("type") != "json_object":
        return _from_split(value)
    if info.get("type") == "ndarray" or info.get("type") == "json_object":
        return {"inputs": value}
    return None


def _from_list(value: list[Any], info: dict[str, Any]) -> Any:
    if value and all(isinstance(row, dict) for row in value):
        return _from_records(value)
    return {"inputs": value} if info.get("type") in ("ndarray", "json_object") else {"data": value}


def _from_split(value: dict[str, Any]) -> dict[str, Any]:
    names = value.get("columns") or []
    # Numbered columns are what an unnamed DataFrame gets: they are positions, not names.
    if all(isinstance(name, int) for name in names):
        return {"data": value["data"]}
    return {"columns": [str(name) for name in names], "data": value["data"]}


def _from_records(value: list[dict[str, Any]]) -> dict[str, Any]:
    columns = list(dict.fromkeys(key for row in value for key in row))
    return {"columns": columns, "data": [[row.get(key) for key in columns] for row in value]}


def _from_csv(text: str) -> dict[str, Any]:
    rows = list(csv.reader(io.StringIO(text)))
    if len(rows) < 2:
        raise ValueError("it has no row")
    return {"columns": rows[0], "data": [[_cell(cell) for cell in row] for row in rows[1:]]}


def _cell(text: str) -> Any:
    if text == "":
        return None
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if math.isfinite(number) else None
    return {"True": True, "False": False}.get(text, text)


def _invalid(path: str, reason: str) -> InputError:
    return InputError("artifact-invalid", f"{path}: {reason}.", "Save the model again, or correct its MLmodel.")
