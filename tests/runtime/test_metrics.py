"""/metrics: what is counted, over workers that die too, and the dashboard's queries on a real Prometheus."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mpack_runtime.rest import processes
from mpack_runtime.rest.metrics import ROUTES, Metrics
from mpack_runtime.rest.routes import find, group

DASHBOARD = Path(__file__).parents[2] / "docs/grafana/mpack.json"
Start = Callable[..., Any]
Ask = Callable[[str], list[dict[str, Any]]]


@pytest.mark.parametrize(
    ("path", "of"),
    [
        ("/api/model/invoke", "odahu"),
        ("/v2/models/wine/infer", "v2"),
        ("/v2/models/wine/versions/1.2/infer", "v2"),
        ("/v1/models/wine:predict", "v1"),
        ("/invocations", "mlflow"),
        ("/v2/health/live", "health"),
        ("/v2/models/wine/ready", "health"),
        ("/v2/models/wine", "documents"),
        ("/v1/models/wine", "documents"),
        ("/feedback/model/", "feedback"),
        ("/v2/models/wine/infer/", "v2"),
        ("/v2/health/live/", "health"),
        ("/v2/models/{name}/infer", "v2"),
        ("/v2/models/a/b/infer", "other"),
        ("/v2/models/a/infer/ready", "other"),
        ("/livez//", "health"),
        ("//livez", "other"),
        ("/v2/models//infer", "other"),
        ("/v2\n", "other"),
        ("", "other"),
    ],
)
def test_groups_of_paths(path: str, of: str) -> None:
    """Each road to the model has a group of its own; what is not listed is "other"."""
    assert group(path) == of


def test_every_row_of_the_table_is_found() -> None:
    """No row hides behind one above it."""
    assert [find(re.sub(r"\{\w+\}", "x", path)) for path in ROUTES] == list(range(len(ROUTES)))


def values(text: str) -> dict[str, float]:
    """Every series of a text of metrics."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {series: float(value) for series, _, value in (line.rpartition(" ") for line in lines)}


def total(text: str, name: str, **labels: str) -> float:
    """The sum of the series of one name that have these labels."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(
        value
        for series, value in values(text).items()
        if series.partition("{")[0] == name and all(label in series for label in wanted)
    )


def test_what_is_counted() -> None:
    """Requests by road and status, both histograms, rows and errors by kind; each series with model and version."""
    metrics = Metrics()
    for path, status, failed, rows in (
        ("/api/model/invoke", 200, False, 3),
        ("/v2/models/wine/infer", 500, True, 0),
        ("/v2/models/wine/infer", 400, None, 0),
        ("/invocations", 500, False, 0),
        ("/metrics", 401, None, 0),
        ("/readyz", 503, None, 0),
        ("/v2/models/wine/infer", 429, None, 0),
        ("/api/model/invoke", 503, None, 0),
    ):
        metrics.start()
        if failed is not None:
            metrics.predicted(0.003, 3)
        if failed:
            metrics.failed()
        metrics.end(path, status, 0.02, rows)
    text = metrics.render('a"b\\\n', "1")
    series = values(text)
    assert all(r'{model="a\"b\\\n",version="1"' in name for name in series)
    assert total(text, "mpack_requests_total", group="v2", route="/v2/models/{name}/infer") == 3
    assert total(text, "mpack_rows_total") == 3
    assert total(text, "mpack_predict_seconds_count") == 3
    assert total(text, "mpack_predict_seconds_bucket", le="0.0025") == 0
    assert total(text, "mpack_predict_seconds_bucket", le="0.005") == 3
    assert total(text, "mpack_request_seconds_bucket", group="v2", le="0.025") == 3
    assert total(text, "mpack_request_seconds_sum", group="v2") == pytest.approx(0.06)
    assert total(text, "mpack_requests_in_flight") == 0
    kinds = {"request": 1, "auth": 1, "overload": 2, "model": 1, "service": 1, "timeout": 0, "lost": 0}
    assert {kind: total(text, "mpack_errors_total", kind=kind) for kind in kinds} == kinds
    assert total(text, "mpack_batch_rows_sum") == 9
    assert [total(text, "mpack_batch_rows_bucket", le=bound) for bound in ("2", "4", "+Inf")] == [0, 3, 3]


def test_a_dead_worker_leaves_its_counts_and_what_it_was_busy_with() -> None:
    """A slot that is handed on keeps its counts; requests in flight in it are lost, and in flight no more."""
    metrics = Metrics(slots=3)
    slot = metrics.reserve()
    metrics.take(slot)
    metrics.start()
    metrics.end("/livez", 200, 0.1)
    metrics.start()
    metrics.start()
    metrics.late()
    metrics.release(slot)
    text = metrics.render("m", "1")
    assert total(text, "mpack_requests_total") == 2 and total(text, "mpack_requests_total", status="504") == 1
    assert (total(text, "mpack_errors_total", kind="lost"), total(text, "mpack_errors_total", kind="timeout")) == (1, 1)
    assert total(text, "mpack_requests_in_flight") == 0
    assert metrics.reserve() == slot
    metrics.take(slot)
    metrics.start()
    metrics.end("/livez", 200, 0.1)
    assert total(metrics.render("m", "1"), "mpack_requests_total", route="/livez") == 2


def test_more_workers_than_slots_share_the_masters() -> None:
    """And give back nothing, for the master still has it."""
    metrics = Metrics(slots=2)
    assert [metrics.reserve(), metrics.reserve()] == [1, 0]
    metrics.release(0)
    assert metrics.reserve() == 0


def test_a_process_is_read_from_proc() -> None:
    """Memory, processor time, files and start of this process; nothing of one that is not there."""
    me = processes.read(os.getpid())
    assert me is not None and me.files is not None
    assert me.resident > 10 << 20 and me.cpu > 0.05 and me.files >= 3
    assert 0 < time.time() - me.started < 24 * 3600
    assert processes.read(2**22 + 1) is None


def test_two_workers_one_of_which_dies(model_json: Path, start: Start) -> None:
    """Counts of both stay and add up; the request in flight is lost; figures are there for master and workers."""
    server = start(model_json, workers=2)
    good = [server.invoke({"data": [[1.0, "a", 1]] * 2}).status_code for _ in range(10)]
    assert good == [200] * 10
    assert server.invoke({"data": [[1.0, "boom", 1]]}).status_code == 500
    with pytest.raises(httpx.TransportError):
        server.invoke({"data": [[1.0, "die", 0]]})
    end = time.monotonic() + 20
    text = ""
    while time.monotonic() < end and not total(text, "mpack_errors_total", kind="lost"):
        text = httpx.get(f"{server.url}/metrics", trust_env=False).text
    assert total(text, "mpack_requests_total", group="odahu", status="200", version="1.2") == 10
    assert total(text, "mpack_predict_seconds_count") == 11
    assert total(text, "mpack_rows_total") == 21
    kinds = {"request": 0, "auth": 0, "overload": 0, "model": 1, "service": 0, "timeout": 0, "lost": 1}
    assert {kind: total(text, "mpack_errors_total", kind=kind) for kind in kinds} == kinds
    assert total(text, "process_resident_memory_bytes", process="master") > 10 << 20
    assert re.search(r'process_cpu_seconds_total\{[^}]*process="[12]"\}', text)


@pytest.fixture
def prometheus(tmp_path: Path, model_json: Path, start: Start) -> Iterator[Ask]:
    """Asks a Prometheus that has scraped a server of two workers several times while requests came."""
    server = start(model_json, workers=2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    config = tmp_path / "prometheus.yml"
    job = {"job_name": "mpack", "static_configs": [{"targets": [f"127.0.0.1:{server.port}"]}]}
    config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}))
    options = [f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}", f"--web.listen-address={address}"]
    with (tmp_path / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(["prometheus", *options], stdout=log, stderr=log)

    def ask(expression: str) -> list[dict[str, Any]]:
        answer = httpx.get(f"http://{address}/api/v1/query", params={"query": expression}, trust_env=False)
        if answer.status_code == 503:
            answer.raise_for_status()
        assert answer.status_code == 200, (expression, answer.text)
        result: list[dict[str, Any]] = answer.json()["data"]["result"]
        return result

    try:
        deadline = time.monotonic() + 60
        while True:
            server.invoke({"data": [[1.0, "a", 1], [2.0, "b", 2]]})
            server.invoke({"data": [[1.0, "boom", 1]]})
            server.invoke({})
            try:
                if ask("count_over_time(mpack_rows_total[1m]) > 4"):
                    break
            except (httpx.TransportError, httpx.HTTPStatusError):  # it is not ready yet
                assert process.poll() is None, (tmp_path / "prometheus.log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "prometheus.log").read_text()
            time.sleep(0.1)
        yield ask
    finally:
        process.terminate()
        process.wait(20)


def test_every_query_of_the_dashboard_gives_numbers(prometheus: Ask) -> None:
    """On a real Prometheus every panel and every variable gets something; no metric is without a panel."""
    board = json.loads(DASHBOARD.read_text("utf-8"))
    shown = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    for expression in shown:
        for variable, value in (("$__rate_interval", "30s"), ("$model", "wine"), ("$version", ".*")):
            expression = expression.replace(variable, value)
        found = [row["value"][1] for row in prometheus(expression)]
        assert found and "NaN" not in found, expression
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            query = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"])
            assert query and prometheus(f"count by ({query[2]}) ({query[1].replace('$model', '.*')})"), variable
    assert len(prometheus('up{job="mpack"} == 1')) == 1
    assert [row["value"][1] for row in prometheus('mpack_errors_total{kind="service"}')] == ["0"]

    names = {row["metric"]["__name__"] for row in prometheus('{job="mpack", __name__=~"(mpack|process)_.+"}')}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}
    assert {name for name in families if not any(name in expression for expression in shown)} == set()
