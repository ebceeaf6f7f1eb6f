"""What an unpickler would do with a stream, followed without doing it.

The machine keeps the unpickler's stack, marks and memo, with constants as themselves and everything else as a shape
(`pickle_values`). It knows each global that the real unpickler would look up, each call and each attribute that it
would set, and where the raw bytes of joblib's arrays stand. Whatever it cannot follow with certainty raises
Unfollowable; nothing is imported or called. Protocols 0 to 5, as CPython's C and Python unpicklers read them (where
these two differ, the stream is refused), and joblib's, which reads arrays beside the pickle.
"""

from __future__ import annotations

import io
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from typing import Any

from mpack.artifact import pickle_arguments as arguments
from mpack.artifact.pickle_arguments import blob, decode, i4, u1, u2, u4, u8
from mpack.artifact.pickle_source import Source, Unfollowable
from mpack.artifact.pickle_values import (
    TUPLE,
    Blob,
    DictValue,
    Global,
    Instance,
    ListValue,
    SetValue,
    array_bytes,
    dtype_of,
)

KEPT_TUPLE = 64
#: Objects that one pickle may memoise: about 200 MB of the scan's own memory at worst.
MAX_MEMO = 3_000_000
MAX_NESTING = 8
#: Instances of these libraries are kept, for what their states tell (versions, column names).
LIBRARIES = ("sklearn", "xgboost", "lightgbm")
KEPT_INSTANCES = 2000

JOBLIB_ARRAY = Global("joblib.numpy_pickle", "NumpyArrayWrapper")
UFUNC_BY_NAME = frozenset(Global(f"numpy.{core}", "_ufunc_reconstruct") for core in ("core", "_core"))
#: Known classes whose instances may take the opcodes that fill a list, a dict or a set.
FILLABLE = frozenset(
    Global(module, name)
    for module, name in (
        ("collections", "OrderedDict"),
        ("collections", "defaultdict"),
        ("collections", "Counter"),
        ("collections", "deque"),
        ("sklearn.utils", "Bunch"),
        ("sklearn.utils._bunch", "Bunch"),
        ("sklearn.utils._encode", "_nandict"),
        ("sklearn.utils._encode", "MissingValues"),
        ("sklearn.tree._export", "_Bunch"),
    )
)


class Machine:
    """Runs one pickle of `source` up to its STOP. `joblib`: as joblib.load reads it; `known`: is this global harmless?

    After `run`, `globals` holds every global in order of appearance, and `instances` what the known ones made.
    """

    def __init__(self, source: Source, known: Callable[[str, str], bool], *, joblib: bool, depth: int = 0) -> None:
        self.source = source
        self.known = known
        self.joblib = joblib
        self.depth = depth
        self.protocol = 0
        self.globals: dict[Global, None] = {}
        self.instances: list[Instance] = []
        self.arrays = 0
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The value at STOP. Raises Unfollowable."""
        while True:
            code = self.source.read(1)[0]
            step = STEPS.get(code)
            if step is None:
                raise Unfollowable(f"it holds byte 0x{code:02x} where an opcode must stand")
            if step(self) is _STOP:
                self.source.end_frame("the end of the pickle")
                return self.pop()

    # --- stack and memo

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        if not self._stack:
            raise Unfollowable("it takes more from the stack than stands on it")
        return self._stack.pop()

    def top(self) -> Any:
        if not self._stack:
            raise Unfollowable("it uses an empty stack")
        return self._stack[-1]

    def mark(self) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def to_mark(self) -> list[Any]:
        if not self._marks:
            raise Unfollowable("it uses a mark that it did not set")
        items, self._stack = self._stack, self._marks.pop()
        return items

    def discard(self) -> None:
        """POP: drops the top value, or a mark that nothing follows."""
        if self._stack:
            self._stack.pop()
        else:
            self.to_mark()

    def remember(self, index: int | None = None) -> None:
        index = len(self._memo) if index is None else index
        if len(self._memo) >= MAX_MEMO or index > 4 * MAX_MEMO:
            raise Unfollowable(f"it holds more than {MAX_MEMO} objects, more than can be checked in memory")
        self._memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self._memo:
            raise Unfollowable("it recalls an object that it did not store")
        self.push(self._memo[index])

    # --- names, calls, state

    def find(self, module: Any, name: Any) -> Global:
        """The global that the unpickler would look up, by its rules for the protocol."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise Unfollowable("it looks up a name that is computed while it is loaded")
        if self.protocol < 3:
            if (module, name) in NAME_MAPPING:
                module, name = NAME_MAPPING[(module, name)]
            elif module in IMPORT_MAPPING:
                module = IMPORT_MAPPING[module]
        found = Global(module, name)
        if found == JOBLIB_ARRAY:
            found = JOBLIB_ARRAY
        self.globals[found] = None
        return found

    def call(self, function: Any, args: Any) -> None:
        """REDUCE, NEWOBJ, OBJ and INST: the function must have been found by name."""
        if not isinstance(function, Global):
            raise Unfollowable("it calls an object that was not found by name")
        if not isinstance(args, tuple):  # more than KEPT_TUPLE, so not remembered
            args = (args,)
        if function in UFUNC_BY_NAME:
            if len(args) != 2:
                raise Unfollowable(f"it calls {function} with other than two arguments")
            self.push(self.find(*args))
            return
        if function == Global("_codecs", "encode"):
            self.push(_latin1(args))
            return
        instance = Instance(function, args)
        if len(self.instances) < KEPT_INSTANCES and function.module.partition(".")[0] in LIBRARIES:
            self.instances.append(instance)
        self.push(instance)

    def build(self) -> None:
        """BUILD: sets the state of the instance on top, once; then joblib reads an array that belongs to it."""
        state, target = self.pop(), self.top()
        if not isinstance(target, Instance):
            raise Unfollowable("it sets the state of something that it did not make")
        if target.built:
            raise Unfollowable(f"it sets the state of a {target.of} twice")
        self._check_state(target, state)
        target.state, target.built = state, True
        if self.joblib and target.of == JOBLIB_ARRAY:
            self.pop()
            self.push(Blob("array"))
            self._array(target)

    def _check_state(self, target: Instance, state: Any) -> None:
        """A state may not set special attributes: `__class__` would turn the object into another one."""
        slots = isinstance(state, tuple) and len(state) == 2
        for part in state if slots else (state,):
            if part is JOBLIB_ARRAY:
                raise Unfollowable("it uses joblib's array class as a value")
            if isinstance(part, Instance):
                opaque = part.of not in FILLABLE or part.args
                # NumPy's own generators take (dict, SeedSequence), and have a __setstate__ that knows them.
                if opaque and not (slots and target.of.module.startswith("numpy.random.")):
                    raise Unfollowable(f"it sets the state of a {target.of} to a {part.of}")
                part = part.entries
            if isinstance(part, DictValue) and part.odd_key:
                raise Unfollowable(f"it sets a special attribute of a {target.of}")

    def _array(self, wrapper: Instance) -> None:
        """Passes over the bytes that joblib reads for an array right after its wrapper."""
        if wrapper.args or not isinstance(wrapper.state, DictValue) or not wrapper.state.whole:
            raise Unfollowable("an array's wrapper in it is not as joblib writes it")
        self.source.end_frame("an array's wrapper")
        self.arrays += 1
        dtype = dtype_of(wrapper.attribute("dtype"))
        if dtype.has_objects:
            if self.depth >= MAX_NESTING:
                raise Unfollowable("it nests arrays of objects too deeply")
            inner = Machine(self.source, self.known, joblib=False, depth=self.depth + 1)
            inner.run()
            self.globals.update(inner.globals)
            self.instances.extend(inner.instances)
            return
        alignment = wrapper.attribute("numpy_array_alignment_bytes")
        size = array_bytes(wrapper.attribute("shape"), dtype)
        if alignment is not None:
            self.source.skip(self.source.read(1)[0])
        self.source.skip(size)

    def look_inside(self, data: bytes) -> None:
        """Adds what a pickle inside a bytes value names. Nothing listed ever unpickles such a value; this is a second
        line of defence, so data that is no whole pickle is just data."""
        if self.depth >= MAX_NESTING or data[-1:] != b"." or data[0] not in b"\x80c(":
            return
        inner = Machine(Source(io.BytesIO(data)), self.known, joblib=False, depth=self.depth + 1)
        try:
            inner.run()
        except Unfollowable:
            return
        self.globals.update(inner.globals)

    def hold(self, items: list[Any]) -> list[Any]:
        """`items` as they go into a container. joblib's array class may only be called: handed to a function that makes
        an instance of its argument, it would let an array's bytes go unseen."""
        if self.joblib and any(item is JOBLIB_ARRAY for item in items):
            raise Unfollowable("it uses joblib's array class as a value")
        return items

    def fill(self, kind: type[ListValue] | type[DictValue], items: list[Any]) -> None:
        """APPEND(S), ADDITEMS, SETITEM(S): on a list, set or dict, or a known class that is one."""
        self.hold(items)
        target = self.top()
        if type(target) is kind:
            target.update(items) if isinstance(target, DictValue) else target.extend(items)
            return
        if isinstance(target, Instance) and (target.of in FILLABLE or not self.known(target.of.module, target.of.name)):
            if kind is DictValue:
                target.entries.update(items)
            return
        raise Unfollowable("it adds items to something that is no list, set or dict")


def _latin1(args: tuple[Any, ...]) -> Any:
    """_codecs.encode(text, "latin1"): how protocols below 3 write bytes. Any other codec is refused."""
    if len(args) != 2 or args[1] not in ("latin1", "latin-1"):
        raise Unfollowable("it uses a codec other than latin1")
    if isinstance(args[0], str):
        try:
            return args[0].encode("latin1")
        except UnicodeEncodeError:
            raise Unfollowable("it encodes text that is not latin1") from None
    if isinstance(args[0], Blob) and args[0].kind == "str":
        return Blob("bytes", args[0].head, args[0].tail)
    raise Unfollowable("it encodes something that is no text")


# --- opcodes

_STOP = object()
Step = Callable[[Machine], Any]


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
        "(": Machine.mark,
        ".": lambda machine: _STOP,
        "0": Machine.discard,
        "1": Machine.to_mark,
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
        "b": Machine.build,
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
        "\x94": Machine.remember,
        "\x95": lambda machine: machine.source.start_frame(u8(machine.source)),
        "\x96": _octets(u8, "bytearray"),
        "\x97": _BUFFER,
        "\x98": _BUFFER,
    }.items()
}
