"""A model fixture's sample on every road, and what the roads that are closed to it answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from mpack_runtime.v2.tensors import DTYPES

from tests import roads
from tests.roads import Ask, Columns, Reply, Rows, beside, rows_of, spoken

Road = Callable[[], Rows]
Call = Callable[[bytes], Reply]

#: The packagers' arguments by fixture. grpcio is 22 MB and pyarrow 152 MB (mlflow brings it anyway): a table of all
#: types has both, a model that answers a table has Arrow, a graph gRPC.
REST_EXTRAS = {
    "mlflow-churn": ("grpc=true", "arrow=true"),
    "mlflow-pyfunc": ("arrow=true",),
    "onnx-two-inputs": ("grpc=true",),
}
CLI_EXTRAS = dict.fromkeys(("mlflow-churn", "mlflow-pyfunc"), ("formats=json,csv,jsonl,parquet",))

#: A road that is closed: what it answers (HTTP's status, gRPC's code, an exit code), some words of it, and why.
Closed = tuple["int | str", str, str]
TWO_TENSORS: Closed = (400, "Missing input", "the model's two tensors are no table")
MISSING_TEXT: Closed = (400, "raw text cannot carry", "the answer has missing text, which only JSON and Arrow can say")
CLOSED: dict[str, dict[str, Closed]] = {
    "odahu-invoices": {"v2 binary": MISSING_TEXT},
    "onnx-two-inputs": {
        **dict.fromkeys(("odahu csv", "mlflow split", "mlflow records", "mlflow csv"), TWO_TENSORS),
        "cli csv": (1, "Row 1 has 5 values, where 2 are expected", "the model's two tensors are no table"),
    },
}
NO_ARROW: Closed = (415, "arrow=true", "the image is built without arrow=true")
NO_GRPC: Closed = ("UNAVAILABLE", "", "the image is built without grpc=true: nobody listens")
NO_PARQUET: Closed = (2, "formats=json,csv,jsonl,parquet", "the image is built without parquet among its formats")


def closed(fixture: str, road: str) -> Closed | None:
    """What a fixture's closed road answers; None where it must answer as every other road does."""
    if road in CLOSED.get(fixture, {}):
        return CLOSED[fixture][road]
    if "arrow" in road and "arrow=true" not in REST_EXTRAS.get(fixture, ()):
        return NO_ARROW
    if "grpc" in road and "grpc=true" not in REST_EXTRAS.get(fixture, ()):
        return NO_GRPC
    return NO_PARQUET if road == "cli parquet" and fixture not in CLI_EXTRAS else None


@dataclass(frozen=True)
class Sample:
    """What a fixture is asked: ODAHU's JSON; the same as a table, whose columns' names are made up where it is not
    `named`; as rows in the model's own order; and as V2's inputs, by columns and as one matrix where both can be."""

    body: dict[str, Any]
    table: Columns
    named: bool
    rows: Rows
    tensors: dict[str, Columns]

    @property
    def objects(self) -> list[dict[str, Any]]:
        """A row's tensors by name, where the model has several."""
        inputs = self.body.get("inputs", {})
        return [dict(zip(inputs, row, strict=True)) for row in zip(*inputs.values(), strict=True)]

    @classmethod
    def of(cls, body: dict[str, Any], types: dict[str, Any], order: list[str]) -> Sample:
        """Of ODAHU's JSON for a model whose V2 inputs have these types and whose columns stand in this order."""
        if "inputs" in body:
            tensors = {name: np.array(body["inputs"][name], kind) for name, kind in types.items()}
            parts = {f"{name}_{at}": array[:, at] for name, array in tensors.items() for at in range(array.shape[1])}
            return cls(body, parts, False, spoken(parts), {"": tensors})
        width = len(body["data"][0])
        order = order if len(order) == width else [f"c{at}" for at in range(width)]
        names = body.get("columns") or order
        values = dict(zip(names, zip(*body["data"], strict=True), strict=True))
        if set(types) == set(names):
            table = {name: _array(values[name], types[name]) for name in names}
            tensors = {" by columns": table}
            if len({array.dtype for array in table.values()}) == 1:
                tensors[" as a matrix"] = {"input-0": np.stack([table[name] for name in order], axis=1)}
        else:
            ((matrix, kind),) = types.items()
            table = {name: _array(values[name], kind if kind.kind == "f" else None) for name in names}
            tensors = {"": {matrix: np.array([values[name] for name in order], kind).T.copy()}}
        rows = [[values[name][at] for name in order] for at in range(len(body["data"]))]
        return cls(body, table, "columns" in body or set(types) == set(names), rows, tensors)


def _array(values: Any, kind: Any) -> Any:
    array = np.array([np.nan if value is None else value for value in values], kind)
    return array.astype(object) if array.dtype.kind == "U" else array


def sample_of(case: Any, get: Callable[[str], Any]) -> Sample:
    """The fixture's, by what its server tells; `get(path)` is the answer's JSON."""
    inputs = get(f"/v2/models/{case.expect['name']}")["inputs"]
    operation = get("/api/model/info")["paths"]["/api/model/invoke"]["post"]
    told = operation["parameters"][0]["schema"]["properties"].get("columns", {})
    types = {item["name"]: DTYPES[item["datatype"]] for item in inputs}
    return Sample.of(case.expect["cli"]["input"], types, told.get("example") or [])


def rest_roads(ask: Ask, call: Call, model: str, sample: Sample) -> dict[str, Road]:
    """Each road that a REST image may have, by name; `call` is gRPC's."""
    table, inputs = sample.table, sample.rows
    instances = sample.objects or inputs
    inputs = sample.body.get("inputs", inputs)
    frame = {"columns": list(table), "data": spoken(table)}
    records = [dict(zip(table, row, strict=True)) for row in frame["data"]]

    def by_json(path: str, body: Any) -> Road:
        return lambda: rows_of(roads.post_json(ask, path, body))

    found: dict[str, Road] = {
        "odahu csv": lambda: rows_of(roads.post_csv(ask, "/api/model/invoke", table)),
        "odahu arrow": lambda: roads.post_arrow(ask, "/api/model/invoke", table),
        "mlflow split": by_json("/invocations", {"dataframe_split": frame}),
        "mlflow records": by_json("/invocations", {"dataframe_records": records}),
        "mlflow instances": by_json("/invocations", {"instances": instances}),
        "mlflow inputs": by_json("/invocations", {"inputs": inputs}),
        "mlflow csv": lambda: rows_of(roads.post_csv(ask, "/invocations", table)),
        "mlflow arrow": lambda: roads.post_arrow(ask, "/invocations", table),
        "v1": by_json(f"/v1/models/{model}:predict", {"instances": instances}),
    }
    for form, tensors in sample.tensors.items():
        found |= _v2_roads(ask, call, model, form, tensors)
    return found


def _v2_roads(ask: Ask, call: Call, model: str, form: str, tensors: Columns) -> dict[str, Road]:
    def binary() -> Rows:
        return beside(roads.v2_binary(ask, model, tensors, list(roads.v2_json(ask, model, tensors))))

    return {
        f"v2 json{form}": lambda: beside(roads.v2_json(ask, model, tensors)),
        f"v2 binary{form}": binary,
        f"v2 grpc{form}": lambda: beside(roads.v2_grpc(call, model, tensors, raw=False)),
        f"v2 raw grpc{form}": lambda: beside(roads.v2_grpc(call, model, tensors, raw=True)),
    }
