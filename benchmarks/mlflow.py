"""The peer MLflow: the Dockerfile that `mlflow models generate-dockerfile --env-manager local` writes."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.bench import MODELS, ROOT, Bench, run, say, uv_program
from benchmarks.subjects import Dockerfile, Serving, secret, write_model
from mpack.errors import EnvironmentFault

REQUIREMENTS = ROOT / "requirements" / "bench.txt"
PIP_CONF, CA = "/etc/pip.conf", "/run/secrets/ca"


class Mlflow(Dockerfile):
    """`docker build` of that Dockerfile; writing it is not counted."""

    name = "MLflow"
    keeps_wheels = False

    def __init__(self, bench: Bench, base: str, *, stand_in: bool, models: Mapping[str, Path] | None = None) -> None:
        """`models` are MLflow's directories by case; None: the fixtures of the bench."""
        super().__init__(bench, base)
        self._models = models or {case: ROOT / "fixtures" / "models" / case / "model" for case in MODELS}
        self._stand_in = stand_in
        # nginx passes requests on from port 8080; without it the server behind it is asked, on all addresses.
        options = ("--env=DISABLE_NGINX=true", "--env=UVICORN_HOST=0.0.0.0") if stand_in else ()
        self.serving = Serving(8000 if stand_in else 8080, "/ping", "/invocations", options)

    def prepare(self) -> None:
        """Installs MLflow in a venv of the bench's own and lets it write a Dockerfile a model."""
        program = install(self._bench)
        for case, model in self._models.items():
            target = self._directory(case)
            arguments = [program, "models", "generate-dockerfile", "-m", model, "-d", target, "--env-manager", "local"]
            run([str(item) for item in arguments], self._bench.environment(), cwd=self._bench.scratch)
            shutil.copyfile(target / "Dockerfile", target / "Dockerfile.written")
        self._bench.notes += self._alterations()

    def _alterations(self) -> list[str]:
        notes = [
            "MLflow's RUN lines get the host's index settings as a build secret and a tag that makes them run anew",
            "MLflow's Dockerfile keeps no wheels: with wheels and lock at hand it takes what it takes cold",
        ]
        base = self._written(next(iter(self._models)))[1]
        if self._stand_in:
            notes.append(
                f"MLflow's base {base} cannot be pulled here: mpack's base with a shell and pip stands in, which is "
                "smaller; apt is not run, and nginx is left out (DISABLE_NGINX=true): this favours MLflow"
            )
        elif base != self._base:
            notes.append(f"MLflow's base {base} was replaced by {self._base}")
        return notes

    def _directory(self, case: str) -> Path:
        return self._bench.scratch / "mlflow" / case

    def _written(self, case: str) -> tuple[str, str]:
        text = (self._directory(case) / "Dockerfile.written").read_text("utf-8")
        base = re.search(r"^FROM (\S+)$", text, re.MULTILINE)
        if base is None:
            raise EnvironmentFault(
                "engine-failed", "MLflow's Dockerfile has no FROM line.", "Is requirements/bench.txt new?"
            )
        return text, base[1]

    def _context(self, model: Path, case: str) -> Path:
        directory = self._directory(case)
        write_model(model, directory / "model_dir" / "model")
        text, base = self._written(case)
        text = text.replace(f"FROM {base}", f"FROM {self._base}", 1)
        if self._stand_in:
            text = re.sub(r"^RUN printf .*\n(?:    .*\n)*", "", text, flags=re.MULTILINE)
            text = re.sub(r"^RUN apt-get .*\n", "", text, flags=re.MULTILINE)
            # What python:X.Y-slim has under this name.
            text = text.replace(f"FROM {self._base}\n", f"FROM {self._base}\n{_PYTHON}", 1)
        mounts = secret("pip", PIP_CONF) + secret("ca", CA, wanted="ca" in self._secrets)
        tag = self._tag(case, "steps")
        text = re.sub(r"^RUN (?!--mount)", f"RUN {mounts}: {tag} && ", text, flags=re.MULTILINE)
        (directory / "Dockerfile").write_text(text, "utf-8")
        return directory

    def _index_secrets(self) -> dict[str, str | Path]:
        index, (extra, links) = self._bench.index, self._remote()
        values = {
            "index-url": index.default,
            "extra-index-url": " ".join(extra),
            "find-links": " ".join(links),
            "cert": CA if index.ca_bundle else "",
            "trusted-host": " ".join(index.trusted_hosts),
            "timeout": index.timeout,
        }
        lines = [f"{key} = {value}\n" for key, value in values.items() if value]
        return {"pip": "[global]\n" + "".join(lines), **self._ca()}


_PYTHON = "RUN ln -sf python3 /usr/bin/python\n"


def install(bench: Bench) -> Path:
    """MLflow's program, from requirements/bench.txt, once a run. Raises EnvironmentFault engine-failed."""
    venv, uv = bench.scratch / "mlflow-venv", str(uv_program())
    program = venv / "bin" / "mlflow"
    if program.exists():
        return program
    say("installing MLflow (requirements/bench.txt)")
    environment = bench.environment() | bench.index.uv_env() | {"VIRTUAL_ENV": str(venv)}
    try:
        run([uv, "venv", "-q", "--python", sys.executable, str(venv)], environment)
        run([uv, "pip", "install", "-q", "--require-hashes", "-r", str(REQUIREMENTS)], environment)
    except EnvironmentFault as error:
        raise EnvironmentFault(
            "engine-failed",
            f"MLflow, the peer, could not be installed: {bench.index.redact(error.message)}",
            "Check the index with `mpack doctor`, or leave it out: --without mlflow.",
        ) from None
    return program
