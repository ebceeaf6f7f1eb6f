"""What of an installation by uv goes into an image, and where it stands: a pure function of wheels' files.

Standard library only (Python 3.8 and later): a docker build stage has this beside `assemble.py`.
A *job* is what `assemble.py` describes; of it are used here: layout, platform, python, trim.

What varies between machines is removed or rewritten: uv's lock and cache notes, REQUESTED, direct_url.json, byte code,
the interpreter's path in scripts, the generated scripts themselves (they differ between versions of uv), and RECORD,
which lists all that.
"""

# os.path, not pathlib: this walks tens of thousands of files.
# ruff: noqa: PTH113, PTH116, PTH117, PTH118, PTH120, PTH123, PTH208

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # Python 3.8 cannot evaluate these; annotations are never evaluated here
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    Job = Mapping[str, Any]
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

RESERVED = "{} has a file {}, which is the environment's own"
#: Parts of a wheel's data scheme that belong beside site-packages in a venv. uv puts them into the target directory.
_PREFIX_DIRS = ("bin", "etc", "include", "lib", "share")
#: Files of a .dist-info directory that tell of the installing machine.
_HOST_NOTES = ("REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json")
_SCRIPT = """#!{python}
import sys
from {module} import {name}
if __name__ == "__main__":
    sys.exit({call}())
"""


class AssembleError(Exception):
    """uv failed: its output, with whatever it holds; or a wheel has what no wheel may."""


class Item(NamedTuple):
    """One file below the destination. `source` is a file of this machine, bytes, or, with `link`, what it points to."""

    path: str
    source: str | bytes
    executable: bool = False
    link: bool = False
    #: What the wheel's RECORD says of its bytes: "sha256=…", or "".
    digest: str = ""


def packages_directory(job: Job) -> str:
    """The destination's directory of packages, relative to it."""
    minor = ".".join(job["python"]["version"].split(".")[:2])
    return f"lib/python{minor}/site-packages" if job["layout"] == "venv" else ""


def lay_out(job: Job, flat: str) -> dict[str, list[Item]]:
    """Distribution -> its files where they stand in the image, without what is left out; sorted by distribution.

    Under "" stands what no RECORD lists: such files are installed all the same, as uv and pip do. Raises AssembleError
    for a file that would take the place of the venv's own: its interpreter, for one.
    """
    found: dict[str, list[Item]] = {}
    listed: set[str] = set()
    for info, rows in _records(flat):
        listed.update(row[0] for row in rows)
        found[_distribution(info)] = _items(job, flat, info, rows)
    library = packages_directory(job)
    for directory, _, names in os.walk(flat):
        for name in names:
            path = os.path.relpath(os.path.join(directory, name), flat).replace(os.sep, "/")
            if path not in listed and path != ".lock" and not _left_out("", path, None, False):
                found.setdefault("", []).append(_file(flat, path, os.path.join(library, path)))
    reserved = {item.path for item in venv_items(job)}
    for package, items in found.items():
        taken = sorted(reserved.intersection(item.path for item in items))
        if taken:
            raise AssembleError(RESERVED.format(package or "A package", taken[0]))
    return found


def _items(job: Job, flat: str, info: str, rows: Sequence[Row]) -> list[Item]:
    """The files of the distribution that `info` tells of, its new RECORD among them."""
    package = _distribution(info)
    venv, library = job["layout"] == "venv", packages_directory(job)
    scripts = _entry_points(os.path.join(flat, info)) if venv else {}
    own = {path.split("/")[0] for path, _, _ in rows if path.count("/") == 1 and path.endswith("/__init__.py")}
    items, kept = [], []
    for path, digest, size in rows:
        place = _place(path, own, path in scripts)
        if (place and not venv) or _left_out(package, path, place, job["trim"]):
            continue
        if not os.path.lexists(os.path.join(flat, path)):
            continue
        item = _file(flat, path, path if place else os.path.join(library, path))
        data = _script(scripts[path]) if path in scripts else _new_shebang(item) if place == "bin" else None
        if data is not None:
            item, digest, size = Item(item.path, data, True), _digest(data), str(len(data))
        items.append(item._replace(digest=digest))
        kept.append(("../../../" + path if place else path, digest, size))
    output = io.StringIO(newline="")
    csv.writer(output, lineterminator="\n").writerows([*sorted(set(kept)), (info + "/RECORD", "", "")])
    return [*items, Item(os.path.join(library, info, "RECORD"), output.getvalue().encode())]


def _file(flat: str, path: str, target: str) -> Item:
    source = os.path.join(flat, path)
    return Item(target, source, bool(os.stat(source).st_mode & 0o100))


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


def _entry_points(dist_info: str) -> dict[str, str]:
    """ "bin/NAME" -> "module:object" of every console and GUI script of one distribution."""
    import configparser

    path = os.path.join(dist_info, "entry_points.txt")
    scripts: dict[str, str] = {}
    if os.path.isfile(path):
        parser = configparser.RawConfigParser(delimiters=("=",), strict=False)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read(path, encoding="utf-8")
        for section in ("console_scripts", "gui_scripts"):
            if parser.has_section(section):
                scripts.update({"bin/" + name: value for name, value in parser.items(section)})
    return scripts


def _script(entry: str) -> bytes:
    module, _, call = entry.partition("[")[0].strip().partition(":")
    name = call.strip().split(".")[0]
    text = _SCRIPT.format(python=VENV + "/bin/python", module=module.strip(), name=name, call=call.strip())
    return text.encode()


def _new_shebang(item: Item) -> bytes | None:
    """A Python script of a wheel with the image's interpreter; None for other files, which stay as they are."""
    assert isinstance(item.source, str)
    with open(item.source, "rb") as stream:
        data = stream.read()
    long_form = re.match(rb"#!/bin/sh\n'''exec' .*\n' '''\n", data)
    short_form = re.match(rb"#![^\n]*python[^\n]*\n", data)
    found = long_form or short_form
    return b"#!" + VENV.encode() + b"/bin/python\n" + data[found.end() :] if found else None


def _digest(data: bytes) -> str:
    """As RECORD has it."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def venv_items(job: Job) -> list[Item]:
    """What makes the destination a venv of the base's Python; nothing for the layout "site"."""
    if job["layout"] != "venv":
        return []
    python = job["python"]
    home = os.path.dirname(python["path"])
    config = "home = {}\ninclude-system-site-packages = false\nversion = {}\n".format(home, python["version"])
    items = [
        Item("pyvenv.cfg", config.encode()),
        Item("bin/python", python["path"], link=True),
        Item("bin/python3", "python", link=True),
        Item("bin/python" + ".".join(python["version"].split(".")[:2]), "python", link=True),
    ]
    # The base's packages come behind the model's own. Not by include-system-site-packages: that also lets in the
    # directories of whoever the container runs as, and it does not see the packages of a base that is itself a venv.
    lines = [f"import site; site.addsitedir({item!r})\n" for item in python["site_dirs"]]
    if lines:
        items.append(Item(packages_directory(job) + "/_mpack_base.pth", "".join(lines).encode()))
    return items


def contested(flat: str) -> dict[str, list[str]]:
    """Path -> the distributions, sorted, of a flat installation that bring it with bytes that are not all the same."""
    owners: dict[str, dict[str, str]] = {}
    for info, rows in _records(flat):
        for path, digest, _ in rows:
            if digest and ".dist-info/" not in path:
                owners.setdefault(path, {})[_distribution(info)] = digest
    return {path: sorted(found) for path, found in sorted(owners.items()) if len(set(found.values())) > 1}


def conflict_note(path: str, packages: Sequence[str]) -> str:
    """What is told of a contested path, which the last by name wins."""
    return "{} is in {} and in {}: the one of {} is kept".format(
        path, ", ".join(packages[:-1]), packages[-1], packages[-1]
    )


def key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _records(root: str) -> Iterator[tuple[str, list[Row]]]:
    """(name, RECORD rows) of every .dist-info directory in `root`, by distribution; no row leads out of `root`."""
    for name in sorted(os.listdir(root), key=_distribution):
        path = os.path.join(root, name, "RECORD")
        if name.endswith(".dist-info") and os.path.isfile(path):
            with open(path, encoding="utf-8", newline="") as stream:
                rows = [(row[0], "".join(row[1:2]), "".join(row[2:3])) for row in csv.reader(stream) if _stays(row)]
            yield name, rows


def _stays(row: Sequence[str]) -> bool:
    return bool(row) and not os.path.isabs(row[0]) and ".." not in row[0].split("/")


def _distribution(dist_info: str) -> str:
    return key(dist_info[: -len(".dist-info")].rpartition("-")[0])
