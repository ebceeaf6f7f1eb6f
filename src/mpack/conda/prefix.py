"""A locked conda environment as files at /opt/mpack/conda: the same bytes on every machine.

py-rattler links the packages into a directory of this machine, with the image's path wherever they want their own. What
it leaves of this machine there is written anew: of conda-meta what tools read of an environment, without times and
paths. Scripts that packages want run when they are linked are not run; byte code is made by the image's own pass.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from mpack.conda.asking import RattlerError, ask, fault
from mpack.conda.channels import NAME, Channels
from mpack.conda.packages import PackageCache, jobs_of
from mpack.conda.solve import SUBDIRS
from mpack.errors import InternalError
from mpack.oci import tar
from mpack.oci.files import disk_faults
from mpack.oci.layer import Entry, bytes_entries, directory_entries
from mpack.plan import CONDA, CondaPackage, Environment

#: py-rattler's own, of this machine. `__clobbers__`: files of one package that another one brings too.
_OWN = ("CACHEDIR.TAG", "__clobbers__/", "conda-meta/")
#: What a running model does not read: what compiles against the packages, and what people read.
_TRIMMED = re.compile(
    r"(?:include|share/(?:doc|gtk-doc|info|man)|lib/(?:cmake|pkgconfig)|lib/python3\.\d+t?/test)/|.*\.(?:a|la)$"
)
_BYTECODE = re.compile(r".*\.pyc$")
_KEPT = ("name", "version", "build", "build_number", "depends", "constrains", "license", "noarch", "subdir")


def prefix_entries(environment: Environment, scratch: Path, channels: Channels) -> list[Entry]:
    """The files, which are below `scratch` and needed until they are read. Raises what fetching packages raises, and
    InputError conda-package-refused."""
    assert environment.conda is not None
    packages, cache = environment.conda.packages, PackageCache.default()
    cache.bring(packages, channels)
    target = scratch / "prefix"
    job = {
        "do": "install",
        **jobs_of(packages, cache),
        "target": str(target),
        "prefix": CONDA,
        "scratch": str(scratch / "packages"),
        "subdir": SUBDIRS[environment.platform],
    }
    with disk_faults("Installing conda packages", scratch):
        try:
            ask(job, channels)
        except RattlerError as error:
            raise fault(error, f"Installing {len(packages)} conda packages") from None
        listed = {path: data for package in packages for path, data in _record(target, package).items()}
        entries = [
            entry
            for entry in directory_entries(target, CONDA)
            if entry.kind != tar.DIRECTORY and _stays(entry.path.removeprefix(f"{CONDA}/"), environment.trim)
        ]
    return [*entries, *bytes_entries({f"{CONDA}/conda-meta/{path}": data for path, data in listed.items()})]


def _stays(path: str, trim: bool) -> bool:
    if path.startswith(_OWN) or _BYTECODE.fullmatch(path):
        return False
    return not (trim and _TRIMMED.match(path))


def _record(target: Path, package: CondaPackage) -> dict[str, bytes]:
    """What conda-meta tells of a package: by which tools know that it is there, and whose a file is."""
    name = f"{package.name}-{package.version}-{package.build}.json"
    try:
        known = json.loads((target / "conda-meta" / name).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InternalError("internal", f"py-rattler left no {name}: {error}.", "Please report it.") from error
    base = f"https://conda.anaconda.org/{package.channel}" if NAME.fullmatch(package.channel) else package.channel
    value = {
        **{key: known[key] for key in _KEPT if key in known},
        "channel": package.channel,
        "url": f"{base}/{package.subdir}/{package.file}",
        "fn": package.file,
        "sha256": package.sha256,
        "size": package.size,
        "files": sorted(path for path in known.get("files", ()) if not _BYTECODE.fullmatch(path)),
    }
    data = (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
    return {name: data, "history": b""}
