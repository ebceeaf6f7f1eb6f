"""The engine's HTTP API over a unix socket: which socket, and what is made of answers that are rarely given."""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mpack.engine import Docker
from mpack.engine.api import DEFAULT_SOCKET, Api, local_socket
from mpack.engine.local import Hail, LocalDocker
from mpack.errors import EnvironmentFault

Serve = Callable[[bytes], LocalDocker]


@pytest.mark.parametrize(
    ("environment", "config", "wanted"),
    [
        ({}, None, DEFAULT_SOCKET),
        ({}, "{}", DEFAULT_SOCKET),
        ({}, '{"currentContext": "default"}', DEFAULT_SOCKET),
        ({}, '{"currentContext": "far"}', None),
        ({}, "not json", None),
        ({"DOCKER_CONTEXT": "far"}, None, None),
        ({"DOCKER_CONTEXT": "default"}, '{"currentContext": "far"}', DEFAULT_SOCKET),
        ({"DOCKER_HOST": "unix:///run/other.sock", "DOCKER_CONTEXT": "far"}, None, "/run/other.sock"),
        ({"DOCKER_HOST": "tcp://far:2375"}, None, None),
        ({"DOCKER_HOST": "ssh://far"}, None, None),
    ],
)
def test_local_socket(
    environment: dict[str, str], config: str | None, wanted: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket where the client would take one, by the client's own order; any other road is the client's."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"DOCKER_CONFIG": str(tmp_path), **environment}.items():
        monkeypatch.setenv(name, value)
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert local_socket() == wanted


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """`serve(BYTES)`: an engine that reads a request's head and answers with these bytes, then closes."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    threads: list[threading.Thread] = []

    def answer(data: bytes) -> None:
        connection, _ = listener.accept()
        with connection:
            while b"\r\n\r\n" not in connection.recv(1 << 16, socket.MSG_PEEK):
                pass
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass

    def start(data: bytes) -> LocalDocker:
        threads.append(threading.Thread(target=answer, args=(data,)))
        threads[-1].start()
        return LocalDocker(Api(str(tmp_path / "s")), "20.10.24", "linux/amd64")

    yield start
    for thread in threads:
        thread.join(10)
    listener.close()


def http(status: str, *chunks: str, chunked: bool = False) -> bytes:
    """A response as Go's server writes it."""
    if not chunked:
        body = "".join(chunks)
        return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    pieces = "".join(f"{len(chunk):x}\r\n{chunk}\r\n" for chunk in (*chunks, ""))
    return f"HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n{pieces}".encode()


def test_load(serve: Serve) -> None:
    """Names and ids out of a stream of JSON lines, however it is cut into chunks."""
    lines = [json.dumps({"stream": text}) for text in ("Loaded image: a:1\n", "Loaded image ID: sha256:2\n")]
    text = "\r\n".join(lines)
    assert serve(http("200 OK", text[:20], text[20:], chunked=True)).load(io.BytesIO(b"x" * 3_000_000)) == [
        "a:1",
        "sha256:2",
    ]


def test_absent(serve: Serve) -> None:
    """An image that is not there is None."""
    assert serve(http("404 Not Found", '{"message":"No such image: a"}')).inspect("a") is None


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (http("500 Internal Server Error", '{"message":"boom"}'), "engine-failed", "boom"),
        (http("200 OK", '{"errorDetail":{},"error":"invalid tar header"}'), "engine-failed", "invalid tar header"),
        (http("200 OK", '{"error":"write /x: no space left on device"}'), "disk-full", "no space left"),
        (http("200 OK", '{"stream":"Load', chunked=True)[:-12], "engine-unavailable", "broke off"),
        (http("200 OK", '{"stream":"Loaded image: a:1"}')[:-9], "engine-unavailable", "broke off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: ?\r\n\r\n{}", "engine-unavailable", "broke off"),
        (b"", "engine-unavailable", "broke off"),
    ],
)
def test_failures(serve: Serve, answer: bytes, code: str, words: str) -> None:
    """A refusal, an error in a stream that began well, a full disk, an answer that breaks off: each has its code."""
    with pytest.raises(EnvironmentFault, match=words) as caught:
        serve(answer).load(io.BytesIO(b"x" * 100))
    assert caught.value.code == code


def test_no_engine(tmp_path: Path) -> None:
    """An engine that is gone is told as the client tells it."""
    gone = LocalDocker(Api(str(tmp_path / "none")), "20.10.24", "linux/amd64")
    with pytest.raises(EnvironmentFault, match="Cannot connect to the Docker daemon") as caught:
        gone.tag("a", "b:1")
    assert caught.value.code == "engine-unavailable"


TOLD = b'{"Version": "20.10.24", "Os": "linux", "Arch": "arm64"}'


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (TOLD, ("20.10.24", "linux/arm64")),
        (b'{"Version": "20.10.24"}', None),
        (b"not json", None),
    ],
)
def test_hail(
    answer: bytes, found: tuple[str, str] | None, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine asked early answers when it is needed; what is no engine's answer is none."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path / 's'}")
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    serve(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))
    docker = Docker.answering(Hail())
    assert found == (None if docker is None else (docker.server_version, docker.platform))


def test_hail_without_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens, or no program docker is there: no answer, and no fault until an engine is needed."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path / 'none'}")
    assert Hail().answer() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Hail().api is None and Docker.answering(Hail()) is None
