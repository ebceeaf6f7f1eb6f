"""A docker engine, driven through its own client as a subprocess, so contexts, DOCKER_HOST, ssh and credentials work.

An engine that this client would reach over a unix socket of this machine is asked there directly (`engine.local`).

Every failure is an EnvironmentFault that says what was tried and ends with the client's last lines. An interrupt, or
any other exception, ends the client and removes the container it started. Every container has the label `RUN_LABEL`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mpack.engine.clients import probe, programs
from mpack.engine.process import Drain, end, follow, last_lines, redact
from mpack.errors import EnvironmentFault
from mpack.records import dataclass

if TYPE_CHECKING:
    from mpack.engine.local import Hail

#: Label of every container that mpack starts: leftovers of a killed mpack are found by it.
RUN_LABEL = "dev.mpack.run"
TIMED_OUT = 124
#: Exit code of `docker run` when the engine, not the container, failed.
_RUN_FAILED = 125

#: What clients say when the engine is gone.
_LOST = ("Cannot connect to the Docker daemon", "error during connect", "Is the docker daemon running")


@dataclass(frozen=True)
class Done:
    """How a container ended: exit code (124: the time was up), the whole of stdout, stderr as text."""

    returncode: int
    stdout: bytes
    stderr: str


@dataclass(frozen=True)
class Docker:
    """A client that reaches an engine. Made by `find`."""

    client: str
    client_version: str
    server_version: str
    #: The engine's platform, e.g. "linux/amd64".
    platform: str
    #: How this client builds with BuildKit: "buildx" (the plugin), "env" (DOCKER_BUILDKIT=1), None (it cannot).
    builder: str | None
    #: The buildx builder that stores into the engine itself; only with `builder` "buildx".
    builder_name: str = ""

    @property
    def buildkit(self) -> bool:
        """True if `build` works."""
        return self.builder is not None

    @classmethod
    def answering(cls, hail: Hail | None = None) -> Docker | None:
        """As `find`; None where no engine answers."""
        try:
            return cls.find(hail)
        except EnvironmentFault:
            return None

    @classmethod
    def find(cls, hail: Hail | None = None) -> Docker:
        """The engine that the client's settings lead to: over its socket if that is here, else as `by_client`.

        `hail`: the engine behind the socket was asked already.
        """
        from mpack.engine.local import LocalDocker

        return LocalDocker.reached(hail) or cls.by_client()

    @classmethod
    def by_client(cls) -> Docker:
        """The first client on PATH that reaches an engine, one that can build with BuildKit before others.

        Raises EnvironmentFault engine-unavailable that names every client tried and what it answered.
        """
        tried: list[str] = []
        reached: list[Docker] = []
        for client in programs():
            found = probe(client)
            if isinstance(found, str):
                tried.append(f"{client}: {found}")
                continue
            docker = cls(
                found.path, found.version, found.server_version, found.platform, found.builder, found.builder_name
            )
            if docker.buildkit:
                return docker
            reached.append(docker)
        if reached:
            return reached[0]
        host = os.environ.get("DOCKER_HOST")
        where = f" with DOCKER_HOST={redact(host)}" if host else ""
        reason = "; ".join(tried) or "there is no program `docker` on PATH"
        raise EnvironmentFault(
            "engine-unavailable",
            f"No container engine answers{where}. {reason}.",
            "Start docker or set DOCKER_HOST; or do without an engine: --builder embedded --output store.",
        )

    # --- images

    def inspect(self, reference: str) -> dict[str, Any] | None:
        """What the engine knows of an image (`docker image inspect`), or None if it has none of that name or id."""
        done = self._call(["image", "inspect", reference], check=False)
        if done.returncode == 0:
            found: list[dict[str, Any]] = json.loads(done.stdout)
            return found[0]
        if "no such image" in done.stderr.lower():
            return None
        raise self._failed(f"inspect the image {reference}", done.stderr)

    def exists(self, reference: str) -> bool:
        """True if the engine has an image of that name or id."""
        return self.inspect(reference) is not None

    def load(self, archive: BinaryIO) -> list[str]:
        """Loads a docker-archive from a stream; returns the names and ids ("sha256:…") the engine says it loaded."""
        process = self._start(["load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        with self._ending(process):
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                shutil.copyfileobj(archive, process.stdin, 1 << 20)
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.stdin = None
            out, err = process.communicate()
        if process.returncode != 0:
            raise self._failed("load an image", err.decode("utf-8", "replace"))
        return loaded_names(out.decode("utf-8", "replace"))

    @contextlib.contextmanager
    def save(self, reference: str) -> Iterator[BinaryIO]:
        """An image as a docker-archive stream. The engine's failure is raised when the context ends."""
        process = self._start(["save", reference], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        with Drain(process.stderr) as stderr, self._ending(process):
            try:
                yield process.stdout  # type: ignore[misc]
                while process.stdout.read(1 << 20):
                    pass
            except Exception as error:
                # What the reader did not like may be all that a failed client wrote.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(1)
                if process.returncode:
                    raise self._failed(f"save the image {reference}", stderr.text) from error
                raise
            process.wait()
        if process.returncode != 0:
            raise self._failed(f"save the image {reference}", stderr.text)

    def tag(self, reference: str, name: str) -> None:
        """Gives an image a further name."""
        self._call(["tag", reference, name])

    def remove(self, reference: str) -> None:
        """Removes a name, or an image by id with all its names. An image that is not there is no error."""
        done = self._call(["image", "rm", "--force", reference], check=False)
        if done.returncode != 0 and "no such image" not in done.stderr.lower():
            raise self._failed(f"remove the image {reference}", done.stderr)

    def remove_untagged(self, image_id: str) -> None:
        """Removes an image that has no name; one with a name, or in use by a container, stays."""
        found = self.inspect(image_id)
        if found is not None and not found.get("RepoTags"):
            self._call(["image", "rm", image_id], check=False)

    def images(self, label: str) -> list[str]:
        """Ids of the images that carry a label ("key" or "key=value")."""
        done = self._call(["images", "--quiet", "--no-trunc", "--filter", f"label={label}"])
        return list(dict.fromkeys(done.stdout.decode().split()))

    def chains(self) -> Iterator[tuple[str, ...]]:
        """The layers (diff ids, lowest first) of every image that the engine has; none if one went meanwhile."""
        ids = list(dict.fromkeys(self._call(["images", "--all", "--quiet", "--no-trunc"]).stdout.decode().split()))
        if not ids:
            return
        done = self._call(["image", "inspect", "--format={{json .RootFS.Layers}}", *ids], check=False)
        for line in done.stdout.decode().splitlines() if done.returncode == 0 else ():
            yield tuple(json.loads(line) or ())

    # --- containers

    def run(
        self,
        image: str,
        command: Sequence[str] = (),
        *,
        options: Sequence[str] = (),
        stdin: bytes = b"",
        timeout: float | None = None,
    ) -> Done:
        """Runs a container to its end and removes it. `options` stand before the image; `timeout` is seconds.

        Raises EnvironmentFault engine-failed when the engine could not start it. A time-out is exit code 124.
        """
        name = f"mpack-{uuid.uuid4().hex[:12]}"
        arguments = ["run", "--rm", f"--name={name}", f"--label={RUN_LABEL}={os.getpid()}"]
        arguments += ["--interactive"] if stdin else []
        process = self._start(
            [*arguments, *options, image, *command],
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            with self._ending(process):
                out, err = process.communicate(stdin or None, timeout=timeout)
        except BaseException as error:
            self._remove_container(name)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return Done(TIMED_OUT, error.stdout or b"", (error.stderr or b"").decode("utf-8", "replace"))
        stderr = err.decode("utf-8", "replace")
        if process.returncode == _RUN_FAILED and "docker: " in stderr:
            raise self._failed(f"run the image {image}", stderr)
        return Done(process.returncode, out, stderr)

    def _remove_container(self, name: str) -> None:
        # The client may have been ended between asking for the container and hearing of it: look twice.
        for _ in range(2):
            self._call(["rm", "--force", "--volumes", name], check=False)
            time.sleep(0.2)

    # --- building

    def build(
        self,
        context: Path,
        *,
        platform: str,
        secrets: Mapping[str, str | Path] | None = None,
        build_args: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        on_line: Callable[[str], None] = lambda line: None,
        redact: Callable[[str], str] = lambda text: text,
    ) -> str:
        """Builds a context directory with BuildKit; returns the id of the untagged image.

        `secrets` (id -> value, or a file that holds it) and `build_args` (name -> value) travel in the client's
        environment, never on its command line. `on_line` gets the progress as it comes.
        Raises EnvironmentFault engine-failed with the last lines of it.
        """
        if self.builder is None:
            raise EnvironmentFault(
                "engine-failed",
                f"The docker client {self.client} ({self.client_version}) cannot build with BuildKit: "
                "it lacks the buildx plugin.",
                "Install docker-buildx, or build without the engine: --builder embedded.",
            )
        environment = {**os.environ, "DOCKER_BUILDKIT": "1", **(build_args or {})}
        with tempfile.TemporaryDirectory(prefix="mpack-build-") as scratch:
            iid = Path(scratch) / "iid"
            arguments = [*self._build_command(), f"--iidfile={iid}", f"--platform={platform}", "--progress=plain"]
            arguments += [f"--build-arg={name}" for name in build_args or {}]
            for number, (key, value) in enumerate((secrets or {}).items()):
                if isinstance(value, Path):
                    arguments.append(f"--secret=id={key},src={value}")
                else:
                    environment[f"MPACK_SECRET_{number}"] = value
                    arguments.append(f"--secret=id={key},env=MPACK_SECRET_{number}")
            process = self._start(
                [*arguments, *options, str(context)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                environment=environment,
            )
            with self._ending(process):
                lines = follow(process, lambda line: on_line(redact(line)))
                process.wait()
            if process.returncode != 0:
                raise self._failed("build the image", redact("\n".join(lines)))
            return iid.read_text().strip()

    def _build_command(self) -> list[str]:
        if self.builder == "buildx":
            # Attestations would make the result an index; the engine's own builder loads what it builds.
            return ["buildx", "build", f"--builder={self.builder_name}", "--load", "--provenance=false"]
        return ["build"]

    # --- the client as a process

    def _call(self, arguments: Sequence[str], *, check: bool = True) -> Done:
        process = self._start(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        with self._ending(process):
            out, err = process.communicate()
        done = Done(process.returncode, out, err.decode("utf-8", "replace"))
        if check and done.returncode != 0:
            raise self._failed(f"run `docker {' '.join(arguments)}`", done.stderr)
        return done

    def _start(
        self,
        arguments: Sequence[str],
        *,
        stdin: int = subprocess.DEVNULL,
        stdout: int,
        stderr: int,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C reaches mpack alone, which ends the client in an orderly way.
        return subprocess.Popen(
            [self.client, *arguments],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=None if environment is None else dict(environment),
            start_new_session=True,
        )

    @contextlib.contextmanager
    def _ending(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        """Ends the client when the block is left by an exception, and closes its pipes in any case."""
        try:
            yield
        except BaseException:
            end(process)
            raise
        finally:
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def _failed(self, what: str, stderr: str) -> EnvironmentFault:
        text = redact(stderr)
        if any(sign in text for sign in _LOST):
            return EnvironmentFault(
                "engine-unavailable",
                f"The container engine did not answer when asked to {what}: {last_lines(text)}",
                "Start docker, or do without it: --builder embedded --output store.",
            )
        if "no space left on device" in text:
            return EnvironmentFault(
                "disk-full",
                f"The engine's disk is full; it could not {what}: {last_lines(text)}",
                "Make room: `docker system df`, `docker builder prune`, `docker image prune`.",
            )
        return EnvironmentFault(
            "engine-failed",
            f"The container engine (docker {self.server_version}) could not {what}:\n{last_lines(text)}",
            "The engine's own words are above; `mpack doctor` looks at the engine.",
        )


def loaded_names(text: str) -> list[str]:
    """The names and ids that the engine says it loaded."""
    return re.findall(r"Loaded image(?: ID)?: (\S+)", text)
