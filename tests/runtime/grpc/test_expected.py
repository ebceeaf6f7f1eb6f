"""V2 over gRPC: what is answered to the 33 cases that three other servers were asked, and to what is no request."""

from __future__ import annotations

import struct
from typing import Any

import grpc
import numpy as np
import pytest
from mpack_runtime import __version__
from mpack_runtime.errors import BadRequest
from mpack_runtime.grpc.calls import Calls
from tritonclient.grpc import service_pb2 as pb

DATA = [5.1, 3.5, 1.4, 0.2, 6.7, 3.0, 5.2, 2.3]
RAW = np.array(DATA, "<f4").tobytes()
OK, INVALID, NOT_FOUND = grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
UNIMPLEMENTED, INTERNAL = grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL


def x(
    data: Any = DATA, shape: Any = (2, 4), datatype: str = "FP32", name: str = "X", field: str = "fp32_contents"
) -> Any:
    """One input with typed contents; None: without."""
    made = pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
    if data is not None:
        getattr(made.contents, field).extend(data)
    return made


def infer(*inputs: Any, raw: Any = (), outputs: Any = (), **more: Any) -> tuple[str, Any]:
    """A request for `sk`."""
    made = pb.ModelInferRequest(**{"model_name": "sk", **more})
    made.inputs.extend(inputs)
    made.raw_input_contents.extend(raw)
    for name in outputs:
        made.outputs.add(name=name)
    return "ModelInfer", made


def with_parameter(message: Any, name: str, **value: Any) -> Any:
    """An input, output or request with one parameter more."""
    message.parameters[name].CopyFrom(pb.InferParameter(**value))
    return message


def asked_output(**value: Any) -> tuple[str, Any]:
    method, made = infer(x(), outputs=["label"])
    with_parameter(made.outputs[0], "classification", **value)
    return method, made


EXPECTED: dict[str, tuple[tuple[str, Any], grpc.StatusCode, Any]] = {
    "server live": (("ServerLive", pb.ServerLiveRequest()), OK, {"live": True}),
    "server ready": (("ServerReady", pb.ServerReadyRequest()), OK, {"ready": True}),
    "server metadata": (
        ("ServerMetadata", pb.ServerMetadataRequest()),
        OK,
        {"name": "mpack", "version": __version__, "extensions": ["parameters"]},
    ),
    "model ready": (("ModelReady", pb.ModelReadyRequest(name="sk")), OK, {"ready": True}),
    "model ready, its own version": (("ModelReady", pb.ModelReadyRequest(name="sk", version="1")), OK, {"ready": True}),
    "model metadata": (("ModelMetadata", pb.ModelMetadataRequest(name="sk")), OK, {"name": "sk", "versions": ["1"]}),
    "model metadata, its own version": (
        ("ModelMetadata", pb.ModelMetadataRequest(name="sk", version="1")),
        OK,
        {"platform": "sklearn"},
    ),
    "model metadata, another version": (
        ("ModelMetadata", pb.ModelMetadataRequest(name="sk", version="2")),
        NOT_FOUND,
        "no version 2",
    ),
    "model config": (("ModelConfig", pb.ModelConfigRequest(name="sk")), UNIMPLEMENTED, ""),
    "repository index": (("RepositoryIndex", pb.RepositoryIndexRequest()), UNIMPLEMENTED, ""),
    "unknown model: ready": (("ModelReady", pb.ModelReadyRequest(name="nope")), NOT_FOUND, "no model nope"),
    "unknown model: metadata": (("ModelMetadata", pb.ModelMetadataRequest(name="nope")), NOT_FOUND, "no model nope"),
    "unknown model: infer": (infer(x(), model_name="nope"), NOT_FOUND, "no model nope"),
    "no model's name": (infer(x(), model_name=""), NOT_FOUND, "no model"),
    "unknown version: infer": (infer(x(), model_version="99"), NOT_FOUND, "no version 99"),
    "infer, flat data, id": (infer(x(), id="req-1"), OK, {"id": "req-1", "model_name": "sk", "model_version": "1"}),
    "infer, its own version": (infer(x(), model_version="1"), OK, {"id": ""}),
    "one requested output": (infer(x(), outputs=["label"]), OK, [[0, 2]]),
    "outputs in another order": (infer(x(), outputs=["probabilities", "label"]), OK, [[1, 0, 0, 0, 0, 1], [0, 2]]),
    "an unknown requested output": (infer(x(), outputs=["zzz"]), INVALID, '"zzz"'),
    "dimension differs from the model": (infer(x(DATA[:6], (2, 3))), INVALID, "[-1, 4]"),
    "rank differs from the model": (infer(x(DATA, (2, 2, 2))), INVALID, "[-1, 4]"),
    "missing batch dimension": (infer(x(DATA[:4], (4,))), INVALID, "[-1, 4]"),
    "data count differs from shape": (infer(x(DATA, (3, 4))), INVALID, "8 values"),
    "batch without a limit": (infer(x([0.0] * 132, (33, 4)), outputs=["label"]), OK, [[0] * 33]),
    "empty batch": (infer(x([], (0, 4))), INVALID, "empty"),
    "datatype differs, lossless: INT16 for FP32": (
        infer(x([6] * 8, datatype="INT16", field="int_contents"), outputs=["label"]),
        OK,
        [[2, 2]],
    ),
    "datatype differs, lossy: FP64 for FP32": (
        infer(x(datatype="FP64", field="fp64_contents")),
        INVALID,
        "FP64; the model takes FP32",
    ),
    "datatype differs, lossy: INT64 for FP32": (
        infer(x([1] * 8, datatype="INT64", field="int64_contents")),
        INVALID,
        "takes FP32",
    ),
    "datatype unknown": (infer(x(datatype="FLOAT")), INVALID, '"FLOAT"'),
    "string data in an FP32 tensor": (
        infer(x([b"a"] * 8, field="bytes_contents")),
        INVALID,
        "in fp32_contents, not in bytes_contents",
    ),
    "no input": (infer(), INVALID, "no inputs"),
    "wrong input name": (infer(x(name="WRONG")), INVALID, '"X"'),
    "extra input": (infer(x(), x([1.0], (1,), name="EXTRA")), INVALID, '"EXTRA"'),
    "the same input twice": (infer(x(), x()), INVALID, "twice"),
    "raw contents, lengths right": (infer(x(None), raw=[RAW], outputs=["label"]), OK, [[0, 2]]),
    "raw, a byte too few": (infer(x(None), raw=[RAW[:-1]]), INVALID, "31 bytes"),
    "raw, a byte too many": (infer(x(None), raw=[RAW + b"x"]), INVALID, "33 bytes"),
    "raw, a value too few": (infer(x(None), raw=[RAW[:-4]]), INVALID, "28 bytes"),
    "raw, none for an input": (infer(x(None), x(None), raw=[RAW]), INVALID, "2 inputs and 1 raw_input_contents"),
    "raw, one too many": (infer(x(None), raw=[RAW, RAW]), INVALID, "1 inputs and 2 raw_input_contents"),
    "raw, without inputs": (infer(raw=[RAW]), INVALID, "0 inputs and 1 raw_input_contents"),
    "raw and typed": (infer(x(), raw=[RAW]), INVALID, "fp32_contents beside raw_input_contents"),
    "raw BOOL of 2": (infer(x(None, datatype="BOOL"), raw=[b"\2" * 8]), INVALID, "0 or 1"),
    "raw BYTES that is cut off": (infer(x(None, (1, 4), "BYTES"), raw=[struct.pack("<I", 9)]), INVALID, "4 bytes"),
    "neither raw nor typed": (infer(x(None)), INVALID, "0 values"),
    "two typed lists": (
        infer(pb.ModelInferRequest.InferInputTensor(
            name="X", datatype="FP32", shape=(2, 4),
            contents=pb.InferTensorContents(fp32_contents=DATA, bool_contents=[True]),
        )),
        INVALID,
        "not in bool_contents",
    ),
    "typed FP16": (infer(x(datatype="FP16")), INVALID, "only be raw"),
    "out of range for INT8": (
        infer(x([1, 128] * 4, datatype="INT8", field="int_contents")),
        INVALID,
        "row 1: 128 cannot be INT8",
    ),
    "out of range for UINT16": (
        infer(x([65536] * 8, datatype="UINT16", field="uint_contents")),
        INVALID,
        "65536 cannot be UINT16",
    ),
    "a negative dimension": (infer(x(shape=(-1, 4))), INVALID, "whole numbers"),
    "a huge shape": (infer(x(shape=(2**40, 2**40))), INVALID, "8 values"),
    "a huge shape, raw": (infer(x(None, (2**62, 2**62)), raw=[RAW]), INVALID, "32 bytes"),
    "more dimensions than there are": (infer(x(shape=[1] * 40)), INVALID, "32 is the most"),
    "no shape": (infer(x(shape=())), INVALID, "8 values"),
    "a content type that is none": (
        infer(with_parameter(x(), "content_type", string_param="jpeg")),
        INVALID,
        "np, pd, str",
    ),
    "a content type that is no text": (infer(with_parameter(x(), "content_type", int64_param=7)), INVALID, "np, pd"),
    "a classification": (asked_output(int64_param=3), INVALID, "classification"),
    "an output twice": (infer(x(), outputs=["label", "label"]), INVALID, "twice"),
    "parameters of others": (("ModelInfer", with_parameter(infer(x())[1], "a", double_param=2.5)), OK, {"id": ""}),
    "malformed": (("ModelInfer", b"\xff\xff"), INVALID, "inference.ModelInferRequest"),
    "malformed text": (("ModelInfer", b"\x0a\x02\xff\xfe"), INVALID, "inference.ModelInferRequest"),
    "malformed, of another method": (("ServerLive", b"\x0b"), INVALID, "inference.ServerLiveRequest"),
    "nothing": (("ModelInfer", b""), NOT_FOUND, "no model"),
    "the model itself raises": (infer(x([666.0] * 8)), INTERNAL, "the petals are off"),
}  # fmt: skip


def values(answer: Any) -> list[list[Any]]:
    """The outputs' values, flat, typed or raw."""
    dtypes = {"INT64": "<i8", "FP32": "<f4"}
    if answer.raw_output_contents:
        pairs = zip(answer.outputs, answer.raw_output_contents, strict=True)
        return [np.frombuffer(raw, dtypes[item.datatype]).tolist() for item, raw in pairs]
    return [list(item.contents.int64_contents) + list(item.contents.fp32_contents) for item in answer.outputs]


@pytest.mark.parametrize("row", EXPECTED)
def test_the_cases_that_three_servers_were_asked(sk: Any, row: str) -> None:
    """The code, and these parts of the answer or of the words; every call has an id."""
    (method, asked), code, wanted = EXPECTED[row]
    path = f"/inference.GRPCInferenceService/{method}"
    call = sk.channel.unary_unary(path)
    try:
        body, done = call.with_call(asked if isinstance(asked, bytes) else asked.SerializeToString(), timeout=20)
    except grpc.RpcError as error:
        assert (error.code(), bool(error.details())) == (code, True), error
        assert wanted in error.details()
        assert code is UNIMPLEMENTED or len(dict(error.trailing_metadata())["request-id"]) == 32
        return
    assert (done.code(), len(dict(done.trailing_metadata())["request-id"])) == (code, 32)
    answer = getattr(pb, f"{method}Response").FromString(body)
    if isinstance(wanted, list):
        assert values(answer) == wanted
    else:
        assert {key: getattr(answer, key) for key in wanted} == wanted


def test_metadata_is_that_of_rest(sk: Any) -> None:
    """Names, datatypes and shapes of both sides."""
    told = sk.stub.ModelMetadata(pb.ModelMetadataRequest(name="sk"))
    sides = [[(item.name, item.datatype, list(item.shape)) for item in side] for side in (told.inputs, told.outputs)]
    assert sides == [[("X", "FP32", [-1, 4])], [("label", "INT64", [-1, 1]), ("probabilities", "FP32", [-1, 3])]]


def test_an_answer_has_the_form_of_its_request(sk: Any) -> None:
    """Raw for raw, typed for typed, never both."""
    for asked, raw in ((infer(x())[1], False), (infer(x(None), raw=[RAW])[1], True)):
        answer = sk.stub.ModelInfer(asked)
        assert len(answer.raw_output_contents) == (2 if raw else 0)
        assert [item.HasField("contents") for item in answer.outputs] == [not raw] * 2
        assert [list(item.shape) for item in answer.outputs] == [[2, 1], [2, 3]]


def test_a_request_id_comes_back(sk: Any) -> None:
    """As over HTTP: a client's own, if it is plain."""
    call = sk.stub.ModelInfer.with_call
    for given, kept in (("mine-7", True), ("two words", False)):
        _, done = call(infer(x())[1], metadata=(("request-id", given),))
        assert (dict(done.trailing_metadata())["request-id"] == given) == kept


def test_long_words_fit_into_a_header(grpc_serve: Any) -> None:
    """The code arrives, whatever the model says."""

    def fail(inputs: Any) -> Any:
        raise ValueError("äx" * 50_000)

    with pytest.raises(grpc.RpcError) as caught:
        grpc_serve(fail).stub.ModelInfer(infer(x())[1])
    assert caught.value.code() is INTERNAL and caught.value.details().startswith("Exception during prediction: äxäx")


def test_metrics_count_the_road(grpc_serve: Any) -> None:
    """Calls and rows by the method's path, in the group grpc; health is another; refusals are errors of the request."""
    served = grpc_serve()
    served.stub.ModelInfer(infer(x())[1])
    served.stub.ServerReady(pb.ServerReadyRequest())
    for asked in (infer(x(name="Y"))[1], infer(x([666.0] * 8))[1]):
        with pytest.raises(grpc.RpcError):
            served.stub.ModelInfer(asked)
    text = served.metrics.render("sk", "1")
    path = "/inference.GRPCInferenceService"
    for line in (
        f'group="grpc",route="{path}/ModelInfer",status="200"}} 1',
        f'group="grpc",route="{path}/ModelInfer",status="400"}} 1',
        f'group="grpc",route="{path}/ModelInfer",status="500"}} 1',
        f'group="health",route="{path}/ServerReady",status="200"}} 1',
        'mpack_rows_total{model="sk",version="1"} 2',
        'mpack_requests_in_flight{model="sk",version="1"} 0',
        'kind="request"} 1',
        'kind="model"} 1',
    ):
        assert f"{line}\n" in text, line


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, grpc.StatusCode.INVALID_ARGUMENT),
        (404, grpc.StatusCode.NOT_FOUND),
        (413, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (415, grpc.StatusCode.INVALID_ARGUMENT),
        (429, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (500, grpc.StatusCode.INTERNAL),
        (503, grpc.StatusCode.UNAVAILABLE),
        (504, grpc.StatusCode.DEADLINE_EXCEEDED),
    ],
)
def test_faults_have_the_codes_of_their_statuses(grpc_serve: Any, status: int, code: grpc.StatusCode) -> None:
    """Whoever raises them on the way to the model, with their words; metrics have the status."""

    def refuse(inputs: Any) -> Any:
        raise BadRequest("Not now.", status)

    served = grpc_serve(refuse)
    with pytest.raises(grpc.RpcError) as caught:
        served.stub.ModelInfer(infer(x())[1])
    assert (caught.value.code(), caught.value.details()) == (code, "Not now.")
    assert f'ModelInfer",status="{status}"}} 1\n' in served.metrics.render("sk", "1")


def test_a_thread_that_fails_ends_its_call(sk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong around the model, nobody waits for ever, and no place is lost."""

    def fail(*_: Any) -> None:
        raise OSError("the disk is off")

    with monkeypatch.context() as patched:
        patched.setattr(Calls, "_work", fail)
        for _ in range(100):
            with pytest.raises(grpc.RpcError) as failed:
                sk.raw("ModelInfer", infer(x())[1].SerializeToString())
            assert failed.value.code() is INTERNAL
    assert sk.raw("ModelInfer", infer(x())[1].SerializeToString())
