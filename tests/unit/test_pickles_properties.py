"""Properties of the pickle scan, against the real unpickler on data that the test makes itself."""

from __future__ import annotations

import datetime
import decimal
import io
import pickle
import uuid
from collections import OrderedDict
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mpack.artifact.model import Trust
from mpack.artifact.pickles import judge, scan_stream
from mpack.errors import InputError

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.complex_numbers(),
    st.decimals(), st.dates(), st.datetimes(), st.timedeltas(), st.builds(bytearray, st.binary()),
    st.builds(range, st.integers(0, 9)), st.sampled_from([int, dict, datetime.date, decimal.Decimal, uuid.UUID]),
)  # fmt: skip
KEYS = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.binary())
DATA = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.tuples(inner, inner),
        st.dictionaries(KEYS, inner, max_size=5),
        st.frozensets(KEYS, max_size=4),
        st.sets(KEYS, max_size=4),
        st.builds(lambda value: [value, value], inner),
        st.builds(OrderedDict, st.lists(st.tuples(KEYS, inner), max_size=3)),
    ),
    max_leaves=20,
)
PROTOCOLS = st.integers(0, pickle.HIGHEST_PROTOCOL)


class Recording(pickle.Unpickler):
    """The C unpickler, writing down what it looks up; anything outside `allowed` is not found."""

    def __init__(self, data: bytes, allowed: set[tuple[str, str]] | None = None) -> None:
        super().__init__(io.BytesIO(data))
        self.found: set[tuple[str, str]] = set()
        self.allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        pair = self.mapped(module, name)
        self.found.add(pair)
        if self.allowed is not None and pair not in self.allowed:
            raise pickle.UnpicklingError(f"{pair} was not foreseen")
        return super().find_class(module, name)

    @staticmethod
    def mapped(module: str, name: str) -> tuple[str, str]:
        """The name as Python 3 has it: the unpickler maps it only after this call."""
        from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

        return NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))


@given(DATA, PROTOCOLS)
def test_exact_on_plain_data(data: Any, protocol: int) -> None:
    """Plain data is accepted, with exactly the names that the real unpickler looks up."""
    pickled = pickle.dumps(data, protocol=protocol)
    real = Recording(pickled)
    real.load()
    scan = scan_stream(io.BytesIO(pickled), "m")
    assert scan.problem is None
    assert {(name.module, name.name) for name in scan.globals} == real.found
    assert judge(scan, Trust()) == ()


MUTATIONS = st.lists(
    st.tuples(st.integers(0, 10_000), st.integers(0, 255), st.sampled_from("rid")), min_size=1, max_size=6
)


def mutate(data: bytes, changes: list[tuple[int, int, str]]) -> bytes:
    """Bytes replaced, inserted or deleted."""
    result = bytearray(data)
    for place, value, kind in changes:
        index = place % (len(result) + 1)
        if kind == "i":
            result.insert(index, value)
        elif index < len(result):
            result[index : index + 1] = bytes([value]) if kind == "r" else b""
    return bytes(result)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(DATA, PROTOCOLS, MUTATIONS)
@example({"a": 1}, 0, [(0, ord("c"), "i")])
def test_sound_on_mutations(data: Any, protocol: int, changes: list[tuple[int, int, str]]) -> None:
    """Whatever is done to a pickle: the scan refuses it in words, or the real unpickler looks up nothing else."""
    pickled = mutate(pickle.dumps(data, protocol=protocol), changes)
    scan = scan_stream(io.BytesIO(pickled), "m")
    try:
        judge(scan, Trust())
    except InputError as error:
        assert error.code == "pickle-refused"
        return
    # Only builtins that are data are left here, so loading is safe; what was not foreseen is not found.
    foreseen = {(name.module, name.name) for name in scan.globals}
    real = Recording(pickled, foreseen)
    try:
        real.load()
    except Exception:
        assert real.found <= foreseen
    assert real.found <= foreseen


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes(data: bytes, joblib: bool) -> None:
    """Any bytes at all give a scan that is refused or accepted, never another error."""
    scan = scan_stream(io.BytesIO(data), "m", joblib=joblib)
    try:
        judge(scan, Trust())
    except InputError as error:
        assert error.code == "pickle-refused"
