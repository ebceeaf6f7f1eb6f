"""The scenes `serving` and `forest`: one model on docker-rest and on peers, beside a Flask route that does nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import wrk
from benchmarks.bench import Bench, run, say
from benchmarks.bento import BentoMl
from benchmarks.figures import OURS, RATE, Figures
from benchmarks.mlflow import Mlflow, install
from benchmarks.mlserver import MODEL, SKLEARN, MlServer
from benchmarks.scenes import running, until_ready
from benchmarks.subjects import COLD, Mpack, Serving, Subject
from benchmarks.throughput import THREADS, post, same

CONNECTIONS = 8
EMPTY, V2, INVOCATIONS, ONNX = "empty route", "mpack V2", "mpack /invocations", "mpack onnx"
_PEERS = {"mlflow": "MLflow", "mlserver": "MLServer", "bentoml": "BentoML"}
_SCRIPTS = Path(__file__).parent
_INVOKE, _SCORE, _INFER = "/api/model/invoke", "/invocations", "/v2/models/{name}/infer"


@dataclass(frozen=True)
class Model:
    """What served_model.py wrote; `kind` is "linear" or "forest"."""

    kind: str
    directory: Path

    def samples(self) -> Iterator[tuple[int, list[str], list[list[float]], Any]]:
        """(number of rows, columns, rows, the answer)"""
        found = json.loads((self.directory / "rows.json").read_text("utf-8"))
        for count, sample in found["samples"].items():
            yield int(count), found["columns"], sample["rows"], np.array(sample["answer"])


@dataclass(frozen=True)
class Form:
    """How one protocol asks: a body of columns and rows, and the numbers in an answer (None: it has none)."""

    path: str
    body: Callable[[list[str], list[list[float]]], Any]
    numbers: Callable[[Any], Any] | None


@dataclass(frozen=True)
class Server:
    """One column: an image, how it is run, how it is asked. `words` follow the image's name; `rows`: no more than."""

    name: str
    image: str
    serving: Serving
    form: Form
    words: tuple[str, ...] = ()
    rows: int = 1000


def _tensor(columns: list[str], rows: list[list[float]]) -> Any:
    flat = [value for row in rows for value in row]
    return {"inputs": [{"name": "input-0", "datatype": "FP64", "shape": [len(rows), len(columns)], "data": flat}]}


def _table(columns: list[str], rows: list[list[float]]) -> Any:
    return {"columns": columns, "data": rows}


_ODAHU = Form(_INVOKE, _table, lambda answer: answer["prediction"])
_MLFLOW = Form(_SCORE, lambda *table: {"dataframe_split": _table(*table)}, lambda answer: answer["predictions"])
_NOTHING = Form("/", _table, None)
_BENTO = Form("/predict", lambda _, rows: {"rows": rows}, lambda answer: answer)


def _v2(name: str) -> Form:
    return Form(_INFER.format(name=name), _tensor, lambda answer: answer["outputs"][0]["data"])


def names(without: Sequence[str]) -> list[str]:
    """The columns of the table."""
    return [OURS, ONNX, V2, INVOCATIONS, EMPTY, *(name for key, name in _PEERS.items() if key not in without)]


def serving(bench: Bench, figures: Figures, kind: str, without: Sequence[str], base: str, stand_in: bool) -> None:
    """Requests a second, processor time and latency by rows of a body; the servers take turns.

    `kind` is the model's. `base` is the peers' base image; it may stand in for another.
    """
    model = _model(bench, kind)
    servers = list(_servers(bench, model, without, base, stand_in))
    for number in range(bench.repeat):
        for server in servers:
            say(f"{server.name}: serving ({number + 1} of {bench.repeat})")
            _measure(bench, figures, server, model)


def _measure(bench: Bench, figures: Figures, server: Server, model: Model) -> None:
    options = [f"--entrypoint={server.words[0]}"] if server.words else []
    with running(bench, server.serving, server.image, options, server.words[1:]) as (container, port):
        until_ready(bench, server.serving, container, port)
        form = "{{.State.Pid}} {{.NetworkSettings.IPAddress}}"
        process, address = run([bench.docker.client, "inspect", "-f", form, container]).split()
        where = f"{address}:{server.serving.port}"
        for count, columns, rows, expected in model.samples():
            if count > server.rows:
                continue
            body = json.dumps(server.form.body(columns, rows)).encode()
            answer = post(where, server.form.path, body)
            if server.form.numbers is not None:
                numbers = np.array(server.form.numbers(json.loads(answer))).reshape(expected.shape)
                same(f"{server.name}, {count} rows", numbers, expected)
            found = wrk.load(f"http://{where}{server.form.path}", body, CONNECTIONS, int(process), bench.scratch)
            _note(figures, server.name, f"{count} row{'s' if count > 1 else ''}", found)


def _note(figures: Figures, server: str, row: str, found: wrk.Load) -> None:
    figures.into(f"{row}: answers", RATE, server).append(found.rate)
    figures.into(f"{row}: processor time", "ms", server).append(found.cpu)
    figures.into(f"{row}: p50", "ms", server).append(found.p50)
    figures.into(f"{row}: p99", "ms", server).append(found.p99)


def _model(bench: Bench, kind: str) -> Model:
    python = install(bench).with_name("python")
    target = bench.scratch / kind
    target.mkdir()
    # Isolated: in the script's own directory mlflow is the bench's module.
    words = [str(python), "-I", str(_SCRIPTS / "served_model.py"), kind, str(target)]
    run(words, bench.environment(), cwd=bench.scratch)
    return Model(kind, target)


def _servers(bench: Bench, model: Model, without: Sequence[str], base: str, stand_in: bool) -> Iterator[Server]:
    """Builds the images, which are remembered for removal."""
    package, file = model.directory / "model", model.directory / "model.joblib"
    ours = Mpack(bench)
    ours.take_bases()
    image = _built(bench, ours, package, model.kind)
    rest = replace(ours.serving, options=THREADS)
    yield Server(OURS, image, rest, _ODAHU)
    graph = Mpack(bench)
    graph.options = ("--optimize", "onnx", "--optimize-strict")
    yield Server(ONNX, _built(bench, graph, package, f"{model.kind}-onnx"), rest, _ODAHU)
    yield Server(V2, image, rest, _v2(_name(bench, image)))
    yield Server(INVOCATIONS, image, rest, _MLFLOW)
    script = (_SCRIPTS / "empty_route.py").read_text("utf-8")
    words = ("/opt/mpack/venv/bin/python", "-c", script)
    yield Server(EMPTY, image, replace(rest, ready="/"), _NOTHING, words, rows=1)
    if "mlflow" not in without:
        peer = Mlflow(bench, base, stand_in=stand_in, models={model.kind: package})
        peer.prepare()
        served = replace(peer.serving, options=(*peer.serving.options, *THREADS, "--env=MLFLOW_MODELS_WORKERS=1"))
        yield Server(peer.name, _built(bench, peer, package, model.kind), served, _MLFLOW)
    if "mlserver" not in without:
        server = MlServer(bench, base, SKLEARN, log=True)
        served = replace(server.serving, options=(*THREADS, "--env=MLSERVER_PARALLEL_WORKERS=0"))
        yield Server(server.name, _built(bench, server, file, model.kind), served, _v2(MODEL))
    if "bentoml" not in without:
        bento = BentoMl(bench, base)
        image = _built(bench, bento, file, model.kind)
        yield Server(bento.name, image, replace(bento.serving, options=THREADS), _BENTO)


def _built(bench: Bench, subject: Subject, model: Path, case: str) -> str:
    say(f"{subject.name}: an image of {case}")
    image = subject.build(model, case, COLD)
    bench.built(image)
    return image


def _name(bench: Bench, image: str) -> str:
    """The model's name, as V2 addresses have it."""
    return str(bench.built(image)["Config"]["Labels"]["org.opencontainers.image.title"])
