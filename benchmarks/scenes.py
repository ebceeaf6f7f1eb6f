"""What is measured: building, size, `docker run` to ready, a start without docker's part. Each fills in figures."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
import subprocess
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from benchmarks.bench import CASE, MODELS, ROOT, Bench, ask, free_port, run, say, timed
from benchmarks.figures import Figures
from benchmarks.subjects import COLD, SAME, WARM, WHEELS, Mpack, Serving, Subject
from mpack.engine.docker import RUN_LABEL
from mpack.errors import EnvironmentFault

MB = 1e6
READY_WITHIN = 120.0
POLL = 0.01
#: Seconds between two questions where milliseconds are measured.
SHORT_POLL = 0.002
#: mpack's alone: the fixture, its model, what it stands for, and a request.
ONNX = ("onnx-iris", "iris.onnx", "ONNX", b'{"data": [[5.1, 3.5, 1.4, 0.2]]}')
#: Writes the machine's monotonic clock to stderr and becomes the program that its arguments name.
_STAMP = "import os, sys, time; os.write(2, b'exec at %f\\n' % time.monotonic()); os.execvp(sys.argv[1], sys.argv[1:])"
#: How a build finds the machine -> (its row, whether the model has other bytes than before).
_ROWS = {
    COLD: ("build, cold", True),
    WHEELS: ("build, wheels and lock at hand", True),
    WARM: ("build, model changed", True),
    SAME: ("build, nothing changed", False),
}


def build(bench: Bench, subjects: Sequence[Subject], figures: Figures) -> None:
    """Cold, wheels at hand, model-only, unchanged; the subjects take turns, so that a busy minute hits all."""
    changes = itertools.count()
    for number in range(bench.repeat):
        for subject in subjects:
            model = copy_model(bench, CASE)
            for state, (row, changed) in _ROWS.items():
                if state == WHEELS and not subject.keeps_wheels:
                    values = figures.into(_ROWS[COLD][0], "s", subject.name)
                    figures.into(row, "s", subject.name).append(values[-1])
                    continue
                say(f"{subject.name}: {row} ({number + 1} of {bench.repeat})")
                if state in (COLD, WHEELS):
                    subject.reset(CASE, state)
                if changed:
                    bench.change(model, next(changes))
                with timed(figures.into(row, "s", subject.name)):
                    image = subject.build(model, CASE, state)
                bench.built(image)


def size(bench: Bench, subjects: Sequence[Subject], figures: Figures) -> None:
    """Bytes in the engine, and of the compressed layers."""
    for case, what in MODELS.items():
        for subject in subjects:
            image = _image(bench, subject, case)
            figures.into(f"size unpacked, {what}", "MB", subject.name).append(bench.built(image)["Size"] / MB)
            say(f"{subject.name}: compressed size, {what}")
            compressed = subject.compressed(case) or _compressed(bench, image)
            figures.into(f"size compressed, {what}", "MB", subject.name).append(compressed / MB)


def ready(bench: Bench, subjects: Sequence[Subject], figures: Figures) -> None:
    """`docker run` to the first "ready", to the first answer, and the memory after it."""
    images = {(subject.name, case): _image(bench, subject, case) for case in MODELS for subject in subjects}
    for number in range(bench.repeat):
        for case, what in MODELS.items():
            body = _request(case)
            for subject in subjects:
                say(f"{subject.name}: run to ready, {what} ({number + 1} of {bench.repeat})")
                started = time.perf_counter()
                with running(bench, subject.serving, images[subject.name, case]) as (container, port):
                    until_ready(bench, subject.serving, container, port)
                    figures.into(f"run to ready, {what}", "s", subject.name).append(time.perf_counter() - started)
                    if (status := ask(port, subject.serving.invoke, body)) != 200:
                        raise EnvironmentFault(
                            "engine-failed", f"{subject.name}'s image answered {status}.", _log(bench, container)
                        )
                    took = time.perf_counter() - started
                    figures.into(f"run to first answer, {what}", "s", subject.name).append(took)
                    figures.into(f"memory then, {what}", "MB", subject.name).append(_memory(bench, container) / MB)


def start(bench: Bench, subjects: Sequence[Subject], figures: Figures) -> None:
    """From the exec of the image's entry point to its first answer: what docker does before is not counted."""
    cases = [
        (what, subject, _image(bench, subject, case), _request(case))
        for case, what in MODELS.items()
        for subject in subjects
    ]
    case, file, what, body = ONNX
    for subject in subjects:
        if isinstance(subject, Mpack):
            image = subject.build(ROOT / "fixtures" / "models" / case / file, case, WARM)
            figures.into(f"size unpacked, {what}", "MB", subject.name).append(bench.built(image)["Size"] / MB)
            figures.into(f"size compressed, {what}", "MB", subject.name).append((subject.compressed(case) or 0) / MB)
            cases.append((what, subject, image, body))
    for number in range(bench.repeat + 1):
        for what, subject, image, body in cases:
            say(f"{subject.name}: entry point to first answer, {what} ({number} of {bench.repeat})")
            took = _started(bench, subject.serving, image, body)
            if number > 0:  # the first one read the files from disk
                figures.into(f"entry point to first answer, {what}", "s", subject.name).append(took)


def _started(bench: Bench, serving: Serving, image: str, body: bytes) -> float:
    """Seconds from exec to the first 200. The container's monotonic clock is this machine's."""
    config = bench.built(image)["Config"]
    words = ["-c", _STAMP, *(config["Entrypoint"] or ()), *(config["Cmd"] or ())]
    with running(bench, serving, image, ["--entrypoint=python3"], words) as (container, port):
        until_ready(bench, serving, container, port, path=serving.invoke, body=body, poll=SHORT_POLL)
        answered = time.monotonic()
        stamp = re.search(r"^exec at ([0-9.]+)$", _log(bench, container), re.MULTILINE)
    if stamp is None:
        raise EnvironmentFault("engine-failed", f"The container of {image} did not write when it started.", "")
    return answered - float(stamp[1])


SCENES: dict[str, Callable[[Bench, Sequence[Subject], Figures], None]] = {
    "build": build,
    "size": size,
    "ready": ready,
    "start": start,
}


def copy_model(bench: Bench, case: str) -> Path:
    """A copy of a fixture's artifact, to be changed."""
    # The directory's name is the model's, and stays the same.
    target = bench.scratch / "models" / case / "model"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "fixtures" / "models" / case / "model", target)
    return target


def _image(bench: Bench, subject: Subject, case: str) -> str:
    """The subject's image of the fixture as it is; what an earlier scene left behind makes it quick."""
    say(f"{subject.name}: an image of {case}")
    image = subject.build(copy_model(bench, case), case, WARM)
    bench.built(image)
    return image


def _request(case: str) -> bytes:
    return (ROOT / "fixtures" / "models" / case / "model" / "serving_input_example.json").read_bytes()


@contextlib.contextmanager
def running(
    bench: Bench, serving: Serving, image: str, options: Sequence[str] = (), words: Sequence[str] = ()
) -> Iterator[tuple[str, int]]:
    """(container, port on this machine); the container is removed whatever happens."""
    port = free_port()
    name = f"{bench.token}-{port}"
    try:
        own = [f"--name={name}", f"--label={RUN_LABEL}=bench", f"--publish=127.0.0.1:{port}:{serving.port}"]
        run([bench.docker.client, "run", "--detach", *own, *serving.options, *options, image, *words])
        yield name, port
    finally:
        subprocess.run([bench.docker.client, "rm", "-f", "-v", name], capture_output=True, check=False)


def until_ready(
    bench: Bench,
    serving: Serving,
    container: str,
    port: int,
    *,
    path: str | None = None,
    body: bytes | None = None,
    poll: float = POLL,
) -> None:
    """Asks until 200, by default whether it is ready. Raises EnvironmentFault with the container's last lines after
    READY_WITHIN seconds."""
    deadline = time.perf_counter() + READY_WITHIN
    while ask(port, path or serving.ready, body) != 200:
        if time.perf_counter() > deadline:
            raise EnvironmentFault(
                "engine-failed", f"The container was not ready within {READY_WITHIN:.0f} s.", _log(bench, container)
            )
        time.sleep(poll)


def _log(bench: Bench, container: str) -> str:
    done = subprocess.run([bench.docker.client, "logs", container], capture_output=True, text=True, check=False)
    return "\n".join((done.stdout + done.stderr).splitlines()[-20:])


def _memory(bench: Bench, container: str) -> float:
    """Bytes resident in the container, page cache of files left out, as the engine counts them."""
    text = run([bench.docker.client, "stats", "--no-stream", "--format", "{{json .MemUsage}}", container])
    used = json.loads(text).split("/")[0].strip()
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)):
        if used.endswith(unit):
            return float(used.removesuffix(unit)) * factor
    raise EnvironmentFault("engine-failed", f"The engine says {used!r} of a container's memory.", "Is it new?")


def _compressed(bench: Bench, image: str) -> int:
    """Bytes of an image's layers after gzip -6, which is what `docker push` sends."""
    total = 0
    with bench.docker.save(image) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            if member.isfile() and member.size > 0 and not member.name.endswith(".json"):
                total += _gzipped(archive.extractfile(member))
    return total


def _gzipped(stream: IO[bytes] | None) -> int:
    squeeze = zlib.compressobj(6, wbits=31)
    total = 0
    while stream is not None and (block := stream.read(1 << 20)):
        total += len(squeeze.compress(block))
    return total + len(squeeze.flush())
