"""`predict --resume`: killed at any moment and started again, every row is there once, in order."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest

#: Chunks of 1,000 rows, and a mark after each.
SCRIPT = """
import sys
from mpack_runtime.cli import journal, source, source_csv
source.CHUNK_VALUES = source_csv.CHUNK_VALUES = source.LINE_VALUES = 2000
journal._SHARE = 1e9
from mpack_runtime.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
#: Takes 5 ms a chunk, and dies in the chunk of a row that a file names.
ENTRY = """
import os, time

def init():
    return "matrix"

def predict_on_matrix(matrix, provided_columns_names=None):
    time.sleep(0.005)
    try:
        with open(os.environ["FATAL"]) as stream:
            row = int(stream.read())
    except FileNotFoundError:
        row = -1
    if any(first == row for first, _ in matrix):
        os._exit(9)
    return [first + second / 7 for first, second in matrix], ["sum"]
"""
ROWS = 40_000
COLUMNS = [{"kind": "column", "name": name, "type": "double", "required": True} for name in ("a", "b")]


class Batch:
    """A model, an input in every format, and runs of the command on them."""

    def __init__(self, place: Path, model_json: Path) -> None:
        self.place, self.out, self.fatal = place, place / "out", place / "fatal"
        self.out.mkdir()
        self.model_json = model_json
        table = pyarrow.table({"a": [float(row) for row in range(ROWS)], "b": [row * 0.1 for row in range(ROWS)]})
        pyarrow.csv.write_csv(table, place / "x.csv")
        pyarrow.parquet.write_table(table, place / "x.parquet", row_group_size=7_000)
        (place / "x.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in table.to_pylist()))

    def start(self, name: str, form: str, *more: str, script: str = SCRIPT) -> subprocess.Popen[str]:
        words = ["predict", str(self.place / name), str(self.out), "--output_file_name", "r", "--format", form, *more]
        env = {**os.environ, "MPACK_MODEL_JSON": str(self.model_json), "FATAL": str(self.fatal)}
        return subprocess.Popen(
            [sys.executable, "-B", "-c", script, *words],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, name: str, form: str, *more: str, script: str = SCRIPT) -> tuple[int, str]:
        """Exit code and stderr."""
        process = self.start(name, form, *more, script=script)
        said = process.communicate(timeout=120)[1]
        return process.returncode, said

    def die_at(self, row: int) -> None:
        """A run with --resume that ends as by SIGKILL when it comes to a row, with marks in the journal."""
        self.fatal.write_text(str(row))
        assert self.run("x.csv", "csv", "--resume")[0] == 9
        self.fatal.unlink()
        assert self.marks() > 0

    def marks(self) -> int:
        try:
            return max(0, len((self.out / ".r.journal").read_bytes().splitlines()) - 1)
        except FileNotFoundError:
            return 0

    def files(self) -> list[str]:
        return sorted(path.name for path in self.out.iterdir())

    def take(self) -> bytes:
        """The result, which is all that there is, and is taken away."""
        assert self.files() == ["r"]
        data = (self.out / "r").read_bytes()
        (self.out / "r").unlink()
        return data


@pytest.fixture
def batch(tmp_path: Path, make_model: Callable[..., Path]) -> Batch:
    return Batch(tmp_path, make_model(ENTRY, signature={"inputs": COLUMNS, "outputs": [], "params": []}, sample=None))


@pytest.mark.parametrize(
    ("name", "form"), [("x.csv", "csv"), ("x.csv", "json"), ("x.jsonl", "jsonl"), ("x.parquet", "parquet")]
)
def test_killed_until_done(batch: Batch, name: str, form: str) -> None:
    """SIGKILL at random moments, and again, until a run comes to its end: the bytes of a run that nobody killed."""
    assert batch.run(name, form)[0] == 0
    whole = batch.take()
    seed = random.randrange(2**32)
    chance, went_on = random.Random(seed), 0
    for _ in range(60):
        before = batch.marks()
        wanted = before + 1 + chance.randrange(16)
        process = batch.start(name, form, "--resume")
        while process.poll() is None and batch.marks() < wanted:
            time.sleep(0.001)
        if chance.randrange(2):
            time.sleep(chance.random() / 50)  # not only just behind a mark
        process.kill()
        process.communicate()
        went_on += before > 0
        if process.returncode == 0:
            break
    else:
        assert batch.run(name, form, "--resume")[0] == 0
    assert went_on >= 1, f"no run went on with another's (seed {seed})"
    assert batch.take() == whole, f"seed {seed}"


def test_what_is_done_is_not_done_again(batch: Batch) -> None:
    """A row that would end the run lies before the last mark: the next run does not come by it."""
    batch.die_at(30_500)
    batch.fatal.write_text("500")
    assert batch.run("x.csv", "csv", "--resume")[0] == 0
    rows = batch.take().decode().splitlines()
    assert len(rows) == ROWS + 1 and rows[501] == repr(500 + 500 * 0.1 / 7)


def test_another_question_is_refused(batch: Batch) -> None:
    """Another input, model, format or set of packages: exit 2, a sentence that says which and what to do."""
    batch.die_at(30_500)
    kept, source = batch.files(), batch.place / "x.csv"
    text, status = source.read_text(), source.stat()
    entry = batch.model_json.parent / "model/gppi/entry.py"
    for change, undo, form, word in (
        (lambda: source.write_text(text + "1,2\n"), lambda: source.write_text(text), "csv", "another input"),
        (lambda: None, lambda: None, "jsonl", "another format"),
        (lambda: entry.write_text(ENTRY + "\n"), lambda: entry.write_text(ENTRY), "csv", "another model"),
    ):
        change()
        code, said = batch.run("x.csv", form, "--resume")
        assert code == 2 and word in said and f"Remove {batch.out}/.r.journal to begin anew." in said
        undo()
        os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert batch.files() == kept
    (batch.place / "site/other-1.0.dist-info").mkdir(parents=True)
    (batch.place / "site/other-1.0.dist-info/METADATA").write_text("Name: other\nVersion: 1.0\n")
    updated = f"import sys; sys.path.append({str(batch.place / 'site')!r})\n{SCRIPT}"
    code, said = batch.run("x.csv", "csv", "--resume", script=updated)
    assert code == 2 and "another set of packages" in said and batch.files() == kept
    assert batch.run("x.csv", "csv")[0] == 0, "without --resume it is as ever"
    assert batch.files() == sorted([*kept, "r"])
    assert batch.run("x.csv", "csv", "--resume")[0] == 0
    assert batch.files() == ["r"]


@pytest.mark.parametrize(
    ("spoil", "anew"),
    [
        (lambda out: (out / ".r.journal").open("a").write('{"after": 9'), False),
        (lambda out: (out / ".r.journal").open("ab").write(b"\0" * 99 + b"\n"), False),
        (lambda out: (out / ".r.partial").open("a").write("half a li"), False),
        (lambda out: (out / ".r.partial").open("w").close(), True),
        (lambda out: (out / ".r.journal").unlink(), True),
    ],
    ids=["half a mark", "zeros", "half a line", "no result", "no journal"],
)
def test_what_a_power_cut_leaves(batch: Batch, spoil: Callable[[Path], object], anew: bool) -> None:
    """What was being written counts for nothing; without the result, or the journal, all begins anew."""
    assert batch.run("x.csv", "csv")[0] == 0
    whole = batch.take()
    batch.die_at(30_500)
    spoil(batch.out)
    batch.fatal.write_text("500")
    code, _ = batch.run("x.csv", "csv", "--resume")
    assert code == (9 if anew else 0)
    batch.fatal.unlink()
    if anew:
        assert batch.run("x.csv", "csv", "--resume")[0] == 0
    assert batch.take() == whole


def test_two_runs_do_not_write_one_result(batch: Batch) -> None:
    """The second one says so, exit 3, and takes nothing away."""
    batch.die_at(30_500)
    kept = batch.files()
    with (batch.out / ".r.journal").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        code, said = batch.run("x.csv", "csv", "--resume")
    assert code == 3 and "Another run with --resume" in said and batch.files() == kept


@pytest.mark.parametrize("plant", [os.symlink, os.link, lambda _, path: os.mkfifo(path), lambda _, path: path.mkdir()])
@pytest.mark.parametrize("name", [".r.partial", ".r.journal"])
def test_what_is_planted_is_not_written_through(batch: Batch, name: str, plant: Callable[[Path, Path], object]) -> None:
    """In a directory that others write to, a link or what is no file in a result's place is refused by name."""
    victim = batch.place / "victim"
    victim.write_text("precious")
    plant(victim, batch.out / name)
    code, said = batch.run("x.csv", "csv", "--resume")
    assert code == 3 and f"{batch.out / name} is not a file that an earlier run as this user left" in said
    assert victim.read_text() == "precious" and batch.files() == [name]


def test_a_full_disk_and_an_interrupt_keep_what_is_whole(batch: Batch) -> None:
    """Exit 3 and 130, and that the same command goes on; without --resume nothing is left."""
    assert batch.run("x.csv", "csv")[0] == 0
    whole = batch.take()
    limit = f"import resource, signal; resource.setrlimit(resource.RLIMIT_FSIZE, ({len(whole) // 2},) * 2)\n"
    full = f"{limit}signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n{SCRIPT}"
    code, said = batch.run("x.csv", "csv", script=full)
    assert code == 3 and "File too large" in said.splitlines()[-1] and batch.files() == []
    code, said = batch.run("x.csv", "csv", "--resume", script=full)
    assert code == 3 and "the same command goes on" in said and "File too large" in said.splitlines()[-1]
    assert batch.marks() > 0
    process = batch.start("x.csv", "csv", "--resume")
    before = batch.marks()
    while process.poll() is None and batch.marks() <= before:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and said.splitlines()[-1] == "Interrupted." and "the same command goes on" in said
    assert batch.run("x.csv", "csv", "--resume")[0] == 0
    assert batch.take() == whole
