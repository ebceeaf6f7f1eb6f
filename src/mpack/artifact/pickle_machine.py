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

from mpack.artifact.pickle_opcodes import STEPS, STOP
from mpack.artifact.pickle_source import Source, Unfollowable
from mpack.artifact.pickle_values import (
    DTYPE,
    Blob,
    DictValue,
    Global,
    Instance,
    ListValue,
    array_bytes,
    dtype_of,
)

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
#: Classes that call a method by the name they hold (`pickle_values.METHOD_KEYS`): never called with arguments, never a
#: value, so that the name can only come by a state, where it is judged.
BY_NAME = frozenset(
    (
        *("_BaseScorer", "_Scorer", "_CurveScorer", "_PredictScorer", "_ProbaScorer", "_ThresholdScorer"),
        *("_PassthroughScorer", "_MultimetricScorer", "FixedThresholdClassifier", "TunedThresholdClassifierCV"),
        *("SelectFromModel", "StackingClassifier", "StackingRegressor", "ClassifierChain", "RegressorChain"),
    )
)


def calls_by_name(item: Global) -> bool:
    """True for a class of BY_NAME."""
    return item.name in BY_NAME and item.module.startswith("sklearn.")


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
        byte, steps = self.source.byte, STEPS
        while True:
            code = byte()
            step = steps.get(code)
            if step is None:
                raise Unfollowable(f"it holds byte 0x{code:02x} where an opcode must stand")
            if step(self) is STOP:
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
        if args and calls_by_name(function):
            raise Unfollowable(f"it makes a {function} with arguments of its own")
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
        if target.of == DTYPE:
            # One whose size or flags lie makes pointers of an array's bytes, by any function that reads one.
            target.state = state
            dtype_of(target)
        target.state, target.built = state, True
        if self.joblib and target.of == JOBLIB_ARRAY:
            self.pop()
            self.push(Blob("array"))
            self._array(target)

    def _check_state(self, target: Instance, state: Any) -> None:
        """A state may not set special attributes: `__class__` would turn the object into another one."""
        slots = isinstance(state, tuple) and len(state) == 2
        for part in state if slots else (state,):
            self.hold([part])
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
        for item in items:
            if type(item) is Global and calls_by_name(item):
                raise Unfollowable(f"it uses the class {item} as a value")
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
