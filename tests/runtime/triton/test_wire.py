"""What the client writes and reads, where the server listens, what its log says, whose shared memory is whose."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any, cast

import h2.config
import h2.connection
import h2.events
import numpy as np
import pytest
from mpack_runtime.cli.arguments import split_flags
from mpack_runtime.config import Settings
from mpack_runtime.errors import BadRequest, LoadFailure, ModelFailure
from mpack_runtime.triton import protobuf
from mpack_runtime.triton.address import Address, default_flags, listens
from mpack_runtime.triton.check import _compare as compare
from mpack_runtime.triton.grpc import Connection
from mpack_runtime.triton.health import given_flags
from mpack_runtime.triton.log import Log
from mpack_runtime.triton.regions import Regions
from mpack_runtime.v2.raw import V2Tensor, from_raw
from mpack_runtime.v2.spec import Spec


def test_protobuf_as_google_writes_it() -> None:
    """Bytes of protobuf's own library for these messages (varints of two bytes, negative numbers, packed shapes)."""
    assert protobuf.model_request("m", "1") == b"\x0a\x01m\x12\x011"
    assert protobuf.varint(300) == b"\xac\x02" and protobuf.varint(-1) == b"\xff" * 9 + b"\x01"
    tensor = V2Tensor("x", "INT32", np.array([[1, -1]], "<i4"))
    assert protobuf.infer_request("m", "", [tensor], ["y"]) == (
        b"\x0a\x01m" b"\x2a\x0e\x0a\x01x\x12\x05INT32\x1a\x02\x01\x02" b"\x32\x03\x0a\x01y"
        b"\x3a\x08\x01\x00\x00\x00\xff\xff\xff\xff"
    )  # fmt: skip
    side = b"\x22\x15\x0a\x01x\x12\x04FP32\x1a\x0a" + b"\xff" * 9 + b"\x01"
    assert protobuf.metadata(b"\x0a\x01m\x12\x011" + side) == (["1"], [Spec("x", "FP32", (-1,))], [])


@pytest.mark.parametrize("data", [b"\x0a\x05ab", b"\x08", b"\xff" * 12])
def test_broken_protobuf_is_a_sentence(data: bytes) -> None:
    """No IndexError out of an answer that is cut off."""
    with pytest.raises(ModelFailure):
        list(protobuf.fields(data))


@pytest.mark.parametrize("datatype", ["BOOL", "INT8", "UINT64", "FP16", "FP64", "BYTES"])
def test_raw_bytes_there_and_back(datatype: str) -> None:
    """Every kind of element."""
    data = ["", "é"] if datatype == "BYTES" else [0, 1]
    tensor = V2Tensor.from_json({"name": "x", "datatype": datatype, "shape": [2, 1], "data": data})
    back = from_raw(Spec("x", datatype, (2, 1)), tensor.raw())
    assert back.datatype == datatype and back.array.tolist() == tensor.array.tolist() and back.values()[1][0] == data[1]
    with pytest.raises(ModelFailure, match=r"x \("):
        from_raw(Spec("x", datatype, (2, 1)), tensor.raw()[:-1])


@pytest.mark.parametrize(
    "change", [{"datatype": "INT8", "data": [300]}, {"datatype": "COMPLEX64"}, {"shape": [3]}, {"data": ["a", "b"]}]
)
def test_a_v2_tensor_that_does_not_agree_is_refused(change: dict[str, object]) -> None:
    """Type, shape and data."""
    with pytest.raises(BadRequest):
        V2Tensor.from_json({"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2], **change})


@pytest.mark.parametrize(
    ("flags", "http", "grpc"),
    [
        ([], Address("0.0.0.0", 8000), Address("0.0.0.0", 8001)),
        (["--http-port=9", "--http-port", "10"], Address("0.0.0.0", 10), Address("0.0.0.0", 8001)),
        (["--http-address=unix:/d/h", "--grpc-address", "unix:/d/g"], Address(path="/d/h"), Address(path="/d/g:8001")),
        (["--allow-http=false", "--grpc-address=::1"], None, Address("::1", 8001)),
    ],
)
def test_where_the_server_listens(flags: list[str], http: Address | None, grpc: Address | None) -> None:
    """Both forms of a flag; the last one counts."""
    assert (listens(flags, "http"), listens(flags, "grpc")) == (http, grpc)


def test_the_environment_and_the_command_tell_the_port(tmp_path: Path) -> None:
    """MPACK_PORT, Triton's own port, and what process 1 was given."""
    assert listens(default_flags(Settings(port=9), {"MPACK_PORT": "9"}), "http") == Address("0.0.0.0", 9)
    assert listens(default_flags(Settings(), {}), "http") == Address("0.0.0.0", 8000)
    line = tmp_path / "cmdline"
    line.write_bytes(b"/sbin/init\0--\0python\0-m\0mpack_runtime\0triton\0--http-port\x007\0")
    assert listens(given_flags(line), "http") == Address("0.0.0.0", 7)
    line.write_bytes(b"bash\0triton\0--http-port=7\0")
    assert given_flags(line) == []


@pytest.mark.parametrize(
    ("words", "ours", "flags"),
    [
        (["triton", "--help", "-v"], ["triton"], ["--help", "-v"]),
        (["-v", "triton"], ["-v", "triton"], []),
        (["predict", "triton", "out"], ["predict", "triton", "out"], []),
        ([], [], []),
    ],
)
def test_what_follows_triton_is_the_servers(words: list[str], ours: list[str], flags: list[str]) -> None:
    """Not even --help is ours."""
    assert split_flags(words) == (ours, flags)


FAILED = (
    "E1121 06:49:08.265375 1113 model_lifecycle.cc:642] \"failed to load 'wine' version 1: Internal: LoadFailure: The"
    ' model m.pkl cannot be loaded (sklearn): EOFError: Ran out of input.\\n\\nAt:\\n  /m/model.py(1): <module>\\n"\n'
)


def read(*lines: str) -> Log:
    """A log that these lines were written to."""
    reader, writer = os.pipe()
    with open(os.devnull, "wb") as out:
        log = Log(reader, os.dup(out.fileno()))
        for line in lines:
            os.write(writer, line.encode())
        os.close(writer)
        log.join()
    return log


def test_the_log_tells_which_model_fails_and_why() -> None:
    """The exception's own words, without stack trace and status."""
    log = read('E1 x] "CudaDriverHelper has not been initialized."\n', FAILED[:50], FAILED[50:])
    assert log.failures == {"wine 1": "The model m.pkl cannot be loaded (sklearn): EOFError: Ran out of input."}
    assert log.faults == [] and not log.hints
    port = read('E1121 06:49:08.2 1113 main.cc:9] "failed to start HTTP service: Unavailable - Socket in use"\n')
    assert port.faults == ["failed to start HTTP service: Unavailable - Socket in use"]
    assert read("E1121 1 2 a.cc:3] \"Failed to increase the shared memory pool size for key 'x'\"\n").hints
    tmp = read("terminate called\n", "  what():  Failed to create temporary directory for Python environments.\n")
    assert "--tmpfs /tmp" in next(iter(tmp.hints))


ISO = "2026-11-21T08:40:00Z "


@pytest.mark.parametrize(
    ("line", "failures", "faults", "hints"),
    [
        (f'{ISO}E 7 a.cc:1] "failed to start it"\n', {}, ["failed to start it"], 0),
        (f"{ISO}E 7 a.cc:1] \"failed to load 'm' version 1: Internal: gone\"\n", {"m 1": "gone"}, [], 0),
        ("The server cannot listen to both at 0.0.0.0:1\n", {}, ["The server cannot listen to both at 0.0.0.0:1"], 0),
        ('I1121 1 7 a.cc:1] "Registered the shared memory region x"\n', {}, [], 0),
        (f'{ISO}I 7 a.cc:1] "Registered the shared memory region x"\n', {}, [], 0),
        ("error: one\nerror: two\n", {}, ["one"], 0),
        (f"failed to load 'm' version 1: {'x' * 3000}\n", {"m 1": "x" * 2000 + "…"}, [], 0),
        (f"{'x' * 70000}\n{'y' * 70000}", {}, [], 0),
        (f"failed to load 'm' version 1: y{' ' * 60000}x\n", {"m 1": "y x"}, [], 0),
    ],
)
def test_any_line_of_the_log_is_read_at_once(line: str, failures: Any, faults: list[str], hints: int) -> None:
    """Both of Triton's formats, what only informs, and lines and spaces without end."""
    began = time.monotonic()
    log = read(line)
    assert (log.failures, log.faults, len(log.hints)) == (failures, faults, hints)
    assert time.monotonic() - began < 1


def test_shared_memory_of_the_living_stays(tmp_path: Path) -> None:
    """A free lock is a dead owner's; a held one, and what is not ours, is left alone."""
    (tmp_path / "mpack-triton-0123456789ab-lock").touch()
    (tmp_path / "mpack-triton-0123456789ab-region").touch()
    others = {"triton_python_backend_shm_region_1", "mpack-triton-*-lock", "mpack-triton-x-lock"}
    for name in others:
        (tmp_path / name).touch()
    living = tmp_path / "mpack-triton-ba9876543210-lock"
    with living.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        regions = Regions(tmp_path)
        (tmp_path / f"{regions.prefix}region").touch()
        there = {path.name for path in tmp_path.iterdir()}
        assert not [name for name in there if "0123456789ab" in name]
        regions.remove()
    assert {path.name for path in tmp_path.iterdir()} == {living.name, *others}
    with pytest.raises(LoadFailure, match="--shm-size"):
        Regions(tmp_path / "none")


def test_infinities_are_not_missing_values() -> None:
    """The self-check's compare: JSON has one null for all three, V2's raw numbers have not."""
    tensors = {text: [V2Tensor("y", "FP64", np.array([[float(text)]]))] for text in ("nan", "inf", "-inf", "1")}
    for left, expected in tensors.items():
        for right, got in tensors.items():
            assert (compare(expected, got, 1e-6)[1] is None) == (left == right)


class Refusing(threading.Thread):
    """The other end of a gRPC connection: answers a status at the first frame of data, and wants no more."""

    def __init__(self, status: str) -> None:
        super().__init__(daemon=True)
        self.ours, self._theirs = socket.socketpair()
        self._status = status

    def connect(self, timeout: float) -> socket.socket:
        self.ours.settimeout(timeout)
        return self.ours

    def run(self) -> None:
        http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        http.initiate_connection()
        while True:
            for event in http.receive_data(self._theirs.recv(1 << 16)):
                if isinstance(event, h2.events.DataReceived) and event.stream_id is not None:
                    headers = [(":status", "200"), ("grpc-status", self._status), ("grpc-message", "too%20long")]
                    http.send_headers(event.stream_id, headers if self._status else headers[:1], end_stream=False)
                    http.reset_stream(event.stream_id)
                    self._theirs.sendall(http.data_to_send())
                    return
            self._theirs.sendall(http.data_to_send())


@pytest.mark.parametrize(
    ("status", "words"),
    [("8", "RESOURCE_EXHAUSTED over gRPC: too long"), ("", "reset the call"), ("²", "UNKNOWN over gRPC: too long")],
)
def test_a_status_before_the_request_is_whole_is_told(status: str, words: str) -> None:
    """The reset behind it is not the reason."""
    server = Refusing(status)
    server.start()
    connection = Connection(cast(Any, server), 10)
    with pytest.raises(ModelFailure, match=words):
        connection.call("ModelInfer", b"x" * 1_000_000)
    connection.close()
    server.join(10)
