"""The command line's manners: exit codes, one error printed once, JSON on stdout only."""

from __future__ import annotations

import errno
import importlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from mpack.cli.main import mpack
from mpack.cli.options import build_request, parse_arguments
from mpack.cli.report import report_error
from mpack.errors import (
    CODES,
    EnvironmentFault,
    InputError,
    InternalError,
    MpackError,
    UsageError,
    VerificationError,
)
from mpack.progress import Progress

EXITS = {InputError: 1, UsageError: 2, EnvironmentFault: 3, VerificationError: 4, InternalError: 70}


@pytest.mark.parametrize("kind", EXITS, ids=lambda kind: kind.__name__)
def test_every_class_prints_message_and_hint(kind: type[MpackError], capsys: pytest.CaptureFixture[str]) -> None:
    """An error is printed once on stderr: message, then hint; its exit code is its kind's."""
    error = kind("internal", "Reading x failed: it is empty.", "Give another.")
    assert report_error(error, debug=False, as_json=False) == EXITS[kind]
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "mpack: Reading x failed: it is empty.\n  Give another.\n"


def test_json_error(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json the error is one object on stdout as well."""
    report_error(InputError("artifact-empty", "It is empty.", "Give another."), debug=False, as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "error": {"code": "artifact-empty", "message": "It is empty.", "hint": "Give another."}
    }


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (click.UsageError("no such option"), 2),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 3),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 3),
        (ZeroDivisionError("division"), 70),
        (SystemExit(7), 7),
        (BrokenPipeError(), 141),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_codes(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Foreign exceptions have exit codes too, and none shows a traceback."""
    assert report_error(error, debug=False, as_json=False) == code
    assert "Traceback" not in capsys.readouterr().err


def test_a_group_alone_prints_its_help(mpack: Any) -> None:
    """It is no error message; the exit code is that of usage."""
    told = mpack("pack", code=2).stderr
    assert told.startswith("Usage: mpack pack ")
    assert "See `mpack pack --help`" not in told


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """--debug does."""
    try:
        raise ValueError("x")
    except ValueError as error:
        report_error(error, debug=True, as_json=False)
    assert "Traceback" in capsys.readouterr().err


def test_debug_stands_anywhere(mpack: Any) -> None:
    """--debug is taken before and behind the verb."""
    for args in (["--debug", "packagers", "nonsense"], ["packagers", "nonsense", "--debug"]):
        assert "Traceback" in mpack(*args, code=2).stderr


def test_an_unusable_home_is_no_bug(mpack: Any, tmp_path: Path) -> None:
    """A home that is a file, an index that is a directory: exit 3 and a sentence."""
    (tmp_path / "file").write_text("")
    (tmp_path / "home" / "data" / "store" / "index.json").mkdir(parents=True)
    for home in ("file", "home"):
        done = mpack("images", code=3, MPACK_HOME=str(tmp_path / home))
        assert str(tmp_path / home) in done.stderr


@pytest.mark.parametrize(("words", "code"), [(["packagers"], 0), (["no-such-verb"], 2)])
def test_the_end(words: list[str], code: int) -> None:
    """What is to be done at the end of a process is done, and what was printed is out; the exit code is the verb's."""
    program = "import atexit; atexit.register(print, 'last'); from mpack.cli.main import run; run()"
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (code, "last")


def test_an_end_that_nobody_can_read() -> None:
    """Where what was printed cannot be written, Python says so, and the exit code does."""
    program = "import sys; from mpack.cli.main import run; sys.stdout.reconfigure(line_buffering=False); run()"
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", program, "packagers", "--json"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode != 0 and "No space left" in done.stderr


def test_unlisted_code_is_refused() -> None:
    """An error code that CODES does not list cannot be raised."""
    assert "no-such-code" not in CODES
    with pytest.raises(ValueError, match="no-such-code"):
        InputError("no-such-code", "x")


def test_parse_arguments() -> None:
    """KEY=VALUE; the value may hold `=`; no `=`, no key, or a key twice is a usage error."""
    assert parse_arguments(("a=1", "b=x=y", "c=")) == {"a": "1", "b": "x=y", "c": ""}
    for words in (("a",), ("=1",), ("a=1", "a=2")):
        with pytest.raises(UsageError):
            parse_arguments(words)


@pytest.mark.parametrize(("verb", "args"), [("build", []), ("plan", []), ("export", ["out"])])
def test_no_trim(verb: str, args: list[str], tmp_path: Path) -> None:
    """Every command that decides an environment trims it unless told otherwise."""
    command: click.Command = importlib.import_module(f"mpack.cli.{verb}").command
    for words, trim in ([], True), (["--no-trim"], False):
        parent = click.Context(mpack, **mpack.context_settings)
        values = command.make_context(verb, [str(tmp_path), *args, *words], parent=parent).params
        assert build_request(**values).options.trim is trim


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["build"], 2, "Missing argument"),
        (["nonsense"], 2, "No such command"),
        (["build", "/no/such/file"], 1, "/no/such/file"),
        (["build", "{model}", "-p", "nonsense"], 2, "nonsense"),
        (["build", "{model}", "-a", "port=high"], 2, "port"),
        (["build", "{model}", "-a", "nonsense=1"], 2, "no such argument"),
        (["build", "{model}", "-o", "nonsense"], 2, "nonsense"),
        (["build", "{model}", "--python", "three"], 2, "three"),
        (["build", "{model}", "--platform", "windows/amd64"], 2, "windows/amd64"),
        (["build", "{model}", "-t", "!!!"], 1, "no usable character"),
        (["verify", "no-such-image:1"], 3, "no-such-image:1"),
        (["packagers", "nonsense"], 2, "nonsense"),
        (["plan", "{model}", "--max-size", "many"], 2, "many"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_use(args: list[str], code: int, words: str, mpack: Any) -> None:
    """A wrong command line ends with its exit code and a sentence, and prints nothing on stdout."""
    model = Path(__file__).parents[2] / "fixtures" / "models" / "mlflow-wine" / "model"
    done = mpack(*[word.replace("{model}", str(model)) for word in args], code=code)
    assert done.stdout == ""
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_progress_on_a_terminal_and_off() -> None:
    """Plain lines where there is no terminal, a bar where there is; warnings are kept; phases of one name add up."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, bar in ((io.StringIO(), False), (Terminal(), True)):
        progress = Progress(2, stream)
        for _ in range(2):
            with progress.phase("build", "building"):
                pass
        progress.warn("careful")
        assert ("[#####" in stream.getvalue()) is bar
        assert "building: 0.0 s\n" in stream.getvalue()
        assert "warning: careful\n" in stream.getvalue()
        assert list(progress.timings) == ["build"]
        assert progress.warnings == ["careful"]
