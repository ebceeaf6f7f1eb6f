"""From a packaging to a build: arguments, the artifact's place, what is written down, bounds."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from mpack.bounds import bounded
from mpack.cli.main import run
from mpack.cli.report import as_mpack_error
from mpack.engine import Docker
from mpack.errors import EnvironmentFault, InputError, InternalError, VerificationError
from mpack.packing.artifacts import local_artifact
from mpack.packing.documents import masked
from mpack.packing.record import LOG, LoggedProgress, recorded
from mpack.redaction import hide
from mpack.results import Results
from mpack.sandbox import memory_limit, processor_limit
from mpack.sandbox.docker import DockerBox


@pytest.mark.parametrize(
    ("there", "name", "found"),
    [
        ("wine-1.0", "wine-1.0", "wine-1.0"),
        ("wine-1.0", "wine-1.0.zip", "wine-1.0"),
        ("wine-1.0.zip", "wine-1.0.zip", "wine-1.0.zip"),
        ("wine-1.0.zip", "wine-1.0", "wine-1.0.zip"),
        ("wine-1.0.zip", "wine-1.0.zip.zip", "wine-1.0.zip"),
        ("wine-1.0", "wine-1.0.zip.zip", None),
    ],
)
def test_artifact(there: str, name: str, found: str | None, tmp_path: Path) -> None:
    """As it is named, without one .zip, or with one."""
    (tmp_path / there).touch()
    if found is not None:
        assert local_artifact(name, tmp_path) == str(tmp_path / found)
        return
    with pytest.raises(InputError, match=f"neither {tmp_path}/{name} nor {tmp_path}/wine-1.0.zip exists") as caught:
        local_artifact(name, tmp_path)
    assert caught.value.code == "artifact-missing"


def test_artifact_of_local_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a directory: the working directory, then where ODAHU's local training leaves artifacts; paths as well."""
    trained, here = tmp_path / ".odahuflow" / "training_output", tmp_path / "here"
    for path in (trained / "wine", here):
        path.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(here)
    assert local_artifact("wine.zip", None) == str(trained / "wine")
    (here / "wine.zip").touch()
    assert local_artifact("wine.zip", None) == "wine.zip"
    assert local_artifact(str(trained / "wine"), here) == str(trained / "wine")


def test_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user id without an entry in passwd has no home: neither ODAHU's artifacts nor Docker's login are there."""
    from mpack.registry.credentials import find_credentials

    def nowhere(path: Path) -> Path:
        if path.parts[0].startswith("~"):
            raise RuntimeError("Could not determine home directory.")
        return path

    monkeypatch.setattr(Path, "expanduser", nowhere)
    monkeypatch.setattr(Path, "home", lambda: nowhere(Path("~")))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="There is no artifact wine: neither"):
        local_artifact("wine", None)
    assert find_credentials("registry.example") is None


def test_masked() -> None:
    """What was revealed, fields of secrets' names and users of URLs are hidden; all else stays."""
    hide("tr0ub4dor&3")
    value = {
        "spec": {"password": "x", "keyID": "", "count": 1, "list": [{"Token": "abc"}, None]},
        "url": "https://me:pass@host/x?signature=abc",
        "text": "from https://me:pass@host/x",
        "log": "it said tr0ub4dor&3, and dHIwdWI0ZG9yJjM=",
    }
    assert masked(value) == {
        "spec": {"password": "*****", "keyID": "", "count": 1, "list": [{"Token": "*****"}, None]},
        "url": "https://host/x",
        "text": "from https://*****@host/x",
        "log": "it said *****, and *****",
    }


@pytest.mark.parametrize(
    ("error", "state", "code", "message"),
    [
        (InputError("artifact-missing", "There is none."), "artifact_not_found", 1, "There is none."),
        (VerificationError("verification-failed", "It said no."), "failed", 4, "It said no."),
        (KeyboardInterrupt(), "failed", 130, "interrupted"),
        (SystemExit(143), "failed", 143, "ended by signal 15"),
        (ValueError("odd"), "failed", 70, "This is a bug in mpack: ValueError: odd"),
        (None, "succeeded", 0, ""),
    ],
)
def test_recorded(error: BaseException | None, state: str, code: int, message: str, tmp_path: Path) -> None:
    """However a run ends it is written down, with the end of its log; the error goes on."""
    results, progress = Results(tmp_path), LoggedProgress(1)
    caught: BaseException | None = None
    try:
        with recorded(results, "wine", {"spec": {}}, {"packager": "x"}, progress, as_mpack_error) as found:
            progress.warn("x" * LOG)
            progress.say("the end")
            found["image"] = "wine:1"
            if error is not None:
                raise error
    except BaseException as raised:
        caught = raised
    assert caught is error
    latest, log = results.latest("wine"), results.log("wine")
    assert latest is not None and log is not None
    assert latest.state == state and latest.facts["exit_code"] == code and latest.facts["message"] == message
    assert (latest.facts["packager"], latest.facts["image"]) == ("x", "wine:1")
    assert len(log) == LOG and "the end\n" in log and log.endswith(f"mpack: {message}\n" if error else "the end\n")


def test_recorded_names(tmp_path: Path) -> None:
    """A file's name that is not UTF-8 is written down escaped, and keeps no run from being so."""
    results, progress, name = Results(tmp_path), LoggedProgress(1), os.fsdecode(b"caf\xe9")
    error = InputError("artifact-missing", f"There is no {name}.", "")
    with pytest.raises(InputError), recorded(results, "wine", {"spec": name}, {}, progress, as_mpack_error):
        raise error
    latest = results.latest("wine")
    assert latest is not None and latest.state == "artifact_not_found"
    assert results.log("wine") == "mpack: There is no caf\\udce9.\n"


def test_bounds() -> None:
    """Processors and memory hold for what is started and for sandboxes, and are as before afterwards."""
    before = os.sched_getaffinity(0), resource.getrlimit(resource.RLIMIT_DATA), memory_limit()
    with bounded(0.5, 1 << 30):
        told = "import os, resource; print(len(os.sched_getaffinity(0)), resource.getrlimit(resource.RLIMIT_DATA)[0])"
        done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["1", str(1 << 30)]
        assert memory_limit() == 1 << 30
        assert processor_limit() == (1 if (os.cpu_count() or 1) > 1 else None)
    assert (os.sched_getaffinity(0), resource.getrlimit(resource.RLIMIT_DATA), memory_limit()) == before


def test_bounds_of_docker() -> None:
    """A container, which is no child of this process, gets the same bounds."""
    given: list[str] = []

    class Engine:
        def run(self, image: str, words: list[str], *, options: list[str], **_: object) -> SimpleNamespace:
            given.extend(options)
            return SimpleNamespace(returncode=0, stdout=b"", stderr="")

    box = DockerBox(cast("Docker", Engine()), "sha256:abc")
    with bounded(0.5, 1 << 30):
        box.run(["self-check"])
    assert f"--memory={1 << 30}" in given
    assert ("--cpu-quota=100000" in given) == ((os.cpu_count() or 1) > 1)
    given.clear()
    box.run(["self-check"])
    assert not any(option.startswith("--cpu") for option in given) or processor_limit() is not None


def test_too_little_memory() -> None:
    """mpack's own lack of memory is an error that names the limit, and no bug."""
    with pytest.raises(EnvironmentFault, match="more than the 2147 MB of memory") as caught, bounded(None, 1 << 31):
        bytearray(1 << 32)
    assert caught.value.code == "memory-exceeded"
    with pytest.raises(EnvironmentFault, match="more than the 67 MB of memory"), bounded(None, 64 << 20):
        try:
            raise RuntimeError("can't start new thread")
        finally:
            threading.Thread().join()
    of_uv = InternalError("internal", "uv failed: memory allocation of 16393 bytes failed; stack backtrace:")
    with pytest.raises(EnvironmentFault, match="more than the 67 MB of memory"), bounded(None, 64 << 20):
        raise of_uv
    of_a_model = VerificationError("verification-failed", "OSError: Cannot allocate memory.")
    for error, memory in ((of_uv, None), (of_a_model, 1 << 31), (InternalError("internal", "odd"), 1 << 31)):
        with pytest.raises(type(error)) as kept, bounded(None, memory):
            raise error
        assert kept.value is error


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with runs of wine (two) and of beer."""
    monkeypatch.setenv("MPACK_HOME", str(tmp_path))
    for name in ("wine", "beer", "wine"):
        spec = {"integrationName": "docker-rest", "arguments": {"workers": 4}}
        facts = {"results": [{"name": "image", "value": f"localhost/{name}:1"}]}
        Results.default().begin(name, {"id": name, "spec": spec}, {}).finish("succeeded", facts, f"{name}\n")
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as caught:
        run(["pack", *words])
    told = capsys.readouterr()
    assert caught.value.code == code, told.err
    return told.out if code == 0 else told.err


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--id", "wine", "-o", "jsonpath=$[0].status.results[0].value"), "localhost/wine:1\n"),
        (("--id", "wine", "-o", "jsonpath=[*].spec.arguments"), '{"workers": 4}\n'),
        (("-o", "jsonpath=$[*].id"), '["wine", "beer"]\n'),
        (("-o", "jsonpath=$[?(@.id == 'beer')].status.state"), "succeeded\n"),
        (("-o", "jsonpath=$[*].nothing"), "[]\n"),
    ],
)
def test_jsonpath(words: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The seed's expressions as they are written; one match is printed bare, several as a list."""
    assert printed(capsys, "get", *words) == expected


@pytest.mark.usefixtures("home")
def test_get_list_logs_delete(capsys: pytest.CaptureFixture[str]) -> None:
    """Documents by last run, rows by run; deleting forgets; what is not there is an error."""
    import yaml

    documents = json.loads(printed(capsys, "get", "-o", "json"))
    assert [item["id"] for item in documents] == ["wine", "beer"]
    assert documents[0]["kind"] == "ModelPackaging" and documents[0]["spec"]["integrationName"] == "docker-rest"
    assert yaml.safe_load(printed(capsys, "get")) == documents
    rows = [line.split() for line in printed(capsys, "list").splitlines()]
    assert rows[0] == ["ID", "STATE", "IMAGE", "WHEN"]
    assert [row[:3] for row in rows[1:3]] == [
        ["wine", "succeeded", "localhost/wine:1"],
        ["beer", "succeeded", "localhost/beer:1"],
    ]
    assert len(rows) == 4
    assert len(printed(capsys, "list", "--id", "wine", "--limit", "1").splitlines()) == 2
    assert printed(capsys, "logs", "--id", "beer") == "beer\n"
    printed(capsys, "delete", "--id", "wine")
    assert [item["id"] for item in json.loads(printed(capsys, "get", "-o", "json"))] == ["beer"]
    for words in (("delete", "--id", "wine"), ("get", "--id", "wine"), ("logs", "--id", "wine")):
        assert "No packaging wine was run here." in printed(capsys, *words, code=2)
    printed(capsys, "delete", "--id", "wine", "--ignore-not-found")


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("get", "-o", "xml"), "'xml' is not an output format"),
        (("get", "-o", "jsonpath="), "'jsonpath=' is not an output format"),
        (("get", "-o", "jsonpath=$[["), "'$[[' is not a JSONPath"),
        (("get", "-o", "jsonpath=$[?(@.id =~ '((')]"), "is not a JSONPath: missing )"),
        (("get", "-o", "jsonpath=$" + ".a" * 3000), "is not a JSONPath: it is too long"),
        (("delete",), "takes --id ID or -f FILE"),
        (("delete", "--id", "x", "-f", "y"), "takes --id ID or -f FILE"),
        (("run",), "There is no manifest to package by"),
    ],
)
def test_wrong_words(words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What a command cannot do is said before anything is done."""
    assert told in printed(capsys, *words, code=2)
