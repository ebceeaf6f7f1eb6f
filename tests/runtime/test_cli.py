"""The command line of the image: predict over files, info, self-check, exit codes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]

CSV = "alcohol,year,grape\n12.5,1999,merlot\n11.0,2001,\n"
EXPECTED = [14.499, 13.001]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty OUTPUT_DIR."""
    directory = tmp_path / "volume"
    directory.mkdir()
    return directory


@pytest.fixture
def request_json(tmp_path: Path) -> Path:
    """The reference's kind of input."""
    path = tmp_path / "x.json"
    path.write_text('{"columns": ["year", "alcohol", "grape"], "data": [[1999, 12.5, "merlot"], [2001, 11.0, null]]}')
    return path


def test_predict_prints_the_references_line_and_nothing_else(
    model_json: Path, command: Command, out: Path, request_json: Path
) -> None:
    """stdout is exactly one line, though the model prints; the result is results.json as the REST service answers."""
    ran = command(model_json, "predict", request_json, out)
    assert (ran.code, ran.out) == (0, f"Prediction is successful. Result file: {out}/results.json\n")
    assert json.loads((out / "results.json").read_text()) == {"prediction": EXPECTED, "columns": ["quality"]}
    assert [path.name for path in out.iterdir()] == ["results.json"]


def test_output_file_name_stands_before_or_after_and_overwrites(
    model_json: Path, command: Command, out: Path, request_json: Path
) -> None:
    """The reference's option in any place; an older result is replaced."""
    (out / "a.json").write_text("old")
    assert command(model_json, "predict", "--output_file_name", "a.json", request_json, out).code == 0
    assert "14.499" in (out / "a.json").read_text()
    assert command(model_json, "-v", "predict", request_json, out, "--output_file_name", "b.json").code == 0
    assert (out / "b.json").exists()


def test_every_format_in_and_out(model_json: Path, command: Command, out: Path, tmp_path: Path) -> None:
    """CSV, JSON Lines of records or rows, and Parquet say the same; the result has the input's format or --format."""
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "a.csv").write_text(CSV)
    records = [{"alcohol": 12.5, "grape": "merlot", "year": 1999}, {"year": 2001, "alcohol": 11, "grape": None}]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "c.ndjson").write_text('[12.5, "merlot", 1999]\n\n[11.0, null, 2001]\n')
    table = pyarrow.table({"year": [1999, 2001], "grape": ["merlot", None], "alcohol": [12.5, 11.0]})
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    inputs = [tmp_path / name for name in ("a.csv", "b.jsonl", "c.ndjson", "d.parquet")]
    ran = command(model_json, "predict", *inputs, out)
    assert ran.code == 0, ran.err
    assert ran.out.splitlines() == [
        f"Prediction is successful. Result file: {out}/{name}"
        for name in ("a.results.csv", "b.results.jsonl", "c.results.jsonl", "d.results.parquet")
    ]
    assert (out / "a.results.csv").read_text() == "quality\n14.499\n13.001\n"
    assert (out / "b.results.jsonl").read_text() == '{"quality":14.499}\n{"quality":13.001}\n'
    assert (out / "c.results.jsonl").read_bytes() == (out / "b.results.jsonl").read_bytes()
    assert pyarrow.parquet.read_table(out / "d.results.parquet").to_pydict() == {"quality": EXPECTED}
    for source, form in ((inputs[0], "json"), (inputs[0], "parquet"), (inputs[3], "csv")):
        assert command(model_json, "predict", source, out, "--format", form).code == 0
    assert json.loads((out / "results.json").read_text()) == {"prediction": EXPECTED, "columns": ["quality"]}
    assert pyarrow.parquet.read_table(out / "results.parquet").to_pydict() == {"quality": EXPECTED}
    assert (out / "results.csv").read_text() == "quality\n14.499\n13.001\n"


def test_a_format_is_seen_in_the_content(model_json: Path, command: Command, out: Path, tmp_path: Path) -> None:
    """Without a telling suffix the content decides."""
    for name, text in (("one", CSV), ("two", '{"data": [[1.0, "a", 0]]}'), ("three", '[1.0, "a", 0]\n[2.0, "a", 0]\n')):
        (tmp_path / name).write_text(text)
        ran = command(model_json, "predict", tmp_path / name, out, "--output_file_name", f"{name}.jsonl")
        assert ran.code == 0, ran.err
    assert (out / "three.jsonl").read_text() == '{"quality":1.0}\n{"quality":2.0}\n'


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["predict"], "INPUT"),
        (["predict", "x.json"], "OUTPUT_DIR"),
        (["predict", "x.json", "nowhere"], "nowhere"),
        (["predict", "x.json", "volume", "--format", "xml"], "xml"),
        (["predict", "x.json", "volume", "--output_file_name", "../x.json"], "plain file name"),
        (["predict", "x.json", "y.json", "volume", "--output_file_name", "a"], "one file"),
        (["predict", "x.json", "x.csv", "volume"], "x.results"),
        (["predict", "x.json", "x.json", "volume"], "x.results"),
        (["predict", "volume/results.json", "volume"], "replace the input"),
        (["info", "--nonsense"], "nonsense"),
        (["nonsense"], "nonsense"),
        (["--model", "nowhere", "info"], "nowhere"),
        (["--model", "volume", "info"], "--entrypoint"),
    ],
)
def test_usage_errors(
    model_json: Path, command: Command, out: Path, request_json: Path, words: list[str], says: str
) -> None:
    """Exit 2, the reason on stderr, nothing on stdout, nothing written."""
    (out / "results.json").write_text("{}")
    ran = command(model_json, *words)
    assert (ran.code, ran.out) == (2, "") and says in ran.err
    assert [path.name for path in out.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("alcohol,year\n1,2\n1,x\n", "a.csv", "Row 2"),
        ("alcohol,grape\n1,2\n", "a.csv", '"year"'),
        ("alcohol,year,grape\n", "a.csv", "no row"),
        ("", "a.csv", "no line"),
        ('{"data": [[1.0, "boom", 1]]}', "a.json", "Exception during prediction: the grapes are off"),
        ("{}", "a.json", "Matrix is not provided"),
        ('{"alcohol": 1, "year": 2}\n{', "a.jsonl", "Line 2"),
        ("not parquet", "a.parquet", "Parquet"),
        ('{"alcohol": 1, "year": 2, "year": 3}\n', "a.jsonl", 'Line 1: The key "year" stands twice'),
        (None, "missing.csv", "missing.csv"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    model_json: Path, command: Command, out: Path, tmp_path: Path, text: str | None, name: str, says: str
) -> None:
    """Exit 1, a last line that names file and reason, no half result."""
    if text is not None:
        (tmp_path / name).write_text(text)
    ran = command(model_json, "predict", tmp_path / name, out)
    last = ran.err.splitlines()[-1]
    assert (ran.code, ran.out) == (1, "") and name in last and says in last, ran.err
    assert list(out.iterdir()) == []


def test_a_killed_run_is_in_nobodys_way(
    model_json: Path, command: Command, out: Path, request_json: Path, tmp_path: Path
) -> None:
    """In containers every run has the same process number: what one left under it does not stop the next."""
    script = "import os, runpy; os.getpid = lambda: 1; runpy.run_module('mpack_runtime', run_name='__main__')"
    (out / ".results.json.1.partial").write_text("half")
    words = ["predict", str(request_json), str(out)]
    env = {**os.environ, "MPACK_MODEL_JSON": str(model_json)}
    ran = subprocess.run([sys.executable, "-c", script, *words], env=env, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert (out / "results.json").exists()


def test_a_pipe_is_no_input(model_json: Path, command: Command, out: Path, tmp_path: Path) -> None:
    """It is told by name; nothing is left behind."""
    os.mkfifo(tmp_path / "pipe")
    held = os.open(tmp_path / "pipe", os.O_RDWR)
    ran = command(model_json, "predict", tmp_path / "pipe", out)
    os.close(held)
    assert ran.code == 1 and f"The input {tmp_path}/pipe is a pipe" in ran.err and not list(out.iterdir())


def test_a_directory_in_the_results_place(model_json: Path, command: Command, out: Path, request_json: Path) -> None:
    """It is told before the model is asked, and nothing is left behind."""
    (out / "results.json").mkdir()
    ran = command(model_json, "predict", request_json, out)
    assert ran.code == 2 and ran.err == (
        f"The result {out}/results.json is a directory; give another --output_file_name.\n"
    )
    assert [path.name for path in out.iterdir()] == ["results.json"]


def test_files_in_the_working_directory_are_no_modules(
    model_json: Path, command: Command, out: Path, tmp_path: Path, request_json: Path
) -> None:
    """With `docker run -w /volume` a numpy.py beside the data is data."""
    (tmp_path / "numpy.py").write_text("raise SystemExit('imported from the working directory')")
    assert command(model_json, "predict", request_json, out).code == 0


def test_one_bad_input_of_several_leaves_nothing(model_json: Path, command: Command, out: Path, tmp_path: Path) -> None:
    """All results or none."""
    (tmp_path / "good.csv").write_text(CSV)
    (tmp_path / "bad.csv").write_text("alcohol\n1\n")
    assert command(model_json, "predict", tmp_path / "good.csv", tmp_path / "bad.csv", out).code == 1
    assert list(out.iterdir()) == []


def test_extra_columns_are_named_once(model_json: Path, command: Command, out: Path, tmp_path: Path) -> None:
    """A dropped column is told on stderr, once however many chunks there are."""
    rows = "".join(f"{number},2000,a,z\n" for number in range(60_000))
    (tmp_path / "a.csv").write_text("alcohol,year,grape,color\n" + rows)
    ran = command(model_json, "predict", tmp_path / "a.csv", out)
    assert ran.code == 0 and ran.err.count('"color"') == 1
    assert len((out / "results.csv").read_text().splitlines()) == 60_001


def test_chunks_join_to_one_json(model_json: Path, command: Command, out: Path, tmp_path: Path) -> None:
    """A CSV of several chunks as JSON is one document with every row in order; a late error names its own row."""
    lines = [f"{number},0,a" for number in range(70_000)]
    (tmp_path / "a.csv").write_text("\n".join(["alcohol,year,grape", *lines]) + "\n")
    assert command(model_json, "predict", tmp_path / "a.csv", out, "--format", "json").code == 0
    answer = json.loads((out / "results.json").read_text())
    assert answer == {"prediction": [float(number) for number in range(70_000)], "columns": ["quality"]}
    lines[66_000] = "x,0,a"
    (tmp_path / "a.csv").write_text("\n".join(["alcohol,year,grape", *lines]) + "\n")
    assert "Row 66001" in command(model_json, "predict", tmp_path / "a.csv", out).err


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_memory_does_not_grow_with_the_file(
    model_json: Path, command: Command, out: Path, tmp_path: Path, form: str
) -> None:
    """Twice the rows, 80 MB more as objects of Python, cost no more than 25 MB more."""

    def peak(rows: int) -> int:
        path = tmp_path / f"{rows}.{form}"
        if form == "csv":
            path.write_text("alcohol,year,grape\n" + "12.5,1999,merlot\n" * rows)
        elif form == "jsonl":
            path.write_text('{"alcohol": 12.5, "year": 1999, "grape": "merlot"}\n' * rows)
        else:
            import pyarrow
            import pyarrow.parquet

            table = pyarrow.table({"alcohol": [12.5] * rows, "year": [1999] * rows, "grape": ["merlot"] * rows})
            pyarrow.parquet.write_table(table, path, row_group_size=20_000)
        script = (
            "import resource, sys; from mpack_runtime.__main__ import main; code = main(sys.argv[1:]); "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, code)"
        )
        env = {**os.environ, "MPACK_MODEL_JSON": str(model_json)}
        done = subprocess.run(
            [sys.executable, "-c", script, "predict", str(path), str(out)], capture_output=True, text=True, env=env
        )
        used, code = done.stdout.splitlines()[-1].split()
        assert code == "0", done.stderr
        return int(used)  # KiB

    assert peak(600_000) - peak(300_000) < 25_000


def test_info(model_json: Path, command: Command) -> None:
    """`Input schema:` and `Output schema:` with JSON of indent 4, and nothing of what the model prints."""
    ran = command(model_json, "info")
    assert ran.code == 0 and ran.out.startswith('Input schema:\n{\n    "columns": {\n        "example": [\n')
    first, second = ran.out.removeprefix("Input schema:\n").split("Output schema:\n")
    assert list(json.loads(first)) == ["columns", "data"]
    assert list(json.loads(first)["data"])[:3] == ["items", "type", "example"]
    assert json.loads(second)["prediction"]["example"] == EXPECTED


def test_info_without_a_signature_asks_the_model(make_model: Callable[..., Path], command: Command) -> None:
    """Where model.json says nothing the entry point's info() does."""
    entry = (
        "def init(): return 'matrix'\n"
        "def info(): return [{'name': 'a', 'type': 'number', 'example': 2.5}], [{'name': 'y', 'type': 'integer'}]\n"
    )
    ran = command(make_model(entry, signature=None, sample=None), "info")
    assert ran.code == 0, ran.err
    schema = json.loads(ran.out.removeprefix("Input schema:\n").split("Output schema:\n")[0])
    assert schema["columns"]["example"] == ["a"] and schema["data"]["items"]["items"] == {"type": "number"}


@pytest.mark.parametrize("word", ["self-check", "self_check"])
def test_self_check(model_json: Path, make_model: Callable[..., Path], command: Command, word: str) -> None:
    """One JSON line on stdout; 0 passed, 4 failed with the reason."""
    ran = command(model_json, word)
    assert ran.code == 0 and ran.out.count("\n") == 1
    report = json.loads(ran.out)
    assert (report["status"], report["against"], report["rows"]) == ("passed", "expected", 2)
    failed = command(make_model(sample={"request": {"data": [[1.0, "boom", 1]]}}), word)
    assert failed.code == 4 and "the grapes are off" in json.loads(failed.out)["reason"]


def test_self_check_lists_modules(model_json: Path, command: Command) -> None:
    """--modules names the sources that serving imports: the application's, the framework's and the server's."""
    modules = json.loads(command(model_json, "self-check", "--modules").out)["modules"]
    assert modules == sorted(modules)
    assert any(path.endswith("/mpack_runtime/rest/app.py") for path in modules)
    assert any(path.endswith("/flask/app.py") for path in modules)
    assert any(path.endswith("/gunicorn/arbiter.py") for path in modules)


def test_another_model_by_option(
    model_json: Path, tmp_path: Path, command: Command, request_json: Path, out: Path
) -> None:
    """--model DIR --entrypoint MODULE runs a bare GPPI directory; --entrypoint alone picks another module."""
    gppi = tmp_path / "other"
    gppi.mkdir()
    (gppi / "main.py").write_text(
        "def init(): return 'matrix'\n"
        "def predict_on_matrix(matrix, provided_columns_names=None): return [len(matrix)], ['rows']\n"
    )
    ran = command(model_json, "--model", gppi, "--entrypoint", "main", "predict", request_json, out)
    assert ran.code == 0, ran.err
    assert json.loads((out / "results.json").read_text()) == {"prediction": [2], "columns": ["rows"]}
    wrong = command(model_json, "--entrypoint", "no_such_entry", "self-check")
    assert wrong.code == 4 and "no_such_entry" in json.loads(wrong.out)["reason"]


def test_a_missing_dependency_is_told_with_a_hint(
    make_model: Callable[..., Path], command: Command, out: Path, request_json: Path
) -> None:
    """ImportError: exit 1, the module's name and what to do."""
    ran = command(make_model("import no_such_module\n"), "predict", request_json, out)
    last = ran.err.splitlines()[-1]
    assert ran.code == 1 and "no_such_module" in last and "requirements" in last


def test_serve_needs_the_service(model_json: Path) -> None:
    """In an image without gunicorn `serve` says that this is no REST image."""
    script = (
        "import importlib.util, sys; real = importlib.util.find_spec; "
        "importlib.util.find_spec = lambda name, *rest: None if name == 'gunicorn' else real(name, *rest); "
        "from mpack_runtime.__main__ import main; sys.exit(main(['serve']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 2 and "no REST service" in done.stderr


def test_no_command_prints_help(model_json: Path, command: Command) -> None:
    """As the reference: help on stdout, exit 0; and quickly, without numpy or a model."""
    ran = command(model_json)
    assert ran.code == 0 and all(word in ran.out for word in ("predict", "info", "self-check", "serve"))
    script = "import sys; from mpack_runtime.__main__ import main; main([]); print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_a_full_disk_is_exit_3(model_json: Path, command: Command, tmp_path: Path, request_json: Path) -> None:
    """A result that cannot be written is the environment's fault, in one sentence."""
    (tmp_path / "dir").mkdir()
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)); import signal; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "from mpack_runtime.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    env = {**os.environ, "MPACK_MODEL_JSON": str(model_json)}
    arguments = [sys.executable, "-B", "-c", script, "predict", str(request_json), str(tmp_path / "dir")]
    done = subprocess.run(arguments, capture_output=True, text=True, env=env)
    assert done.returncode == 3 and "File too large" in done.stderr.splitlines()[-1]
    assert list((tmp_path / "dir").iterdir()) == []


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_leaves_nothing(
    make_model: Callable[..., Path], out: Path, request_json: Path, sign: signal.Signals
) -> None:
    """Ctrl-C and docker stop: exit 130, no half result."""
    entry = (
        "import time\ndef init(): return 'matrix'\n"
        "def predict_on_matrix(matrix, provided_columns_names=None): time.sleep(30)\n"
    )
    env = {**os.environ, "MPACK_MODEL_JSON": str(make_model(entry))}
    arguments = [sys.executable, "-m", "mpack_runtime", "predict", str(request_json), str(out)]
    with subprocess.Popen(arguments, env=env, stderr=subprocess.PIPE) as process:
        end = time.monotonic() + 20
        while not list(out.iterdir()) and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(1.5)
        process.send_signal(sign)
        assert process.wait(5) == 130
    assert list(out.iterdir()) == []


def test_a_progress_bar_on_a_terminal_only(model_json: Path, out: Path, tmp_path: Path) -> None:
    """On a terminal stderr shows a bar that is wiped at the end; elsewhere nothing."""
    (tmp_path / "a.csv").write_text("alcohol,year,grape\n" + "12.5,1999,merlot\n" * 100_000)
    master, slave = pty.openpty()
    env = {**os.environ, "MPACK_MODEL_JSON": str(model_json)}
    arguments = [sys.executable, "-m", "mpack_runtime", "predict", str(tmp_path / "a.csv"), str(out)]
    process = subprocess.Popen(arguments, env=env, stdout=subprocess.PIPE, stderr=slave)
    os.close(slave)
    shown = b""
    try:
        while data := os.read(master, 65536):
            shown += data
    except OSError:  # the terminal's other end is closed
        pass
    assert process.communicate()[0].startswith(b"Prediction is successful.") and process.returncode == 0
    assert b"rows" in shown and b"%" in shown and shown.endswith(b"\x1b[K")
