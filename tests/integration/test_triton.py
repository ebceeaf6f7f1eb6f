"""docker-triton on the real tritonserver: built by both builders, asked by NVIDIA's own client over HTTP and gRPC."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as grpc
import tritonclient.http as http
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

ROOT = Path(__file__).parents[2]
#: One of each kind of model that mpack's runtime loads; and what only Triton loads.
MODELS = ("mlflow-churn", "mlflow-xgboost", "lightgbm-text", "onnx-two-inputs", "mlflow-pyfunc", "odahu-wine")
REPOSITORIES = ("ensemble", "seed-python")
HARD = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "65534:65534")
READY_WITHIN = 60.0
SHARED = "import os; print(*os.listdir('/dev/shm'))"

pytestmark = [pytest.mark.docker, pytest.mark.integration]


@dataclass(frozen=True)
class Server:
    """A running image: NVIDIA's two clients, and the container's id."""

    container: str
    address: str
    http: http.InferenceServerClient
    grpc: grpc.InferenceServerClient

    def ask(
        self, road: str, model: str, inputs: dict[str, tuple[str, np.ndarray]], version: str = ""
    ) -> dict[str, Any]:
        """Output name -> array, asked over "http" or "grpc"."""
        module, client = (http, self.http) if road == "http" else (grpc, self.grpc)
        tensors = []
        for name, (datatype, values) in inputs.items():
            tensor = module.InferInput(name, list(values.shape), datatype)
            tensor.set_data_from_numpy(values)
            tensors.append(tensor)
        result = client.infer(model, tensors, model_version=version)
        answer = result.get_response()
        names = (
            [item["name"] for item in answer["outputs"]] if road == "http" else [item.name for item in answer.outputs]
        )
        return {name: result.as_numpy(name) for name in names}

    def logs(self) -> str:
        """What the container printed, both streams."""
        done = subprocess.run(["docker", "logs", self.container], capture_output=True, text=True)
        return done.stdout + done.stderr


@contextmanager
def running(image: str, *options: str, ready: bool = True) -> Iterator[Server]:
    """Runs an image as nobody on a read-only root until it is ready."""
    ports = ("-p", "127.0.0.1::8000", "-p", "127.0.0.1::8001")
    command = ["docker", "run", "-d", *ports, *HARD, *options, image]
    container = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    try:
        server = connect(container)
        if ready:
            wait_ready(server)
        yield server
    finally:
        subprocess.run(["docker", "rm", "-f", "-v", container], capture_output=True, check=True)


def connect(container: str) -> Server:
    """Clients of a running container's published ports."""
    addresses = []
    for port in ("8000", "8001"):
        done = subprocess.run(["docker", "port", container, port], capture_output=True, text=True, check=True)
        addresses.append(done.stdout.split()[0])
    return Server(
        container,
        addresses[0],
        http.InferenceServerClient(addresses[0], concurrency=8),
        grpc.InferenceServerClient(addresses[1]),
    )


def wait_ready(server: Server) -> None:
    started = time.perf_counter()
    while time.perf_counter() - started < READY_WITHIN:
        try:
            if httpx.get(f"http://{server.address}/v2/health/ready", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        if state(server.container, "Running") != "true":
            break
        time.sleep(0.05)
    pytest.fail(f"the server was not ready:\n{server.logs()[-4000:]}")


def state(container: str, key: str) -> str:
    done = subprocess.run(
        ["docker", "inspect", "-f", f"{{{{.State.{key}}}}}", container], capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def locks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the builds of this module keep their locks, so that both builders use the same."""
    return tmp_path_factory.mktemp("locks")


@pytest.fixture(scope="module")
def build(mpack: Any, locks: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """`build(folder, builder, …)` of fixtures/: what `--json` printed. Each image is built once."""
    made: dict[tuple[str, ...], dict[str, Any]] = {}

    def run(folder: str, builder: str = "embedded", *options: str) -> dict[str, Any]:
        key = (folder, builder, *options)
        if key not in made:
            case = ROOT / "fixtures" / folder
            expect = json.loads((case / "expect.json").read_text("utf-8"))
            made[key] = mpack.json(
                *("build", case / expect["artifact"], "-p", "docker-triton", "-a", "base=cpu"),
                *("--builder", builder, "-o", "docker", "--lock", locks / f"{case.name}.lock"),
                *("-t", f"mpack-test-{case.name}-triton:{builder}{len(options)}", *options),
            )
        return {**made[key], "expect": json.loads((ROOT / "fixtures" / folder / "expect.json").read_text("utf-8"))}

    yield run
    for result in made.values():
        subprocess.run(["docker", "rmi", "-f", result["image"]], capture_output=True, check=False)


def tensors_of(body: dict[str, Any], inputs: list[dict[str, Any]]) -> dict[str, tuple[str, np.ndarray]]:
    """A request of docker-rest as the V2 inputs that the server's metadata asks for."""
    made = {}
    for item in inputs:
        if "inputs" in body:
            values = body["inputs"][item["name"]]
        elif "columns" in body:
            place = body["columns"].index(item["name"])
            values = [[row[place]] for row in body["data"]]
        else:
            values = body["data"]
        made[item["name"]] = (item["datatype"], as_array(values, item["datatype"]))
    return made


def as_array(values: Any, datatype: str) -> np.ndarray:
    """JSON values as an array of a V2 type: text as UTF-8 bytes, null as NaN."""
    if datatype == "BYTES":
        texts = np.array(values, dtype=object)
        return np.vectorize(lambda text: text.encode(), otypes=[object])(texts)
    return np.array(values, dtype=triton_to_np_dtype(datatype))


def as_rows(outputs: dict[str, Any]) -> list[Any]:
    """Outputs side by side as docker-rest's prediction shows them: rows, or values where a row has one."""
    columns = []
    for values in outputs.values():
        if values.dtype == object:
            values = np.vectorize(lambda text: text.decode(), otypes=[object])(values)
        columns.append(values.reshape(len(values), -1).tolist())
    rows = [[cell for part in parts for cell in part] for parts in zip(*columns, strict=True)]
    return [row[0] for row in rows] if len(rows[0]) == 1 else rows


@pytest.mark.parametrize("builder", ["embedded", "docker"])
@pytest.mark.parametrize("folder", MODELS)
def test_model(folder: str, builder: str, build: Any, assert_same: Any) -> None:
    """A model of mpack's runtime: the answers of expect.json, over both protocols, as nobody on a read-only root."""
    built = build(f"models/{folder}", builder)
    expect = built["expect"]
    assert built["verified"]["status"] == "passed" and built["builder"] == builder
    with running(built["image"]) as server:
        metadata = server.http.get_model_metadata(expect["name"])
        names = [item["name"] for item in metadata["inputs"]]
        # A model without a signature has one input by position, whose columns no client can name.
        asked = [item for item in expect["requests"] if item["status"] == 200]
        asked = [item for item in asked if names != ["input-0"] or "columns" not in item["body"]]
        assert asked
        for request in asked:
            inputs = tensors_of(request["body"], metadata["inputs"])
            for road in ("http", "grpc"):
                outputs = server.ask(road, expect["name"], inputs)
                assert_same(as_rows(outputs), request["answer"]["prediction"])
                for item in metadata["outputs"]:
                    assert outputs[item["name"]].dtype == triton_to_np_dtype(item["datatype"])


@pytest.mark.parametrize("builder", ["embedded", "docker"])
@pytest.mark.parametrize("folder", REPOSITORIES)
def test_repository(folder: str, builder: str, build: Any, assert_same: Any) -> None:
    """What only Triton loads, two models and an ensemble, and the reference's Python layout with a conda.yaml."""
    built = build(f"triton/{folder}", builder)
    expect = built["expect"]
    assert built["verified"] == {"status": "passed", "against": "expected", "max_rel_diff": 0.0, "reason": None}
    with running(built["image"]) as server:
        assert sorted(item["name"] for item in server.http.get_model_repository_index()) == expect["models"]
        for request in expect["requests"]:
            inputs = {
                item["name"]: (item["datatype"], as_array(item["data"], item["datatype"]).reshape(item["shape"]))
                for item in request["request"]["inputs"]
            }
            for road in ("http", "grpc"):
                outputs = server.ask(road, request["model_name"], inputs)
                for item in request["outputs"]:
                    wanted = as_array(item["data"], item["datatype"]).reshape(item["shape"])
                    assert outputs[item["name"]].dtype == wanted.dtype
                    assert_same(outputs[item["name"]].tolist(), wanted.tolist())


def test_dynamic_batching(build: Any) -> None:
    """Requests that wait together are answered by fewer executions, each with its own answer; a bad one fails alone."""
    built = build("models/lightgbm-text", "embedded", "-a", "maxQueueDelay=50000")
    name = built["expect"]["name"]
    rows = np.random.default_rng(3).uniform(0.1, 7.0, (64, 4))
    with running(built["image"]) as server:
        alone = [server.ask("grpc", name, {"input-0": ("FP64", row[None])})["predict"] for row in rows[:4]]
        before = server.http.get_inference_statistics(name)["model_stats"][0]
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda row: server.ask("grpc", name, {"input-0": ("FP64", row[None])}), rows))
        after = server.http.get_inference_statistics(name)["model_stats"][0]
        for one, together in zip(alone, answers, strict=False):
            assert np.array_equal(one, together["predict"])
        requests = after["inference_count"] - before["inference_count"]
        executions = after["execution_count"] - before["execution_count"]
        assert requests == 64 and executions <= 32
        with pytest.raises(InferenceServerException, match=r"(?s)5.*4|4.*5"):
            server.ask("grpc", name, {"input-0": ("FP64", np.ones((1, 5)))})


def test_stop_and_kill(build: Any) -> None:
    """SIGTERM ends the container with 0; after a kill -9 it starts again, with no shared memory of the dead server."""
    built = build("triton/seed-python")
    with running(built["image"]) as server:
        dead = set(in_container(server, SHARED).split())
        assert dead
        subprocess.run(["docker", "kill", "-s", "KILL", server.container], capture_output=True, check=True)
        subprocess.run(["docker", "start", server.container], capture_output=True, check=True)
        again = connect(server.container)
        wait_ready(again)
        alive = set(in_container(again, SHARED).split())
        assert len(alive) == len(dead) and not alive & dead
        subprocess.run(["docker", "stop", "-t", "30", server.container], capture_output=True, check=True)
        assert state(server.container, "ExitCode") == "0", server.logs()[-3000:]


def test_killed_server(build: Any) -> None:
    """The server killed inside: the container ends with a reason and leaves no shared memory behind."""
    built = build("triton/seed-python")
    before = {path.name for path in Path("/dev/shm").iterdir()}
    with running(built["image"], "--ipc=host") as server:
        find = "import os; print([p for p in os.listdir('/proc') if p.isdigit() and os.path.basename(os.readlink(f'/proc/{p}/exe')) == 'tritonserver'][0])"  # noqa: E501
        pid = in_container(server, find)
        assert {path.name for path in Path("/dev/shm").iterdir()} > before
        in_container(server, f"import os; os.kill({pid}, 9)")
        done = subprocess.run(["docker", "wait", server.container], capture_output=True, text=True, timeout=60)
        assert done.stdout.strip() not in ("0", "")
        assert "SIGKILL" in server.logs().strip().splitlines()[-1] or "9" in server.logs().strip().splitlines()[-1]
        assert {path.name for path in Path("/dev/shm").iterdir()} == before


def in_container(server: Server, code: str) -> str:
    """Runs a line of Python in the container."""
    command = ["docker", "exec", server.container, "/opt/mpack/venv/bin/python", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@dataclass(frozen=True)
class Hidden:
    """A fault that only the server can find: the seed's project with something changed, and the reason's words."""

    name: str
    file: str
    old: str
    new: str
    reason: str


HIDDEN = (
    Hidden(
        "load",
        "model.py",
        "class TritonPythonModel:",
        "class TritonPythonModel:\n    def initialize(self, args):\n        1 / 0\n",
        "division by zero",
    ),
    Hidden("import", "model.py", "import numpy", "import no_such_module\nimport numpy", "no_such_module"),
    Hidden("type", "config.pbtxt", "TYPE_INT64", "TYPE_INT32", "INT32"),
    Hidden("output", "config.pbtxt", '"LABEL"', '"LABELS"', "LABELS"),
    Hidden("answer", "model.py", '"good"', '"fine"', "fine"),
)


@pytest.mark.parametrize("fault", HIDDEN, ids=lambda fault: fault.name)
def test_only_the_server_can_tell(fault: Hidden, mpack: Any, locks: Path, tmp_path: Path) -> None:
    """The build ends with exit code 4 and the reason; nothing is written."""
    case = ROOT / "fixtures" / "triton" / "seed-python"
    project = tmp_path / "project"
    subprocess.run(["cp", "-r", str(case / "project"), str(project)], check=True)
    subprocess.run(["cp", str(case / "project.mpack.toml"), str(tmp_path)], check=True)
    path = project / fault.file
    text = path.read_text("utf-8")
    assert fault.old in text
    path.write_text(text.replace(fault.old, fault.new), "utf-8")
    layout = tmp_path / "layout"
    done = mpack(
        *("build", project, "-a", "base=cpu", "-o", f"oci:{layout}", "--lock", tmp_path / "x.lock", "--json"), code=4
    )
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "verification-failed"
    assert fault.reason in error["message"], error
    assert not layout.exists()


def test_load_failure_ends_the_container(mpack: Any, tmp_path: Path) -> None:
    """A model that does not load: the container ends by itself, and its last line says which model and why."""
    case = ROOT / "fixtures" / "triton" / "seed-python"
    project = tmp_path / "project"
    subprocess.run(["cp", "-r", str(case / "project"), str(project)], check=True)
    path = project / "model.py"
    text = path.read_text("utf-8")
    path.write_text(text.replace(HIDDEN[0].old, HIDDEN[0].new), "utf-8")
    built = mpack.json(
        *("build", project, "-a", "base=cpu", "-o", "docker", "-t", "mpack-test-broken-triton:1", "--no-verify")
    )
    try:
        with running(built["image"], ready=False) as server:
            done = subprocess.run(["docker", "wait", server.container], capture_output=True, text=True, timeout=60)
            assert done.stdout.strip() not in ("0", "")
            last = server.logs().strip().splitlines()[-1]
            assert "sentiment" in last and "division by zero" in last
    finally:
        subprocess.run(["docker", "rmi", "-f", built["image"]], capture_output=True, check=False)
