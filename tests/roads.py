"""The roads to a model as its clients take them: what is sent, and the rows that come back.

A table is columns by name, as arrays of the declared types; a missing number is NaN. Whatever carries requests is an
`Ask`, so the same roads lead to a client in this process and to a container.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import tritonclient.http as triton
from mpack_runtime.arrow import MEDIA
from mpack_runtime.v2.raw import pack, unpack
from mpack_runtime.v2.tensors import DATATYPES, DTYPES
from tritonclient.grpc import service_pb2 as pb

Columns = dict[str, "np.ndarray[Any, Any]"]
Rows = list[list[Any]]
CSV = "text/csv; header=present"
FIELDS = {
    **{"FP64": "fp64_contents", "FP32": "fp32_contents", "INT64": "int64_contents", "INT32": "int_contents"},
    **{"BOOL": "bool_contents", "BYTES": "bytes_contents"},
}


@dataclass(frozen=True)
class Reply:
    """An answer of HTTP's or gRPC's."""

    status: int | str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


#: `ask(path, body, headers)` posts.
Ask = Callable[[str, bytes, dict[str, str]], Reply]


class Refused(Exception):
    """A road answered with another status than success."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"{reply.status}: {reply.body.decode(errors='replace')}")
        self.status, self.text = reply.status, reply.body.decode(errors="replace")


def good(reply: Reply) -> Reply:
    """The reply. Raises Refused unless it is a success."""
    if reply.status not in (200, "OK"):
        raise Refused(reply)
    return reply


def leaves(value: Any) -> Iterator[Any]:
    """The plain values in lists, objects and arrays, in order. Raw text is bytes; JSON has a float32 by the digits that
    tell it from others."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, np.ndarray):
        value = (value.astype(str).astype(np.float64) if value.dtype == np.float32 else value).tolist()
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves(item)
    else:
        yield value.decode() if isinstance(value, bytes) else None if value != value else value


def beside(outputs: Mapping[str, Any] | list[Any]) -> Rows:
    """Rows of outputs that stand beside each other, each with a value, or several, a row."""
    parts = list(outputs.values()) if isinstance(outputs, Mapping) else outputs
    return [[leaf for part in parts for leaf in leaves(part[row : row + 1])] for row in range(len(parts[0]))]


def rows_of(prediction: Any) -> Rows:
    """Rows of what a JSON answer has: rows, objects, or several outputs by name."""
    return beside(prediction) if isinstance(prediction, dict) else [list(leaves(row)) for row in prediction]


def spoken(table: Columns) -> Rows:
    """The table's rows as JSON has them."""
    columns = [[None if item != item else item for item in values.tolist()] for values in table.values()]
    return [list(row) for row in zip(*columns, strict=True)]


def csv_of(table: Columns, header: bool = True) -> str:
    return pd.DataFrame(table).to_csv(index=False, header=header)


def arrow_of(table: Columns) -> pa.Table:
    return pa.table({name: pa.array(values, from_pandas=True) for name, values in table.items()})


def post_json(ask: Ask, path: str, body: Any) -> Any:
    """The prediction in the answer to a JSON body, of ODAHU's form, of MLflow's or of V1's."""
    told = json.loads(good(ask(path, json.dumps(body).encode(), {"Content-Type": "application/json"})).body)
    return told["prediction"] if "prediction" in told else told["predictions"]


def post_csv(ask: Ask, path: str, table: Columns) -> Any:
    """The prediction in the answer to a CSV."""
    told = json.loads(good(ask(path, csv_of(table).encode(), {"Content-Type": CSV})).body)
    return told["prediction"] if "prediction" in told else told["predictions"]


def _plain(column: Any) -> Any:
    """A column of Arrow's, lists or not, as an array of its own type."""
    array, rows = column.combine_chunks(), len(column)
    while pa.types.is_nested(array.type):
        array = array.flatten()
    return array.to_numpy(zero_copy_only=False).reshape(rows, -1)


def post_arrow(ask: Ask, path: str, table: Columns) -> Rows:
    """The rows of the answer to a table, both as Arrow streams."""
    sink, given = pa.BufferOutputStream(), arrow_of(table)
    with pa.ipc.new_stream(sink, given.schema) as writer:
        writer.write_table(given)
    reply = good(ask(path, sink.getvalue().to_pybytes(), {"Content-Type": MEDIA, "Accept": MEDIA}))
    return beside([_plain(column) for column in pa.ipc.open_stream(reply.body).read_all().columns])


def datatype_of(array: Any) -> str:
    return DATATYPES.get(array.dtype.name, "BYTES")


def v2_json(ask: Ask, model: str, tensors: Columns) -> dict[str, Any]:
    """The outputs by name, in their shapes."""
    items = [
        {"name": name, "datatype": datatype_of(array), "shape": list(array.shape), "data": list(leaves(array.tolist()))}
        for name, array in tensors.items()
    ]
    reply = good(ask(f"/v2/models/{model}/infer", json.dumps({"inputs": items}).encode(), {}))
    outputs = json.loads(reply.body)["outputs"]
    return {one["name"]: np.array(one["data"], object).reshape(one["shape"]) for one in outputs}


def tritons(tensors: Columns, *, binary: bool) -> list[Any]:
    """The inputs as tritonclient has them."""
    inputs = []
    for name, array in tensors.items():
        found = triton.InferInput(name, list(array.shape), datatype_of(array))
        found.set_data_from_numpy(array, binary_data=binary)
        inputs.append(found)
    return inputs


def v2_binary(ask: Ask, model: str, tensors: Columns, names: list[str]) -> dict[str, Any]:
    """The named outputs, by the bytes that tritonclient makes and reads."""
    wanted = [triton.InferRequestedOutput(name, binary_data=True) for name in names]
    make, read = triton.InferenceServerClient.generate_request_body, triton.InferenceServerClient.parse_response_body
    body, length = make(tritons(tensors, binary=True), outputs=wanted)
    reply = good(ask(f"/v2/models/{model}/infer", body, {"Inference-Header-Content-Length": str(length)}))
    result = read(reply.body, header_length=int(reply.headers["Inference-Header-Content-Length"]))
    return {name: result.as_numpy(name) for name in names}


def v2_grpc(call: Callable[[bytes], Reply], model: str, tensors: Columns, *, raw: bool) -> dict[str, Any]:
    """The outputs by name, in their shapes; messages are tritonclient's. `call` carries a ModelInfer."""
    made = pb.ModelInferRequest(model_name=model)
    for name, array in tensors.items():
        datatype = datatype_of(array)
        item = made.inputs.add(name=name, datatype=datatype, shape=array.shape)
        values = array.ravel().tolist()
        if raw:
            made.raw_input_contents.append(pack(values) if datatype == "BYTES" else array.tobytes())
        else:
            coded = [value.encode() if datatype == "BYTES" else value for value in values]
            getattr(item.contents, FIELDS[datatype]).extend(coded)
    told = pb.ModelInferResponse.FromString(good(call(made.SerializeToString())).body)
    found = {}
    for index, one in enumerate(told.outputs):
        if not raw:
            values = np.array(getattr(one.contents, FIELDS[one.datatype]), DTYPES[one.datatype])
        elif one.datatype == "BYTES":
            values = unpack(told.raw_output_contents[index])
        else:
            values = np.frombuffer(told.raw_output_contents[index], DTYPES[one.datatype])
        found[one.name] = np.asarray(values).reshape(tuple(one.shape))
    return found


#: The command line's files by the road's name.
FILES = {"json": "j.json", "csv": "c.csv", "jsonl": "l.jsonl", "parquet": "p.parquet"}


def write_files(root: Path, table: Columns, *, named: bool, request: Any = None, lines: Any = None) -> None:
    """The table in the command line's four formats; `request` is another one in JSON's, `lines` others in JSON Lines'.

    Not `named`: neither CSV nor JSON Lines have the columns' names."""
    rows = spoken(table)
    lines = lines or ([dict(zip(table, row, strict=True)) for row in rows] if named else rows)
    (root / FILES["json"]).write_text(json.dumps(request or {"columns": list(table), "data": rows}))
    (root / FILES["csv"]).write_text(csv_of(table, header=named))
    (root / FILES["jsonl"]).write_text("".join(json.dumps(line) + "\n" for line in lines))
    pa.parquet.write_table(arrow_of(table), root / FILES["parquet"])


def read_result(path: Path) -> Rows:
    """The rows of a result file, in the format that its name tells."""
    if path.suffix == ".json":
        return rows_of(json.loads(path.read_text("utf-8"))["prediction"])
    if path.suffix == ".jsonl":
        return [list(leaves(json.loads(line))) for line in path.read_text("utf-8").splitlines()]
    if path.suffix == ".csv":
        cells = list(csv.reader(io.StringIO(path.read_text("utf-8"), newline="")))[1:]
        return [list(leaves([_cell(cell) for cell in row])) for row in cells]
    return beside([_plain(column) for column in pa.parquet.read_table(path).columns])


def _cell(text: str) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text


def exactly(rows: Rows) -> str:
    """Rows as text: the same for the same values of the same types, bit for bit, and for no others."""
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
