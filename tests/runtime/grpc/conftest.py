"""gRPC's server around a function as a model, in this process, and calls to it in the words of tritonclient's stubs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
from mpack_runtime import loaders
from mpack_runtime.config import GrpcSettings, LoaderConfig, ModelConfig, Settings
from mpack_runtime.frame import Inputs, Tensors
from mpack_runtime.grpc.port import reserve
from mpack_runtime.grpc.server import GrpcServer
from mpack_runtime.rest.access_log import JsonAccessLog
from mpack_runtime.rest.deadline import Deadlines
from mpack_runtime.rest.metrics import Metrics
from mpack_runtime.rest.operations import Operations
from mpack_runtime.service import Service
from mpack_runtime.signature import Signature, Tensor
from tritonclient.grpc import service_pb2_grpc

MODEL = Signature(
    (Tensor("X", "float32", (-1, 4)),),
    (Tensor("label", "int64", (-1,)), Tensor("probabilities", "float32", (-1, 3))),
)


def flowers(inputs: Inputs) -> Any:
    """Labels and probabilities of rows; the petal's length decides. It raises at 666."""
    assert isinstance(inputs, Tensors)
    rows = inputs.arrays["X"]
    assert rows.dtype == np.float32
    if (rows == 666).any():
        raise ValueError("the petals are off")
    labels = np.where(rows[:, 2] > 5, 2, 0).astype(np.int64)
    return {"label": labels, "probabilities": np.eye(3, dtype=np.float32)[labels]}


class Told(loaders.Model):
    """A model that is a function."""

    def __init__(self, answer: Callable[[Inputs], Any]) -> None:
        self._answer = answer

    def predict(self, inputs: Inputs) -> Any:
        return self._answer(inputs)


@dataclass
class Served:
    """A server of this process; `stub` has a method for each of Triton's protocol, which is larger than ours."""

    server: GrpcServer
    metrics: Metrics
    port: int
    channel: grpc.Channel

    @property
    def stub(self) -> Any:
        return service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def raw(self, method: str, body: bytes, **options: Any) -> bytes:
        """Sends bytes as they are; a method without a service is the protocol's."""
        path = method if "/" in method else f"/inference.GRPCInferenceService/{method}"
        answer: bytes = self.channel.unary_unary(path)(body, timeout=20, **options)
        return answer


Serve = Callable[..., Served]


@pytest.fixture(scope="session")
def grpc_serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """`grpc_serve(function, signature, **settings)`; without a function the model `sk` of flowers. Ended at last."""
    made: list[Served] = []
    stdout, JsonAccessLog.stdout = JsonAccessLog.stdout, os.open(os.devnull, os.O_WRONLY)

    def serve(
        answer: Callable[[Inputs], Any] = flowers,
        declared: Signature | None = MODEL,
        calls: int = 100,
        **settings: Any,
    ) -> Served:
        config = ModelConfig("sk", "1", LoaderConfig("sklearn", "m"), tmp_path_factory.getbasetemp(), declared)
        service, metrics = Service(config, Told(answer)), Metrics()
        port = free_port()
        chosen = Settings(host="127.0.0.1", grpc=GrpcSettings(port, calls), **settings)
        deadlines = Deadlines(chosen.timeout)
        service.observe, service.blame = metrics.predicted, metrics.failed
        operations = Operations(service, chosen, metrics, deadlines)
        operations.around(lambda environ, start: [], lambda app: app)
        server = GrpcServer(service, chosen, metrics, deadlines, operations)
        server.start()
        whole = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        made.append(Served(server, metrics, port, grpc.insecure_channel(f"127.0.0.1:{port}", options=whole)))
        return made[-1]

    yield serve
    for served in made:
        served.channel.close()
        served.server.stop(grace=0)
        served.server.close()
    os.close(JsonAccessLog.stdout)
    JsonAccessLog.stdout = stdout


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    held = reserve("127.0.0.1", GrpcSettings(0))
    with held:
        return int(held.getsockname()[1])


@pytest.fixture(scope="session")
def sk(grpc_serve: Serve) -> Served:
    """The model `sk`, version 1."""
    return grpc_serve()
