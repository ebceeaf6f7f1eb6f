"""Runs in a docker build stage, with the base's Python: byte code of the plan's modules under WORK/bytecode.

`python compile_stage.py WORK`: WORK/sources.json is {"command", "environment", "sources"}; the command is the image's
own `mpack_runtime.compile` (a tar of sources on stdin, one of .pyc on stdout). Only standard library, Python 3.8 and
up.
"""

from __future__ import annotations

import io
import json
import os
import posixpath
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Python 3.8 cannot subscript these; annotations are never evaluated here
    from collections.abc import Sequence


def main(work: Path) -> int:
    """Compiles, and lays the files out as they stand in the image. Returns the exit code."""
    job = json.loads((work / "sources.json").read_text("utf-8"))
    done = subprocess.run(
        job["command"],
        input=_tar(job["sources"]),
        stdout=subprocess.PIPE,
        env={**os.environ, **job["environment"]},
    )
    if done.returncode:
        return done.returncode
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        for member in archive:
            path = "/" + member.name.lstrip("/")
            content = archive.extractfile(member)
            if content is None or not path.endswith(".pyc") or posixpath.normpath(path) != path:
                raise SystemExit(f"byte-compiling wrote an odd entry: {member.name}")
            _write(work / "bytecode", path, content.read())
    return 0


def _tar(paths: Sequence[str]) -> bytes:
    """The files at these paths, which may lead through links."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", dereference=True) as archive:
        for path in paths:
            archive.add(path, recursive=False)
    return stream.getvalue()


def _write(root: Path, path: str, data: bytes) -> None:
    """Writes one file; directories that the image has already get the modes and owners that they have there."""
    copy, original = root, Path("/")
    copy.mkdir(exist_ok=True)
    for part in path.split("/")[1:-1]:
        copy, original = copy / part, original / part
        if copy.is_dir():
            continue
        copy.mkdir()
        copy.chmod(0o755)
        if original.is_dir():
            known = original.stat()
            os.chown(copy, known.st_uid, known.st_gid)
            copy.chmod(known.st_mode & 0o7777)
    target = root / path[1:]
    target.write_bytes(data)
    target.chmod(0o644)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
