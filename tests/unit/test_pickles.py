"""The pickle scan on honest files: every name is found, every version read, and nothing is unpickled."""

from __future__ import annotations

import io
import pickle
import pickletools
import tracemalloc
import zlib
from collections import OrderedDict, defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_selection import SelectKBest, mutual_info_classif
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, SplineTransformer, StandardScaler

from mpack.artifact.allowlist import known, pairs
from mpack.artifact.model import Trust
from mpack.artifact.pickle_values import Global
from mpack.artifact.pickles import PickleScan, judge, looks_like_pickle, root_of, scan_pickle, scan_stream
from mpack.errors import InputError
from mpack.testing.trees import tree_of_files

X = np.abs(np.random.default_rng(3).normal(size=(40, 3)))
Y = (X[:, 0] > 0.7).astype(int)
TABLE = pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "kind": ["x", "y"] * 20})

MODELS: dict[str, Any] = {
    "forest": RandomForestClassifier(5),
    "boosting": HistGradientBoostingClassifier(max_iter=5),
    "sgd": SGDClassifier(loss="modified_huber"),
    "grid": GridSearchCV(LogisticRegression(), {"C": [0.1, 1]}, scoring="f1", cv=StratifiedKFold(2)),
    "kernel": GaussianProcessRegressor(RBF() + WhiteKernel()),
    "tree": KNeighborsClassifier(algorithm="kd_tree", metric="manhattan"),
    "ufunc": make_pipeline(FunctionTransformer(np.log1p), LogisticRegression()),
    "partial": SelectKBest(partial(mutual_info_classif, random_state=0), k=2),
    "spline": make_pipeline(SplineTransformer(), LogisticRegression()),
    "random-state": LogisticRegression(random_state=np.random.RandomState(1)),
}


def fitted(name: str) -> Any:
    """A model fitted on arrays."""
    return MODELS[name].fit(X, Y)


def table_model() -> Any:
    """A pipeline that picks columns of a DataFrame by name."""
    columns = ColumnTransformer([("n", StandardScaler(), ["a", "b"]), ("c", OneHotEncoder(), ["kind"])])
    return make_pipeline(columns, LogisticRegression()).fit(TABLE, Y)


def names_of(scan: PickleScan) -> set[str]:
    """The names that a scan found."""
    return {str(name) for name in scan.globals}


def test_real_estimators(tmp_path: Path) -> None:
    """Pickles of fitted estimators name only what is listed, whatever the protocol, and tell scikit-learn's version."""
    import sklearn

    for name in MODELS:
        model = fitted(name)
        for protocol in range(2, 6):
            tree = tree_of_files(tmp_path / f"{name}{protocol}", {"m.pkl": pickle.dumps(model, protocol=protocol)})
            scan = scan_pickle(tree, "m.pkl")
            assert (scan.problem, scan.unknown, scan.serialization) == (None, (), "pickle"), name
            assert set(scan.attributes("_sklearn_version")) == {sklearn.__version__}
            assert judge(scan, Trust()) == ()
            assert scan.root == Global(type(model).__module__, type(model).__name__) == root_of(tree, "m.pkl")


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3), ("bz2", 3), ("lzma", 3), ("xz", 3)])
def test_joblib(tmp_path: Path, compress: Any) -> None:
    """joblib's arrays beside the pickle are passed over exactly, in every compression: object arrays are followed."""
    stream = io.BytesIO()
    joblib.dump(
        [table_model(), np.array(["a", {"b": 1}], dtype=object), np.zeros(0), np.ones((2, 3), order="F")],
        stream,
        compress,
    )
    tree = tree_of_files(tmp_path, {"m.joblib": stream.getvalue()})
    scan = scan_pickle(tree, "m.joblib")
    assert (scan.problem, scan.unknown, scan.serialization) == (None, (), "joblib")
    assert (scan.compression is None) == (compress == 0)
    assert "sklearn.compose._column_transformer.ColumnTransformer" in names_of(scan)


@pytest.mark.parametrize(
    "dtype",
    ["f8", ">i4", "U7", "S3", "M8[ns]", "c16", "?", "O", [("a", "f8"), ("b", "U2")], [("o", "O"), ("n", "i4")],
     [("sub", "i4", (2, 2))], "V5"],
)  # fmt: skip
def test_joblib_dtypes(tmp_path: Path, dtype: Any) -> None:
    """Arrays of every kind of dtype, records and sub-arrays included, are as long as the scan says."""
    stream = io.BytesIO()
    joblib.dump({"x": np.zeros((3, 2), dtype=np.dtype(dtype)), "after": slice(1, 2)}, stream)
    scan = scan_pickle(tree_of_files(tmp_path, {"m": stream.getvalue()}), "m")
    assert scan.problem is None
    assert "builtins.slice" in names_of(scan)


def test_a_joblib_file_is_no_pickle(tmp_path: Path) -> None:
    """Read as a plain pickle, a joblib file with arrays is refused: its loader would take array bytes for opcodes."""
    stream = io.BytesIO()
    joblib.dump(fitted("forest"), stream)
    scan = scan_pickle(tree_of_files(tmp_path, {"m": stream.getvalue()}), "m", joblib=False)
    assert Global("joblib.numpy_pickle", "NumpyArrayWrapper") in scan.unknown
    with pytest.raises(InputError, match="m cannot be checked"):
        judge(scan, Trust(modules=frozenset({"joblib"})))


def test_lz4_without_its_library(tmp_path: Path) -> None:
    """A compression that this machine cannot read is the environment's fault, said so."""
    from mpack.errors import EnvironmentFault

    tree = tree_of_files(tmp_path, {"m.joblib": b'\x04"M\x18' + b"\0" * 20})
    with pytest.raises(EnvironmentFault, match="LZ4"):
        scan_pickle(tree, "m.joblib")


def test_several_pickles_in_one_file(tmp_path: Path) -> None:
    """Pickles after the first are judged with it."""
    scan = scan_pickle(tree_of_files(tmp_path, {"m": pickle.dumps(1) + pickle.dumps(slice(1))}), "m")
    assert (scan.problem, names_of(scan)) == (None, {"builtins.slice"})


def test_containers_that_are_classes() -> None:
    """OrderedDict, defaultdict and their like take items as a dict does."""
    data = [OrderedDict(a=1), defaultdict(list, b=[2]), {1, 2}, frozenset({3}), bytearray(b"x"), 1j, range(3)]
    for protocol in range(6):
        scan = scan_stream(io.BytesIO(pickle.dumps(data, protocol=protocol)), "m")
        assert (scan.problem, scan.unknown) == (None, ()), protocol


def test_python_2_names() -> None:
    """Below protocol 3, names of Python 2 are the names that the unpickler makes of them."""
    scan = scan_stream(io.BytesIO(b"c__builtin__\nset\n((lI1\natR."), "m")
    assert names_of(scan) == {"builtins.set"}
    assert names_of(scan_stream(io.BytesIO(b"\x80\x03c__builtin__\nset\n((lI1\natR."), "m")) == {"__builtin__.set"}


def test_trust(tmp_path: Path) -> None:
    """--trust-module grants one's own package and never the standard library; --trust-pickle grants all. Both show."""
    own = scan_stream(io.BytesIO(b"cmycompany.models\nThing\n)R."), "m.pkl")
    with pytest.raises(
        InputError, match=r"m\.pkl names what is not plain model data: mycompany\.models\.Thing\."
    ) as caught:
        judge(own, Trust())
    assert "--trust-module mycompany" in caught.value.hint
    assert "--trust-pickle" in caught.value.hint
    (finding,) = judge(own, Trust(modules=frozenset({"mycompany"})))
    assert finding.level == "danger"
    for name in ("os", "builtins", "subprocess", "__main__"):
        scan = scan_stream(io.BytesIO(f"c{name}\nx\n)R.".encode()), "m.pkl")
        with pytest.raises(InputError, match=rf"{name}\.x") as caught:
            judge(scan, Trust(modules=frozenset({name})))
        assert "--trust-module" not in caught.value.hint
        assert judge(scan, Trust(pickle=True))[0].level == "danger"


def test_large_values_are_not_read(tmp_path: Path) -> None:
    """A pickle with 200 MB in it is scanned in little memory, also when compressed."""
    data = pickle.dumps([b"x" * (200 << 20), slice(1)], protocol=4)
    tree = tree_of_files(tmp_path, {"m.pkl": data, "m.z": zlib.compress(data, 1)})
    del data
    tracemalloc.start()
    for path in ("m.pkl", "m.z"):
        assert names_of(scan_pickle(tree, path)) == {"builtins.slice"}
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_text_is_no_pickle(tmp_path: Path) -> None:
    """Text that begins with the letter of an opcode is not taken for a pickle."""
    tree = tree_of_files(
        tmp_path, {"conda.yaml": "channels:\n- conda-forge\n", "x.csv": "(a,b\n1,2\n", "e": "", "p": "]."}
    )
    assert not any(looks_like_pickle(tree, path) for path in tree)


def test_the_allow_list_holds_no_doors() -> None:
    """What runs code, reads files or looks names up is not on the list; nor is any name with a dot."""
    doors = ["builtins getattr", "builtins eval", "builtins __import__", "builtins type", "os system", "pandas eval"]
    doors += [
        "pandas read_pickle",
        "numpy load",
        "numpy memmap",
        "joblib load",
        "operator attrgetter",
        "copyreg _reconstructor",
    ]
    doors += ["numpy.testing._private.utils runstring", "sklearn.utils.parallel Parallel", "joblib.parallel Parallel"]
    doors += [
        "scipy.stats._distn_infrastructure rv_frozen",
        "joblib.memory Memory",
        "pickle loads",
        "importlib import_module",
    ]
    assert not [door for door in doors if known(*door.split())]
    assert not [pair for pair in pairs() if "." in pair[1]]
    assert len(pairs()) > 800


def test_scan_agrees_with_pickletools() -> None:
    """On a real model, the scan finds as many lookups as the standard library's disassembler sees."""
    data = pickle.dumps(fitted("boosting"), protocol=2)
    listed = {argument for code, argument, _ in pickletools.genops(data) if code.name == "GLOBAL"}
    assert len(names_of(scan_stream(io.BytesIO(data), "m"))) == len(listed)
