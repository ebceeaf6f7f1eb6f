"""The real tritonserver around models that misbehave, and around ends that nobody asked for."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpack_runtime.triton.grpc import GrpcFailure
from mpack_runtime.v2.raw import V2Tensor

from .test_self_check import checked
from .test_server import CONFIG, COUNT, PLAIN, SIGNATURE, alive, ask, leftovers, wait_until

pytestmark = pytest.mark.integration

# By the text it is asked: an answer or an error that UTF-8 does not have, a long error, the end of the process.
ODD = """
import os, signal
def init(): return "matrix"
def predict_on_matrix(matrix, provided_columns_names=None):
    texts = [row[1] for row in matrix]
    if "error" in texts: raise ValueError("caf\\udcff")
    if "long" in texts: raise ValueError("x" * 5_000_000)
    if "end" in texts: os.kill(os.getpid(), signal.SIGSEGV)
    return ["\\ud800" if text == "answer" else text for text in texts], ["rows"]
"""
TEXT = json.loads(json.dumps(SIGNATURE).replace('"long"', '"string"'))


def of_text(config: str) -> str:
    return config.replace("INT64", "STRING")


def test_an_odd_answer_or_error_is_one_requests(image: Any, start: Any) -> None:
    """Four merged requests; what cannot be sent is told to its client alone."""
    server = start(image(entry=ODD, config=of_text(CONFIG), signature=TEXT))
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda text: ask(server.http, 1.0, text), ["a", "answer", "error", "a\0b"]))
    assert [got[0], got[3]] == ["a", "a\0b"]
    assert 'Output "rows" has text with half a character' in got[1]
    assert got[2] == "The server answers 500 over HTTP: Exception during prediction: caf\\udcff"


def test_a_long_error_fits_a_header(image: Any, start: Any) -> None:
    """gRPC's clients refuse more than 8 KB of headers, and would tell nothing of the reason."""
    server = start(image(entry=ODD, config=of_text(PLAIN), signature=TEXT))
    tensors = [V2Tensor("alcohol", "FP64", np.ones((1, 1))), V2Tensor("grape", "BYTES", np.array([[b"long"]], object))]
    grpc = server.grpc()
    try:
        with pytest.raises(GrpcFailure, match="Exception during prediction: xxx") as caught:
            grpc.infer("m", tensors)
        assert len(caught.value.detail.encode()) < 4000
    finally:
        grpc.close()


def test_a_lost_model_ends_the_container(image: Any, start: Any) -> None:
    """Triton would say that it is ready, and refuse every request, for ever."""
    before = leftovers()
    server = start(image(entry=ODD, config=of_text(PLAIN), signature=TEXT))
    assert "is not healthy" in ask(server.http, 1.0, "end")
    assert server.process.wait(10) == 1
    last = server.stderr().strip().split("\n")[-1]
    assert last == "A model's process in Triton's Python backend was killed by SIGSEGV; Triton starts no other."
    assert not leftovers() - before


def test_a_model_that_is_unloaded_is_not_lost(image: Any, start: Any) -> None:
    """The end that the server asks for is none that it did not see."""
    server = start(
        image(entry=COUNT, config=PLAIN, signature=SIGNATURE), flags=("--model-control-mode=explicit", "--load-model=m")
    )
    processes = server.descendants()
    for verb in ("unload", "load", "unload", "load"):
        assert server.http._ask("POST", f"/v2/repository/models/m/{verb}", b"{}")[0] == 200
        wait_until(lambda: server.http.ready("m") is (verb == "load"))  # noqa: B023
    wait_until(lambda: not alive(processes[1]))
    time.sleep(2.5)  # two of the launcher's looks
    assert server.process.poll() is None and ask(server.http, 1.0, "a") == 1


LEAVES = "import subprocess\nsubprocess.Popen(['/bin/sleep', '1000'], start_new_session=True)\n" + COUNT


def test_processes_that_left_the_group_end_too(image: Any, start: Any) -> None:
    """A model's own daemon, which holds stderr open, neither stays nor keeps the container."""
    server = start(image(entry=LEAVES, config=PLAIN, signature=SIGNATURE))
    processes = server.descendants()
    assert len(processes) == 3
    began = time.monotonic()
    server.process.terminate()
    assert server.process.wait(10) == 0 and time.monotonic() - began < 3
    assert not any(map(alive, processes))


def test_the_server_ends_with_its_launcher(image: Any, start: Any) -> None:
    """Killed where it is not process 1, whose end would be everybody's."""
    server = start(image(entry=COUNT, config=PLAIN, signature=SIGNATURE))
    processes = server.descendants()
    server.process.kill()
    server.process.wait()
    wait_until(lambda: not any(map(alive, processes)))


SLOW = COUNT.replace("    for row", "    import time; print('asked', flush=True); time.sleep(2)\n    for row", 1)


def test_a_second_signal_cuts_nothing_off(image: Any, start: Any) -> None:
    """Requests that run are answered before the end, also of a server that is not ready for another reason."""
    made = image(entry=SLOW, config=PLAIN, signature=SIGNATURE)
    broken = made / "repository" / "broken" / "1"
    broken.mkdir(parents=True)
    (broken / "model.py").write_text("raise ValueError('gone')\n")
    (broken.parent / "config.pbtxt").write_text('backend: "python"\n')
    server = start(made, ready=False, flags=("--exit-on-error=false",))
    wait_until(lambda: Path(server.directory, "http").exists() and server.http.ready("m"))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, server.http, 1.0, "a")
        wait_until(lambda: "asked" in server.stderr())
        server.process.terminate()
        wait_until(lambda: "Signal (15) received" in server.stderr())
        os.kill(server.process.pid, signal.SIGTERM)
        assert answer.result() == 1
    assert server.process.wait(10) == 0


# Without a sample, it is asked made-up values.
MADE_UP = """
import os, random
in_server = b"tritonserver" in open(f"/proc/{os.getppid()}/cmdline", "rb").read()
def init(): return "matrix"
def predict_on_matrix(matrix, provided_columns_names=None):
"""


@pytest.mark.parametrize(
    ("body", "code", "reason"),
    [
        ("    raise ValueError('no such grape')", 0, "made-up values are refused"),
        ("    return [random.randint(0, 10**9)], ['rows']", 0, "The model answers one question in several ways"),
        ("    os._exit(3) if in_server else None\n    return [1], ['rows']", 4, "is not healthy"),
        ("    return [2 if in_server else 1], ['rows']", 4, "not the one that the model gives"),
    ],
)
def test_made_up_values(triton: Any, image: Any, body: str, code: int, reason: str) -> None:
    """A refusal proves nothing, nor does a model of chance; a server that dies or says something else does."""
    made = image(entry=MADE_UP + body, config=PLAIN, signature=SIGNATURE)
    found, report = checked(triton, made)
    assert found == code and reason in report["reason"], report


def test_a_long_temporary_path(triton: Any, image: Any, tmp_path: Path) -> None:
    """The path of a unix socket has at most 107 bytes."""
    place = tmp_path / ("x" * 100)
    place.mkdir()
    made = image(entry=COUNT, config=PLAIN, signature=SIGNATURE, sample={"request": {"data": [[1, "a"]]}})
    done = triton.run(made, "self-check", TMPDIR=str(place))
    assert json.loads(done.stdout)["reason"] is None and done.returncode == 0
    assert not list(place.iterdir())
