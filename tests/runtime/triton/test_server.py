"""The real tritonserver with numpy 2: types, merged requests, errors, start and end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpack_runtime.errors import ModelFailure
from mpack_runtime.triton.client import HttpClient
from mpack_runtime.triton.grpc import GrpcFailure
from mpack_runtime.v2.raw import V2Tensor

pytestmark = pytest.mark.integration
SHM = Path("/dev/shm")

VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False, True],
    **{f"INT{bits}": [-(2 ** (bits - 1)), 7, 2 ** (bits - 1) - 1] for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": [0, 7, 2**bits - 1] for bits in (8, 16, 32, 64)},
    "FP16": [0.5, -2.0, float("nan")],
    "FP32": [1.5, -(2.0**100), float("inf")],
    "FP64": [0.1, -1e300, float("nan")],
    "BYTES": ["", "né\u20ac\U0001f347", "x" * 300],
}
# Each tensor comes back turned around, in an array of its own memory layout: outputs are seldom contiguous.
ECHO = """
import sys
sys.path.append(SOURCES)
import numpy as np
from mpack_runtime.triton import numpy2
import triton_python_backend_utils as utils

class TritonPythonModel:
    def initialize(self, args):
        self.make = numpy2.tensor_maker(utils)
        print("GUARDED", np.__version__[0], self.make is not utils.Tensor, flush=True)

    def execute(self, requests):
        answers = []
        for request in requests:
            arrays = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            for name, array in arrays.items():
                assert array.flags.c_contiguous and array.shape[1] == 1, (name, array.strides)
            made = [self.make("out_" + name, array[::-1]) for name, array in arrays.items()]
            answers.append(utils.InferenceResponse(made))
        return answers
"""


def side(prefix: str) -> str:
    kinds = [(name, "STRING" if name == "BYTES" else name) for name in VALUES]
    items = ", ".join(f'{{name: "{prefix}{name}" data_type: TYPE_{kind} dims: [-1, 1]}}' for name, kind in kinds)
    return f"{'output' if prefix else 'input'} [{items}]\n"


def same(left: Any, right: Any) -> bool:
    return left == right or (left != left and right != right)


@pytest.mark.parametrize("numpy", [">=2", "<2"])
def test_every_type_goes_both_ways(image: Any, start: Any, numpy: str) -> None:
    """Over HTTP (JSON and raw) and gRPC, the extremes of each type, text beyond ASCII, and none at all."""
    from .conftest import SOURCES

    server = start(
        image(config=side("") + side("out_"), model_py=ECHO.replace("SOURCES", repr(str(SOURCES)))), numpy=numpy
    )
    assert f"GUARDED {'2 True' if numpy == '>=2' else '1 False'}" in server.stderr()
    for count in (3, 1, 0):
        items = [
            V2Tensor.from_json({"name": name, "datatype": name, "shape": [count, 1], "data": values[:count]})
            for name, values in VALUES.items()
        ]
        grpc = server.grpc()
        try:
            answers = [server.http.infer("m", items, raw=True), grpc.infer("m", items)]
        finally:
            grpc.close()
        if count == 1:  # no NaN, but JSON has no FP16
            plain = [item for item in items if item.datatype != "FP16"]
            names = [f"out_{item.name}" for item in plain]
            answers.append(server.http.infer("m", items, outputs=names))
        for answer in answers:
            for tensor in answer:
                name = tensor.name[len("out_") :]
                assert (tensor.datatype, tensor.shape) == (name, (count, 1))
                got = [row[0] for row in tensor.values()]
                assert all(map(same, got, VALUES[name][:count][::-1])) and len(got) == count, (name, got)


# Every answer is the number of rows that the model was asked together.
COUNT = """
def init(): return "matrix"
def predict_on_matrix(matrix, provided_columns_names=None):
    for row in matrix:
        if row[1] == "boom": raise ValueError("the grapes are off")
    print("märz", flush=True)
    return [len(matrix) + (row[0] if row[0] < 0 else 0) for row in matrix], ["rows"]
"""
SIGNATURE = {
    "inputs": [
        {"kind": "column", "name": "alcohol", "type": "double", "required": True},
        {"kind": "column", "name": "grape", "type": "string", "required": False},
    ],
    "outputs": [{"kind": "column", "name": "rows", "type": "long", "required": True}],
    "params": [],
}
# It waits for four requests, so that they are merged whatever the machine does.
CONFIG = """
max_batch_size: 8
dynamic_batching { preferred_batch_size: [4] max_queue_delay_microseconds: 20000000 }
input [{name: "alcohol" data_type: TYPE_FP64 dims: [1]}]
input [{name: "grape" data_type: TYPE_STRING dims: [1] optional: true}]
output [{name: "rows" data_type: TYPE_INT64 dims: [1]}]
"""
PLAIN = CONFIG.replace(CONFIG.split("\n")[2], "")


def ask(client: HttpClient, alcohol: float, grape: str) -> Any:
    """The one number of an answer, or the error's words."""
    tensors = [
        V2Tensor.from_json({"name": "alcohol", "datatype": "FP64", "shape": [1, 1], "data": [alcohol]}),
        V2Tensor.from_json({"name": "grape", "datatype": "BYTES", "shape": [1, 1], "data": [grape]}),
    ]
    try:
        return client.infer("m", tensors)[0].values()[0][0]
    except ModelFailure as error:
        return error.message


def test_requests_are_merged_and_fail_alone(image: Any, start: Any) -> None:
    """Four requests are one predict; one that fails, or whose answer does not fit its type, fails alone."""
    server = start(image(entry=COUNT, config=CONFIG, signature=SIGNATURE))
    with ThreadPoolExecutor(4) as pool:
        good = list(pool.map(lambda row: ask(server.http, *row), [(1, "a"), (2, ""), (3, "é"), (4, "b")]))
        bad = list(pool.map(lambda row: ask(server.http, *row), [(1, "a"), (2, "boom"), (-0.5, "é"), (4, "b")]))
    assert good == [4, 4, 4, 4]
    assert [bad[0], bad[3]] == [1, 1]
    assert bad[1] == "The server answers 500 over HTTP: Exception during prediction: the grapes are off"
    assert 'Output "rows", row 1: 0.5 cannot be INT64 without loss.' in bad[2]
    assert "märz" in server.stderr()


def test_what_the_client_did_wrong_is_told_over_grpc(image: Any, start: Any) -> None:
    """INVALID_ARGUMENT with the input and the row; large messages go through HTTP/2's windows."""
    server = start(
        image(entry=COUNT, config=PLAIN.replace("max_batch_size: 8", "max_batch_size: 1000000"), signature=SIGNATURE)
    )
    count = 200_000
    alcohol = V2Tensor("alcohol", "FP64", np.ones((count, 1)))
    grpc = server.grpc()
    try:
        assert grpc.ready("m") and grpc.infer("m", [alcohol])[0].array.tolist() == [[count]] * count
        with pytest.raises(GrpcFailure) as caught:
            grape = V2Tensor("grape", "BYTES", np.array([[b"\xff"]], dtype=object))
            grpc.infer("m", [V2Tensor("alcohol", "FP64", np.ones((1, 1))), grape])
        assert (caught.value.code, caught.value.detail.split("(")[0]) == (
            "INVALID_ARGUMENT",
            'Row 1, column "grape": the text is not UTF-8 ',
        )
        with pytest.raises(GrpcFailure) as unknown:
            grpc.infer("none", [alcohol])
        assert unknown.value.code == "NOT_FOUND"
    finally:
        grpc.close()


def leftovers() -> set[str]:
    made = (*SHM.glob("mpack-triton-*"), *Path("/tmp").glob("python_env_*"))
    return {path.name for path in made}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything_in_time(image: Any, start: Any, number: int) -> None:
    """Exit code 0 within three seconds; no process and no shared memory is left."""
    before = leftovers()
    server = start(image(entry=COUNT, config=PLAIN, signature=SIGNATURE))
    processes = server.descendants()
    assert len(processes) == 2 and leftovers() - before
    began = time.monotonic()
    server.process.send_signal(number)
    assert server.process.wait(10) == 0 and time.monotonic() - began < 3
    assert not leftovers() - before and not any(map(alive, processes))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_killed_server_leaves_nothing(image: Any, start: Any) -> None:
    """kill -9 of the server alone: its Python ends too, and the container says what happened."""
    before = leftovers()
    server = start(image(entry=COUNT, config=PLAIN, signature=SIGNATURE))
    processes = server.descendants()
    os.kill(processes[0], signal.SIGKILL)
    assert server.process.wait(10) == 1
    assert server.stderr().strip().split("\n")[-1].startswith("The Triton server was killed by SIGKILL")
    assert not leftovers() - before and not any(map(alive, processes))


def test_the_next_start_removes_what_a_killed_container_left(image: Any, start: Any) -> None:
    """Process 1 and all the others killed at once, as the engine does; shared memory outlives them in a pod."""
    before, made = leftovers(), image(entry=COUNT, config=PLAIN, signature=SIGNATURE)
    server = start(made)
    processes = [server.process.pid, *server.descendants()]
    for pid in processes:
        os.kill(pid, signal.SIGKILL)
    server.process.wait(10)
    wait_until(lambda: not any(map(alive, processes[1:])))
    stale = leftovers() - before
    for name in [name for name in stale if name.startswith("python_env_")]:  # the backend's, with nothing in it
        Path("/tmp", name).rmdir()
        stale.remove(name)
    assert stale
    start(made)
    assert not leftovers() & stale


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


RAISES = """
class TritonPythonModel:
    def initialize(self, args):
        raise KeyError("no weights for müller")
"""


@pytest.mark.parametrize(
    ("changes", "last"),
    [
        (
            {"entry": "import nowhere\n"},
            "cannot be loaded (odahu): No module named 'nowhere'. It needs the Python module 'nowhere', which",
        ),
        (
            {"entry": "raise ValueError('the wéights are gone')\n"},
            "cannot be loaded (odahu): ValueError: the wéights are gone.",
        ),
        ({"model_py": RAISES}, "KeyError: 'no weights for müller'."),
        ({"model_py": "def broken(:\n"}, "SyntaxError: invalid syntax"),
        ({"entry": "import os\nos._exit(3)\n"}, "is not healthy: the model's process ended"),
    ],
)
def test_a_model_that_does_not_load_ends_the_container(image: Any, start: Any, changes: Any, last: str) -> None:
    """With the model's own reason as the last line, and not with Triton's table."""
    before = leftovers()
    server = start(image(config=PLAIN, signature=SIGNATURE, **{"entry": COUNT, **changes}), ready=False)
    assert server.process.wait(20) == 1
    line = server.stderr().strip().split("\n")[-1]
    assert line.startswith("The model m 1 does not load: ") and last in line, line
    assert not leftovers() - before


def test_a_start_has_an_end(image: Any, start: Any) -> None:
    """A model that loads for ever is ended after MPACK_READY_TIMEOUT; SIGTERM ends it at once."""
    before = leftovers()
    made = image(
        entry="import time\nprint('loading', flush=True)\ntime.sleep(100)\n", config=PLAIN, signature=SIGNATURE
    )
    server = start(made, ready=False, MPACK_READY_TIMEOUT="1")
    assert server.process.wait(20) == 1 and "not loaded after 1 seconds" in server.stderr().strip().split("\n")[-1]
    server = start(made, ready=False)
    wait_until(lambda: "loading" in server.stderr())
    began = time.monotonic()
    server.process.terminate()
    assert server.process.wait(10) == 0 and time.monotonic() - began < 3
    assert not leftovers() - before


def test_a_flag_that_the_server_does_not_know(triton: Any, image: Any) -> None:
    """The server's words are the last ones."""
    done = triton.run(image(entry=COUNT, config=PLAIN, signature=SIGNATURE), "triton", "--no-such-flag")
    assert done.returncode == 1
    assert done.stderr.strip().split("\n")[-1] == "Triton does not start: unrecognized option '--no-such-flag'."


def test_health_asks_the_server(triton: Any, image: Any, tmp_path: Path) -> None:
    """On MPACK_PORT."""
    made = image(entry=COUNT, config=PLAIN, signature=SIGNATURE)
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1], two.getsockname()[1]]
    settings = {"MPACK_PORT": str(ports[0]), "MPACK_HOST": "127.0.0.1"}
    words = triton.command("triton", f"--grpc-port={ports[1]}", "--allow-metrics=false")
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(words, env=triton.environment(made, **settings), stdout=log, stderr=log)
    try:
        wait_until(lambda: b" is ready on 127.0.0.1" in (tmp_path / "log").read_bytes(), 30)
        assert triton.run(made, "health", **settings).returncode == 0
    finally:
        server.terminate()
        assert server.wait(10) == 0
    after = triton.run(made, "health", **settings)
    assert after.returncode == 1 and "does not answer" in after.stderr
