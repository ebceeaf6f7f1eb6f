"""Finding a docker client and driving it, with hand-written clients that answer as real ones do."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mpack.engine import Docker
from mpack.errors import EnvironmentFault

VERSION = (
    '{"Client":{"Version":"%s"},"Server":{"Version":"20.10.24","Os":"linux","Arch":"amd64"}}'  # as `docker version`
)
NO_SERVER = '{"Client":{"Version":"28.2.2"},"Server":null}'


def write_client(directory: Path, script: str) -> Path:
    """A program `docker` in a directory of its own; `script` is shell with the arguments in "$@"."""
    directory.mkdir(parents=True, exist_ok=True)
    client = directory / "docker"
    client.write_text(f"#!/bin/sh\n{script}\n")
    client.chmod(0o755)
    return client


def answers(version: str, buildx: bool = False, more: str = "") -> str:
    """The shell of a client with an engine behind it."""
    return f"""
case "$1 $2" in
  "version --format") echo '{VERSION % version}';;
  "buildx version") exit {0 if buildx else 1};;
  "context inspect") echo remote;;
{more}
  *) echo "unexpected: $*" >&2; exit 1;;
esac"""


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """`path(DIR…)`: only these directories, and the shell's own programs, are on PATH."""

    def use(*directories: Path) -> None:
        # A link to each program a script needs, so that a docker of this machine is not found.
        tools = tmp_path / "tools"
        tools.mkdir(exist_ok=True)
        for tool in ("cat", "sleep", "env", "sh"):
            if not (tools / tool).exists():
                (tools / tool).symlink_to(f"/bin/{tool}" if Path(f"/bin/{tool}").exists() else f"/usr/bin/{tool}")
        monkeypatch.setenv("PATH", os.pathsep.join(map(str, (*directories, tools))))
        # Another context than the default: an engine of this machine is none of these clients'.
        monkeypatch.setenv("DOCKER_CONTEXT", "elsewhere")

    return use


@pytest.fixture
def docker(tmp_path: Path):
    """`docker(SHELL)`: a Docker whose client is that script."""

    def make(more: str, version: str = "20.10.24", builder: str | None = "env") -> Docker:
        client = write_client(tmp_path / "client", answers(version, more=more))
        return Docker(str(client), version, "20.10.24", "linux/amd64", builder)

    return make


def test_no_client(path, tmp_path: Path) -> None:
    """Without a client the fault says that there is none, and what works without."""
    path(tmp_path)
    with pytest.raises(EnvironmentFault, match="no program `docker` on PATH") as caught:
        Docker.find()
    assert caught.value.code == "engine-unavailable"
    assert "--builder embedded" in caught.value.hint


def test_no_engine(path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client whose engine does not answer is named with its own words, and DOCKER_HOST without its password."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://user:secret@far:2375")
    client = write_client(tmp_path / "a", f"echo '{NO_SERVER}'; echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    path(client.parent)
    with pytest.raises(EnvironmentFault) as caught:
        Docker.find()
    assert str(client) in caught.value.message
    assert "Cannot connect to the Docker daemon" in caught.value.message
    assert "tcp://***@far:2375" in caught.value.message
    assert "secret" not in str(caught.value)


def test_hanging_client(path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that hangs is given up."""
    monkeypatch.setattr("mpack.engine.clients.PATIENCE", 0.3)
    path(write_client(tmp_path / "a", "exec sleep 30").parent)
    with pytest.raises(EnvironmentFault, match="no answer within"):
        Docker.find()


def test_prefers_a_client_that_can_build(path, tmp_path: Path) -> None:
    """A 28 client without buildx comes after a 20.10 client, which has BuildKit by itself."""
    new, old = write_client(tmp_path / "new", answers("28.2.2")), write_client(tmp_path / "old", answers("20.10.24"))
    path(new.parent, old.parent)
    found = Docker.find()
    assert (found.client, found.builder, found.buildkit) == (str(old), "env", True)


def test_client_without_buildkit(path, tmp_path: Path) -> None:
    """Alone it is found and runs containers; building is refused with what to install."""
    path(write_client(tmp_path / "new", answers("28.2.2")).parent)
    found = Docker.find()
    assert not found.buildkit
    with pytest.raises(EnvironmentFault, match="lacks the buildx plugin"):
        found.build(tmp_path, platform="linux/amd64")


def test_buildx_uses_the_engines_own_builder(path, tmp_path: Path) -> None:
    """With buildx the builder of the current context is named, not one that keeps its images to itself."""
    path(write_client(tmp_path / "new", answers("28.2.2", buildx=True)).parent)
    found = Docker.find()
    assert (found.builder, found.builder_name) == ("buildx", "remote")
    assert found._build_command()[:3] == ["buildx", "build", "--builder=remote"]


def test_build_keeps_secrets_off_the_command_line(docker, tmp_path: Path) -> None:
    """The client gets secrets and proxies by environment; the image's id comes from the iidfile."""
    client = docker(
        f"""  build*) echo "$*" > {tmp_path}/argv; env > {tmp_path}/env
    for word; do case "$word" in --iidfile=*) printf sha256:abc > "${{word#--iidfile=}}";; esac; done
    echo '#7 0.5 token tops3cret';;"""
    )
    lines: list[str] = []
    image = client.build(
        tmp_path,
        platform="linux/amd64",
        secrets={"mpack-index": '{"UV_INDEX": "tops3cret"}', "mpack-ca": tmp_path / "ca.pem"},
        build_args={"HTTP_PROXY": "proxy-tops3cret"},
        on_line=lines.append,
        redact=lambda text: text.replace("tops3cret", "***"),
    )
    assert image == "sha256:abc"
    argv = (tmp_path / "argv").read_text()
    assert "tops3cret" not in argv
    assert f"--secret=id=mpack-ca,src={tmp_path}/ca.pem" in argv
    assert "--build-arg=HTTP_PROXY " in argv
    assert "HTTP_PROXY=proxy-tops3cret" in (tmp_path / "env").read_text()
    assert "DOCKER_BUILDKIT=1" in (tmp_path / "env").read_text()
    assert lines == ["#7 0.5 token ***"]


def test_build_failure_ends_with_the_last_lines(docker, tmp_path: Path) -> None:
    """A failed build shows the end of the progress, redacted."""
    client = docker("  build*) echo first; echo 'fetch http://me:pw@index/ failed'; exit 1;;")
    with pytest.raises(EnvironmentFault, match=r"could not build the image") as caught:
        client.build(tmp_path, platform="linux/amd64")
    assert caught.value.code == "engine-failed"
    assert "http://***@index/ failed" in caught.value.message
    assert "pw" not in caught.value.message


@pytest.mark.parametrize(
    ("stderr", "code"),
    [
        ("Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", "engine-unavailable"),
        ("write /var/lib/docker/x: no space left on device", "disk-full"),
        ("invalid reference format", "engine-failed"),
    ],
)
def test_failures_have_their_codes(docker, stderr: str, code: str) -> None:
    """An engine that is gone, a full disk and any other refusal are told apart."""
    client = docker(f"  tag*) echo '{stderr}' >&2; exit 1;;")
    with pytest.raises(EnvironmentFault) as caught:
        client.tag("a", "b")
    assert caught.value.code == code
    assert stderr in caught.value.message


def test_inspect(docker) -> None:
    """An image as a dict; None for one that is not there; every other failure is raised."""
    client = docker(
        """  "image inspect") case "$3" in
    here) echo '[{"Id": "sha256:1"}]';;
    gone) echo '[]'; echo 'Error: No such image: gone' >&2; exit 1;;
    *) echo 'permission denied' >&2; exit 1;;
  esac;;"""
    )
    assert client.inspect("here") == {"Id": "sha256:1"}
    assert client.inspect("gone") is None
    assert (client.exists("here"), client.exists("gone")) == (True, False)
    with pytest.raises(EnvironmentFault, match="permission denied"):
        client.inspect("other")


def test_run(docker, tmp_path: Path) -> None:
    """stdin goes in; stdout, stderr and the exit code come back; the container has a label and is removed."""
    client = docker(f"""  run*) echo "$*" > {tmp_path}/argv; cat; echo oops >&2; exit 4;;""")
    done = client.run("image", ["self-check"], options=["--network=none"], stdin=b"hello")
    assert (done.returncode, done.stdout, done.stderr) == (4, b"hello", "oops\n")
    argv = (tmp_path / "argv").read_text()
    assert "--rm" in argv and "--label=dev.mpack.run=" in argv
    assert argv.strip().endswith("--network=none image self-check")


def test_run_that_the_engine_refuses(docker) -> None:
    """`docker run`'s own failure is a fault, not an exit code of the container."""
    client = docker("  run*) echo 'docker: Error response from daemon: boom.' >&2; exit 125;;")
    with pytest.raises(EnvironmentFault, match="boom"):
        client.run("image")


def test_run_timeout_removes_the_container(docker, tmp_path: Path) -> None:
    """A container over its time is exit code 124, its client is ended and `docker rm` is asked for it by name."""
    client = docker(f"""  run*) exec sleep 30;;\n  rm*) echo "$*" >> {tmp_path}/rm;;""")
    started = time.monotonic()
    done = client.run("image", timeout=0.3)
    assert done.returncode == 124
    assert time.monotonic() - started < 12
    assert "rm --force --volumes mpack-" in (tmp_path / "rm").read_text()


def test_load(docker) -> None:
    """Names and ids that the engine says it loaded; a client that stops reading is a fault with its words."""
    good = docker("  load*) cat > /dev/null; echo 'Loaded image: a:1'; echo 'Loaded image ID: sha256:2';;")
    assert good.load(io.BytesIO(b"x" * 1_000_000)) == ["a:1", "sha256:2"]
    bad = docker("  load*) echo 'invalid tar header' >&2; exit 1;;")
    with pytest.raises(EnvironmentFault, match="invalid tar header"):
        bad.load(io.BytesIO(b"x" * 10_000_000))


def test_save(docker) -> None:
    """The stream of an image; when the client failed, its words come before what the reader made of the stream."""
    good = docker("  save*) printf tar;;")
    with good.save("a") as stream:
        assert stream.read() == b"tar"
    bad = docker("  save*) echo 'reference does not exist' >&2; exit 1;;")
    with pytest.raises(EnvironmentFault, match="reference does not exist"), bad.save("a") as stream:
        raise ValueError("an empty archive")


def test_interrupt_ends_the_client(docker, tmp_path: Path) -> None:
    """Ctrl-C during a build reaches the client as an interrupt, and mpack raises KeyboardInterrupt."""
    script = f"""  build*) trap 'echo cancelled > {tmp_path}/cancelled; exit 130' INT; echo building
    while :; do sleep 0.1; done;;"""
    client = docker(script)
    code = (
        "import sys, pathlib\nfrom mpack.engine import Docker\n"
        f"Docker({client.client!r}, '20.10', '20.10', 'linux/amd64', 'env').build(\n"
        "    pathlib.Path(sys.argv[1]), platform='linux/amd64', on_line=lambda line: print(line, flush=True))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    watchdog = threading.Timer(20, process.kill)
    watchdog.start()
    assert process.stdout.readline() == "building\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    watchdog.cancel()
    assert "KeyboardInterrupt" in stderr
    assert (tmp_path / "cancelled").read_text() == "cancelled\n"
