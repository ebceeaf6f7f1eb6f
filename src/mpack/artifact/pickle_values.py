"""What the scan knows of the objects on an unpickler's stack. Constants and tuples stand for themselves."""

from __future__ import annotations

import re
from typing import Any

from mpack.artifact.pickle_source import Unfollowable
from mpack.records import dataclass

#: Items of one list or dict that are remembered; more are only counted.
KEPT_ITEMS = 256
#: Attributes whose text scikit-learn looks up as a method of another object and calls at prediction, such as
#: StackingClassifier's `stack_method_`: with the text free, "eval" of a DataFrame would be a model's step.
METHOD_KEYS = frozenset(
    (
        *("stack_method", "stack_method_", "chain_method", "chain_method_", "response_method", "_response_method"),
        "importance_getter",
    )
)
_METHODS = frozenset(
    ("auto", "predict", "predict_proba", "predict_log_proba", "decision_function", "transform", "score_samples")
)
_PLAIN_PATH = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*", re.ASCII)


@dataclass(frozen=True)
class Global:
    """An object found by name: what `find_class` returns."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class Blob:
    """Plain data that is not remembered; of long strings and bytes the two ends are."""

    kind: str
    head: bytes = b""
    tail: bytes = b""


NUMBER = Blob("number")
TUPLE = Blob("tuple")


class ListValue:
    """A list, or a set."""

    __slots__ = ("fixed", "items")

    def __init__(self, items: list[Any] | None = None) -> None:
        self.items: list[Any] = items or []
        #: What is in it has been judged already.
        self.fixed = False

    def extend(self, items: list[Any]) -> None:
        if self.fixed:
            raise Unfollowable("it adds names of methods to a list that an object holds already")
        if len(self.items) < KEPT_ITEMS:
            self.items.extend(items[: KEPT_ITEMS - len(self.items)])


class SetValue(ListValue):
    """A set."""

    __slots__ = ()


class DictValue:
    """A dict. `odd_key` tells of a key that names a special attribute or that is no constant."""

    __slots__ = ("items", "odd_key")

    def __init__(self) -> None:
        self.items: dict[Any, Any] = {}
        self.odd_key = False

    @property
    def whole(self) -> bool:
        """True if every item is remembered."""
        return len(self.items) < KEPT_ITEMS

    def update(self, flat: list[Any]) -> None:
        """Adds keys and values that alternate."""
        if len(flat) % 2:
            raise Unfollowable("a dict in it has a key without a value")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if isinstance(key, str):
                self.odd_key |= key.startswith("__") and key.endswith("__")
                if key in METHOD_KEYS:
                    check_methods(key, value)
            elif not isinstance(key, (int, bytes, tuple)) and key is not None:
                self.odd_key |= not isinstance(key, Blob)
                continue
            if len(self.items) < KEPT_ITEMS or key in self.items:
                self.items[key] = value


def check_methods(key: str, value: Any) -> None:
    """Refuses what is no method of an estimator. An importance may also be a path of attributes, which calls nothing,
    or a function."""
    values = [value]
    if isinstance(value, ListValue):
        value.fixed = True
        values = value.items if len(value.items) < KEPT_ITEMS else [NUMBER]
    elif isinstance(value, tuple):
        values = list(value)
    for item in values:
        plain = item is None or (isinstance(item, str) and item in _METHODS)
        if key == "importance_getter":
            plain |= isinstance(item, Global) or (isinstance(item, str) and _PLAIN_PATH.fullmatch(item) is not None)
        if not plain:
            raise Unfollowable(f"its {key} names what is no method of an estimator")


class Instance:
    """What calling a global gave. `state` is what BUILD set, `entries` what was stored into it as into a dict."""

    def __init__(self, of: Global, args: tuple[Any, ...] = ()) -> None:
        self.of = of
        self.args = args
        self.state: Any = None
        self.built = False
        self.entries = DictValue()

    def attribute(self, name: str) -> Any:
        """An attribute that the state sets, or None."""
        state = self.state[0] if isinstance(self.state, tuple) and self.state else self.state
        return state.items.get(name) if isinstance(state, DictValue) else None


@dataclass(frozen=True)
class Dtype:
    """A NumPy dtype as far as reading an array's bytes needs it."""

    itemsize: int
    has_objects: bool


_CODE = re.compile(r"([?biufcOSUVMm])(\d{0,9})")
DTYPE = Global("numpy", "dtype")


def dtype_of(value: Any) -> Dtype:
    """The dtype that unpickling `value` makes. Raises Unfollowable where size and flags are not certain."""
    if not isinstance(value, Instance) or value.of != DTYPE:
        raise Unfollowable("an array in it has a dtype that is not plain")
    if not (
        1 <= len(value.args) <= 3 and isinstance(value.args[0], str) and {int, bool} >= set(map(type, value.args[1:]))
    ):
        raise Unfollowable("an array in it has a dtype that is not plain")
    match = _CODE.fullmatch(value.args[0])
    if not match:
        raise Unfollowable(f"an array in it has the unknown dtype {value.args[0]!r}")
    kind, digits = match[1], match[2]
    size = int(digits) if digits else 1 if kind == "?" else 8 if kind == "O" else 0
    if not size and kind not in "SUV":
        raise Unfollowable(f"an array in it has the incomplete dtype {value.args[0]!r}")
    size *= 4 if kind == "U" else 1
    if value.state is None:
        return Dtype(size, kind == "O")
    return Dtype(size, _check_dtype_state(kind, size, value.state))


def _check_dtype_state(kind: str, size: int, state: Any) -> bool:
    """Whether the dtype holds objects. Its state may set size, fields and flags anew: they must agree with the rest."""
    if not (isinstance(state, tuple) and len(state) in (8, 9) and state[0] in (3, 4) and type(state[7]) is int):
        raise Unfollowable("a dtype in it has a state of an unknown kind")
    _, _, subarray, _, fields, itemsize, _, flags = state[:8]
    objects = kind == "O"
    if isinstance(fields, DictValue):
        if not fields.whole or fields.odd_key:
            raise Unfollowable("a record dtype in it has too many or unknown fields")
        entries = list(fields.items.values())
        if not all(isinstance(entry, tuple) and entry for entry in entries):
            raise Unfollowable("a record dtype in it has unknown fields")
        objects |= any(dtype_of(entry[0]).has_objects for entry in entries)
    if isinstance(subarray, tuple) and subarray:
        objects |= dtype_of(subarray[0]).has_objects
    plain = subarray is None and fields is None
    consistent = itemsize == size if kind in "SUV" else plain
    known = isinstance(fields, DictValue) or fields is None
    if not (consistent and known and isinstance(subarray, (tuple, type(None))) and bool(flags & 1) == objects):
        raise Unfollowable("a dtype in it contradicts itself")
    return objects


def array_bytes(shape: Any, dtype: Dtype) -> int:
    """Size in bytes of an array as joblib reads it. Raises Unfollowable on a shape that is not plain."""
    if not isinstance(shape, tuple) or not all(type(item) is int and item >= 0 for item in shape):
        raise Unfollowable("an array in it has a shape that is not plain")
    count = 1
    for item in shape:
        count *= item
    if count * max(dtype.itemsize, 1) >= 1 << 62:
        raise Unfollowable("an array in it has an impossible shape")
    return count * dtype.itemsize
