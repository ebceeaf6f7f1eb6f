"""Records: what the standard library's frozen dataclasses do, they do."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import field
from functools import cached_property
from typing import Any, ClassVar

import pytest

from mpack.records import dataclass

STANDARD = dataclasses.dataclass(frozen=True)


class Base:
    kind: ClassVar[str] = "point"
    x: int
    y: int = 2

    @cached_property
    def total(self) -> int:
        return self.x + self.y


class Derived:
    z: tuple[Any, ...] = ()
    secret: str = field(default="", repr=False)
    note: str = field(default="n", compare=False)
    more: dict[str, int] = field(default_factory=dict)


class Strict:
    name: str

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("no name")

    def __repr__(self) -> str:
        return "strict"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Strict) and self.name == other.name


def family(make: Callable[[type], type]) -> dict[str, Any]:
    """The same three classes, made one way."""

    def copy_of(cls: type, *bases: type) -> Any:
        body = {key: value for key, value in vars(cls).items() if key not in ("__dict__", "__weakref__")}
        body = {key: copy.copy(value) if isinstance(value, dataclasses.Field) else value for key, value in body.items()}
        made = make(type(cls.__name__, bases or (object,), body))
        if "total" in body:
            body["total"].__set_name__(made, "total")
        return made

    base = copy_of(Base)
    return {"Base": base, "Derived": copy_of(Derived, base), "Strict": copy_of(Strict)}


OURS, THEIRS = family(dataclass(frozen=True)), family(STANDARD)

WIDER = {"__annotations__": {"w": "int"}, "w": 4}
DOES: dict[str, Callable[[dict[str, Any]], object]] = {
    "positions": lambda all: dataclasses.astuple(all["Base"](1, 3)),
    "names": lambda all: dataclasses.asdict(all["Derived"](y=5, x=1, z=(all["Base"](0),))),
    "defaults": lambda all: vars(all["Derived"](1)),
    "a default is no shared one": lambda all: all["Derived"](1).more is all["Derived"](1).more,
    "a default of the class": lambda all: (all["Base"].y, all["Derived"].note, hasattr(all["Derived"], "more")),
    "repr": lambda all: repr(all["Derived"](1, secret="s", more={"a": 1})),
    "own repr": lambda all: repr(all["Strict"]("a")),
    "equal": lambda all: all["Derived"](1) == all["Derived"](1, note="other"),
    "unequal": lambda all: all["Derived"](1) == all["Derived"](1, secret="s"),
    "of another class": lambda all: (all["Base"](1) == all["Derived"](1), all["Base"](1) == (1, 2)),
    "hash": lambda all: hash(all["Base"](1)) == hash((1, 2)) == hash(all["Base"](1, 2)),
    "hash with an own ==": lambda all: hash(all["Strict"]("a")) == hash(("a",)),
    "replace": lambda all: vars(dataclasses.replace(all["Derived"](1), z=(9,))),
    "fields": lambda all: [
        (item.name, item.type, item.repr, item.compare) for item in dataclasses.fields(all["Derived"])
    ],
    "is one": lambda all: dataclasses.is_dataclass(all["Base"]),
    "match": lambda all: all["Derived"].__match_args__,
    "cached property": lambda all: all["Base"](1).total,
    "copied": lambda all: vars(copy.deepcopy(all["Derived"](1, more={"a": 1}))),
    "a plain subclass": lambda all: vars(type("Plain", (all["Base"],), {})(1)),
    "a standard subclass": lambda all: vars(STANDARD(type("S", (all["Base"],), WIDER))(1, 2, 3)),
    "of a plain subclass": lambda all: setattr(type("Plain", (all["Base"],), {})(1), "w", 1),
}
FAILS: dict[str, Callable[[dict[str, Any]], object]] = {
    "assigned": lambda all: setattr(all["Base"](1), "x", 2),
    "a new attribute": lambda all: setattr(all["Base"](1), "w", 2),
    "deleted": lambda all: delattr(all["Base"](1), "x"),
    "in a subclass": lambda all: setattr(type("Plain", (all["Base"],), {})(1), "x", 2),
    "too few": lambda all: all["Base"](),
    "too many": lambda all: all["Base"](1, 2, 3),
    "twice": lambda all: all["Base"](1, x=2),
    "one too many by name": lambda all: all["Base"](1, 2, w=3),
    "unknown": lambda all: all["Base"](1, w=3),
    "refused": lambda all: all["Strict"](""),
    "compared": lambda all: all["Base"](1) < all["Base"](2),
}


@pytest.mark.parametrize("does", DOES.values(), ids=DOES)
def test_does_as_the_standard_library(does: Callable[[dict[str, Any]], object]) -> None:
    """The same outcome from both."""
    assert does(OURS) == does(THEIRS)


@pytest.mark.parametrize("fails", FAILS.values(), ids=FAILS)
def test_fails_as_the_standard_library(fails: Callable[[dict[str, Any]], object]) -> None:
    """The same kind of error from both."""
    with pytest.raises(Exception) as theirs:
        fails(THEIRS)
    with pytest.raises(theirs.type):
        fails(OURS)


@dataclass(frozen=True)
class Kept:
    name: str
    values: tuple[int, ...] = ()


def test_pickled() -> None:
    """What goes to another process comes back equal."""
    assert pickle.loads(pickle.dumps(Kept("a", (1, 2)))) == Kept("a", (1, 2))
