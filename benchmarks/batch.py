"""`predict` over many rows, as the command line of an image does it, here without a container.

Each measurement is a process of its own (`python -m benchmarks.batch`), so that its peak memory is its own.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bench import ROOT, Bench, say
from benchmarks.figures import OURS, RATE, Figures
from mpack.errors import EnvironmentFault

PEER = "peer"
#: model -> rows of its input. A forest's rows take some 20 µs each.
ROWS = {"linear": 10_000_000, "forest": 1_000_000}
WIDTH = 10
TASK = ("-m", "benchmarks.batch")
_AT_ONCE = 500_000


def batch(bench: Bench, figures: Figures) -> None:
    """Rows a second and peak memory of both models on CSV and Parquet; the peers' rows a second in turns with them."""
    place = bench.scratch / "batch"
    place.mkdir()
    bare = place / "without"
    (bare / "pyarrow").mkdir(parents=True)
    (bare / "pyarrow" / "__init__.py").write_text("raise ImportError('left out')\n")
    for kind, rows in ROWS.items():
        say(f"{kind}: {rows:,} rows")
        _run(bench, [*TASK, "make", kind, str(rows), str(place)])
        model = place / kind / "model.json"
        own = _run(bench, [*TASK, "load", str(model)])[1]
        for number in range(bench.repeat):
            for form in ("csv", "parquet"):
                source, row = place / f"{kind}.{form}", f"{kind}, {form.upper() if form == 'csv' else 'Parquet'}"
                say(f"{row} ({number + 1} of {bench.repeat})")
                seconds, processor = map(float, _run(bench, [*TASK, "peer", kind, str(source)])[0].split())
                figures.into(row, RATE, PEER).append(rows / seconds)
                figures.into(f"{row}: processor time", "s", PEER).append(processor)
                _ours(bench, figures, row, model, source, rows, own.peak)
                if form == "csv" and kind == "linear":
                    _ours(bench, figures, f"{row}, without pyarrow", model, source, rows, own.peak, bare)
        for path in place.glob(f"{kind}*.*"):
            path.unlink()


def _ours(
    bench: Bench, figures: Figures, row: str, model: Path, source: Path, rows: int, own: float, bare: Path | None = None
) -> None:
    out = source.parent / "out"
    out.mkdir(exist_ok=True)
    seconds, processor = 0.0, 0.0
    for path, sign in ((source.with_stem(f"{source.stem}-few"), -1), (source, 1)):
        began = time.perf_counter()
        _, used = _run(bench, ["-m", "mpack_runtime", "predict", str(path), str(out)], model, bare)
        seconds, processor = seconds + sign * (time.perf_counter() - began), processor + sign * used.processor
    figures.into(row, RATE, OURS).append(rows / seconds)
    figures.into(f"{row}: processor time", "s", OURS).append(processor)
    figures.into(f"{row}: above the model's memory", "MB", OURS).append((used.peak - own) / 1e6)


@dataclass(frozen=True)
class Used:
    """What a process used: peak resident bytes, seconds of processors."""

    peak: float
    processor: float


def _run(bench: Bench, words: list[str], model: Path | None = None, bare: Path | None = None) -> tuple[str, Used]:
    sources = [str(ROOT), str(ROOT / "runtime/src"), str(ROOT / "src"), str(ROOT / "packagers")]
    environment = bench.environment(PYTHONPATH=os.pathsep.join([str(bare)] * (bare is not None) + sources))
    if model is not None:
        environment["MPACK_MODEL_JSON"] = str(model)
    process = subprocess.Popen([sys.executable, *words], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise EnvironmentFault("engine-failed", f"{' '.join(words)} ended with {process.returncode}.", "Run it.")
    return said, Used(usage.ru_maxrss * 1024.0, usage.ru_utime + usage.ru_stime)


def make(kind: str, rows: int, place: Path) -> None:
    """A fitted model and its inputs, both files of the same normal numbers."""
    import numpy as np
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import LinearRegression

    random = np.random.default_rng(0)
    x = random.normal(size=(10_000, WIDTH))
    y = x @ np.arange(WIDTH) + np.sin(3 * x[:, 0])
    estimator: Any = LinearRegression() if kind == "linear" else RandomForestRegressor(100, random_state=0)
    root = place / kind
    (root / "model").mkdir(parents=True)
    (root / "model" / "model.pkl").write_bytes(pickle.dumps(estimator.fit(x, y)))
    names = [f"x{index}" for index in range(WIDTH)]
    columns = [{"kind": "column", "name": name, "type": "double", "required": True} for name in names]
    model = {
        "schema": 1,
        "name": kind,
        "version": "1",
        "loader": {"kind": "sklearn", "path": "model.pkl", "options": {"serialization": "pickle"}},
        "signature": {"inputs": columns, "outputs": [], "params": []},
        "sample": None,
    }
    (root / "model.json").write_text(json.dumps(model))
    schema = pyarrow.schema([(name, pyarrow.float64()) for name in names])
    with (
        pyarrow.csv.CSVWriter(place / f"{kind}.csv", schema) as text,
        pyarrow.parquet.ParquetWriter(place / f"{kind}.parquet", schema) as parquet,
    ):
        for begin in range(0, rows, _AT_ONCE):
            values = random.normal(size=(WIDTH, min(_AT_ONCE, rows - begin)))
            table = pyarrow.table(list(values), schema=schema)
            text.write_table(table)
            parquet.write_table(table)
    pyarrow.csv.write_csv(table[:10], place / f"{kind}-few.csv")
    pyarrow.parquet.write_table(table[:10], place / f"{kind}-few.parquet")


def peer(kind: str, source: Path) -> None:
    """Prints the seconds, and those of processors, that model.predict takes on a matrix in memory (forest), or pyarrow
    to read the file and write a column of as many rows (linear)."""
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    is_csv = source.suffix == ".csv"
    if kind == "linear":
        target = source.with_name(f"peer{source.suffix}")
        with _timed():
            table = pyarrow.csv.read_csv(source) if is_csv else pyarrow.parquet.read_table(source)
            answer = pyarrow.table({"prediction": table.column(0)})
            (pyarrow.csv.write_csv if is_csv else pyarrow.parquet.write_table)(answer, target)
        target.unlink()
        return
    table = pyarrow.parquet.read_table(source.with_suffix(".parquet"))
    matrix = table.to_pandas().to_numpy() if table.num_columns > 1 else None
    model = pickle.loads((source.parent / kind / "model" / "model.pkl").read_bytes())
    with _timed():
        model.predict(matrix)


def load(model: Path) -> None:
    """Loads a model as the command does, and asks it one row: what is resident then is the model's own."""
    from mpack_runtime.config import ModelConfig
    from mpack_runtime.service import Service

    service = Service.load(ModelConfig.load(model))
    service.predict(service.rows(None, [[0.0] * WIDTH]))


@contextmanager
def _timed() -> Iterator[None]:
    began, processor = time.perf_counter(), time.process_time()
    yield
    print(time.perf_counter() - began, time.process_time() - processor)


if __name__ == "__main__":
    task, *rest = sys.argv[1:]
    if task == "make":
        make(rest[0], int(rest[1]), Path(rest[2]))
    elif task == "peer":
        peer(rest[0], Path(rest[1]))
    else:
        load(Path(rest[0]))
