"""A model's inputs and outputs: columns with types and required flags, or tensors with dtype and shape.

JSON form (written into model.json when the image is built):

    {"inputs": [{"kind": "column", "name": "age", "type": "long", "required": true}], "outputs": [...], "params": [...]}
    {"inputs": [{"kind": "tensor", "name": "x", "dtype": "float32", "shape": [-1, 4]}], ...}

Column types: boolean, integer (32 bits), long, float (32 bits), double, string, binary, datetime; `any` where nothing
says. Dtypes are NumPy's names. -1 in a shape is a free dimension. A name of None: only the position is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Union

COLUMN_TYPES = ("boolean", "integer", "long", "float", "double", "string", "binary", "datetime", "any")


@dataclass(frozen=True)
class Column:
    """One column of a table. `required` False: it may be left out, and any of its values may be missing."""

    name: str | None
    type: str = "any"
    required: bool = True

    def __post_init__(self) -> None:
        if self.type not in COLUMN_TYPES:
            raise ValueError(f"column type {self.type!r} is not one of {', '.join(COLUMN_TYPES)}")


@dataclass(frozen=True)
class Tensor:
    """One tensor. -1 in `shape` is free; an empty shape with dtype "any" says nothing."""

    name: str | None
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Param:
    """One inference parameter with its default value."""

    name: str
    type: str
    default: Any = None


Field = Union[Column, Tensor]


@dataclass(frozen=True)
class Signature:
    """All columns or all tensors on each side; an empty side is unknown."""

    inputs: tuple[Field, ...] = ()
    outputs: tuple[Field, ...] = ()
    params: tuple[Param, ...] = ()

    @cached_property
    def input_columns(self) -> tuple[Column, ...]:
        """The inputs if they are columns, else nothing."""
        return tuple(field for field in self.inputs if isinstance(field, Column))

    @cached_property
    def input_tensors(self) -> tuple[Tensor, ...]:
        """The inputs if they are tensors, else nothing."""
        return tuple(field for field in self.inputs if isinstance(field, Tensor))

    @cached_property
    def input_names(self) -> tuple[str, ...]:
        """The names of the inputs, or nothing unless each of them has one."""
        return _names(self.inputs)

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs, or nothing unless each of them has one."""
        return _names(self.outputs)

    @cached_property
    def column_type(self) -> str | None:
        """The type that all input columns have; None: they differ, or there are none."""
        types = {column.type for column in self.input_columns}
        return types.pop() if len(types) == 1 else None

    @cached_property
    def distinct_names(self) -> list[str] | None:
        """The names of the inputs, as a request may give them; None unless each has one of its own."""
        names = list(self.input_names)
        return names if names and len(set(names)) == len(names) else None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Signature:
        """Reads the JSON form. Raises ValueError, KeyError or TypeError on another shape."""
        return cls(
            tuple(_field(item) for item in data.get("inputs", ())),
            tuple(_field(item) for item in data.get("outputs", ())),
            tuple(Param(item["name"], item["type"], item.get("default")) for item in data.get("params", ())),
        )


def _names(fields: tuple[Field, ...]) -> tuple[str, ...]:
    names = tuple(field.name for field in fields if field.name is not None)
    return names if len(names) == len(fields) else ()


def _field(item: Mapping[str, Any]) -> Field:
    if item["kind"] == "column":
        return Column(item["name"], item["type"], bool(item.get("required", True)))
    if item["kind"] == "tensor":
        return Tensor(item["name"], item["dtype"], tuple(int(dim) for dim in item["shape"]))
    raise ValueError(f"signature field of unknown kind {item['kind']!r}")
