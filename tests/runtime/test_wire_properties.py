"""Requests in, by hypothesis: whatever the bytes and the signature, inputs of whole rows or a BadRequest."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from mpack_runtime import wire
from mpack_runtime.errors import BadRequest
from mpack_runtime.frame import Frame
from mpack_runtime.signature import COLUMN_TYPES, Column, Param, Signature, Tensor


def decode(value: Any, signature: Signature, **options: Any) -> Any:
    return wire.decode(json.dumps(value).encode(), "application/json", signature, **options)


scalars = st.none() | st.booleans() | st.integers(-(2**64), 2**65) | st.floats(allow_nan=False, allow_infinity=False)
cells = scalars | st.text(max_size=5) | st.sampled_from(["2024-01-01", "AAE=", "1", "true"])
values = st.recursive(
    cells,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcxy"), inner, max_size=4),
    max_leaves=20,
)
tables = st.lists(st.lists(cells, min_size=1, max_size=4), min_size=1, max_size=4)
bodies = st.dictionaries(st.sampled_from([*wire.FORMS, "columns", "params"]), values | tables, max_size=3)
columns = st.builds(Column, st.sampled_from([*"abcxy", None]), st.sampled_from(COLUMN_TYPES), st.booleans())
tensors = st.builds(
    Tensor,
    st.sampled_from(["x", "y", None]),
    st.sampled_from(["float32", "float64", "int8", "int64", "uint64", "str", "bool", "object", "any", "float16"]),
    st.lists(st.integers(-1, 3), max_size=3).map(tuple),
)
unique = {"max_size": 3, "unique_by": lambda field: field.name or object()}
signatures = st.builds(
    Signature,
    st.lists(columns, **unique).map(tuple) | st.lists(tensors, **unique).map(tuple),
    st.just(()),
    st.lists(st.builds(Param, st.sampled_from("abx"), st.sampled_from(COLUMN_TYPES), cells), max_size=2).map(tuple),
)
media = st.sampled_from(["", "application/json", "text/csv", "text/csv; header=present", "a/b", "application/json;;=;"])


@settings(max_examples=400, deadline=None)
@given(bodies, signatures, st.booleans())
def test_any_json_is_inputs_or_a_bad_request(body: Any, signature: Signature, strict: bool) -> None:
    """Whatever the JSON and the signature: inputs of whole rows, or a BadRequest that is a sentence."""
    try:
        inputs = decode(body, signature, strict=strict)
    except BadRequest as error:
        assert error.status == 400 and error.message.endswith(".")
        assert error.message[0].isupper() or error.message.startswith((*wire.FORMS, "columns", "params"))
        return
    assert inputs.rows >= 1
    if isinstance(inputs, Frame):
        assert all(column.shape == (inputs.rows,) for column in inputs.data)
        assert len(inputs.values()) == inputs.rows and inputs.matrix().shape == (inputs.rows, len(inputs.data))
    assert all(warning.isascii() and "\n" not in warning for warning in inputs.warnings)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode), media, signatures)
def test_any_bytes_are_inputs_or_a_bad_request(body: bytes, content_type: str, signature: Signature) -> None:
    """Whatever the body: inputs, or a BadRequest with a 4xx status."""
    try:
        assert wire.decode(body, content_type, signature).rows >= 1
    except BadRequest as error:
        assert error.status in (400, 415)


@settings(max_examples=200, deadline=None)
@given(signatures)
def test_the_example_is_a_request_that_passes(signature: Signature) -> None:
    """What `example` makes of a signature is accepted by that signature, without a warning."""
    request = wire.example(signature)
    named = len(signature.inputs) == 1 or signature.input_names or signature.input_columns
    if request is not None and named and all(0 not in tensor.shape for tensor in signature.input_tensors):
        assert decode(request, signature, strict=True).rows >= 1


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False)), min_size=1)
)
def test_csv_and_json_mean_the_same(rows: list[tuple[int, float]]) -> None:
    """Numbers sent as CSV and as JSON become the same arrays, bit for bit."""
    signature = Signature((Column("i", "long"), Column("f", "double")))
    text = "".join(f"{whole},{number!r}\n" for whole, number in rows)
    csv, table = wire.decode(text.encode(), "text/csv", signature), decode({"data": rows}, signature)
    assert isinstance(csv, Frame) and isinstance(table, Frame)
    assert [column.tobytes() for column in csv.data] == [column.tobytes() for column in table.data]
