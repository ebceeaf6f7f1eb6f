"""The results of packagings: several processes at once, killed ones, damaged files."""

from __future__ import annotations

import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from mpack.errors import EnvironmentFault
from mpack.results import FAILED, RUNNING, SUCCEEDED, UNKNOWN, Results

DOCUMENT = {"kind": "ModelPackaging", "id": "wine", "spec": {"arguments": {"workers": 4}}}


def ended(results: Results, packaging: str, state: str = SUCCEEDED, log: str = "") -> None:
    results.begin(packaging, DOCUMENT, {}).finish(state, {"image": f"{packaging}:1"}, log)


def elsewhere(directory: Path, program: str) -> subprocess.Popen[str]:
    """A process with `results` and `recording`, a run of wine that it has begun."""
    begin = f"""
from pathlib import Path
from mpack.results import Results
results = Results(Path({str(directory)!r}))
recording = results.begin("wine", {DOCUMENT!r}, {{}})
{program}
"""
    return subprocess.Popen([sys.executable, "-c", begin], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_nothing_was_packaged(tmp_path: Path) -> None:
    """Without a file there are no runs, and asking makes none."""
    results = Results(tmp_path / "state")
    assert (results.latest("wine"), results.runs(9), results.packagings(9), results.delete("wine")) == (None, [], [], 0)
    assert not (tmp_path / "state").exists()


def test_runs_are_kept(tmp_path: Path) -> None:
    """Newest first; of each packaging the last run; a packaging is forgotten with all of its runs."""
    results = Results(tmp_path)
    for packaging, state in (("a", FAILED), ("b", SUCCEEDED), ("a", SUCCEEDED), ("c", FAILED)):
        ended(results, packaging, state, f"log of {packaging}\n")
    assert [(run.packaging, run.state) for run in results.runs(3)] == [
        ("c", FAILED),
        ("a", SUCCEEDED),
        ("b", SUCCEEDED),
    ]
    assert [run.packaging for run in results.packagings(2)] == ["c", "a"]
    assert [run.state for run in results.runs(9, "a")] == [SUCCEEDED, FAILED]
    latest = results.latest("a")
    assert latest is not None and (latest.facts, latest.document) == ({"image": "a:1"}, DOCUMENT)
    assert latest.finished is not None and latest.started <= latest.finished
    assert (results.log("b"), results.log("none")) == ("log of b\n", None)
    assert (results.delete("a"), results.delete("a"), results.latest("a")) == (2, 0, None)
    assert results.path.stat().st_mode & 0o777 == 0o600


def test_killed(tmp_path: Path) -> None:
    """A run is `running` while its process lives, and `unknown` once that was killed."""
    results = Results(tmp_path)
    process = elsewhere(tmp_path, "print('begun', flush=True); input()")
    try:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        [run] = results.runs(9)
        assert (run.state, run.finished) == (RUNNING, None)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    [run] = results.runs(9)
    assert (run.state, run.finished) == (UNKNOWN, None)
    ended(results, "wine")
    assert [run.state for run in results.runs(9)] == [SUCCEEDED, UNKNOWN]


def test_several_at_once(tmp_path: Path) -> None:
    """Four processes that begin with no file, each with ten runs: all are there, each is whole."""
    program = """
recording.finish("succeeded", {}, "")
for _ in range(9):
    results.begin("wine", {}, {}).finish("succeeded", {}, "")
"""
    processes = [elsewhere(tmp_path, program) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert [run.state for run in Results(tmp_path).runs(99)] == [SUCCEEDED] * 40


@pytest.mark.parametrize("content", [b"nonsense" * 1000, b"SQLite format 3\0" + b"\xff" * 8000])
def test_damaged(content: bytes, tmp_path: Path) -> None:
    """A damaged file is said to be so, with its name, and is left as it is."""
    results = Results(tmp_path)
    results.path.write_bytes(content)
    for action in (lambda: results.runs(1), lambda: results.begin("wine", {}, {}), lambda: results.delete("wine")):
        with pytest.raises(EnvironmentFault, match=r"results\.sqlite cannot be read") as caught:
            action()
        assert caught.value.code == "store-corrupt"
    assert results.path.read_bytes() == content


def test_half_damaged(tmp_path: Path) -> None:
    """A file whose middle is gone, and a row that is no JSON."""
    results = Results(tmp_path)
    for _ in range(50):
        ended(results, "wine", log="x" * 4000)
    with sqlite3.connect(results.path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.execute("UPDATE runs SET facts = '{' WHERE number = 50")
    with pytest.raises(EnvironmentFault, match="cannot be read"):
        results.runs(1)
    with sqlite3.connect(results.path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    with results.path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * 100_000)
    with pytest.raises(EnvironmentFault) as caught:
        results.runs(99)
    assert caught.value.code == "store-corrupt"


def test_of_a_newer_mpack(tmp_path: Path) -> None:
    """Another schema is not guessed at."""
    results = Results(tmp_path)
    ended(results, "wine")
    with sqlite3.connect(results.path) as database:
        database.execute("PRAGMA user_version = 7")
    with pytest.raises(EnvironmentFault, match="its schema is 7, and this mpack knows 1"):
        results.latest("wine")


def test_killed_while_it_was_made(tmp_path: Path) -> None:
    """A file without content is as good as none."""
    results = Results(tmp_path)
    results.path.touch()
    assert results.runs(9) == []
    ended(results, "wine")
    assert len(results.runs(9)) == 1


def test_no_place(tmp_path: Path) -> None:
    """A state directory that cannot be made is an error that says where."""
    (tmp_path / "state").touch()
    with pytest.raises(EnvironmentFault, match=r"results\.sqlite failed") as caught:
        Results(tmp_path / "state").begin("wine", {}, {})
    assert caught.value.code == "disk-unwritable"


def test_a_hundred_thousand(tmp_path: Path) -> None:
    """`mpack pack get` of one packaging, or of the newest, among 100,000 takes 0.3 s of a processor, all told."""
    from tests.conftest import MPACK

    results = Results(tmp_path / "state")
    ended(results, "first")
    facts = json.dumps({"results": [{"name": "image", "value": "localhost/wine:1"}]})
    rows = (
        (f"wine-{i % 50_000}", SUCCEEDED, "2026-11-21T10:00:00.000Z", facts, json.dumps(DOCUMENT), "log\n" * 100)
        for i in range(100_000)
    )
    with sqlite3.connect(results.path) as database:
        insert = "INSERT INTO runs (packaging, state, started, facts, document, log) VALUES (?, ?, ?, ?, ?, ?)"
        database.executemany(insert, rows)
    for words in (["--id", "wine-77", "-o", "jsonpath=$[0].status.results[0].value"], ["-o", "json"]):
        command = [MPACK, "pack", "get", *words]
        environment = {**os.environ, "MPACK_HOME": str(tmp_path)}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "localhost/wine:1" in done.stdout
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3
