"""Generated configurations on the real tritonserver: it loads them all, and shows what `declared` promises."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mpack_docker_triton.check import Subject, check_repository
from mpack_docker_triton.generate import apply, declared, generate
from mpack_docker_triton.modelconfig import write
from mpack_docker_triton.schema import Message
from mpack_runtime.errors import ModelFailure
from mpack_runtime.triton.address import Address
from mpack_runtime.triton.client import HttpClient

from mpack.signature import Column, Signature, Tensor

_SERVER = Path(__file__).parents[2] / "runtime" / "triton" / "conftest.py"
_spec = importlib.util.spec_from_file_location("triton_server_fixtures", _SERVER)
assert _spec is not None and _spec.loader is not None
_fixtures = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _fixtures
_spec.loader.exec_module(_fixtures)
#: The unpacked server of tests/runtime/triton.
triton = _fixtures.triton

pytestmark = pytest.mark.integration

MODEL_PY = "class TritonPythonModel:\n    def execute(self, requests):\n        raise NotImplementedError\n"
EVERY_COLUMN = ("boolean", "integer", "long", "float", "double", "string", "binary", "datetime", "any")
EVERY_TYPE = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "bfloat16", "str"),
)
VECTOR = Signature((Tensor("x", "float32", (-1,)),), (Tensor("y", "float32", (-1,)),))


def configs() -> dict[str, Message]:
    made = {
        "nothing": generate("nothing", "python", None),
        "columns": generate(
            "columns",
            "python",
            Signature(tuple(Column(f"a {kind}/é", kind, required=False) for kind in EVERY_COLUMN)),
        ),
        "types": generate(
            "types", "python", Signature(tuple(Tensor(name, name, (-1, 2)) for name in EVERY_TYPE), VECTOR.outputs)
        ),
        "vector": generate("vector", "python", VECTOR),
        "unbatched": generate("unbatched", "python", VECTOR, max_batch_size=0),
        "scalar": generate("scalar", "python", Signature((Tensor("x", "int64", ()),), (Tensor("y", "int64", (3,)),))),
    }
    apply(made["columns"], max_queue_delay_us=100, instances=2)
    for name, native in (("reshaped", 8), ("moved", 0)):
        config = generate(name, "onnxruntime", VECTOR)
        config.backend = "python"
        apply(config, max_batch_size=native)
        made[name] = config
    return made


@contextmanager
def serving(triton: Any, repository: Path) -> Iterator[HttpClient]:
    """The server on a unix socket, once all its models are ready."""
    with tempfile.TemporaryDirectory() as directory:
        socket, log = Path(directory, "http"), Path(directory, "log")
        flags = (
            *(f"--model-repository={repository}", f"--backend-directory={triton.tree / 'backends'}"),
            *(f"--http-address=unix:{socket}", "--http-port=1", "--allow-grpc=false", "--allow-metrics=false"),
            *("--exit-on-error=true", "--exit-timeout-secs=5"),
        )
        environment = {
            "LD_LIBRARY_PATH": str(triton.libraries),
            "PATH": f"{triton.venv / 'bin'}:/usr/bin:/bin",
        }
        with log.open("wb") as stream:
            server = subprocess.Popen(
                [triton.tree / "bin" / "tritonserver", *flags], env=environment, stdout=stream, stderr=stream
            )
        try:
            until = time.monotonic() + 60
            client = HttpClient(Address(path=str(socket)), 10)
            while not _ready(client):
                assert server.poll() is None and time.monotonic() < until, log.read_text()
                time.sleep(0.1)
            yield client
        finally:
            server.terminate()
            server.wait(30)


def _ready(client: HttpClient) -> bool:
    try:
        return client.ready()
    except ModelFailure:
        return False


def test_the_server_loads_what_is_generated_and_shows_what_is_declared(triton: Any, tmp_path: Path) -> None:
    made = configs()
    for name, config in made.items():
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "model.py").write_text(MODEL_PY)
        (tmp_path / name / "config.pbtxt").write_text(write(config))
    subjects = [
        Subject(name, "config.pbtxt", config, write(config), ("1",), ("1/model.py",), completes=True)
        for name, config in made.items()
    ]
    assert check_repository(subjects) == []
    with serving(triton, tmp_path) as client:
        for name, config in made.items():
            metadata, promised = client.metadata(name), declared(config)
            for side, shown in (("inputs", metadata.inputs), ("outputs", metadata.outputs)):
                told = [{"name": item.name, "datatype": item.datatype, "shape": list(item.shape)} for item in shown]
                assert told == promised[side], name
