"""`_schema.json`: a model's tensors as V2 metadata shows them, beside a model whose file does not tell them."""

from __future__ import annotations

import json
from typing import Any

from mpack.artifact.model import Tree
from mpack.artifact.requirements import decode
from mpack.artifact.triton_layout import SCHEMA, is_version
from mpack.errors import InputError
from mpack.signature import Signature, Tensor, is_dim

#: V2's datatype -> NumPy's name.
DTYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8",
    "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float32", "FP64": "float64",
    "BF16": "bfloat16", "BYTES": "str", "STRING": "str",
}  # fmt: skip
_MAX_SIZE = 1 << 20


def read_schema(tree: Tree, path: str) -> Signature:
    """{"inputs": [{"name", "datatype", "shape"}], "outputs": […]} as a signature. Raises InputError with the field."""
    try:
        value = json.loads(decode(tree.read(path, _MAX_SIZE), path))
    except (ValueError, RecursionError) as error:
        raise _invalid(path, f"it is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise _invalid(path, "it is no object with inputs and outputs")
    return Signature(_side(value, "inputs", path), _side(value, "outputs", path))


def schema_near(tree: Tree, root: str) -> Signature | None:
    """The schema beside a model (a file's or directory's path), or above it if it stands in a version directory."""
    folder, _, _ = root.rpartition("/")
    above, _, name = folder.rpartition("/")
    for place in (folder, *((above,) if is_version(name) else ())):
        path = f"{place}/{SCHEMA}" if place else SCHEMA
        if path in tree:
            return read_schema(tree, path)
    return None


def version_near(root: str) -> str | None:
    """The number of the version directory that a model stands in."""
    folder = root.rpartition("/")[0].rpartition("/")[2]
    return folder if is_version(folder) and folder != "0" else None


def _side(value: dict[str, Any], side: str, path: str) -> tuple[Tensor, ...]:
    entries = value.get(side) or []
    if not isinstance(entries, list):
        raise _invalid(path, f"{side} is not a list")
    return tuple(_tensor(entry, f"{side}[{index}]", path) for index, entry in enumerate(entries))


def _tensor(entry: Any, where: str, path: str) -> Tensor:
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not name or not name.isprintable():
        raise _invalid(path, f"{where}.name is {name!r}, not a text that can be printed")
    dtype = DTYPES.get(str(entry.get("datatype")))
    if dtype is None:
        raise _invalid(path, f"{where}.datatype is {entry.get('datatype')!r}, not one of {', '.join(DTYPES)}")
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(type(dim) is int and is_dim(dim) for dim in shape):
        raise _invalid(path, f"{where}.shape is {shape!r}, not a list of sizes (-1 is any)")
    return Tensor(name, dtype, tuple(shape))


def _invalid(path: str, reason: str) -> InputError:
    return InputError(
        "artifact-invalid", f"{path}: {reason}.", "Write it as V2 metadata shows a model's inputs and outputs."
    )
