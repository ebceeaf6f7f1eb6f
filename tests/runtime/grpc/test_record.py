"""What is kept of calls that are no plain requests."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mpack_runtime.grpc.record import exchange
from mpack_runtime.rest.records import BODY_LIMIT
from tritonclient.grpc import service_pb2 as pb


def message(**fields: Any) -> bytes:
    return bytes(pb.ModelInferRequest(model_name="m", **fields).SerializeToString())


def tensor(values: list[bytes]) -> Any:
    contents = pb.InferTensorContents(bytes_contents=values)
    return pb.ModelInferRequest.InferInputTensor(name="x", datatype="BYTES", shape=[len(values)], contents=contents)


@pytest.mark.parametrize(
    ("body", "kept", "whole"),
    [
        (message(id="7"), {"id": "7", "inputs": []}, True),
        (
            message(inputs=[tensor([b"a", b"\xff"])], outputs=[{"name": "y"}]),
            {
                "id": "",
                "inputs": [{"name": "x", "datatype": "BYTES", "shape": [2], "data": ["a", "\\xff"]}],
                "outputs": [{"name": "y"}],
            },
            True,
        ),
        (message(inputs=[tensor([b"a" * BODY_LIMIT])]), b"", False),
        (message(inputs=[tensor([b"a" * (BODY_LIMIT - 50)])]), None, True),
        (b"\xff\xff", b"\xff\xff", True),
    ],
)
def test_requests(body: bytes, kept: Any, whole: bool) -> None:
    """V2's JSON; bytes that are no text are shown, what is too large is left out, what is no request stays as it is."""
    made = exchange("/x", {"user-agent": "me"}, body, 400, "id-1", "no good")()
    assert json.loads(made.request) == kept if isinstance(kept, dict) else kept is None or made.request == kept
    assert (made.request_whole, made.answer_whole) == (whole, True) and len(made.request) <= BODY_LIMIT
    assert made.answer == b'{"error":"no good"}' and made.environ["HTTP_USER_AGENT"] == "me"
