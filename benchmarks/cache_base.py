"""`python -m benchmarks.cache_base [--bases DIR]`: ten artifacts with and without the suggested dependency cache.

The ten share most of what they need; each has a small package of its own, so no two environments are the same. Builds
are not verified and their locks are made before the clock starts: what is timed is the environment and the image.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.bench import ROOT, Bench, run, say, timed
from benchmarks.figures import Figures, machine
from mpack.errors import EXIT_INTERRUPTED, MpackError
from mpack.testing.registryserver import counting, registry_server

#: Fixtures of scikit-learn, with pandas and without, XGBoost and LightGBM; each twice.
CASES = ("mlflow-wine", "mlflow-churn", "mlflow-xgboost", "mlflow-lightgbm", "mlflow-tensor")
#: What each artifact has for itself.
OWN = ("idna", "attrs", "certifi", "six", "toolz", "tqdm", "pyyaml", "colorama", "tabulate", "zipp")
CACHED, DOCKER, EMBEDDED = "docker, on the cache", "docker", "embedded, warm wheels"
ROWS = {
    "each": "one build into the engine, median of the ten",
    "time": "the ten builds",
    "pushed": "pushed to an empty registry",
    "disk": "layers of the ten in the engine",
    "made": "the cache: suggested, locked, built",
}


def main(arguments: list[str] | None = None) -> int:
    """0, or the exit code of what is missing (3) or of an interruption (130)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cache_base", description=__doc__)
    parser.add_argument("--bases", type=Path, metavar="DIR", help="an MPACK_HOME with base images")
    chosen = parser.parse_args(arguments)
    try:
        with Bench.opened(1, chosen.bases) as bench:
            about = machine(bench.docker.client_version, bench.docker.server_version)
            figures = measured(bench)
            for line in [
                *(f"{key}: {value}" for key, value in about.items()),
                "",
                *figures.table([CACHED, DOCKER, EMBEDDED]),
            ]:
                print(line)
    except KeyboardInterrupt:
        say("interrupted")
        return EXIT_INTERRUPTED
    except MpackError as error:
        say(f"{error.message}\n{error.hint}")
        return error.exit_code
    return 0


def measured(bench: Bench) -> Figures:
    """All rows, one value each: the caches of a way of building are those that its builds before have left."""
    figures, home = Figures(ours=CACHED), bench.scratch / "mpack"
    if (bench.bases / "data").is_dir():
        shutil.copytree(bench.bases / "data", home / "data")
    models = [artifact(bench, number) for number in range(len(OWN))]
    for model in models:
        _mpack(bench, home, "lock", str(model))
    with timed(figures.into(ROWS["made"], "s", CACHED)):
        cache = made_cache(bench, home, models)
    for model in models:
        _mpack(bench, home, "lock", str(model), "--base", cache)
    ways = {
        DOCKER: ("--builder", "docker"),
        CACHED: ("--builder", "docker", "--base", cache),
        EMBEDDED: ("--builder", "embedded"),
    }
    for column, options in ways.items():
        if column == EMBEDDED:
            warm(bench, home)
        names = []
        for number, model in enumerate(models):
            names.append(bench.name(f"{column.replace(', ', '-').replace(' ', '-')}-{number}"))
            words = ("build", str(model), "--no-verify", "-o", "docker", "-t", names[-1], *options)
            each = figures.into(ROWS["each"], "s", column)
            with bench.caching(), timed(each):
                _mpack(bench, home, *words)
            say(f"{column}: {number + 1} of {len(models)}: {each[-1]:.1f} s")
            bench.built(names[-1])
        figures.into(ROWS["time"], "s", column).append(sum(figures.values[ROWS["each"]][column]))
        figures.into(ROWS["pushed"], "MB", column).append(pushed(bench, names) / 1e6)
        figures.into(ROWS["disk"], "MB", column).append(saved_size(bench, names) / 1e6)
    return figures


def artifact(bench: Bench, number: int, own: tuple[str, ...] = ()) -> Path:
    """A copy of a fixture that needs packages of its own as well."""
    place = bench.scratch / "models" / f"model-{number}"
    case = ROOT / "fixtures" / "models" / CASES[number % len(CASES)]
    shutil.copytree(case / json.loads((case / "expect.json").read_text("utf-8"))["artifact"], place)
    text = json.dumps(own or (OWN[number],))
    place.with_name(f"{place.name}.mpack.toml").write_text(f"extra-requirements = {text}\n", "utf-8")
    return place


def made_cache(bench: Bench, home: Path, models: list[Path]) -> str:
    """The suggested cache base, in the store and in the engine."""
    name, wish = bench.name("cache"), bench.scratch / "requirements.txt"
    told = json.loads(_mpack(bench, home, "base", "suggest", *map(str, models), "-o", str(wish), "--json"))[
        "suggestion"
    ]
    size, less, all_of = (told[key] / 1e6 for key in ("cache", "saved", "installed"))
    say(f"the cache has {size:.0f} MB of wheels; {less:.0f} MB of {all_of:.0f} are installed no more")
    _mpack(bench, home, "base", "build", "--deps", str(wish), "--python", told["python"], "-t", name)
    bench.built(name)
    return name


def warm(bench: Bench, home: Path) -> None:
    """Lays every wheel out once, in environments that are none of the ten."""
    for number in range(len(CASES)):
        say(f"wheels of {CASES[number]}")
        model = artifact(bench, number + 10 * len(CASES), OWN)
        _mpack(bench, home, "build", str(model), "--no-verify", "-o", "store", "-t", f"warm:{number}")


def pushed(bench: Bench, names: list[str]) -> int:
    """Bytes that docker sends of the images to a registry that has nothing."""
    docker = bench.docker.client
    with (
        tempfile.TemporaryDirectory(dir=bench.scratch) as place,
        registry_server(Path(place)) as server,
        counting(server.port) as counter,
    ):
        for number, name in enumerate(names):
            there = f"{counter.host}/bench/model-{number}:1"
            bench.names.add(there)
            run([docker, "tag", name, there])
            run([docker, "push", "-q", there])
        return counter.sent


def saved_size(bench: Bench, names: list[str]) -> int:
    """Bytes of `docker save`, which has each layer once, unpacked."""
    total = 0
    with subprocess.Popen([bench.docker.client, "save", *names], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while data := process.stdout.read(1 << 20):
            total += len(data)
    return total


def _mpack(bench: Bench, home: Path, *words: str) -> str:
    return bench.mpack(home, *words, UV_CACHE_DIR=str(home / "uv"))


if __name__ == "__main__":
    os.environ.pop("MPACK_HOME", None)
    sys.exit(main())
