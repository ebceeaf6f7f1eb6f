"""A model's inputs and outputs in one form: columns with types and required flags, or tensors with dtype and shape.

JSON form (shared with the runtime, which reads it from /opt/mpack/model.json):

    {"inputs": [{"kind": "column", "name": "age", "type": "long", "required": true}], "outputs": [...], "params": [...]}
    {"inputs": [{"kind": "tensor", "name": "x", "dtype": "float32", "shape": [-1, 4]}], ...}

Column types are MLflow's: boolean, integer (32 bits), long, float (32 bits), double, string, binary, datetime; `any`
where nothing says. Dtypes are NumPy's names (float32, int64, str, bool …). -1 in a shape is a free dimension.
"""

from __future__ import annotations

from typing import Any

from mpack.records import dataclass

COLUMN_TYPES = ("boolean", "integer", "long", "float", "double", "string", "binary", "datetime", "any")


def is_dim(size: int) -> bool:
    """True for what a dimension can be: -1, or 1 to the largest 64-bit number."""
    return size == -1 or 0 < size < 1 << 63


@dataclass(frozen=True)
class Column:
    """One column of a table. `name` is None where only the position is known."""

    name: str | None
    type: str
    required: bool = True

    def __post_init__(self) -> None:
        if self.type not in COLUMN_TYPES:
            raise ValueError(f"column type {self.type!r} is not one of {', '.join(COLUMN_TYPES)}")

    def to_json(self) -> dict[str, Any]:
        return {"kind": "column", "name": self.name, "type": self.type, "required": self.required}


@dataclass(frozen=True)
class Tensor:
    """One tensor. `name` is None for MLflow's single unnamed tensor; -1 in `shape` is free."""

    name: str | None
    dtype: str
    shape: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return {"kind": "tensor", "name": self.name, "dtype": self.dtype, "shape": list(self.shape)}


@dataclass(frozen=True)
class Param:
    """One inference parameter of an MLflow signature, with its default value (JSON)."""

    name: str
    type: str
    default: Any = None

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "type": self.type, "default": self.default}


Field = Column | Tensor


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs: all columns or all tensors on each side; an empty side is unknown."""

    inputs: tuple[Field, ...] = ()
    outputs: tuple[Field, ...] = ()
    params: tuple[Param, ...] = ()

    def __post_init__(self) -> None:
        for side in (self.inputs, self.outputs):
            if len({type(field) for field in side}) > 1:
                raise ValueError("a signature side mixes columns and tensors")

    def to_json(self) -> dict[str, Any]:
        return {
            "inputs": [field.to_json() for field in self.inputs],
            "outputs": [field.to_json() for field in self.outputs],
            "params": [param.to_json() for param in self.params],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Signature:
        """The inverse of `to_json`. Raises ValueError, KeyError or TypeError on another shape."""
        return cls(
            tuple(_field(item) for item in data.get("inputs", ())),
            tuple(_field(item) for item in data.get("outputs", ())),
            tuple(Param(item["name"], item["type"], item.get("default")) for item in data.get("params", ())),
        )


def _field(item: dict[str, Any]) -> Field:
    if item["kind"] == "column":
        return Column(item["name"], item["type"], bool(item.get("required", True)))
    if item["kind"] == "tensor":
        return Tensor(item["name"], item["dtype"], tuple(int(dim) for dim in item["shape"]))
    raise ValueError(f"signature field of unknown kind {item['kind']!r}")
