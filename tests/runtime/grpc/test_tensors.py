"""Values of every datatype over gRPC: the same bits as over HTTP, and no message makes an error of the service's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpack_runtime import loaders
from mpack_runtime.config import LoaderConfig, ModelConfig
from mpack_runtime.errors import RuntimeFault
from mpack_runtime.frame import Frame, Inputs
from mpack_runtime.grpc.protocol import Protocol
from mpack_runtime.service import Service
from mpack_runtime.signature import Column, Param, Signature, Tensor
from mpack_runtime.v2.raw import pack
from mpack_runtime.v2.tensors import DTYPES
from tritonclient.grpc import service_pb2 as pb
from werkzeug.test import Client

VALUES: dict[str, Any] = {
    "BOOL": [True, False],
    "INT8": [-128, 127],
    "INT16": [-(2**15), 2**15 - 1],
    "INT32": [-(2**31), 2**31 - 1],
    "INT64": [-(2**63), 2**53 + 1],
    "UINT8": [0, 255],
    "UINT16": [0, 2**16 - 1],
    "UINT32": [0, 2**32 - 1],
    "UINT64": [0, 2**64 - 1],
    "FP16": [0.5, 65504.0],
    "FP32": [0.1, 3.4e38],
    "FP64": [1 / 3, 1e-300],
    "BYTES": ["Müller", ""],
}
FIELDS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    **{"INT64": "int64_contents", "UINT64": "uint64_contents"},
    **{"FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents"},
}


class Model(loaders.Model):
    """A model that is a function."""

    def __init__(self, answer: Callable[[Inputs], Any]) -> None:
        self._answer = answer

    def predict(self, inputs: Inputs) -> Any:
        return self._answer(inputs)


def service(answer: Callable[[Inputs], Any], signature: Signature | None = None) -> Service:
    return Service(ModelConfig("m", "1", LoaderConfig("sklearn", "m"), Path("/nowhere"), signature), Model(answer))


def echo(inputs: Inputs) -> Any:
    """The rows themselves, in the dtype that came."""
    assert isinstance(inputs, Frame)
    return inputs.matrix()


def message(datatype: str, shape: tuple[int, ...], raw: bool) -> bytes:
    """A request of these values."""
    made = pb.ModelInferRequest(model_name="m")
    item = made.inputs.add(name="x", datatype=datatype, shape=shape)
    values = [value.encode() if isinstance(value, str) else value for value in VALUES[datatype]]
    if raw:
        whole = pack(values) if datatype == "BYTES" else np.array(values, DTYPES[datatype]).tobytes()
        made.raw_input_contents.append(whole)
    else:
        getattr(item.contents, FIELDS[datatype]).extend(values)
    return bytes(made.SerializeToString())


@pytest.mark.parametrize("datatype", VALUES)
def test_every_datatype_has_the_bits_that_http_gives(client_of: Callable[..., Client], datatype: str) -> None:
    """Typed and raw requests come back in their own form with the values, and the datatype, of REST's answer."""
    model = service(echo)
    body = {"inputs": [{"name": "x", "datatype": datatype, "shape": [2, 1], "data": VALUES[datatype]}]}
    [wanted] = json.loads(client_of(model).post("/v2/models/m/infer", json=body).data)["outputs"]
    for raw in (True, False) if datatype in FIELDS else (True,):
        answer = Protocol(model, lambda: True).answer("ModelInfer", message(datatype, (2, 1), raw))
        told = pb.ModelInferResponse.FromString(answer.body)
        [item] = told.outputs
        assert (item.datatype, list(item.shape), answer.rows) == (wanted["datatype"], wanted["shape"], 2)
        if not raw:
            found = list(getattr(item.contents, FIELDS[datatype]))
            found = [value.decode() if isinstance(value, bytes) else value for value in found]
            assert np.array_equal(np.array(found, DTYPES[datatype]), np.array(wanted["data"], DTYPES[datatype]))
        elif datatype == "BYTES":
            assert told.raw_output_contents[0] == pack([value.encode() for value in VALUES["BYTES"]])
        else:
            assert told.raw_output_contents[0] == np.array(wanted["data"], DTYPES[wanted["datatype"]]).tobytes()


def test_nan_and_infinities_pass_both_ways() -> None:
    """Which JSON cannot carry: typed as raw."""
    made = pb.ModelInferRequest(model_name="m")
    made.inputs.add(name="x", datatype="FP32", shape=(3,)).contents.fp32_contents.extend([np.nan, np.inf, -np.inf])
    answer = Protocol(service(echo), lambda: True).answer("ModelInfer", made.SerializeToString())
    found = pb.ModelInferResponse.FromString(answer.body).outputs[0].contents.fp32_contents
    assert np.array_equal(np.array(found), [np.nan, np.inf, -np.inf], equal_nan=True)


def test_missing_text_is_refused_in_words() -> None:
    """No form of gRPC's can carry it."""
    protocol = Protocol(service(lambda inputs: ["a", None]), lambda: True)
    for raw in (True, False):
        with pytest.raises(RuntimeFault, match="missing value") as caught:
            protocol.answer("ModelInfer", message("FP64", (2, 1), raw))
        assert caught.value.status == 400


def test_fp16_makes_an_answer_raw() -> None:
    """For it there is no list."""
    signature = Signature((), (Tensor("y", "float16", (-1,)),))
    protocol = Protocol(service(lambda inputs: np.array([0.5, 1]), signature), lambda: True)
    told = pb.ModelInferResponse.FromString(protocol.answer("ModelInfer", message("FP64", (2, 1), False)).body)
    assert told.outputs[0].datatype == "FP16" and told.raw_output_contents[0] == np.array([0.5, 1], "<f2").tobytes()


TYPED = ("double", "string", "long", "datetime", "binary", "boolean", "any", "float", "integer")
SIGNATURES = {
    "nothing": None,
    "columns": Signature(tuple(Column(kind, kind, required=index < 2) for index, kind in enumerate(TYPED))),
    "one type": Signature((Column("a", "double"), Column("b", "double")), (), (Param("n", "long", 1),)),
    "tensors": Signature((Tensor("a", "float32", (-1, 2)), Tensor("b", "str", (-1,)), Tensor("c", "bool", ()))),
}
PROTOCOLS = {
    name: Protocol(service(lambda inputs: np.arange(inputs.rows), signature), lambda: True)
    for name, signature in SIGNATURES.items()
}
NAMES = st.sampled_from(["a", "b", "c", *["input-0"] * 4, "", *TYPED])
DIMS = st.integers(-1, 4) | st.sampled_from([2**31, 2**62, 2**63 - 1, -(2**63)])
PARAMETERS = st.dictionaries(
    st.sampled_from(["content_type", "n", "classification", "x"]),
    st.builds(pb.InferParameter)
    | st.builds(pb.InferParameter, string_param=st.sampled_from(["np", "pd", "base64", "datetime", "x", ""]))
    | st.builds(pb.InferParameter, int64_param=st.integers(-9, 9))
    | st.builds(pb.InferParameter, double_param=st.floats()),
    min_size=1,
    max_size=2,
)
#: Mostly none.
SOME = st.integers(0, 7).flatmap(lambda number: st.just({}) if number else PARAMETERS)
CONTENTS = st.builds(
    pb.InferTensorContents,
    bool_contents=st.just([]) | st.lists(st.booleans(), max_size=4),
    int_contents=st.just([]) | st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
    uint64_contents=st.just([]) | st.lists(st.integers(0, 2**64 - 1), max_size=4),
    fp32_contents=st.just([]) | st.lists(st.floats(width=32), max_size=4),
    fp64_contents=st.just([]) | st.lists(st.floats(), max_size=4),
    bytes_contents=st.just([]) | st.lists(st.binary(max_size=4), max_size=4),
)


#: Inputs that fit the signatures.
FITTING: dict[str, list[tuple[str, str, list[int]]]] = {
    "nothing": [("x", "FP64", [2, 3])],
    "columns": [("double", "FP32", [2, 1]), ("string", "BYTES", [2])],
    "one type": [("a", "FP64", [2, 1]), ("b", "INT8", [2, 1])],
    "tensors": [("a", "FP16", [2, 2]), ("b", "BYTES", [2]), ("c", "BOOL", [1])],
}


@st.composite
def any_input(draw: st.DrawFn) -> tuple[str, str, list[int]]:
    """An input whose parts agree, but hardly with the model."""
    shape = [draw(st.integers(1, 2)), *draw(st.sampled_from([[], [1], [2], [2, 1]]))]
    return draw(NAMES), draw(st.sampled_from(sorted(DTYPES))), shape


@st.composite
def inputs(draw: st.DrawFn, told: tuple[str, str, list[int]], raws: list[bytes]) -> Any:
    """Such an input with values, now and then with a part that does not agree; its raw bytes go to `raws`."""
    name, datatype, shape = told
    count = int(np.prod(shape))
    made = pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
    values = [draw(st.sampled_from(VALUES[datatype])) for _ in range(count)]
    coded = [value.encode() if isinstance(value, str) else value for value in values]
    raws.append(pack(coded) if datatype == "BYTES" else np.array(coded, DTYPES[datatype]).tobytes())
    if datatype in FIELDS:
        getattr(made.contents, FIELDS[datatype]).extend(coded)
    wild = draw(st.integers(0, 19))
    if wild == 0:
        made.datatype = draw(st.sampled_from(["FLOAT", "", *DTYPES]))
    if wild == 1:
        made.shape[:] = draw(st.lists(DIMS, max_size=4))
    if wild == 2:
        made.contents.CopyFrom(draw(CONTENTS))
    if wild == 3:
        raws[-1] = draw(st.binary(max_size=20))
    for name, parameter in draw(SOME).items():
        made.parameters[name].CopyFrom(parameter)
    return made


@st.composite
def messages(draw: st.DrawFn) -> tuple[str, bytes]:
    """A signature and a request for it, now and then with some of its bytes changed."""
    signature = draw(st.sampled_from(sorted(SIGNATURES)))
    raws: list[bytes] = []
    made = pb.ModelInferRequest(model_name="m", id=draw(st.text(st.characters(codec="utf-8"), max_size=3)))
    wanted = FITTING[signature] if draw(st.booleans()) else draw(st.lists(any_input(), max_size=3))
    made.inputs.extend([draw(inputs(told, raws)) for told in wanted])
    if draw(st.booleans()):
        made.raw_input_contents.extend(raws)
        for item in made.inputs if draw(st.integers(0, 9)) else ():
            item.ClearField("contents")
    for name, parameter in draw(SOME).items():
        made.parameters[name].CopyFrom(parameter)
    body = bytearray(made.SerializeToString())
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 3]))):
        if body:
            body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
    return signature, bytes(body)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(messages() | st.tuples(st.sampled_from(sorted(SIGNATURES)), st.binary(max_size=60)))
def test_no_message_is_an_error_of_the_services(asked: tuple[str, bytes]) -> None:
    """An answer, or a refusal that is the request's fault."""
    signature, body = asked
    try:
        pb.ModelInferResponse.FromString(PROTOCOLS[signature].answer("ModelInfer", body).body)
    except RuntimeFault as error:
        assert error.status in (400, 404) and error.message
