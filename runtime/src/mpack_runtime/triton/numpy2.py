"""Makes Triton's Python backend right under numpy 2.

**What is wrong.** The backend's stub up to server 25.01 or so (2.51, for one) was compiled with a pybind11 that knows
numpy 1 only. It reads numpy's structs by their old layout, where the 32 bits at offset 32 of a dtype were its item
size. In numpy 2 they are its flags, 0 for numbers. So every array that the stub makes has strides of 0 (each element
shows the first), every output made of an array has 0 bytes, and text ends the stub.

**What is done.** A pybind11 of that age, and only such a one, takes numpy's C functions from
`numpy.core.multiarray._ARRAY_API`, once, when it first makes an array. Before that

1. the table there is replaced by a copy whose `PyArray_NewFromDescr` leaves out the strides, so that numpy makes its
   own (C order, which is what tensors are): inputs are right;
2. outputs of numbers are made by `Tensor.from_dlpack`, which carries its own item size. The stub forgets to tell numpy
   that the capsule was used, so the capsule's destructor, which would only complain, is cleared; the tensor itself
   frees the array;
3. outputs of text: `serialize_byte_tensor` returns the bytes as an array whose dtype is one byte wide and has 1 where
   the stub reads the item size. To numpy that is the flag "items are references", so the array never owns its memory,
   is handed to nobody but the stub, and its dtype is used for nothing else.

**What it relies on.** Entry 94 of numpy's table, offsets in numpy's dtype struct, and that the stub reads memory that
way. The first two are checked against numpy before anything is changed, the third by a round trip of numbers and text;
if any differs, `tensor_maker` raises LoadFailure. A stub that never calls the replaced function knows numpy 2 itself,
and is left alone.
"""

from __future__ import annotations

import ctypes
import importlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from mpack_runtime.errors import LoadFailure
from mpack_runtime.frame import Array
from mpack_runtime.v2.raw import pack

#: `make(name, array)`: an output tensor; text as an object array of bytes.
Maker = Callable[[str, Array], Any]

_ABI_VERSION, _NEW_FROM_DESCR, _ENTRIES = 0, 94, 320
_TYPE_NUMBER, _FLAGS, _ITEM_SIZE = 28, 32, 40  # offsets in numpy 2's PyArray_Descr
_DESTRUCTOR = ctypes.pythonapi.PyCapsule_SetDestructor
_DESTRUCTOR.argtypes = [ctypes.py_object, ctypes.c_void_p]
_NEW = ctypes.PYFUNCTYPE(
    ctypes.py_object,
    *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p),
    *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p),
)

_maker: Maker | None = None


def tensor_maker(utils: Any) -> Maker:
    """How this process makes output tensors; `utils` is triton_python_backend_utils. Raises LoadFailure.

    Call it before anything else makes a tensor.
    """
    global _maker
    if _maker is None:
        old = int(np.__version__.split(".")[0]) < 2
        _maker = utils.Tensor if old else _guarded(utils)
    return _maker


def _guarded(utils: Any) -> Maker:
    table = _Table()
    wanted = np.arange(1.0, 7.0).reshape(2, 3)
    try:
        seen = utils.Tensor.from_dlpack("probe", _capsule(wanted)).as_numpy()
        right = seen.shape == wanted.shape and seen.dtype == wanted.dtype and bool((seen == wanted).all())
    except Exception as error:
        raise _refusal(f"a tensor cannot be read back: {error}") from error
    if not right:
        raise _refusal("numbers do not come back as they were sent")
    if not table.calls:
        table.restore()
        maker: Maker = utils.Tensor
        return maker
    utils.serialize_byte_tensor = serialize

    def make(name: str, array: Array) -> Any:
        return utils.Tensor(name, array) if array.dtype == object else utils.Tensor.from_dlpack(name, _capsule(array))

    _prove_text(utils, make)
    return make


class _Table:
    """A copy of numpy's C functions where only an old pybind11 looks for them; `calls` counts the arrays it made."""

    def __init__(self) -> None:
        self.calls = 0
        _check_layout()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._module = importlib.import_module("numpy.core.multiarray")
        self._original = self._module._ARRAY_API
        api = ctypes.pythonapi
        api.PyCapsule_GetPointer.restype = ctypes.c_void_p
        api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
        api.PyCapsule_New.restype = ctypes.py_object
        api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        self._entries = (ctypes.c_void_p * _ENTRIES)()
        source = api.PyCapsule_GetPointer(self._original, None)
        ctypes.memmove(self._entries, source, ctypes.sizeof(self._entries))
        version = ctypes.CFUNCTYPE(ctypes.c_uint)(self._entries[_ABI_VERSION] or 0)()
        if version >> 24 != 2:
            raise _refusal(f"numpy's table of C functions is of version {version:#x}")
        original = _NEW(self._entries[_NEW_FROM_DESCR] or 0)

        def new(kind: int, descr: int, rank: int, dims: int, strides: int, data: int, flags: int, base: int) -> Any:
            self.calls += 1
            return original(kind, descr, rank, dims, None, data, flags, base)

        self._callback = _NEW(new)
        self._entries[_NEW_FROM_DESCR] = ctypes.cast(self._callback, ctypes.c_void_p).value
        self._module._ARRAY_API = api.PyCapsule_New(ctypes.addressof(self._entries), None, None)  # type: ignore[attr-defined]
        _kept.append(self)  # the stub calls into it for as long as the process lives

    def restore(self) -> None:
        """Puts numpy's own table back."""
        self._module._ARRAY_API = self._original  # type: ignore[attr-defined]


_kept: list[_Table] = []


def _check_layout() -> None:
    """numpy's dtype struct has the fields where they are looked for."""
    for name in ("u1", "f8", "i2", "S7", "U3"):
        dtype = np.dtype(name)
        number = ctypes.c_int.from_address(id(dtype) + _TYPE_NUMBER).value
        size = ctypes.c_ssize_t.from_address(id(dtype) + _ITEM_SIZE).value
        if (number, size) != (dtype.num, dtype.itemsize):
            raise _refusal(f"numpy {np.__version__} keeps its dtypes in another form")


def _capsule(array: Array) -> Any:
    """A DLPack capsule of a copy in C order with plain strides (DLPack refuses read-only arrays)."""
    fresh: Array = np.empty(array.shape, array.dtype.newbyteorder("="))
    fresh[...] = array
    capsule = fresh.__dlpack__()
    _DESTRUCTOR(capsule, None)
    return capsule


def serialize(array: Array) -> Array:
    """Text as the stub wants it: see 3. above."""
    data: Array = np.frombuffer(pack(array.ravel(order="C").tolist()), dtype=np.uint8)
    view = data.view(np.dtype([("byte", "u1")]))  # a dtype of its own, that nobody shares
    ctypes.c_uint64.from_address(id(view.dtype) + _FLAGS).value = 1
    return view


def _prove_text(utils: Any, make: Maker) -> None:
    """Text as the stub would read it from an output of ours, through what it makes of an input."""
    texts = [b"", "é".encode(), b"a\0b"]
    wanted: Array = np.array(texts, dtype=object)
    view = serialize(wanted)
    size = view.size * ctypes.c_int.from_address(id(view.dtype) + _FLAGS).value
    if size != sum(4 + len(text) for text in texts) or view.base is None:
        raise _refusal("the size of a text tensor would be wrong")
    data: Array = np.frombuffer(ctypes.string_at(view.ctypes.data, size), dtype=np.uint8)
    try:
        encoded = utils.Tensor.from_dlpack("probe", _capsule(data)).as_numpy()
        seen = list(utils.deserialize_bytes_tensor(encoded))
        make("probe", wanted)
    except Exception as error:
        raise _refusal(f"a text tensor cannot be made: {error}") from error
    if seen != texts:
        raise _refusal("text does not come back as it was sent")


def _refusal(reason: str) -> LoadFailure:
    return LoadFailure(
        f"Triton's Python backend and numpy {np.__version__} do not work together: {reason}. Let the model require"
        " numpy<2, or take a newer Triton."
    )
