"""`python -m benchmarks [PART …] [--repeat N]`: measures, prints; nothing of it stays behind."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from benchmarks import batch, load, local, overload, registry, serving, throughput, wrk
from benchmarks.bench import Bench, say, timed
from benchmarks.buildkit import BuildkitUv
from benchmarks.exported import Exported
from benchmarks.figures import OURS, Figures, machine
from benchmarks.mlflow import Mlflow
from benchmarks.scenes import SCENES
from benchmarks.subjects import Mpack, Subject
from mpack.errors import EXIT_INTERRUPTED, MpackError

PEERS = ("mlflow", "uv", "mlserver", "bentoml")
THROUGHPUT, OVERLOAD = "throughput", "overload"
#: Scenes of servers of one model, and its kind.
SERVED = {"serving": "linear", "forest": "forest"}
LOCAL, LARGE, REGISTRY, BATCH = "local", "large", "registry", "batch"
PARTS = (*SCENES, LOCAL, LARGE, REGISTRY, BATCH, THROUGHPUT, OVERLOAD, *SERVED)
SLIM = "python:3.11-slim"
SHELL_BASE = "mpack-base:python3.11-shell"
#: Figures, and the names of its columns.
Table = tuple[Figures, list[str]]


def main(arguments: list[str] | None = None) -> int:
    """0, or the exit code of what is missing (3) or of an interruption (130)."""
    chosen = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with Bench.opened(chosen.repeat, chosen.bases) as bench:
            about = machine(bench.docker.client_version, bench.docker.server_version)
            wanted = chosen.scenes or list(PARTS)
            if THROUGHPUT in wanted:
                load.program()
            if set(SERVED) & set(wanted):
                wrk.program()
            tables = []
            if building := [scene for scene in wanted if scene in SCENES]:
                tables.append(_building(bench, building, chosen.without))
            if LOCAL in wanted:
                tables.append(_local(bench, chosen.without))
            if LARGE in wanted:
                tables.append(_large(bench))
            if REGISTRY in wanted:
                tables.append(_registry(bench, chosen.without))
            if BATCH in wanted:
                tables.append(_batch(bench))
            if THROUGHPUT in wanted:
                tables.append(_throughput(bench, chosen.without))
            if OVERLOAD in wanted:
                tables.append(_overload(bench))
            tables += [_served(bench, kind, chosen.without) for part, kind in SERVED.items() if part in wanted]
            for line in _report(bench, tables, about):
                print(line)
            if chosen.json:
                values = [row for figures, _ in tables for row in figures.as_json()]
                report = {"machine": about, "repeat": bench.repeat, "notes": bench.notes, "figures": values}
                chosen.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    except KeyboardInterrupt:
        say("interrupted")
        return EXIT_INTERRUPTED
    except MpackError as error:
        say(f"benchmarks: {error.message}\n{error.hint}")
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "scenes",
        nargs="*",
        choices=[*PARTS, []],
        help="what to measure [all]",
        metavar="|".join(PARTS),
    )
    parser.add_argument("--repeat", type=_count, default=3, metavar="N", help="values behind each median [3]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all values there too")
    parser.add_argument("--without", action="append", choices=PEERS, default=[], help="leave a peer out")
    parser.add_argument(
        "--bases", type=Path, metavar="DIR", help="an MPACK_HOME with base images, not to build them anew"
    )
    return parser


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _building(bench: Bench, scenes: list[str], without: list[str]) -> Table:
    figures = Figures()
    subjects = _subjects(bench, without, figures)
    for subject in subjects:
        say(f"{subject.name}: getting ready")
        subject.prepare()
    for scene in scenes:
        SCENES[scene](bench, subjects, figures)
    return figures, [subject.name for subject in subjects]


def _local(bench: Bench, without: list[str]) -> Table:
    figures = Figures()
    _own_base(bench, figures)
    ours = local.Unverified(bench)
    subjects: list[local.Local] = [ours]
    if "uv" not in without:
        subjects += [Exported(bench, ours.lock), BuildkitUv(bench, _peers_base(bench)[0])]
    for subject in subjects:
        say(f"{subject.name}: getting ready")
        subject.prepare()
    local.local(bench, subjects, figures)
    return figures, [subject.name for subject in subjects]


def _large(bench: Bench) -> Table:
    figures = Figures()
    _own_base(bench, figures)
    local.large(bench, figures)
    return figures, [OURS, local.REFERENCE]


def _registry(bench: Bench, without: list[str]) -> Table:
    figures = Figures()
    _own_base(bench, figures)
    ours = registry.Ours(bench)
    pushers: list[registry.Pusher] = [ours]
    if "uv" not in without:
        pushers.append(Exported(bench, ours.lock))
    for pusher in pushers:
        say(f"{pusher.name}: getting ready")
        pusher.prepare()
    registry.registry(bench, pushers, figures)
    return figures, [pusher.name for pusher in pushers]


def _batch(bench: Bench) -> Table:
    figures = Figures()
    batch.batch(bench, figures)
    return figures, [OURS, batch.PEER]


def _throughput(bench: Bench, without: list[str]) -> Table:
    figures = Figures(ours=throughput.OURS)
    throughput.throughput(bench, figures, None if "mlserver" in without else _shell_base(bench))
    return figures, throughput.names(without)


def _served(bench: Bench, kind: str, without: list[str]) -> Table:
    figures = Figures()
    _own_base(bench, figures)
    serving.serving(bench, figures, kind, without, *_peers_base(bench))
    return figures, serving.names(without)


def _overload(bench: Bench) -> Table:
    figures = Figures()
    overload.overload(bench, figures)
    return figures, [OURS]


def _subjects(bench: Bench, without: list[str], figures: Figures) -> list[Subject]:
    _own_base(bench, figures)
    if bench.docker.images("dev.mpack.packager"):
        bench.notes.append(
            "The engine had images by mpack before: layers that they share with these were not loaded anew"
        )
    subjects: list[Subject] = [Mpack(bench)]
    if {"mlflow", "uv"} - set(without):
        base, stand_in = _peers_base(bench)
        if "mlflow" not in without:
            subjects.append(Mlflow(bench, base, stand_in=stand_in))
        if "uv" not in without:
            subjects.append(BuildkitUv(bench, base))
    return subjects


def _own_base(bench: Bench, figures: Figures) -> None:
    """Makes mpack's base image where there is none."""
    if not (bench.bases / "data").is_dir():
        say("building mpack's base image")
        with timed(figures.into("base image, once a machine", "s", OURS)):
            bench.mpack(bench.bases, "base", "build", "--python", "3.11")


def _peers_base(bench: Bench) -> tuple[str, bool]:
    """(base image of the peers' Dockerfiles, whether it stands in for one that cannot be pulled)."""
    if bench.docker.exists(SLIM) or _pulled(bench):
        return SLIM, False
    say(f"{SLIM} cannot be pulled; {SHELL_BASE} stands in")
    return _shell_base(bench), True


def _shell_base(bench: Bench) -> str:
    """mpack's base with a shell and pip, by a name of this run."""
    here = bench.docker.exists(SHELL_BASE)
    if not here:
        say(f"building {SHELL_BASE}")
        bench.mpack(bench.scratch / "peers-base", "base", "build", "--shell", "--python", "3.11")
    name = bench.name("base")
    bench.docker.tag(SHELL_BASE, name)
    if not here:
        bench.docker.remove(SHELL_BASE)
    return name


def _pulled(bench: Bench) -> bool:
    done = subprocess.run([bench.docker.client, "pull", "-q", SLIM], capture_output=True, check=False)
    if done.returncode == 0:
        bench.names.add(SLIM)
    return done.returncode == 0


def _report(bench: Bench, tables: list[Table], about: dict[str, str]) -> Iterator[str]:
    yield from (f"{key}: {value}" for key, value in about.items())
    yield f"medians of {bench.repeat}; a ratio above 1 is in mpack's favour"
    for figures, subjects in tables:
        yield ""
        yield from figures.table(subjects)
    if bench.notes:
        yield ""
        yield from (f"- {note}" for note in bench.notes)


if __name__ == "__main__":
    os.environ.pop("MPACK_HOME", None)
    sys.exit(main())
