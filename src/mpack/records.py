"""Frozen dataclasses that cost next to nothing to define.

The standard library writes the source of six methods for each and compiles it, 0.5 ms a class: for the classes of a
short command a sixth of its time. Here the methods are functions that all classes share. What is made is a dataclass to
`dataclasses.fields`, `replace` and `asdict`, and to a type checker; a test compares it with the standard library's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from inspect import get_annotations
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

_T = TypeVar("_T")


def _frozen(cls: type[_T]) -> type[_T]:
    """The class as `dataclasses.dataclass(frozen=True)` would have it; of `field` it knows defaults, repr, compare."""
    fields = _fields(cls)
    names = tuple(fields)
    get = _getter(tuple(name for name, item in fields.items() if item.compare))
    shown = tuple(name for name, item in fields.items() if item.repr)

    def __init__(self: Any, *values: Any, **named: Any) -> None:
        state = self.__dict__
        state.update(zip(names, values, strict=False))
        if len(values) != len(names):
            _complete(cls, fields, len(values), state, named)
        elif named:
            raise TypeError(f"{cls.__name__} takes {len(names)} values, and got {sorted(named)} besides")
        if post is not None:
            post(self)

    def __repr__(self: Any) -> str:
        return f"{self.__class__.__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def __eq__(self: Any, other: object) -> bool:
        return get(self) == get(other) if other.__class__ is self.__class__ else NotImplemented

    def __hash__(self: Any) -> int:
        return hash(get(self))

    def __setattr__(self: Any, name: str, value: Any) -> None:
        if type(self) is cls or name in fields:
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        object.__setattr__(self, name, value)

    def __delattr__(self: Any, name: str) -> None:
        if type(self) is cls or name in fields:
            raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
        object.__delattr__(self, name)

    post: Callable[[Any], None] | None = getattr(cls, "__post_init__", None)
    for method in (__init__, __repr__, __eq__, __setattr__, __delattr__):
        if method.__name__ not in cls.__dict__:
            setattr(cls, method.__name__, method)
    made: Any = cls
    # None is what a class body with an __eq__ of its own leaves there.
    if cls.__dict__.get("__hash__") is None:
        made.__hash__ = __hash__
    made.__dataclass_fields__, made.__dataclass_params__ = fields, _PARAMS
    made.__match_args__ = names  # type: ignore[misc]
    return cls


def _fields(cls: type) -> dict[str, Any]:
    """The fields by name, those of bases first; takes away what the class body has in place of a default."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__[1:]):
        found |= getattr(base, "__dataclass_fields__", {})
    for name, kind in get_annotations(cls).items():
        if str(kind).startswith(("ClassVar", "typing.ClassVar")):
            continue
        given = cls.__dict__.get(name, dataclasses.MISSING)
        item: Any = given if isinstance(given, dataclasses.Field) else dataclasses.field(default=given)
        item.name, item.type, item.kw_only, item._field_type = name, kind, False, _KIND
        found[name] = item
        if item is given:
            delattr(cls, name)
            if item.default is not dataclasses.MISSING:
                setattr(cls, name, item.default)
    return found


def _complete(cls: type, fields: dict[str, Any], count: int, state: dict[str, Any], named: dict[str, Any]) -> None:
    """Puts what was given by name, and the defaults, to the `count` values that are there. Raises TypeError."""
    missing = dataclasses.MISSING
    for number, (name, item) in enumerate(fields.items()):
        if name in named:
            if number < count:
                raise TypeError(f"{cls.__name__} got two values for {name}")
            state[name] = named.pop(name)
        elif number >= count:
            if item.default is not missing:
                state[name] = item.default
            elif item.default_factory is not missing:
                state[name] = item.default_factory()
            else:
                raise TypeError(f"{cls.__name__} lacks a value for {name}")
    if named or count > len(fields):
        raise TypeError(f"{cls.__name__} has the fields {', '.join(fields)}; it got {count} values and {sorted(named)}")


def _getter(names: tuple[str, ...]) -> Callable[[Any], Any]:
    """What compares and hashes as the tuple of these attributes."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda item: tuple(getattr(item, name) for name in names)


if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen):
        """`@dataclass(frozen=True)`; for any other, the standard library's."""
        assert frozen
        return _frozen


@dataclasses.dataclass(frozen=True)
class _Sample:
    field: int


#: What every field, and every frozen dataclass, of the standard library has alike.
_KIND: Any = _Sample.__dataclass_fields__["field"]._field_type  # type: ignore[attr-defined]
_PARAMS: Any = _Sample.__dataclass_params__  # type: ignore[attr-defined]
