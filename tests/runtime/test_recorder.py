"""What is kept of predictions and feedback: records, files, redaction, limits; and all of it on the real server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from mpack_runtime.errors import SettingsError
from mpack_runtime.rest.journal import Journal, Line
from mpack_runtime.rest.journal_files import Files
from mpack_runtime.rest.redact import Redactor

NAME = re.compile(r"year=(\d{4})/month=(\d\d)/day=(\d\d)/\1\2\3\d\d_\d+\.json")
NOON = 1_563_966_000.0  # 2019-07-24 11:00 UTC
Start = Callable[..., Any]


def lines(root: Path, stream: str, model: str = "wine/1.2") -> list[dict[str, Any]]:
    """All records of a stream, in the order of the files' names."""
    folder = root / stream / model
    files = sorted(folder.rglob("*.json"))
    assert all(NAME.fullmatch(str(path.relative_to(folder))) for path in files)
    return [json.loads(line) for path in files for line in path.read_text("utf-8").splitlines()]


def line(text: str = "{}", when: float = NOON, version: str = "1") -> Line:
    return "feedback", version, when, text.encode()


def test_files_begin_with_the_hour_and_when_one_is_full(tmp_path: Path) -> None:
    """The path says stream, model, version and hour; numbers go on after others'; names cannot lead elsewhere."""
    files, others = Files(tmp_path, "wi/ne", 10), Files(tmp_path, "wi/ne", 10)
    for when in (NOON, NOON, NOON + 3600):
        files.write(*line("{'a': 123456}", when))
    others.write(*line("{}"))
    others.write(*line("{}", version="../../x"))
    files.close()
    others.close()
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.json"))
    day = "year=2019/month=07/day=24"
    assert found == [
        f"feedback/wi-ne/..-..-x/{day}/2019072411_0.json",
        f"feedback/wi-ne/1/{day}/2019072411_0.json",
        f"feedback/wi-ne/1/{day}/2019072411_1.json",
        f"feedback/wi-ne/1/{day}/2019072411_2.json",
        f"feedback/wi-ne/1/{day}/2019072412_0.json",
    ]


def test_many_versions_hold_few_files_open(tmp_path: Path) -> None:
    """Feedback for a thousand versions does not use up the descriptors."""
    files = Files(tmp_path, "wine", 1 << 20)
    before = len(os.listdir("/proc/self/fd"))
    for version in range(1000):
        files.write(*line(version=str(version)))
    assert len(os.listdir("/proc/self/fd")) - before <= 16
    files.close()
    assert len(os.listdir("/proc/self/fd")) == before


FULL = """
import resource, signal, sys
from pathlib import Path
from mpack_runtime.rest.journal_files import Files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
files = Files(Path(sys.argv[1]), "wine", 1 << 20)
files.write("feedback", "1", 0.0, b"a" * 60)
try:
    files.write("feedback", "1", 0.0, b"b" * 60)
except OSError:
    files.write("feedback", "1", 0.0, b"c" * 60)
    files.close()
    print("went on")
"""


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    """A write that ends in the middle is taken back, and the next record begins a file of its own."""
    ran = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "went on\n", ran.stderr
    texts = [path.read_text() for path in sorted(tmp_path.rglob("*.json"))]
    assert texts == ["a" * 60 + "\n", "c" * 60 + "\n"]


def test_a_directory_that_cannot_be_used_is_a_sentence(tmp_path: Path) -> None:
    """What stands in the way is named before the service is ready."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"MPACK_LOG_DIR is .*/file/x', which cannot be made: Not a directory"):
        Files(tmp_path / "file" / "x", "wine", 100)


class Held:
    """Lines that are not made before `go`."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def __call__(self) -> Iterable[Line]:
        assert self.go.wait(20)
        return [line()]


def test_a_full_queue_drops_and_counts_and_does_not_wait(tmp_path: Path) -> None:
    """With the disk stuck, what fits is queued, the rest is refused at once; later all that was queued is there."""
    outcomes: list[str] = []
    held = Held()
    journal = Journal(Files(tmp_path, "wine", 1 << 20), outcomes.append, capacity=1000)
    assert journal.put(held, 400) and journal.put(lambda: [line()], 600)
    begun = time.monotonic()
    assert not journal.put(lambda: [line()], 1)
    assert not journal.deliver(lambda: [line()], 1, 20)
    assert time.monotonic() - begun < 1
    held.go.set()
    journal.close(20)
    assert outcomes.count("dropped") == 2 and outcomes.count("written") == 2
    assert len(lines(tmp_path, "feedback", "wine/1")) == 2
    assert not journal.put(held, 1), "closed"


def test_a_record_that_cannot_be_written_is_counted_and_the_next_one_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The thread survives, says why once, and whoever waits is told."""
    outcomes: list[str] = []
    journal = Journal(Files(tmp_path, "wine", 1 << 20), outcomes.append)

    def broken() -> Iterable[Line]:
        raise OSError(28, "No space left on device")

    assert not journal.deliver(broken, 1, 20) and not journal.deliver(broken, 1, 20)
    assert journal.deliver(lambda: [line()], 1, 20)
    journal.close(20)
    assert outcomes == ["failed", "failed", "written"]
    assert capsys.readouterr().err.count("No space left on device") == 1


def tensor(name: str, data: Any) -> dict[str, Any]:
    """A tensor of the Open Inference Protocol."""
    return {"name": name, "datatype": "BYTES", "shape": [1], "data": data}


COLUMNS = ["age", "ssn"]
HIDDEN = "7531"
REQUESTS = [
    ({"columns": ["ssn", "age"], "data": [[HIDDEN, 1]]}, {"columns": ["ssn", "age"], "data": [["***", 1]]}),
    ({"data": [[1, HIDDEN]]}, {"data": [[1, "***"]]}),
    ({"data": [[1, 2, HIDDEN]]}, {"data": ["***"]}),
    ({"columns": "ssn", "data": [[1, HIDDEN]]}, {"columns": "ssn", "data": ["***"]}),
    (
        {"dataframe_split": {"columns": COLUMNS, "data": [[1, HIDDEN]]}},
        {"dataframe_split": {"columns": COLUMNS, "data": [[1, "***"]]}},
    ),
    ({"dataframe_records": [{"age": 1, "ssn": HIDDEN}]}, {"dataframe_records": [{"age": 1, "ssn": "***"}]}),
    ({"instances": [{"ssn": [HIDDEN]}, [1, HIDDEN], HIDDEN]}, {"instances": [{"ssn": "***"}, [1, "***"], "***"]}),
    ({"inputs": {"age": [1], "ssn": [HIDDEN]}}, {"inputs": {"age": [1], "ssn": "***"}}),
    ({"inputs": [tensor("ssn", [HIDDEN]), tensor("x", [1])]}, {"inputs": [tensor("ssn", "***"), tensor("x", "***")]}),
    ({"inputs": [tensor("age", [3])]}, {"inputs": [tensor("age", [3])]}),
    (
        {"inputs": [{"name": ["ssn"], "datatype": 1, "data": HIDDEN}]},
        {"inputs": [{"name": ["ssn"], "datatype": 1, "data": "***"}]},
    ),
]


@pytest.mark.parametrize(("body", "kept"), REQUESTS)
def test_a_column_is_taken_out_of_every_form(body: dict[str, Any], kept: dict[str, Any]) -> None:
    """By its name, by its place, and where neither is sure, with all that it could be in."""
    redactor = Redactor(frozenset({"ssn"}), COLUMNS, ["quality"])
    answer = redactor.request(json.dumps(body), "application/json")
    assert answer is not None and json.loads(answer) == kept
    plain = Redactor(frozenset(), COLUMNS, [])
    assert plain.request(json.dumps(body), "application/json") == json.dumps(body)


@pytest.mark.parametrize(
    ("body", "content_type", "kept"),
    [
        (f"ssn,age\n{HIDDEN},1\n", "text/csv", "ssn,age\n***,1\n"),
        (f"1,{HIDDEN}\n", "text/csv; header=absent", "1,***\n"),
        (f'ssn,age\n"{HIDDEN}\n",1\n\n', "text/csv", "ssn,age\n***,1\n\n"),
        (f"a,b,{HIDDEN}\n", "text/csv", None),
        ('{"data": [[NaN, "7531"]]}', "application/json", None),
        ("[" * 900 + "]" * 900, "application/json", None),
        (HIDDEN, "application/json", None),
        (f'[["{HIDDEN}"]]', "application/json", None),
    ],
)
def test_csv_and_what_cannot_be_read(body: str, content_type: str, kept: str | None) -> None:
    """CSV by header or place; what is no JSON object is not kept at all."""
    assert Redactor(frozenset({"ssn"}), COLUMNS, []).request(body, content_type) == kept


def test_answers() -> None:
    """Outputs by name; an answer without names stays; what is no object is not kept."""
    redactor = Redactor(frozenset({"ssn"}), COLUMNS, [])
    assert redactor.answer('{"prediction":[[1,2]],"columns":["ssn","q"]}') == (
        '{"prediction":[["***",2]],"columns":["ssn","q"]}'
    )
    assert redactor.answer('{"prediction":[1.5],"columns":[]}') == '{"prediction":[1.5],"columns":[]}'
    assert redactor.answer('"7531"') is None
    assert Redactor(frozenset({"q"}), [], ["q"]).answer('{"prediction":[1],"columns":[]}') == (
        '{"prediction":["***"],"columns":[]}'
    )
    assert redactor.value({"a": [{"ssn": 1}], "b": 2}) == {"a": [{"ssn": "***"}], "b": 2}
