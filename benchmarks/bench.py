"""The place a run works in: a scratch directory, the engine, a token that names all it makes, and the end of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpack.engine import Docker
from mpack.engine.process import end
from mpack.env.index import IndexSettings
from mpack.env.process import uv_binary
from mpack.errors import EnvironmentFault

ROOT = Path(__file__).parents[1]
#: Fixture -> what it stands for. Both are MLflow scikit-learn models; mpack leaves pandas out where nothing needs it.
MODELS = {"mlflow-wine": "pandas left out", "mlflow-churn": "pandas in"}
#: What is built again and again.
CASE = "mlflow-wine"
_LAST_LINES = 15


@dataclass
class Bench:
    """One run. Everything that it makes in the engine is named after `token` and removed by `opened`'s end."""

    scratch: Path
    docker: Docker
    index: IndexSettings
    #: An MPACK_HOME that holds base images, nothing else of use.
    bases: Path
    repeat: int
    token: str = field(default_factory=lambda: "bench" + uuid.uuid4().hex[:8])
    #: What had to be altered or left out on this machine; printed with the figures.
    notes: list[str] = field(default_factory=list)
    #: Names in the engine to remove at the end.
    names: set[str] = field(default_factory=set)
    #: Ids that those names have had. One may have a name of somebody else's too: then it stays.
    ids: set[str] = field(default_factory=set)
    #: Ids of records of the build cache that came into being during builds whose steps cannot carry the token.
    cached: set[str] = field(default_factory=set)

    @classmethod
    @contextlib.contextmanager
    def opened(cls, repeat: int, bases: Path | None) -> Iterator[Bench]:
        """A bench, and its removal. Raises EnvironmentFault engine-unavailable or engine-failed."""
        docker = Docker.find()
        if not docker.buildkit:
            raise EnvironmentFault(
                "engine-failed",
                f"The docker client {docker.client} ({docker.client_version}) cannot build with BuildKit.",
                "Install docker-buildx.",
            )
        with tempfile.TemporaryDirectory(prefix="mpack-bench-", ignore_cleanup_errors=True) as scratch:
            place = Path(scratch)
            bench = cls(place, docker, IndexSettings.from_host(), bases or place / "bases", repeat)
            try:
                yield bench
            finally:
                say("removing what this made")
                bench.remove(*bench.names)
                bench._remove_cache()

    def name(self, what: str) -> str:
        """A name for an image, remembered for removal."""
        name = f"{self.token}-{what}:latest"
        self.names.add(name)
        return name

    def change(self, model: Path, number: int) -> None:
        """Gives the model file other bytes with the same meaning: a comment at the end of its zip archive."""
        import zipfile

        with zipfile.ZipFile(model / "model.skops", "a") as archive:
            archive.comment = f"change {number} of {self.token}".encode()

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of mpack and of tools: with byte code, as in any installation, kept in the scratch place."""
        kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONDONTWRITEBYTECODE", "PYTHONHOME")}
        return {**kept, "PYTHONPYCACHEPREFIX": str(self.scratch / "bytecode"), **more}

    def mpack(self, home: Path, *arguments: str, **more: str) -> str:
        """stdout of an mpack command with a home of its own."""
        program = str(Path(sys.executable).with_name("mpack"))
        return run([program, *arguments], self.environment(MPACK_HOME=str(home), **more))

    def built(self, name: str) -> dict[str, Any]:
        """What the engine knows of an image that was just built; it is remembered for removal."""
        found = self.docker.inspect(name)
        if found is None:
            raise EnvironmentFault("engine-failed", f"The engine does not have {name}.", "Was it pruned meanwhile?")
        self.ids.add(found["Id"])
        return found

    def remove(self, *names: str) -> None:
        """Removes names, and all images of this run that are left without one."""
        for take, items in ((self.docker.remove, names), (self.docker.remove_untagged, self.ids)):
            for item in items:
                # One that cannot go must not keep the others.
                with contextlib.suppress(EnvironmentFault):
                    take(item)

    @contextlib.contextmanager
    def caching(self) -> Iterator[None]:
        """Remembers for removal what the build cache gets while the context lasts."""
        before = {item["ID"].rstrip("*") for item in self._cache()}
        try:
            yield
        finally:
            self.cached |= {item["ID"].rstrip("*") for item in self._cache()} - before

    def _remove_cache(self) -> None:
        """Removes the build cache of steps that carry this run's token, and of steps after them, and of `caching`."""
        for item in reversed(cache_ids(self._cache(), self.token, self.cached)):
            arguments = [self.docker.client, "builder", "prune", "--all", "--force", "--filter", f"id={item}"]
            subprocess.run(arguments, capture_output=True, check=False)

    def _cache(self) -> list[dict[str, str]]:
        arguments = [self.docker.client, "system", "df", "-v", "--format", "{{json .BuildCache}}"]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        try:
            return json.loads(done.stdout) or []
        except ValueError:
            return []


def cache_ids(records: list[dict[str, str]], token: str, made: Set[str] = frozenset()) -> list[str]:
    """Ids of the records that name the token or are in `made`, and of all that were made from them, parents first."""
    found = {
        item["ID"].rstrip("*"): item.get("Parent", "")
        for item in records
        if token in item.get("Description", "") or item["ID"].rstrip("*") in made
    }
    while more := {
        item["ID"].rstrip("*"): item["Parent"]
        for item in records
        if item.get("Parent") in found and item["ID"].rstrip("*") not in found
    }:
        found |= more
    depth = {item: _depth(item, found) for item in found}
    return sorted(found, key=depth.__getitem__)


def _depth(item: str, parents: Mapping[str, str]) -> int:
    count = 0
    while (item := parents[item]) in parents:
        count += 1
    return count


def uv_program() -> Path:
    """The uv that mpack itself uses."""
    return Path(uv_binary())


def say(text: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def run(arguments: Sequence[str], environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """stdout of a program. Raises EnvironmentFault with the last lines of what it wrote."""
    # A session of its own: an interruption ends it in an orderly way, with time to remove what it started.
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=cwd, start_new_session=True
    )
    with process:
        try:
            out, err = (pipe.decode("utf-8", "replace") for pipe in process.communicate())
        except BaseException:
            end(process)
            raise
    if process.returncode != 0:
        lines = "\n".join((err or out).strip().splitlines()[-_LAST_LINES:])
        raise EnvironmentFault(
            "engine-failed",
            f"{' '.join(arguments[:4])} … ended with {process.returncode}:\n{lines}",
            "See its own lines.",
        )
    return out


@contextlib.contextmanager
def timed(into: list[float]) -> Iterator[None]:
    """Appends the seconds that the block took."""
    started = time.perf_counter()
    yield
    into.append(time.perf_counter() - started)


def free_port() -> int:
    """A TCP port that nothing listened on a moment ago."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def ask(port: int, path: str, body: bytes | None = None) -> int:
    """The status of one request to this machine's port; 0 when nothing answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        headers = {"Content-Type": "application/json"} if body else {}
        connection.request("POST" if body else "GET", path, body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
