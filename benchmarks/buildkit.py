"""The peer BuildKit + uv: a plain Dockerfile after uv's own guide, with cache mounts, of the same lock and server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.bench import MODELS, ROOT, uv_program
from benchmarks.subjects import Dockerfile, Serving, copy_trees, freshly, secret, write_model

TEMPLATE = Path(__file__).with_name("uv.Dockerfile")
UV_TOML, CA = "/etc/uv/uv.toml", "/run/secrets/ca"


class UvDockerfile(Dockerfile):
    """A Dockerfile, from a template of ours, that installs a requirements.txt by uv."""

    keeps_wheels = True

    def _write_dockerfile(self, template: Path, case: str, directory: Path) -> None:
        values = {
            "@BASE@": self._base,
            "@MOUNTS@": secret("uv", UV_TOML) + secret("ca", CA, wanted="ca" in self._secrets),
            "@CA@": f"SSL_CERT_FILE={CA} " if "ca" in self._secrets else "",
            "@STEPS@": self._tag(case, "steps"),
            "@WHEELS@": self._tag(case, "wheels"),
        }
        text = template.read_text("utf-8")
        for key, value in values.items():
            text = text.replace(key, value)
        (directory / "Dockerfile").write_text(text, "utf-8")

    def _index_secrets(self) -> dict[str, str | Path]:
        index, (extra, links) = self._bench.index, self._remote()
        values: dict[str, Any] = {
            "index-url": index.default,
            "extra-index-url": extra,
            "find-links": links,
            "index-strategy": index.strategy,
            "allow-insecure-host": list(index.trusted_hosts),
        }
        # A JSON string or list of strings is a TOML one too.
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in values.items() if value]
        return {"uv": "".join(lines), **self._ca()}


class BuildkitUv(UvDockerfile):
    """`docker build` of benchmarks/uv.Dockerfile."""

    name = "BuildKit+uv"
    serving = Serving(5000, "/readyz", "/api/model/invoke")

    def prepare(self) -> None:
        """Writes a context a model: mpack's own lock as requirements.txt, mpack's server, uv."""
        for case in MODELS:
            model, target = ROOT / "fixtures" / "models" / case / "model", freshly(self._directory(case))
            lock = self._bench.scratch / f"{case}-of-peer.mpack.lock"
            copy_trees(self._bench, model, lock, target)
            home = self._bench.scratch / "mpack"
            plan = json.loads(self._bench.mpack(home, "plan", str(model), "--lock", str(lock)))
            packages = [item for item in plan["environment"]["packages"] if item["source"] == "index"]
            (target / "requirements.txt").write_text("".join(map(_line, packages)), "utf-8")
            copy_uv(target)

    def _directory(self, case: str) -> Path:
        return self._bench.scratch / "buildkit" / case

    def _context(self, model: Path, case: str) -> Path:
        directory = self._directory(case)
        write_model(model, directory / "model")
        self._write_dockerfile(TEMPLATE, case, directory)
        return directory


def _line(package: dict[str, Any]) -> str:
    hashes = "".join(f" --hash={item}" for item in package["hashes"])
    return f"{package['name']}=={package['version']}{hashes}\n"


def copy_uv(context: Path) -> None:
    """Puts mpack's uv into a build context."""
    shutil.copyfile(uv_program(), context / "uv")
    (context / "uv").chmod(0o755)
