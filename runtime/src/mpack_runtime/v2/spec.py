"""A tensor of the V2 protocol by name, type and shape. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Spec:
    """One named tensor of the V2 protocol; -1 in `shape` is free. `required` False: it may be left out."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    required: bool = True
