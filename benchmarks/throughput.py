"""The scene `throughput`: one LightGBM model on docker-triton, on docker-rest and on MLServer, asked alike."""

from __future__ import annotations

import http.client
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import numpy as np
from tritonclient.grpc import service_pb2  # type: ignore[import-untyped]

from benchmarks.bench import ROOT, Bench, run, say
from benchmarks.figures import RATE, Figures
from benchmarks.load import Load, Road, load
from benchmarks.mlserver import MODEL, MlServer
from benchmarks.scenes import running, until_ready
from benchmarks.subjects import COLD, Mpack, Serving
from mpack.errors import EnvironmentFault

#: The same file is loaded by the same call, lightgbm.Booster(model_file=…), in all of them.
CASE = "lightgbm-text"
CONNECTIONS = (1, 8)
OURS, REST = "mpack docker-triton", "mpack docker-rest"
#: One thread of OpenMP: with more, the waiting ones keep every server's other processor busy, MLServer's most.
THREADS = ("--env=OMP_NUM_THREADS=1",)
#: (file of the fixture, rows, the answer to each)
Sample = tuple[Path, list[list[float]], np.ndarray]


@dataclass(frozen=True)
class Server:
    """An image as it is run, and how it is asked: `grpc` is a port, `v2` whether HTTP is the V2 protocol."""

    name: str
    image: str
    serving: Serving
    grpc: int | None
    v2: bool
    model: str = ""


def names(without: Sequence[str]) -> list[str]:
    """The columns of the table."""
    peers = [] if "mlserver" in without else ["MLServer", "MLServer in-process"]
    return [OURS, REST, *peers]


def throughput(bench: Bench, figures: Figures, base: str | None) -> None:
    """Requests a second and latency by route and connections; the servers take turns.

    `base` is MLServer's base image, None to leave it out.
    """
    sample = _sample()
    servers = list(_servers(bench, sample[0], base))
    for number in range(bench.repeat):
        for server in servers:
            say(f"{server.name}: throughput ({number + 1} of {bench.repeat})")
            with running(bench, server.serving, server.image) as (container, port):
                until_ready(bench, server.serving, container, port)
                address = run([bench.docker.client, "inspect", "-f", "{{.NetworkSettings.IPAddress}}", container])
                for road_name, road in _roads(server, address.strip(), sample).items():
                    for connections in CONNECTIONS:
                        _note(
                            figures, server.name, f"{road_name}, {connections}", load(road, connections, bench.scratch)
                        )


def _note(figures: Figures, server: str, row: str, found: Load) -> None:
    figures.into(f"{row}: answers", RATE, server).append(found.rate)
    figures.into(f"{row}: p50", "ms", server).append(found.p50)
    figures.into(f"{row}: p99", "ms", server).append(found.p99)


def _sample() -> Sample:
    folder = ROOT / "fixtures" / "models" / CASE
    expect = json.loads((folder / "expect.json").read_text("utf-8"))
    request = expect["requests"][0]
    return folder / expect["artifact"], request["body"]["data"], np.array(request["answer"]["prediction"])


def _servers(bench: Bench, model: Path, base: str | None) -> Iterator[Server]:
    """Builds the images, which are remembered for removal."""
    name = model.stem
    triton = Mpack(bench, "docker-triton", ("-a", "base=cpu"))
    triton.take_bases()
    web = Serving(8000, "/v2/health/ready", f"/v2/models/{name}/infer", THREADS)
    yield Server(OURS, _built(bench, OURS, triton, model), web, 8001, v2=True, model=name)
    rest = Mpack(bench)
    image = _built(bench, REST, rest, model)
    yield Server(REST, image, replace(rest.serving, options=THREADS), None, v2=False)
    if base is not None:
        peer = MlServer(bench, base)
        image = _built(bench, peer.name, peer, model)
        for label, more in (("MLServer", ()), ("MLServer in-process", ("--env=MLSERVER_PARALLEL_WORKERS=0",))):
            yield Server(label, image, replace(peer.serving, options=(*THREADS, *more)), 8081, v2=True, model=MODEL)


def _built(bench: Bench, label: str, subject: Mpack | MlServer, model: Path) -> str:
    say(f"{label}: an image of {CASE}")
    image = subject.build(model, CASE, COLD)
    bench.built(image)
    return image


def _roads(server: Server, address: str, sample: Sample) -> dict[str, Road]:
    """How the server is asked, by row of the table. Raises EnvironmentFault unless each answers what is expected.

    The container's own address: a published port leads through a process of docker's, which would be measured too.
    """
    _, rows, expected = sample
    flat = np.array(rows)
    tensor = {"name": "input-0", "datatype": "FP64", "shape": list(flat.shape), "data": flat.ravel().tolist()}
    body = json.dumps({"inputs": [tensor]} if server.v2 else {"data": rows}).encode()
    where = f"{address}:{server.serving.port}"
    answer = post(where, server.serving.invoke, body)
    data = json.loads(answer)
    values = np.array(data["outputs"][0]["data"] if server.v2 else data["prediction"])
    same(f"{server.name} over HTTP", values.reshape(expected.shape), expected)
    json_header = ("content-type: application/json",)
    roads = {"HTTP": Road(f"http://{where}{server.serving.invoke}", json_header, body, len(answer), http2=False)}
    if server.grpc is not None:
        where = f"{address}:{server.grpc}"
        body = _grpc_body(server.model, flat)
        answer = _call(where, body)
        reply = service_pb2.ModelInferResponse.FromString(answer)
        raw = reply.raw_output_contents
        values = np.frombuffer(raw[0]) if raw else np.array(reply.outputs[0].contents.fp64_contents)
        same(f"{server.name} over gRPC", values.reshape(expected.shape), expected)
        headers = ("content-type: application/grpc", "te: trailers")
        roads["gRPC"] = Road(f"http://{where}{_METHOD}", headers, _framed(body), len(_framed(answer)), http2=True)
    return roads


_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_AS_IT_IS: Callable[[bytes], bytes] = bytes


def post(where: str, path: str, body: bytes) -> bytes:
    """The body of a 200. Raises EnvironmentFault for any other answer."""
    connection = http.client.HTTPConnection(where, timeout=30)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return _checked(answer.status == 200, where + path, answer.read())
    finally:
        connection.close()


def _call(where: str, body: bytes) -> bytes:
    with grpc.insecure_channel(where) as channel:
        method = channel.unary_unary(_METHOD, request_serializer=_AS_IT_IS, response_deserializer=_AS_IT_IS)
        try:
            return bytes(method(body, timeout=30))
        except grpc.RpcError as error:
            return _checked(False, where + _METHOD, str(error).encode())


def _checked(good: bool, what: str, answer: bytes) -> bytes:
    if not good:
        raise EnvironmentFault("engine-failed", f"{what} answered {answer[:500]!r}.", "See its own words.")
    return answer


def same(what: str, values: np.ndarray, expected: np.ndarray) -> None:
    """Raises EnvironmentFault where a server answered other numbers."""
    if not np.allclose(values, expected, rtol=1e-12, atol=0):
        raise EnvironmentFault("engine-failed", f"{what} answered {values.tolist()}.", f"Expected: {expected.tolist()}")


def _grpc_body(model: str, rows: np.ndarray) -> bytes:
    """A request as NVIDIA's clients send it: numbers as raw bytes."""
    request = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[rows.tobytes()])
    request.inputs.add(name="input-0", datatype="FP64", shape=rows.shape)
    return bytes(request.SerializeToString())


def _framed(message: bytes) -> bytes:
    """A message of gRPC as HTTP/2 carries it: not compressed, its length, itself."""
    return struct.pack(">BI", 0, len(message)) + message
