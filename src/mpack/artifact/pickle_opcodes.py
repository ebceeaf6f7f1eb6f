"""The opcodes of pickle protocols 0 to 5, each as what it does to a `pickle_machine.Machine`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mpack.artifact import pickle_arguments as arguments
from mpack.artifact.pickle_arguments import blob, decode, i4, u1, u2, u4, u8
from mpack.artifact.pickle_source import Source, Unfollowable
from mpack.artifact.pickle_values import TUPLE, Blob, DictValue, ListValue, SetValue

if TYPE_CHECKING:
    from mpack.artifact.pickle_machine import Machine

#: Longer tuples are not remembered.
KEPT_TUPLE = 64
#: What the step of STOP gives.
STOP = object()
Step = Callable[["Machine"], Any]


def _value(read: Callable[[Source], Any]) -> Step:
    """Pushes what the opcode carries."""
    return lambda machine: machine.push(read(machine.source))


def _sized(read: Callable[[Source, int], Any], length: Callable[[Source], int]) -> Step:
    """Pushes what the opcode carries, its length first."""
    return lambda machine: machine.push(read(machine.source, length(machine.source)))


def _octets(length: Callable[[Source], int], kind: str = "bytes") -> Step:
    def step(machine: Machine) -> None:
        size = length(machine.source)
        value = arguments.octets(machine.source, size) if kind == "bytes" else blob(machine.source, kind, size)
        data = value if isinstance(value, bytes) else value.head if value.head == value.tail else b""
        machine.look_inside(data)
        machine.push(value)

    return step


def _push(make: Callable[[], Any]) -> Step:
    return lambda machine: machine.push(make())


def _to_mark(make: Callable[[Machine, list[Any]], Any]) -> Step:
    return lambda machine: machine.push(make(machine, machine.hold(machine.to_mark())))


def _tuple(machine: Machine, items: list[Any]) -> Any:
    return tuple(items) if len(items) <= KEPT_TUPLE else TUPLE


def _take_tuple(count: int) -> Step:
    def step(machine: Machine) -> None:
        machine.push(tuple(machine.hold([machine.pop() for _ in range(count)][::-1])))

    return step


def _dict(machine: Machine, items: list[Any]) -> Any:
    value = DictValue()
    value.update(items)
    return value


def _list(machine: Machine, items: list[Any]) -> Any:
    value = ListValue()
    value.extend(items)
    return value


def _append(machine: Machine) -> None:
    machine.fill(ListValue, [machine.pop()])


def _set_item(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.fill(DictValue, [key, value])


def _fill(kind: type[ListValue] | type[DictValue]) -> Step:
    return lambda machine: machine.fill(kind, machine.to_mark())


def _global(machine: Machine) -> None:
    module, name = machine.source.line(), machine.source.line()
    machine.push(machine.find(decode(module, "utf-8"), decode(name, "utf-8")))


def _stack_global(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.push(machine.find(module, name))


def _reduce(machine: Machine) -> None:
    args, function = machine.pop(), machine.pop()
    if not isinstance(args, tuple) and args is not TUPLE:
        raise Unfollowable("it calls something with arguments that are no tuple")
    machine.call(function, args)


def _new_object_ex(machine: Machine) -> None:
    kwargs, args, function = machine.pop(), machine.pop(), machine.pop()
    if not isinstance(args, tuple) or not isinstance(kwargs, DictValue):
        raise Unfollowable("it calls something with arguments that are no tuple")
    machine.call(function, (*args, kwargs))


def _inst(machine: Machine) -> None:
    module, name = decode(machine.source.line(), "ascii"), decode(machine.source.line(), "ascii")
    args = machine.hold(machine.to_mark())
    machine.call(machine.find(module, name), tuple(args))


def _obj(machine: Machine) -> None:
    items = machine.to_mark()
    if not items:
        raise Unfollowable("it makes an object of no class")
    machine.call(items[0], tuple(machine.hold(items[1:])))


def _protocol(machine: Machine) -> None:
    machine.protocol = machine.source.read(1)[0]
    if machine.protocol > 5:
        raise Unfollowable(f"it is of pickle protocol {machine.protocol}, which no Python has")


def _refuse(reason: str) -> Step:
    def step(machine: Machine) -> None:
        raise Unfollowable(reason)

    return step


def _recall(index: Callable[[Source], int]) -> Step:
    return lambda machine: machine.recall(index(machine.source))


def _remember(index: Callable[[Source], int]) -> Step:
    return lambda machine: machine.remember(index(machine.source))


_PERSISTENT = _refuse("it refers to an object outside itself (a persistent id)")
_EXTENSION = _refuse("it refers to a registered extension code, which only the reading process knows")
_BUFFER = _refuse("it needs buffers that are not in the file")

STEPS: dict[int, Step] = {
    ord(code): step
    for code, step in {
        "(": lambda machine: machine.mark(),
        ".": lambda machine: STOP,
        "0": lambda machine: machine.discard(),
        "1": lambda machine: machine.to_mark(),
        "2": lambda machine: machine.push(machine.top()),
        "F": _value(arguments.float_line),
        "I": _value(arguments.int_line),
        "J": _value(i4),
        "K": _value(u1),
        "L": _value(arguments.long_line),
        "M": _value(u2),
        "N": _push(lambda: None),
        "P": _PERSISTENT,
        "Q": _PERSISTENT,
        "R": _reduce,
        "S": _value(arguments.string_line),
        "T": _sized(arguments.ascii_text, i4),
        "U": _sized(arguments.ascii_text, u1),
        "V": _value(arguments.unicode_line),
        "X": _sized(arguments.text, u4),
        "a": _append,
        "b": lambda machine: machine.build(),
        "c": _global,
        "d": _to_mark(_dict),
        "}": _push(DictValue),
        "e": _fill(ListValue),
        "g": _recall(arguments.index_line),
        "h": _recall(u1),
        "i": _inst,
        "j": _recall(u4),
        "l": _to_mark(_list),
        "]": _push(ListValue),
        "o": _obj,
        "p": _remember(arguments.index_line),
        "q": _remember(u1),
        "r": _remember(u4),
        "s": _set_item,
        "t": _to_mark(_tuple),
        ")": _push(tuple),
        "u": _fill(DictValue),
        "G": _value(arguments.float_bytes),
        "\x80": _protocol,
        "\x81": _reduce,  # NEWOBJ: class and arguments, as a call
        "\x82": _EXTENSION,
        "\x83": _EXTENSION,
        "\x84": _EXTENSION,
        "\x85": _take_tuple(1),
        "\x86": _take_tuple(2),
        "\x87": _take_tuple(3),
        "\x88": _push(lambda: True),
        "\x89": _push(lambda: False),
        "\x8a": _sized(arguments.long_bytes, u1),
        "\x8b": _sized(arguments.long_bytes, i4),
        "B": _octets(u4),
        "C": _octets(u1),
        "\x8c": _sized(arguments.text, u1),
        "\x8d": _sized(arguments.text, u8),
        "\x8e": _octets(u8),
        "\x8f": _push(SetValue),
        "\x90": _fill(SetValue),
        "\x91": _to_mark(lambda machine, items: Blob("frozenset")),
        "\x92": _new_object_ex,
        "\x93": _stack_global,
        "\x94": lambda machine: machine.remember(),
        "\x95": lambda machine: machine.source.start_frame(u8(machine.source)),
        "\x96": _octets(u8, "bytearray"),
        "\x97": _BUFFER,
        "\x98": _BUFFER,
    }.items()
}
