"""Installs a locked environment with uv and makes its bytes the same on every machine.

One file of standard library only (Python 3.8 and later): the host calls `assemble`, a docker build stage runs this file
with the base's own Python, `python assemble.py JOB.json`, and the report comes on stdout. The job is JSON, made by
`mpack.env.install.assemble_job`:

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

What varies between machines and is therefore removed or rewritten: uv's lock and cache notes, REQUESTED,
direct_url.json, byte code, the interpreter's path in scripts, the generated scripts themselves (they differ between
versions of uv), the winner where two wheels bring one path (uv installs in parallel), modes (umask), times, and RECORD,
which lists all that.
"""

# os.path, not pathlib: this walks tens of thousands of files.
# ruff: noqa: PTH100, PTH101, PTH102, PTH103, PTH104, PTH112, PTH113, PTH114, PTH116, PTH117, PTH118, PTH120
# ruff: noqa: PTH123, PTH208, PTH211, S103

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Python 3.8 cannot evaluate these; annotations are never evaluated here
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any

    Job = dict[str, Any]
    Run = Callable[[Sequence[str], Mapping[str, str], str], tuple[int, str]]
    #: A row of RECORD: path, "sha256=…" or "", size or "".
    Row = tuple[str, str, str]

VENV = "/opt/mpack/venv"

_HEAVY = "joblib lightgbm matplotlib numpy onnx onnxruntime pandas pyarrow scikit-learn scipy skops statsmodels xgboost"
_SOURCES = "a c cc cpp cu cuh f f90 h hpp pxd pxi pyi pyx tp"
#: The rule that docs/howto/what-is-left-out.md tells. `directories`, `suffixes` and `tests` hold inside the packages of
#: `distributions`; of `tests` modules stay that are no tests: numpy imports one. `paths` are prefixes and `libraries`
#: whole paths in site-packages: modules for tests alone, and onnxruntime's library for programs in C, which its module
#: has in itself. `data` are prefixes in the venv.
TRIM: dict[str, Any] = {
    "distributions": [*_HEAVY.split(), "xgboost-cpu"],
    "directories": ["include"],
    "tests": ["tests"],
    "suffixes": ["." + name for name in _SOURCES.split()],
    "paths": {
        "joblib": ["joblib/test"],
        "onnx": ["onnx/backend/test/data", "onnx/test"],
        "pyarrow": ["pyarrow/src"],
        "scikit-learn": ["sklearn/datasets/data", "sklearn/datasets/descr", "sklearn/datasets/images"],
        "torch": ["torch/include", "torch/share", "torch/test"],
    },
    "libraries": {
        "numpy": r"numpy/_core/(_simd|_\w+_tests)\..*so",
        "onnxruntime": r"onnxruntime/capi/libonnxruntime\.so.*",
        "scipy": r"scipy/((_lib|integrate|special)/_test_\w+|ndimage/_(c|cy)test)\..*so",
    },
    "data": ["include", "share/applications", "share/doc", "share/icons", "share/jupyter", "share/man"],
}

#: Parts of a wheel's data scheme that belong beside site-packages in a venv. uv puts them into the target directory.
_PREFIX_DIRS = ("bin", "etc", "include", "lib", "share")
#: Files of a .dist-info directory that tell of the installing machine.
_HOST_NOTES = ("REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json")
#: Wheels that run nearly everywhere first; those for newer distributions (Debian bookworm's glibc) only if need be.
#: Locking and installing go through these in the same order, so that both choose the same wheel.
PLATFORMS = {
    "linux/amd64": ("x86_64-manylinux_2_28", "x86_64-manylinux_2_36"),
    "linux/arm64": ("aarch64-manylinux_2_28", "aarch64-manylinux_2_36"),
}
_SCRIPT = """#!{python}
import sys
from {module} import {name}
if __name__ == "__main__":
    sys.exit({call}())
"""


class AssembleError(Exception):
    """uv failed: its output, with whatever it holds."""


def run_plainly(command: Sequence[str], settings: Mapping[str, str], directory: str) -> tuple[int, str]:
    """Runs a command: (exit code, output). The host passes a runner of its own that can be interrupted."""
    env = dict(os.environ)
    env.setdefault("HOME", directory)
    env.update(settings)
    done = subprocess.run(command, cwd=directory, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout.decode("utf-8", "replace")


def assemble(job: Job, run: Run = run_plainly) -> dict[str, Any]:
    """Fills job["destination"], whole or not at all: {"size_before", "size", "files", "notes"}, sizes in bytes.

    Raises AssembleError when uv fails and OSError when the disk does.
    """
    destination = os.path.abspath(job["destination"])
    os.makedirs(os.path.dirname(destination), exist_ok=True)
    work = tempfile.mkdtemp(prefix=".mpack-assemble-", dir=os.path.dirname(destination))
    try:
        flat = os.path.join(work, "flat")
        os.mkdir(flat)
        if job["packages"]:
            _install(job, job["packages"], flat, work, run)
        notes = _settle_conflicts(job, flat, work, run)
        before = _size(flat)
        made = os.path.join(work, "made")
        _lay_out(job, flat, made)
        _normalise(made)
        size, files = _size(made), sum(len(names) for _, _, names in os.walk(made))
        os.rename(made, destination)
        return {"size_before": before, "size": size, "files": files, "notes": notes}
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _install(job: Job, packages: Sequence[Job], target: str, work: str, run: Run) -> None:
    """uv pip install of exactly these wheels. From uv's cache alone if it can: the hashes make both ways equal."""
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
    listing = os.path.join(work, "requirements.txt")
    with open(listing, "w", encoding="utf-8", newline="\n") as stream:
        stream.write("\n".join(lines) + "\n")
    command = [job["uv"], "pip", "install", "--requirements", listing, "--target", target]
    command += ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-compile-bytecode"]
    command += ["--link-mode", "copy", "--python", job["interpreter"], "--no-python-downloads"]
    command += ["--python-version", job["python"]["version"]]
    command += [option for option in job["options"] if option != "--no-index"]
    local = all(package.get("file") for package in packages)
    no_index = ["--no-index"] if local or "--no-index" in job["options"] else []
    for attempt in [no_index] if local else [["--offline", *no_index], no_index]:
        for tags in PLATFORMS[job["platform"]]:
            code, output = run([*command, "--python-platform", tags, *attempt], _settings(job), work)
            if code == 0:
                return
            shutil.rmtree(target)
            os.mkdir(target)
    raise AssembleError(output)


def _settings(job: Job) -> dict[str, str]:
    if not job["settings"]:
        return {}
    with open(job["settings"], encoding="utf-8") as stream:
        settings: dict[str, str] = json.load(stream)
        return settings


def _file_url(path: str) -> str:
    from urllib.parse import quote

    return "file://" + quote(path)


def _settle_conflicts(job: Job, flat: str, work: str, run: Run) -> list[str]:
    """Where two wheels bring one path with different bytes, the last by name wins; returns a note for each path."""
    owners: dict[str, list[tuple[str, str]]] = {}
    for package, record in _records(flat):
        for path, digest, _ in record:
            if digest and ".dist-info/" not in path:
                owners.setdefault(path, []).append((package, digest))
    notes = []
    winners: dict[str, list[str]] = {}
    for path, found in sorted(owners.items()):
        if len({digest for _, digest in found}) > 1:
            winner = max(found)[0]
            winners.setdefault(winner, []).append(path)
            others = ", ".join(sorted({name for name, _ in found} - {winner}))
            notes.append(f"{path} is in {others} and in {winner}: the one of {winner} is kept")
    for winner, paths in sorted(winners.items()):
        alone = os.path.join(work, "alone")
        os.mkdir(alone)
        _install(job, [item for item in job["packages"] if _key(item["name"]) == winner], alone, work, run)
        for path in paths:
            shutil.copy2(os.path.join(alone, path), os.path.join(flat, path))
        shutil.rmtree(alone)
    return notes


def _key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _records(root: str) -> Iterator[tuple[str, list[Row]]]:
    """(normalised name, RECORD rows) of every .dist-info directory in `root`, sorted; no row leads out of `root`."""
    for name in sorted(os.listdir(root)):
        path = os.path.join(root, name, "RECORD")
        if name.endswith(".dist-info") and os.path.isfile(path):
            with open(path, encoding="utf-8", newline="") as stream:
                rows = [(row[0], "".join(row[1:2]), "".join(row[2:3])) for row in csv.reader(stream) if _stays(row)]
            yield _distribution(name), rows


def _stays(row: Sequence[str]) -> bool:
    return bool(row) and not os.path.isabs(row[0]) and ".." not in row[0].split("/")


def _distribution(dist_info: str) -> str:
    return _key(dist_info[: -len(".dist-info")].rpartition("-")[0])


def _lay_out(job: Job, flat: str, made: str) -> None:
    """Moves the flat installation to where its files stand in the image, without what is left out."""
    venv = job["layout"] == "venv"
    minor = ".".join(job["python"]["version"].split(".")[:2])
    library = f"lib/python{minor}/site-packages"
    site = os.path.join(made, *library.split("/")) if venv else made
    os.makedirs(site)
    kept: dict[str, list[Row]] = {}
    scripts = _entry_points(flat) if venv else {}
    for package, rows in _records(flat):
        kept[package] = []
        own = {path.split("/")[0] for path, _, _ in rows if path.count("/") == 1 and path.endswith("/__init__.py")}
        for path, digest, size in rows:
            place = _place(path, own, path in scripts)
            if place and not venv:
                continue
            if _left_out(package, path, place, job["trim"]):
                continue
            target = path if place else "/".join([library, path] if venv else [path])
            if path in scripts:
                digest, size = _write_script(os.path.join(made, target), scripts[path])
            elif not _move(os.path.join(flat, path), os.path.join(made, target)):
                continue
            elif place == "bin":
                digest, size = _rewrite_shebang(os.path.join(made, target), digest, size)
            kept[package].append(("../../../" + path if place else path, digest, size))
    _move_unlisted(flat, site, {row[0] for _, rows in _records(flat) for row in rows})
    for name in sorted(os.listdir(flat)):
        if name.endswith(".dist-info"):
            rows = kept.get(_distribution(name), [])
            _write_record(os.path.join(site, name, "RECORD"), name + "/RECORD", rows)
    if venv:
        _write_venv(job["python"], made, site)


def _place(path: str, packages: set[str], script: bool) -> str | None:
    """The venv directory ("bin", "share" …) that a path of the data scheme belongs to, None for site-packages.

    `packages` are the top-level packages of its distribution: some bring one called "bin" or "lib".
    """
    top, slash, _ = path.partition("/")
    return top if slash and top in _PREFIX_DIRS and (script or top not in packages) else None


def _left_out(package: str, path: str, place: str | None, trim: bool) -> bool:
    """True for what no image needs: notes of the host, byte code, and, when trimming, what TRIM names."""
    parts = path.split("/")
    if parts[-1] in ("RECORD", *_HOST_NOTES) and parts[0].endswith(".dist-info") and len(parts) == 2:
        return True
    if "__pycache__" in parts:
        return True
    if not trim:
        return False
    if place:
        return _under(path, TRIM["data"])
    if parts[0].endswith(".dist-info"):
        return False
    if _under(path, TRIM["paths"].get(package, [])) or re.fullmatch(TRIM["libraries"].get(package, ""), path):
        return True
    if package not in TRIM["distributions"]:
        return False
    if any(part in TRIM["directories"] for part in parts[:-1]) or path.endswith(tuple(TRIM["suffixes"])):
        return True
    tests = [part in TRIM["tests"] for part in parts[:-1]]
    helper = path.endswith(".py") and not parts[-1].startswith("test_") and parts[-1] != "conftest.py"
    return any(tests) and not (tests[-1] and helper)


def _under(path: str, prefixes: Iterable[str]) -> bool:
    return any(path == prefix or path.startswith(prefix + "/") for prefix in prefixes)


def _move_unlisted(flat: str, site: str, listed: set[str]) -> None:
    """Files that their wheel's RECORD does not name are installed all the same, as uv and pip do."""
    for directory, _, names in os.walk(flat):
        for name in names:
            path = os.path.relpath(os.path.join(directory, name), flat).replace(os.sep, "/")
            if path not in listed and path != ".lock" and not _left_out("", path, None, False):
                _move(os.path.join(flat, path), os.path.join(site, path))


def _move(source: str, target: str) -> bool:
    """Moves one file; False if another package's RECORD has moved it already."""
    if not os.path.lexists(source):
        return os.path.lexists(target)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    os.rename(source, target)
    return True


def _entry_points(flat: str) -> dict[str, str]:
    """ "bin/NAME" -> "module:object" of every console and GUI script."""
    import configparser

    scripts: dict[str, str] = {}
    for name in sorted(os.listdir(flat)):
        path = os.path.join(flat, name, "entry_points.txt")
        if not os.path.isfile(path):
            continue
        parser = configparser.RawConfigParser(delimiters=("=",), strict=False)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read(path, encoding="utf-8")
        for section in ("console_scripts", "gui_scripts"):
            if parser.has_section(section):
                scripts.update({"bin/" + key: value for key, value in parser.items(section)})
    return scripts


def _write_script(path: str, entry: str) -> tuple[str, str]:
    module, _, call = entry.partition("[")[0].strip().partition(":")
    name = call.strip().split(".")[0]
    text = _SCRIPT.format(python=VENV + "/bin/python", module=module.strip(), name=name, call=call.strip())
    return _write(path, text.encode(), 0o755)


def _rewrite_shebang(path: str, digest: str, size: str) -> tuple[str, str]:
    """Points a Python script of a wheel to the image's interpreter; other files stay as they are."""
    with open(path, "rb") as stream:
        data = stream.read()
    long_form = re.match(rb"#!/bin/sh\n'''exec' .*\n' '''\n", data)
    short_form = re.match(rb"#![^\n]*python[^\n]*\n", data)
    found = long_form or short_form
    if not found:
        return digest, size
    return _write(path, b"#!" + VENV.encode() + b"/bin/python\n" + data[found.end() :], 0o755)


def _write(path: str, data: bytes, mode: int = 0o644) -> tuple[str, str]:
    """Writes a new file: (RECORD digest, size as text)."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as stream:
        stream.write(data)
    os.chmod(path, mode)
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return "sha256=" + digest, str(len(data))


def _write_record(path: str, own: str, rows: Iterable[Row]) -> None:
    output = io.StringIO(newline="")
    csv.writer(output, lineterminator="\n").writerows([*sorted(set(rows)), (own, "", "")])
    _write(path, output.getvalue().encode())


def _write_venv(python: Job, made: str, site: str) -> None:
    home = os.path.dirname(python["path"])
    config = "home = {}\ninclude-system-site-packages = false\nversion = {}\n".format(home, python["version"])
    _write(os.path.join(made, "pyvenv.cfg"), config.encode())
    os.makedirs(os.path.join(made, "bin"), exist_ok=True)
    os.symlink(python["path"], os.path.join(made, "bin", "python"))
    os.symlink("python", os.path.join(made, "bin", "python3"))
    os.symlink("python", os.path.join(made, "bin", "python" + ".".join(python["version"].split(".")[:2])))
    # The base's packages come behind the model's own. Not by include-system-site-packages: that also lets in the
    # directories of whoever the container runs as, and it does not see the packages of a base that is itself a venv.
    lines = [f"import site; site.addsitedir({item!r})\n" for item in python["site_dirs"]]
    if lines:
        _write(os.path.join(site, "_mpack_base.pth"), "".join(lines).encode())


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
    except AssembleError as error:
        sys.stderr.write(str(error))
        return 1
    sys.stdout.write(json.dumps(report, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
