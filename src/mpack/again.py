"""The same build once more: where nothing that decides it has changed, the image of the last time is named again.

After a build it is written down what was asked for, what it was made of and what came of it. What it was made of is
compared before that counts: the artifact's bytes, mpack.toml beside it, the lock, a template, the code of mpack and of
its plugins, the distributions that are installed, and the image's blobs in the store. Anything else, a damaged record
too, is an ordinary build. Only builds without verification are repeated so, and only by the embedded builder.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpack.artifact.beside import find_beside
from mpack.artifact.download import is_url
from mpack.builders import BuiltImage
from mpack.contents import LARGE, hash_file, sha256_file
from mpack.env.lockpath import lock_path
from mpack.errors import MpackError
from mpack.naming import image_name, legal_reference, random_uuid
from mpack.oci.files import write_whole
from mpack.oci.store import Store
from mpack.paths import cache_dir
from mpack.progress import Progress
from mpack.records import dataclass
from mpack.request import BuildRequest

if TYPE_CHECKING:
    from mpack.engine.local import Hail

_SCHEMA = 1
#: Outputs that need nothing but the image in the store.
_OUTPUTS = ("docker", "store")


@dataclass(frozen=True)
class Repeated:
    """What `mpack.pipeline.BuildResult` is to a build."""

    outputs: tuple[str, ...]
    result: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {**self.result, "outputs": list(self.outputs)}


def build_again(request: BuildRequest, progress: Progress, hail: Hail | None = None) -> Repeated | None:
    """The outputs of a build that would change nothing; None where it must be made. `hail`: as for a build.

    Raises what the targets and finding an engine raise.
    """
    if not _repeatable(request):
        return None
    # One lease: what was found to be there is there when it is written.
    with Store.default().lease():
        try:
            record = _read(_path(request))
            if record["schema"] != _SCHEMA or not _same(record, request, progress):
                return None
            image = BuiltImage(**{**record["image"], "layers": ()})
            asked = record["name"]
            result = dict(record["result"])
        except (OSError, ValueError, KeyError, TypeError, MpackError):
            return None
        return _write(request, image, asked, result, record["warnings"], progress, hail)


def state_of(request: BuildRequest) -> dict[str, Any]:
    """What the request's files are before they are read, as far as it costs nothing to tell."""
    found: dict[str, Any] = {}
    with suppress(OSError, MpackError):
        found = _small_inputs(request)
        seen = Path(request.location).stat()
        if stat.S_ISREG(seen.st_mode):
            found["seen"] = (seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
    return found


def remember(
    request: BuildRequest,
    before: Mapping[str, Any],
    digest: str,
    name: Mapping[str, str],
    image: BuiltImage,
    result: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Writes down a build that has ended well.

    `before` is what `state_of` said when it began: files that were written to meanwhile make no record. `digest` is the
    artifact's, `name` has `template`, `model` and `version`.
    """
    if not _repeatable(request) or image.location != "store" or image.builder != "embedded":
        return
    # Whatever keeps this from being written down costs the next build its shortcut, and nothing else.
    with suppress(OSError, MpackError):
        inputs = _inputs(request, progress)
        tree = str(inputs["artifact"]).partition("tree ")[2] if inputs else ""
        if state_of(request) != before or (tree and tree != digest):
            return
        record = {
            "schema": _SCHEMA,
            "inputs": inputs,
            "code": _code(_plugins()),
            "image": {**asdict(image), "layers": ()},
            "name": dict(name),
            "warnings": progress.warnings,
            "result": dict(result),
        }
        path = _path(request)
        path.parent.mkdir(parents=True, exist_ok=True)
        data = json.dumps(record).encode()
        write_whole(path, _check(data) + b"\n" + data, lasting=False)


def _read(path: Path) -> dict[str, Any]:
    """A record. Raises OSError, and ValueError for one that is not whole."""
    check, _, data = path.read_bytes().partition(b"\n")
    if check != _check(data):
        raise ValueError(f"{path} is damaged")
    record: dict[str, Any] = json.loads(data)
    return record


def _check(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def prune(older_than: float) -> None:
    """Forgets builds that were written down `older_than` seconds ago and before."""
    limit = time.time() - older_than
    for path in (cache_dir() / "builds").glob("*.json"):
        with suppress(OSError):
            if path.stat().st_mtime <= limit:
                path.unlink()


def _repeatable(request: BuildRequest) -> bool:
    if len(request.platforms) > 1:
        return False
    plain = not request.verify and not request.update_lock and request.builder in ("auto", "embedded")
    return plain and not is_url(request.location) and set(request.outputs) <= set(_OUTPUTS)


def _path(request: BuildRequest) -> Path:
    """Where a request's record stands: its name tells all that was asked for, outputs and tag apart."""
    asked = {**asdict(request), "outputs": None, "tag": None, "location": str(Path(request.location).absolute())}
    key = json.dumps(
        asked, sort_keys=True, default=lambda item: sorted(item) if isinstance(item, frozenset) else str(item)
    )
    return cache_dir() / "builds" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


def _same(record: Mapping[str, Any], request: BuildRequest, progress: Progress) -> bool:
    """True if the record still holds; the artifact is read only if all else does. The caller holds a lease."""
    store = Store.default()
    if record["code"] != _code(item[0] for item in record["code"]["sources"]):
        return False
    image = store.image(record["image"]["digest"])
    if not all(store.has(layer.digest, layer.size) for layer in image.layers):
        return False
    return bool(record["inputs"] == _inputs(request, progress, record["inputs"]))


def _inputs(request: BuildRequest, progress: Progress, known: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """What the request's files are; None as soon as it is clear that they are not those of `known`."""
    lock = sha256_file(request.lock or lock_path(request.location))
    found = {**_small_inputs(request), "lock": lock, "large": _large(request.location)}
    if known is not None and any(known[key] != value for key, value in found.items()):
        return None
    if known is None:
        return {**found, "artifact": _artifact(request)}
    with progress.phase("open", "reading the artifact"):
        return {**found, "artifact": _artifact(request)}


def _small_inputs(request: BuildRequest) -> dict[str, Any]:
    beside = find_beside(request.location)
    return {
        "pins": None if request.pins is None else sha256_file(request.pins),
        "beside": None if beside is None else sha256_file(beside),
        "template": None if request.template is None else sha256_file(request.template),
    }


def _large(location: str) -> list[list[Any]]:
    """What the artifact's large files are like, unread. Others than last time are not hashed here to find out whether
    their bytes are: an ordinary build hashes them while it makes their layer, and knows that layer if they are not."""
    root = Path(location)
    paths = [root] if root.is_file() else [Path(top, name) for top, _, names in os.walk(root) for name in names]
    found = []
    for path in sorted(paths):
        with suppress(OSError):
            seen = path.stat()
            if stat.S_ISREG(seen.st_mode) and seen.st_size >= LARGE:
                found.append([str(path), seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns])
    return found


def _artifact(request: BuildRequest) -> str:
    """What tells one state of the artifact from another: a file's hash, else the digest of a directory's files."""
    path = Path(request.location)
    if stat.S_ISREG(path.stat().st_mode):
        with path.open("rb") as stream:
            return f"file {hash_file(stream)[1]} {os.fstat(stream.fileno()).st_mode & 0o100}"
    from mpack.artifact.source import open_tree, tree_digest

    with tempfile.TemporaryDirectory(prefix="mpack-artifact-") as scratch:
        return f"tree {tree_digest(open_tree(request.location, request.limits, Path(scratch)))}"


def _code(folders: Iterable[str]) -> dict[str, Any]:
    """What the programs are that take part: Python, where modules come from, and the files of these folders."""
    return {
        "python": [sys.version, *([place, _changed(place)] for place in sys.path)],
        "sources": [[folder, _files(folder)] for folder in sorted(folders)],
    }


def _plugins() -> set[str]:
    """The folders of mpack, its runtime, and every plugin that is loaded."""
    from importlib.util import find_spec

    from mpack.plugins import origins

    found = {"mpack", "mpack_runtime", *origins()}
    specs = [find_spec(name) for name in found]
    return {str(Path(spec.origin).parent) for spec in specs if spec is not None and spec.origin is not None}


def _changed(place: str) -> int:
    """When something was installed there last, or removed: the directory's mtime in nanoseconds, 0 for none."""
    try:
        return Path(place).stat().st_mtime_ns
    except OSError:
        return 0


@cache
def _files(folder: str) -> str:
    """A hash over name, size and mtime of every file below a folder but byte code, as this process first saw them."""
    lines: list[str] = []
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as items:
            for item in items:
                if item.is_dir(follow_symlinks=False):
                    if item.name != "__pycache__":
                        pending.append(item.path)
                else:
                    state = item.stat()
                    lines.append(f"{item.path} {state.st_size} {state.st_mtime_ns}")
    return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()


def _write(
    request: BuildRequest,
    image: BuiltImage,
    asked: Mapping[str, str],
    result: dict[str, Any],
    warnings: Iterable[str],
    progress: Progress,
    hail: Hail | None,
) -> Repeated:
    from mpack.engine import Docker
    from mpack.targets import default_outputs, parse_output

    for warning in warnings:
        progress.warn(warning)
    progress.say("nothing has changed since the last build: its image is taken")
    name = request.tag and legal_reference(request.tag)
    name = name or image_name(asked["template"], name=asked["model"], version=asked["version"], unique=random_uuid())
    store, docker = Store.default(), None
    if request.outputs != ("store",):
        docker = Docker.find(hail) if "docker" in request.outputs else Docker.answering(hail)
    targets = [parse_output(text) for text in request.outputs] or default_outputs(docker)
    outputs = []
    for target in targets:
        with progress.phase("write", f"writing to {target}"):
            outputs.append(target.write(image, name, store, docker))
    result |= {"image": name, "timings": progress.timings}
    result["layers"] = [{**layer, "cached": True} for layer in result["layers"]]
    result["verified"] = {**result["verified"], "status": "skipped", "reason": "--no-verify"}
    return Repeated(tuple(outputs), result)
