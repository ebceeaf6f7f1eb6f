"""The docker clients on PATH: which of them reach an engine, and how they build."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess

from mpack.engine.process import last_lines, redact
from mpack.records import dataclass

#: Seconds that a client may take to say which engine it reaches.
PATIENCE = 20.0


@dataclass(frozen=True)
class Client:
    """A client that reaches an engine. The fields are those of `mpack.engine.Docker`."""

    path: str
    version: str
    server_version: str
    platform: str
    builder: str | None
    builder_name: str


def programs() -> list[str]:
    """Every program `docker` on PATH, in its order, each once."""
    found: dict[str, str] = {}
    for directory in os.get_exec_path():
        client = shutil.which("docker", path=directory)
        if client:
            found.setdefault(os.path.realpath(client), client)
    return list(found.values())


def probe(client: str) -> Client | str:
    """The engine behind a client, or why there is none."""
    try:
        done = _ask(client, "version", "--format", "{{json .}}")
    except subprocess.TimeoutExpired:
        return f"no answer within {PATIENCE:.0f} s"
    except OSError as error:
        return f"cannot be run ({error.strerror})"
    try:
        answer = json.loads(done.stdout)
        server = answer["Server"]
        client_version = str(answer["Client"]["Version"])
        server_version, platform = str(server["Version"]), f"{server['Os']}/{server['Arch']}"
    except (ValueError, KeyError, TypeError):
        return last_lines(redact(done.stderr.decode("utf-8", "replace")), 2) or "it gave no version of an engine"
    builder, name = _builder(client, client_version)
    return Client(client, client_version, server_version, platform, builder, name)


def _builder(client: str, version: str) -> tuple[str | None, str]:
    """How a client builds with BuildKit, and the name of the buildx builder that is the engine itself."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        if _ask(client, "buildx", "version").returncode == 0:
            context = _ask(client, "context", "inspect", "--format", "{{.Name}}")
            return "buildx", context.stdout.decode().strip() or "default"
    major = version.partition(".")[0]
    return ("env", "") if major.isdigit() and int(major) < 23 else (None, "")


def _ask(client: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [client, *arguments], capture_output=True, check=False, timeout=PATIENCE, stdin=subprocess.DEVNULL
    )
