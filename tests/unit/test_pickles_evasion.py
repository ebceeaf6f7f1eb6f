# ruff: noqa: E501
"""Pickles made to slip through: each is refused, and the canary that it would touch stays untouched."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pytest

from mpack.artifact.model import Trust
from mpack.artifact.pickles import judge, scan_pickle
from mpack.errors import InputError
from mpack.testing.trees import tree_of_files


def text(value: str) -> bytes:
    """SHORT_BINUNICODE."""
    data = value.encode()
    return b"\x8c" + bytes([len(data)]) + data


def joblib_array(after: bytes, *, state: bytes = b"", frame: int | None = None) -> bytes:
    """A joblib file with one array of 8 bytes, and `after` where its bytes stand; `state` adds to the wrapper's state."""
    dtype = b"cnumpy\ndtype\n(" + text("f8") + b"\x89\x88tR"
    body = b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81}("
    body += text("shape") + b"K\x01\x85" + text("dtype") + dtype + state + b"ub"
    head = b"\x80\x04" + (b"\x95" + struct.pack("<Q", frame) if frame is not None else b"")
    return head + body + after


CANARY = f"touch {os.environ.get('MPACK_TEST_CANARY', 'canary')}"
SYSTEM = b"cposix\nsystem\n"
CALL = SYSTEM + b"(" + text(CANARY) + b"tR"
SKLEARN = b"csklearn.linear_model._base\nLinearRegression\n)\x81"
STACK = b"csklearn.ensemble._stacking\nStackingClassifier\n)\x81"

CASES: dict[str, bytes] = {
    "global": b"\x80\x04" + CALL + b".",
    "stack-global": b"\x80\x04" + text("posix") + text("system") + b"\x93" + text(CANARY) + b"\x85R.",
    "memo-names": b"\x80\x04" + text("posix") + b"\x940" + text("system") + b"\x940h\x00h\x01\x93" + text(CANARY) + b"\x85R.",
    "dup-names": b"\x80\x04" + text("posix") + b"20" + text("system") + b"\x93" + text(CANARY) + b"\x85R.",
    "computed-name": b"\x80\x04c_codecs\nencode\n(" + text("posix") + text("latin1") + b"tR" + text("system") + b"\x93.",
    "str-subclass-name": b"\x80\x04cbuiltins\nstr\n(" + text("posix") + b"tR" + text("system") + b"\x93.",
    "rot13": b"\x80\x04c_codecs\nencode\n(" + text("cbfvk") + text("rot13") + b"tR" + text("system") + b"\x93.",
    "long-name": b"\x80\x04" + b"X" + struct.pack("<I", 600) + b"a" * 600 + text("system") + b"\x93.",
    "inst": b"(" + b"S'" + CANARY.encode() + b"'\niposix\nsystem\n.",
    "obj": b"(" + SYSTEM + b"S'" + CANARY.encode() + b"'\no.",
    "newobj-ex": b"\x80\x04" + SYSTEM + text(CANARY) + b"\x85}\x92.",
    "python-2-name": b"c__builtin__\neval\n(S'1'\ntR.",
    "import": b"\x80\x04cbuiltins\n__import__\n(" + text("os") + b"tR.",
    "getattr": b"\x80\x04cbuiltins\ngetattr\n(cnumpy\nndarray\n" + text("tofile") + b"tR.",
    "dotted": b"\x80\x04" + text("sklearn.base") + text("os.system") + b"\x93" + text(CANARY) + b"\x85R.",
    "dotted-listed": b"\x80\x04" + text("numpy") + text("ndarray.tofile") + b"\x93.",
    "pandas-eval": b"\x80\x04cpandas\neval\n(" + text("1") + b"tR.",
    "module-prefix": b"\x80\x04cnumpy.testing._private.utils\nrunstring\n(" + text("1") + b"}tR.",
    "extension": b"\x80\x02\x82\x01.",
    "persistent-id": b"\x80\x02" + text("x") + b"Q.",
    "buffers": b"\x80\x05\x97.",
    "protocol-6": b"\x80\x06N.",
    "call-of-an-instance": b"\x80\x04cfunctools\npartial\n(cbuiltins\nint\ntR)R.",
    "call-of-a-result": b"\x80\x04" + SKLEARN + b")R.",
    "state-of-a-class": b"\x80\x04csklearn.linear_model._base\nLinearRegression\nN}" + text("predict") + SYSTEM + b"s\x86b.",
    "state-of-a-listed-class": b"\x80\x04csklearn.linear_model._base\nLinearRegression\n}" + text("x") + b"K\x01sb.",
    "state-twice": b"\x80\x04" + SKLEARN + b"}" + text("a") + b"Nsb}" + text("b") + b"Nsb.",
    "class-in-slots": b"\x80\x04" + SKLEARN + b"N}" + text("__class__") + b"cbuiltins\nint\ns\x86b.",
    "class-in-ordered-slots": b"\x80\x04" + SKLEARN + b"Nccollections\nOrderedDict\n(](" + text("__class__") + b"cbuiltins\nint\ne\x85tR\x86b.",
    "items-of-an-instance": b"\x80\x04" + SKLEARN + b"K\x01a.",
    "nested-bytes": b"\x80\x04C" + bytes([len(CALL) + 3]) + b"\x80\x04" + CALL + b"..",
    "second-pickle": pickle.dumps({"a": 1}) + b"\x80\x04" + CALL + b".",
    "bytes-after-stop": pickle.dumps({"a": 1}) + b"rest",
    "frame-in-a-frame": b"\x80\x04\x95" + struct.pack("<Q", 20) + b"\x95" + struct.pack("<Q", 2) + b"N." + b"N" * 20,
    "frame-beyond-stop": b"\x80\x04\x95" + struct.pack("<Q", 20) + b"N.",
    "value-over-a-frame": b"\x80\x04\x95" + struct.pack("<Q", 3) + text("abcdef") + b".",
    "truncated": pickle.dumps(list(range(1000)))[:-10],
    "empty-stack": b"\x80\x04.",
    "no-opcode": b"\x80\x04\xff.",
    "memo-miss": b"\x80\x04h\x05.",
    "huge-memo-index": b"Nr\xff\xff\xff\xff.",
    "huge-length": b"\x80\x04\x8e" + b"\xff" * 8 + b".",
    # joblib: what an array's bytes are must be beyond doubt
    "joblib-code-in-array": joblib_array(b"\x80\x04" + CALL + b"." + b"\0" * 8),
    "joblib-frame-over-array": joblib_array(b"0" + CALL + b".", frame=300),
    "joblib-wrapper-as-value": b"\x80\x04cpandas.core.indexes.base\n_new_Index\n(cjoblib.numpy_pickle\nNumpyArrayWrapper\n}tR}b.",
    "joblib-wrapper-by-class": b"\x80\x04" + SKLEARN + b"N}" + text("__class__") + b"cjoblib.numpy_pickle\nNumpyArrayWrapper\ns\x86b.",
    "joblib-wrapper-in-list": b"\x80\x04](cjoblib.numpy_pickle\nNumpyArrayWrapper\ne.",
    "joblib-odd-dtype": joblib_array(b"\0" * 8 + b".", state=text("dtype") + text("f8")),
    "joblib-shape-of-objects": joblib_array(b"\0" * 8 + b".", state=text("shape") + SKLEARN + b"\x85"),
    "joblib-negative-shape": joblib_array(b"\0" * 8 + b".", state=text("shape") + b"J\xff\xff\xff\xff\x85"),
    "joblib-old-wrapper": b"\x80\x04cjoblib.numpy_pickle\nNDArrayWrapper\n)\x81.",
    "joblib-flags-lie": joblib_array(
        b"\0" * 8 + b".",
        state=text("dtype") + b"cnumpy\ndtype\n(" + text("f8") + b"\x89\x88tR(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x01tb",
    ),
    # a method found by a text of the model's: stacking over a DataFrame whose step is "eval"
    "method-by-name": b"\x80\x04" + STACK + b"}" + text("stack_method_") + b"](" + text("eval") + b"esb.",
    "method-by-later-name": b"\x80\x04" + STACK + b"}]\x94" + text("stack_method_") + b"h\x00sb0h\x00" + text("eval") + b"a.",
    "method-by-computed-name": b"\x80\x04" + STACK + b"}" + text("stack_method_") + b"cbuiltins\nstr\n" + text("eval") + b"\x85Rsb.",
    "method-in-slots": b"\x80\x04" + STACK + b"N}" + text("stack_method_") + text("eval") + b"s\x86b.",
    "method-by-argument": b"\x80\x04csklearn.metrics._scorer\n_Scorer\n(NK\x01}" + text("eval") + b"tR.",
    "method-by-partial": b"\x80\x04cfunctools\npartial\n(csklearn.metrics._scorer\n_Scorer\nNK\x01}" + text("eval") + b"tR.",
    "method-by-key": b"\x80\x04cfunctools\npartial\ncbuiltins\nint\n\x85\x81(cbuiltins\nint\n)}" + text("response_method") + text("eval") + b"sNtb.",
    "attributes-of-a-class": b"\x80\x04csklearn.feature_selection._from_model\nSelectFromModel\n)\x81}" + text("importance_getter") + text("__init__.__globals__") + b"sb.",
    "dtype-flags-lie": b"\x80\x04cnumpy\ndtype\n(" + text("O8") + b"\x89\x88tR(K\x03" + text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb.",
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scan refuses it, names the file and says what to do; trusting an own package does not let it through."""
    monkeypatch.chdir(tmp_path)
    tree = tree_of_files(tmp_path, {"model.pkl": CASES[name]})
    for trust in (Trust(), Trust(modules=frozenset({"mycompany"}))):
        with pytest.raises(InputError) as caught:
            judge(scan_pickle(tree, "model.pkl"), trust)
        assert caught.value.code == "pickle-refused"
        assert "model.pkl" in caught.value.message
        assert "--trust-pickle" in caught.value.hint
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("wrap", [gzip.compress, lambda data: data], ids=["gzip", "plain"])
def test_object_array_in_joblib(wrap: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """A pickle nested in an object array of a joblib file is followed, compressed or not."""

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (CANARY,)

    stream = io.BytesIO()
    joblib.dump(np.array([Evil(), 1], dtype=object), stream)
    scan = scan_pickle(tree_of_files(tmp_path, {"m.joblib": wrap(stream.getvalue())}), "m.joblib")
    assert "posix.system" in {str(name) for name in scan.unknown}
    with pytest.raises(InputError, match=r"posix\.system"):
        judge(scan, Trust())


def test_zip_polyglot(tmp_path: Path) -> None:
    """A pickle with a zip behind it is refused, whichever of the two a reader would take."""
    stream = io.BytesIO(pickle.dumps({"a": 1}))
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("schema.json", "{}")
    scan = scan_pickle(tree_of_files(tmp_path, {"m.pkl": stream.getvalue()}), "m.pkl")
    with pytest.raises(InputError, match="bytes follow the end of the pickle"):
        judge(scan, Trust())


def test_compressed_stream_with_a_tail(tmp_path: Path) -> None:
    """Bytes after the compressed stream, and a second compressed stream, are refused."""
    packed = gzip.compress(pickle.dumps({"a": 1}))
    for tail in (b"x", packed):
        scan = scan_pickle(tree_of_files(tmp_path, {"m.joblib": packed + tail}), "m.joblib")
        assert scan.problem is not None


def test_a_cloudpickled_function(tmp_path: Path) -> None:
    """A function by value inside a model is code in a data file."""
    import cloudpickle
    from sklearn.preprocessing import FunctionTransformer

    data = cloudpickle.dumps(FunctionTransformer(lambda table: table * 2))
    with pytest.raises(InputError, match=r"cloudpickle\.cloudpickle\._make_function"):
        judge(scan_pickle(tree_of_files(tmp_path, {"m.pkl": data}), "m.pkl"), Trust())
