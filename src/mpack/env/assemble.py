"""Installs a locked environment with uv and makes its bytes the same on every machine.

Standard library only (Python 3.8 and later): the host calls `assemble`, a docker build stage runs this file, beside
`layout.py`, with the base's own Python, `python assemble.py JOB.json`, and the report comes on stdout. The job is JSON,
made by `mpack.env.install.assemble_job`:

    packages        [{"name", "version", "hashes": ["sha256:…"], "file": wheel in `wheels`, or null,
                      "url": address of a wheel that is on no index, or null}]
    wheels          directory of wheels, or null; when every package has a file, no index is asked
    uv, interpreter paths of the uv program and of a Python that uv may look at
    settings        JSON file of environment variables for uv (index, proxy, CA), or null: they are set already
    options         further command-line options for uv
    platform        "linux/amd64"
    python          {"version": "3.11.2", "path": interpreter in the image, "site_dirs": [what it imports from]}
    layout          "venv" (what stands at /opt/mpack/venv) or "site" (what stands in a site directory; no scripts)
    trim            leave out what TRIM names
    destination     directory to make; it must not exist or be empty

Beside what `layout` removes or rewrites, these vary between machines and are made one: the winner where two wheels
bring one path (uv installs in parallel), modes (umask) and times.
"""

# os.path, not pathlib: this walks tens of thousands of files.
# ruff: noqa: PTH100, PTH101, PTH102, PTH103, PTH104, PTH112, PTH114, PTH116, PTH118, PTH120
# ruff: noqa: PTH123, PTH211, S103

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import layout  # type: ignore[import-not-found]
else:
    from mpack.env import layout

if TYPE_CHECKING:  # Python 3.8 cannot evaluate these; annotations are never evaluated here
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    Job = dict[str, Any]
    Run = Callable[[Sequence[str], Mapping[str, str], str], tuple[int, str]]

#: Wheels that run nearly everywhere first; those for newer distributions (Debian bookworm's glibc) only if need be.
#: Locking and installing go through these in the same order, so that both choose the same wheel.
WHEEL_TAGS = {
    "linux/amd64": ("x86_64-manylinux_2_28", "x86_64-manylinux_2_36"),
    "linux/arm64": ("aarch64-manylinux_2_28", "aarch64-manylinux_2_36"),
}


def run_plainly(command: Sequence[str], settings: Mapping[str, str], directory: str) -> tuple[int, str]:
    """Runs a command: (exit code, output). The host passes a runner of its own that can be interrupted."""
    env = dict(os.environ)
    env.setdefault("HOME", directory)
    env.update(settings)
    done = subprocess.run(command, cwd=directory, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout.decode("utf-8", "replace")


def assemble(job: Job, run: Run = run_plainly) -> dict[str, Any]:
    """Fills job["destination"], whole or not at all: {"size_before", "size", "files", "notes"}, sizes in bytes.

    Raises layout.AssembleError when uv fails and OSError when the disk does.
    """
    destination = os.path.abspath(job["destination"])
    os.makedirs(os.path.dirname(destination), exist_ok=True)
    work = tempfile.mkdtemp(prefix=".mpack-assemble-", dir=os.path.dirname(destination))
    try:
        flat, made = os.path.join(work, "flat"), os.path.join(work, "made")
        install(job, job["packages"], flat, run)
        notes = _settle_conflicts(job, flat, run)
        before = _size(flat)
        _make(job, flat, made)
        _normalise(made)
        size, files = _size(made), sum(len(names) for _, _, names in os.walk(made))
        os.rename(made, destination)
        return {"size_before": before, "size": size, "files": files, "notes": notes}
    finally:
        shutil.rmtree(work, ignore_errors=True)


def install(job: Job, packages: Sequence[Job], target: str, run: Run, link_mode: str = "copy") -> None:
    """uv pip install of exactly these wheels into a new directory, beside which it has room for a file of its own.

    From uv's cache alone if it can: the hashes make both ways equal. Raises layout.AssembleError.
    """
    os.mkdir(target)
    if not packages:
        return
    lines = []
    for package in packages:
        hashes = " ".join("--hash=" + item for item in package["hashes"])
        if package.get("file"):
            path = os.path.join(os.path.abspath(job["wheels"]), package["file"])
            lines.append("{} @ {} {}".format(package["name"], _file_url(path), hashes))
        elif package.get("url"):
            lines.append("{} @ {} {}".format(package["name"], package["url"], hashes))
        else:
            lines.append("{}=={} {}".format(package["name"], package["version"], hashes))
    listing = target + ".txt"
    with open(listing, "w", encoding="utf-8", newline="\n") as stream:
        stream.write("\n".join(lines) + "\n")
    command = [job["uv"], "pip", "install", "--requirements", listing, "--target", target]
    command += ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-compile-bytecode"]
    command += ["--link-mode", link_mode, "--python", job["interpreter"], "--no-python-downloads"]
    command += ["--python-version", job["python"]["version"]]
    command += [option for option in job["options"] if option != "--no-index"]
    local = all(package.get("file") for package in packages)
    no_index = ["--no-index"] if local or "--no-index" in job["options"] else []
    for attempt in [no_index] if local else [["--offline", *no_index], no_index]:
        for tags in WHEEL_TAGS[job["platform"]]:
            code, output = run([*command, "--python-platform", tags, *attempt], _settings(job), os.path.dirname(target))
            if code == 0:
                return
            shutil.rmtree(target)
            os.mkdir(target)
    raise layout.AssembleError(output)


def _settings(job: Job) -> dict[str, str]:
    if not job["settings"]:
        return {}
    with open(job["settings"], encoding="utf-8") as stream:
        settings: dict[str, str] = json.load(stream)
        return settings


def _file_url(path: str) -> str:
    from urllib.parse import quote

    return "file://" + quote(path)


def _settle_conflicts(job: Job, flat: str, run: Run) -> list[str]:
    """Puts the winner's file where two wheels bring one path with different bytes; returns a note for each path."""
    found = _kept_by(layout.contested(flat), layout.lay_out(job, flat), flat)
    for winner in sorted({packages[-1] for packages in found.values()}):
        alone = flat + ".alone"
        install(job, [item for item in job["packages"] if layout.key(item["name"]) == winner], alone, run)
        for path, packages in found.items():
            if packages[-1] == winner:
                shutil.copy2(os.path.join(alone, path), os.path.join(flat, path))
        shutil.rmtree(alone)
    return [layout.conflict_note(path, packages) for path, packages in found.items() if len(packages) > 1]


def _kept_by(contested: dict[str, list[str]], items: dict[str, list[layout.Item]], flat: str) -> dict[str, list[str]]:
    """The contested paths with those of their distributions that do not leave them out."""
    sources = {name: {item.source for item in found} for name, found in items.items()}
    return {
        path: [name for name in names if os.path.join(flat, path) in sources.get(name, ())] or names
        for path, names in contested.items()
    }


def _make(job: Job, flat: str, made: str) -> None:
    """Moves the flat installation to where its files stand in the image."""
    os.makedirs(os.path.join(made, *layout.packages_directory(job).split("/")))
    for items in [*layout.lay_out(job, flat).values(), layout.venv_items(job)]:
        for item in items:
            target = os.path.join(made, item.path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if item.link:
                os.symlink(item.source, target)
            elif isinstance(item.source, bytes):
                with open(target, "wb") as stream:
                    stream.write(item.source)
                os.chmod(target, 0o755 if item.executable else 0o644)
            elif os.path.lexists(item.source):  # else another package's RECORD, which lists it too, has moved it
                os.rename(item.source, target)


def _normalise(root: str) -> None:
    """Modes by rule (0755 for directories and what its wheel marks executable, else 0644), all times 0."""
    for directory, names, files in os.walk(root, topdown=False):
        for name in names + files:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                mode = os.stat(path).st_mode
                os.chmod(path, 0o755 if os.path.isdir(path) or mode & 0o100 else 0o644)
            os.utime(path, (0, 0), follow_symlinks=False)
    os.chmod(root, 0o755)
    os.utime(root, (0, 0))


def _size(root: str) -> int:
    paths = (os.path.join(directory, name) for directory, _, names in os.walk(root) for name in names)
    return sum(os.lstat(path).st_size for path in paths)


def main(arguments: Sequence[str]) -> int:
    """Runs one job file; prints the report, or uv's output and exit code 1."""
    with open(arguments[0], encoding="utf-8") as stream:
        job = json.load(stream)
    try:
        report = assemble(job)
    except layout.AssembleError as error:
        sys.stderr.write(str(error))
        return 1
    sys.stdout.write(json.dumps(report, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
