"""Columns read and written many at once are what a cell at a time gives, by hypothesis."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mpack_runtime import loaders, wire, wire_arrow
from mpack_runtime.cli import csv_columns, source, source_csv
from mpack_runtime.cli.sink import sink
from mpack_runtime.config import LoaderConfig, ModelConfig
from mpack_runtime.errors import BadRequest
from mpack_runtime.frame import Frame, Inputs, Prediction
from mpack_runtime.service import Service
from mpack_runtime.signature import COLUMN_TYPES, Column, Signature, Tensor
from mpack_runtime.wire_columns import Place, convert

NAMES = ("a", "b", "c")
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
numbers = (
    FLOATS.map(repr) | FLOATS.map("{:.3f}".format) | st.integers(-(2**65), 2**65).map(str) | st.integers(-9, 9).map(str)
)
odd = st.sampled_from(
    [
        *["", " ", "-0", "-0.0", "+1", "+1.5", " 7 ", "\t8", "007", "0x1F", "1.0", ".5", "5.", "1e400", "1e-7", "1e16"],
        *["nan", "NaN", "inf", "null", "NULL", "true", "False", "TRUE", "[1", "2]", "{}", "1_0", "é", "\xa03", "x"],
        *["0" * 25 + "1", "9" * 19, "9" * 20, "-" + "9" * 18, "0." + "0" * 310 + "1"],
        *["2024-05-01", "2024-05-01T12:30:00+02:00", "AAE="],
    ]
)
words = st.text("abxé 01.-", max_size=4)
ends = st.sampled_from(["\n", "\n", "\n", "\r\n", "\n\n", "\r"])
#: A column is mostly of one kind, else nearly every block would be in doubt.
columns_of_cells = st.sampled_from(
    [numbers, FLOATS.map(repr), st.integers(-99, 99).map(str), odd, words, numbers | odd]
)
declared = st.builds(Column, st.just("a"), st.sampled_from(COLUMN_TYPES), st.booleans())
signatures = st.one_of(
    st.just(Signature()),
    st.just(Signature((Column(None),) * 3)),
    st.tuples(*(st.builds(Column, st.just(name), st.sampled_from(COLUMN_TYPES), st.booleans()) for name in NAMES)).map(
        Signature
    ),
    st.sampled_from(["float32", "float64", "float16", "int64", "str"]).map(
        lambda dtype: Signature((Tensor(None, dtype, (-1, 3)),))
    ),
)


@st.composite
def tables(draw: st.DrawFn) -> str:
    """CSV of three columns, perhaps with a header, quotes, blank and odd lines."""
    kinds = [draw(columns_of_cells) for _ in NAMES]
    lines = [[draw(kind) for kind in kinds] for _ in range(draw(st.integers(1, 5)))]
    if draw(st.booleans()):
        lines.insert(0, list(draw(st.permutations(NAMES))))
    if draw(st.integers(0, 9)) == 0:
        lines.append(draw(st.sampled_from([["1"], ['"1', "2", "3"], ['"q,\n"', "2", "3"], ["\0", "1", "2"]])))
    end = draw(ends)
    return end.join(",".join(line) for line in lines) + draw(st.sampled_from(["", end]))


class Sines(loaders.Model):
    """A model of numbers whose answers have all their digits."""

    def predict(self, inputs: Inputs) -> Any:
        assert isinstance(inputs, Frame)
        return np.sin(inputs.matrix()).sum(axis=1)


def service(signature: Signature) -> Service:
    config = ModelConfig("m", "1", LoaderConfig("sklearn", "m"), Path("."), signature=signature)
    return Service(config, Sines())


def read(signature: Signature, data: bytes, **options: Any) -> list[Inputs] | str:
    try:
        return [chunk.inputs for chunk in source_csv.chunks(service(signature), io.BytesIO(data), **options)]
    except BadRequest as error:
        return error.message


def same(one: Inputs, other: Inputs) -> bool:
    """Equal to the last bit, but for which NaN a missing value is."""
    if isinstance(one, Frame) and isinstance(other, Frame):
        left, right = list(one.data), list(other.data)
        if one.columns != other.columns or one.rows != other.rows or one.warnings != other.warnings:
            return False
    else:
        assert not isinstance(one, Frame) and not isinstance(other, Frame)
        left, right = list(one.arrays.values()), list(other.arrays.values())
        if list(one.arrays) != list(other.arrays):
            return False
    return len(left) == len(right) and all(map(equal, left, right))


def equal(one: Any, other: Any) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return list(map(_bits, one.ravel())) == list(map(_bits, other.ravel()))


def _bits(value: Any) -> Any:
    if isinstance(value, (float, np.floating)):
        return "nan" if math.isnan(value) else (type(value), repr(float(value)))
    return (type(value), str(value))


@pytest.fixture(params=["pyarrow", "orjson"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The CSV reader of an image with pyarrow, and of one without."""
    if request.param == "orjson":
        monkeypatch.setattr(csv_columns, "reader", lambda *words: csv_columns.JsonReader(csv_columns._Wanted(*words)))
    return str(request.param)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables(), signatures)
@example("1,2,3\n-0,5,6\n", Signature((Column(None),) * 3))
@example("1,0x10,3\n", Signature(tuple(Column(name, "long") for name in NAMES)))
@example("1," + "0" * 420 + "1,3\n", Signature(tuple(Column(name, "double") for name in NAMES)))
@example("1,00000000000000000001,3\n", Signature())
@example("1.5\n \n2.5\n", Signature((Column("a", "double"),)))
@example("1,2,3\n\t \n4,5,6\n", Signature((Column(None, "double"),) * 3))
@example("a,b,c\n\ufeffx,2,3\n", Signature((Column("a", "string"), Column("b", "long"), Column("c", "long"))))
def test_blocks_are_what_the_csv_module_reads(reader: str, text: str, signature: Signature) -> None:
    """The same arrays, dtypes and warnings, or the same error, whichever way a CSV is read."""
    exact, fast = read(signature, text.encode(), exact=True), read(signature, text.encode())
    if isinstance(exact, str) or isinstance(fast, str):
        assert fast == exact
    else:
        assert len(fast) == len(exact) and all(map(same, fast, exact))


def test_a_reader_is_sure_of_ordinary_numbers(reader: str) -> None:
    """Floats, whole numbers and missing cells are no doubt to either reader: the property above is not empty."""
    signature = Signature((Column("a", "double"), Column("b", "long"), Column("c")))
    read_block = csv_columns.reader(["c", "b", "a"], 3, signature, False)
    for _ in range(2):  # what was learned of the first block holds for the second
        inputs = read_block(b"1.5,1,2.5\n,-2,\n0.25,3,1e-07\n", 1)
        assert isinstance(inputs, Frame) and inputs.columns == NAMES
        assert [column.dtype.name for column in inputs.data] == ["float64", "int64", "float64"]
    whole = read_block(b"15,1,2.5\n", 1)
    assert isinstance(whole, Frame) and whole.data[2].dtype == np.int64


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_chunks_of_any_size_hold_every_row_once(reader: str, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Quotes over a block's end, CRLF, a lone CR and blank lines: all rows in order, and from any chunk's end on."""
    text = 'x,y\n1,a\r\n2,"b\n\nc"\n\n3,d\r4,"e,""f"\n5,5" disk\n6,g'
    wanted = [(1.0, "a"), (2.0, "b\n\nc"), (3.0, "d"), (4.0, 'e,"f'), (5.0, '5" disk'), (6.0, "g")]
    monkeypatch.setattr(source_csv, "BLOCK", size)
    model = service(Signature((Column("x", "double"), Column("y", "string"))))
    chunks = list(source_csv.chunks(model, io.BytesIO(text.encode())))
    rows = [tuple(row) for chunk in chunks for row in chunk.inputs.values()]  # type: ignore[union-attr]
    assert rows == wanted
    done = 0
    for chunk in chunks:
        done += chunk.inputs.rows
        rest = source_csv.chunks(model, io.BytesIO(text.encode()), chunk.after, done)
        assert [tuple(row) for piece in rest for row in piece.inputs.values()] == wanted[done:]  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["double", "float", "any"])
def test_every_format_is_answered_as_by_rest(reader: str, tmp_path: Path, kind: str) -> None:
    """JSON, CSV, JSON Lines and Parquet of the same numbers: the bytes of the REST service's answer, and in every
    format of results the numbers of it."""
    model = service(Signature(tuple(Column(name, kind) for name in NAMES)))
    rows = np.random.default_rng(1).normal(size=(500, 3)).tolist()
    rows[7][1] = rows[9][0] = None
    body = json.dumps({"columns": NAMES, "data": rows})
    lines = [",".join("" if cell is None else repr(cell) for cell in row) + "\n" for row in rows]
    (tmp_path / "x.json").write_text(body)
    (tmp_path / "x.csv").write_text("a,b,c\n" + "".join(lines))
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(dict(zip(NAMES, row, strict=True))) + "\n" for row in rows))
    columns = dict(zip(NAMES, map(list, zip(*rows, strict=True)), strict=True))
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    rest = model.encode(model.predict(model.decode(body.encode())))

    def answer(source_form: str, form: str) -> io.BytesIO:
        out = io.BytesIO()
        with (tmp_path / f"x.{source_form}").open("rb") as stream:
            writer = sink(form, out)
            for chunk in source.chunks(model, stream, source_form):
                writer.write(model.predict(chunk.inputs))
            writer.close()
        return io.BytesIO(out.getvalue())

    for form in source.FORMATS:
        assert answer(form, "json").getvalue() == rest, form
    numbers = json.loads(rest)["prediction"]
    assert numbers[7] is None and len(numbers) == 500
    assert pyarrow.parquet.read_table(answer("csv", "parquet")).to_pydict() == {"prediction": numbers}
    assert [json.loads(line)["prediction"] for line in answer("csv", "jsonl")] == numbers
    cells = answer("parquet", "csv").read().decode().splitlines()[1:]
    assert [float(cell) if cell != '""' else None for cell in cells] == numbers


LONG_AGO = pyarrow.array([-(10**11)], pyarrow.timestamp("s"))
CANNOT = 'Column "x" has a timestamp[s] that cannot be read'
ODD = [
    (pyarrow.array([1], pyarrow.time32("s")), "any", ["00:00:01"]),
    (pyarrow.array([1], pyarrow.time32("s")), "double", "expected a number (double), got the string"),
    (pyarrow.array([1500], pyarrow.duration("ms")), "any", [1.5]),
    (LONG_AGO, "datetime", CANNOT),
    (LONG_AGO, "string", CANNOT),
    (LONG_AGO, "any", CANNOT),
    (pyarrow.array([b"\0" * 16], pyarrow.uuid()), "any", ["00000000-0000-0000-0000-000000000000"]),
]


@pytest.mark.parametrize(("values", "kind", "wanted"), ODD)
def test_odd_types_of_parquet_are_values_or_a_sentence(values: Any, kind: str, wanted: Any) -> None:
    """Never a bug of the runtime's, with a signature or without; a column that nobody wants disturbs nobody."""
    batch = pyarrow.record_batch([values, pyarrow.array([1])], names=["x", "y"])
    for signature in (Signature((Column("x", kind),)), *([Signature()] if kind == "any" else [])):
        try:
            found: Any = wire_arrow.from_batch(batch, signature).data[0].tolist()  # type: ignore[union-attr]
        except BadRequest as error:
            found = error.message
        assert wanted in found if isinstance(wanted, str) else found == wanted
    assert wire_arrow.from_batch(batch, Signature((Column("y", "long"),))).rows == 1


def test_what_no_format_has_is_refused_by_its_type() -> None:
    """An undeclared column of whatever a library of Arrow types may bring."""
    with pytest.raises(BadRequest, match="got a complex"):
        convert((1, 1j), Column("x"), Place("column x"))


@pytest.mark.parametrize("text", ["x,y\n1,a\n2," + "b" * 200, 'x,y\n1,a\n2,"' + "b\n" * 200])
def test_a_row_has_a_limit(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Neither a line nor a quote that is never closed is read on and on."""
    monkeypatch.setattr(source_csv, "LONGEST_ROW", 100)
    monkeypatch.setattr(source_csv, "BLOCK", 50)
    assert read(Signature(), text.encode()) == "Row 2 is longer than 64 MiB, the most that is read of one."


def test_a_parquet_file_that_claims_more_rows(tmp_path: Path) -> None:
    """A footer that counts rows that are not there is an error, and costs no memory."""
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"a": [0.5] * 77_777}), stream)
    data = stream.getvalue()
    # In the footer numbers are zigzag varints.
    forged = data[:-9000] + data[-9000:].replace(b"\xa2\xbf\x09", b"\xa2\xbf\x7f")
    path = tmp_path / "a.parquet"
    path.write_bytes(forged)
    claimed = pyarrow.parquet.ParquetFile(path).metadata.num_rows
    assert claimed > 10**6
    with path.open("rb") as file, pytest.raises(BadRequest, match=f"claims {claimed} rows and has 77777"):
        list(source.chunks(service(Signature()), file, "parquet"))


whole_types = st.sampled_from(["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])


@st.composite
def arrow_arrays(draw: st.DrawFn, rows: int) -> pyarrow.Array:
    kind = draw(st.sampled_from(["whole", "float", "bool", "string", "timestamp", "date", "other"]))
    if kind == "whole":
        name = draw(whole_types)
        limits = np.iinfo(name)
        values: Any = st.integers(int(limits.min), int(limits.max)) | st.integers(0, 9)
        type_ = pyarrow.type_for_alias(name)
    elif kind == "float":
        type_ = draw(st.sampled_from([pyarrow.float32(), pyarrow.float64()]))
        values = st.floats(width=type_.bit_width)
    elif kind == "bool":
        type_, values = pyarrow.bool_(), st.booleans()
    elif kind == "string":
        type_ = draw(st.sampled_from([pyarrow.string(), pyarrow.large_string()]))
        values = words | st.sampled_from(["2024-05-01", "AAE="])
    elif kind == "timestamp":
        unit, zone = draw(st.sampled_from(["s", "ms", "us", "ns"])), draw(st.sampled_from([None, "UTC", "+02:00"]))
        type_, values = pyarrow.timestamp(unit, zone), st.integers(-(10**10), 10**10)
    elif kind == "date":
        type_, values = pyarrow.date32(), st.integers(-150_000, 120_000)
    else:
        type_, values = pyarrow.list_(pyarrow.int64()), st.lists(st.integers(0, 9), max_size=2)
    missing = draw(st.sampled_from([values, values | st.none(), st.none()]))
    return pyarrow.array([draw(missing) for _ in range(rows)], type=type_)


@st.composite
def record_batches(draw: st.DrawFn) -> pyarrow.RecordBatch:
    rows = draw(st.integers(1, 4))
    return pyarrow.record_batch([draw(arrow_arrays(rows)) for _ in NAMES], names=list(draw(st.permutations(NAMES))))


@settings(max_examples=400, deadline=None)
@given(record_batches(), signatures, st.booleans())
def test_a_record_batch_is_what_its_values_are(batch: Any, signature: Signature, strict: bool) -> None:
    """Columns taken whole are what `wire.from_rows` makes of the same values as JSON, errors included."""
    columns = [map(wire_arrow.json_value, column.to_pylist()) for column in batch.columns]
    rows = [list(row) for row in zip(*columns, strict=True)]
    exact: Any
    try:
        exact = wire.from_rows(batch.schema.names, rows, signature, strict=strict, first_row=5)
    except BadRequest as error:
        with pytest.raises(BadRequest) as raised:
            wire_arrow.from_batch(batch, signature, strict=strict, first_row=5)
        assert raised.value.message == error.message
        return
    fast = wire_arrow.from_batch(batch, signature, strict=strict, first_row=5)
    assert same(fast, exact)
    if isinstance(fast, Frame):
        assert all(column.flags.writeable for column in fast.data)


dtypes = st.sampled_from(["float64", "float32", "int64", "int8", "uint64", "bool"])
tiny = (
    st.floats() | st.floats(width=32) | st.sampled_from([1e-4, 9.99e-5, 1e-5, 1e15, 1e16, 1e6, 16777216.0, -0.0, 0.1])
)


@st.composite
def answers(draw: st.DrawFn) -> Any:
    dtype, rows, width = draw(dtypes), draw(st.integers(1, 4)), draw(st.sampled_from([None, 1, 2, 3]))
    count = rows * (width or 1)
    if dtype.startswith("float"):
        values: Any = [draw(tiny) for _ in range(count)]
    elif dtype == "bool":
        values = [draw(st.booleans()) for _ in range(count)]
    else:
        limits = np.iinfo(dtype)
        values = [draw(st.integers(int(limits.min), int(limits.max))) for _ in range(count)]
    with np.errstate(over="ignore"):
        array = np.array(values).astype(dtype) if dtype.startswith("float") else np.array(values, dtype=dtype)
    return array if width is None else array.reshape(rows, width)


@settings(max_examples=400, deadline=None)
@given(st.lists(answers(), min_size=1, max_size=3), st.sampled_from(["csv", "jsonl", "parquet"]))
def test_arrays_are_written_as_rows_are(arrays: list[Any], form: str) -> None:
    """An array's bytes are those of its rows, written a value at a time."""
    first = arrays[0]
    arrays = [array for array in arrays if array.dtype == first.dtype and array.shape[1:] == first.shape[1:]]
    written = []
    for at_once in (True, False):
        stream = io.BytesIO()
        writer = sink(form, stream)
        if not at_once:
            writer.array = lambda array: False  # type: ignore[attr-defined]
        try:
            for array in arrays:
                writer.write(Prediction(array))
            writer.close()
        except Exception as error:
            written.append(f"{type(error).__name__}: {error}".encode())
        else:
            written.append(stream.getvalue())
    if form == "parquet" and all(data.startswith(b"PAR1") for data in written):
        tables = [pyarrow.parquet.read_table(io.BytesIO(data)) for data in written]
        assert tables[0].equals(tables[1]) and tables[0].schema == tables[1].schema
        return
    assert written[0] == written[1]
