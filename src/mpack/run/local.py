"""`mpack run --local`: the model without a container, as the user himself, in a venv of the plan's packages."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mpack.contents import Contents
from mpack.env.index import IndexSettings
from mpack.env.install import install
from mpack.errors import EnvironmentFault, UsageError
from mpack.plan import BaseImage, ImagePlan
from mpack.run import Started
from mpack.run.ports import LOOPBACK
from mpack.sandbox.pipes import die_with_parent
from mpack.sandbox.scratch import scratch
from mpack.sandbox.trees import Trees

_PREFIX = "/opt/mpack/"


@contextmanager
def run_locally(
    plan: ImagePlan,
    contents: Contents,
    index: IndexSettings,
    *,
    arguments: Sequence[str],
    port: int | None,
    env: Mapping[str, str],
) -> Iterator[Started]:
    """Installs the plan's packages, lays the runtime and the model beside them, and starts the image's program.

    Raises EnvironmentFault tool-missing where this machine lacks the plan's Python, and what installing raises.
    """
    if plan.config.command[:1] == ("triton",):
        raise UsageError(
            "usage", "--local runs no Triton server, which is a program of its image.", "Run it without --local."
        )
    if plan.environment.conda is not None:
        raise UsageError(
            "usage", "--local installs no conda packages, which want a place of their own.", "Run it without --local."
        )
    interpreter, version = find_python(plan.environment.python)
    with scratch(Trees.default().directory) as work:
        base = BaseImage("local", "", plan.platform, interpreter, version)
        packages = tuple(
            replace(package, source="index") if package.source == "base" else package
            for package in plan.environment.packages
        )
        install(
            replace(plan.environment, packages=packages), base, work / "venv", "venv", index=index, contents=contents
        )
        _lay_out(plan, contents, work)
        settings = dict(plan.config.env) | ({"MPACK_HOST": LOOPBACK, "MPACK_PORT": str(port)} if port else {})
        settings |= {"PYTHONPATH": str(work / "runtime"), "MPACK_MODEL_JSON": str(work / "model.json")}
        words = list(arguments) or list(plan.config.command)
        process = subprocess.Popen(
            [str(work / "venv/bin/python"), "-m", "mpack_runtime", *words],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent,
            env={**os.environ, **settings, "PYTHONDONTWRITEBYTECODE": "1", **env},
        )

        def kill() -> None:
            try:
                os.killpg(process.pid, 9)
            except ProcessLookupError:
                pass
            process.wait()

        try:
            yield Started(process, kill, lambda: None)
        finally:
            kill()


def find_python(minor: str) -> tuple[str, str]:
    """This machine's interpreter of a minor version ("3.11"), and its full version. Raises EnvironmentFault."""
    found = shutil.which(f"python{minor}")
    if found is None:
        raise EnvironmentFault(
            "tool-missing",
            f"The model needs Python {minor}, and there is no python{minor} on PATH.",
            "Install it, or run the model in a container: without --local.",
        )
    # Asked, not guessed from the path: the program of that name may be a script that starts the interpreter (pyenv).
    asked = "import os, platform, sys; print(platform.python_version(), os.path.realpath(sys.executable))"
    done = subprocess.run([found, "-I", "-c", asked], capture_output=True, text=True)
    version, _, interpreter = done.stdout.strip().partition(" ")
    if done.returncode or not interpreter:
        raise EnvironmentFault(
            "tool-missing",
            f"The model needs Python {minor}, and {found} does not start: {done.stderr.strip()[-300:]}",
            f"Put a Python {minor} that works on PATH, or run the model in a container: without --local.",
        )
    return interpreter, version


def _lay_out(plan: ImagePlan, contents: Contents, work: Path) -> None:
    for tree in plan.trees:
        target = work / f"{tree.target}/".removeprefix(_PREFIX)
        for entry in tree.files:
            place = target / entry.path
            place.parent.mkdir(parents=True, exist_ok=True)
            with contents.open(entry.sha256) as source, place.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
            place.chmod(entry.mode)
