"""What an image's own files tell of the packages in it: Python distributions, Debian packages, their licences.

Read once for the base's layers and once for each layer of dependencies, and kept in the cache directory: a retrained
model's image has the layers of the one before.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from mpack.oci.image import OciImage
from mpack.oci.layer import Layer
from mpack.oci.members import layer_members
from mpack.oci.rootfs import Files, read_files
from mpack.plan import MODEL
from mpack.supply.jsonfiles import read_json, write_json
from mpack.supply.licenses import debian_licenses, python_licenses

#: Part of every key: raise it when this module reads otherwise.
_READER = 2
_OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")
_STATUS = "/var/lib/dpkg/status"
_STATUS_D = "/var/lib/dpkg/status.d/"
_METADATA = re.compile(r"\.(?:dist-info/METADATA|egg-info/PKG-INFO|egg-info)$")
_CONDA_META = re.compile(r"/conda-meta/[^/]+\.json$")
_COPYRIGHT = re.compile(r"/usr/share/doc/[^/]+/copyright")
_REPOSITORY = "/opt/mpack/repository"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Package:
    """One package: `kind` is "pypi", "conda" or "deb"; `place` is where its metadata stands in the image.

    `qualifiers` are what a conda package's URL has besides name and version: build, channel, subdir.
    """

    kind: str
    name: str
    version: str
    architecture: str = ""
    licenses: tuple[str, ...] = ()
    place: str = ""
    qualifiers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Facts:
    """Packages in order of kind and name, and ID and VERSION_ID of os-release ("" where there is none)."""

    packages: tuple[Package, ...] = ()
    system: str = ""
    system_version: str = ""

    def __or__(self, other: Facts) -> Facts:
        """Both. A distribution that hides another of its name does not take it away: its bytes are in the image."""
        return Facts(
            tuple(sorted({*self.packages, *other.packages}, key=_order)),
            other.system or self.system,
            other.system_version or self.system_version,
        )

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Facts:
        return cls(tuple(map(_known, data["packages"])), data["system"], data["system_version"])


def _known(item: dict[str, Any]) -> Package:
    qualifiers = tuple((str(key), str(value)) for key, value in item["qualifiers"])
    return Package(**{**item, "licenses": tuple(item["licenses"]), "qualifiers": qualifiers})


def _order(package: Package) -> tuple[object, ...]:
    return (
        *(package.kind, package.name, package.place, package.version, package.architecture, package.licenses),
        package.qualifiers,
    )


def read_facts(image: OciImage, cache: Path | None = None, *, by_kind: bool = False) -> Facts:
    """What an image's files tell.

    `by_kind` is for an image that was built here: its layers of byte code, models and configuration hold no package
    and are not read. What a foreign image says of its layers hides nothing. `cache` is the directory of earlier
    readings. Raises InputError base-unsuitable, EnvironmentFault store-corrupt.
    """
    found = Facts()
    for layers in _groups(image.layers) if by_kind else [image.layers]:
        found |= _cached(replace(image, layers=layers), cache)
    return found


def model_files(image: OciImage) -> dict[str, str]:
    """Path in the image -> SHA-256 (hex) of the model's files, read from all layers, whatever they are called."""
    found: dict[str, str] = {}
    for number in range(len(image.layers)):
        for _, stream, parts in layer_members(image, number):
            path = "/" + "/".join(parts)
            if stream is not None and path.startswith((f"{MODEL}/", f"{_REPOSITORY}/")):
                digest = hashlib.sha256()
                while block := stream.read(_BLOCK):
                    digest.update(block)
                found[path] = digest.hexdigest()
    return dict(sorted(found.items()))


def _groups(layers: Sequence[Layer]) -> Iterator[tuple[Layer, ...]]:
    """Layers to read together: those of the base, then each other one that may hold packages."""
    if all(layer.kind == "base" for layer in layers):
        yield tuple(layers)  # an image out of an engine does not tell what its layers are for
        return
    yield tuple(layer for layer in layers if layer.kind == "base")
    for layer in layers:
        if layer.kind in ("dependencies", "runtime"):
            yield (layer,)


def _cached(image: OciImage, cache: Path | None) -> Facts:
    key = json.dumps([_READER, *(layer.diff_id for layer in image.layers)])
    path = cache and cache / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
    if path is not None and (known := read_json(path)) is not None:
        try:
            return Facts.from_json(known)
        except (KeyError, TypeError):
            pass
    found = _read(image)
    if path is not None:
        write_json(path, asdict(found))
    return found


def _read(image: OciImage) -> Facts:
    files = read_files(image, _wanted)
    release = next((text for path in _OS_RELEASE if (text := files.read(path)) is not None), b"")
    fields = dict(re.findall(r'^(ID|VERSION_ID)="?([^"\n]*)"?$', release.decode("utf-8", "replace"), re.MULTILINE))
    packages = {*_python(files), *_debian(files), *_conda(files)}
    return Facts() | Facts(tuple(packages), fields.get("ID", ""), fields.get("VERSION_ID", ""))


def _wanted(path: str) -> bool:
    return (
        path in (_STATUS, *_OS_RELEASE)
        or path.startswith(_STATUS_D)
        or _COPYRIGHT.fullmatch(path) is not None
        or _METADATA.search(path) is not None
        or _CONDA_META.search(path) is not None
    )


def _python(files: Files) -> Iterator[Package]:
    for path, node in files.items():
        if node.content is None or not _METADATA.search(path):
            continue
        headers = BytesHeaderParser().parsebytes(node.content)
        name, version = str(headers.get("Name") or "").strip(), str(headers.get("Version") or "").strip()
        if name and version:
            yield Package("pypi", canonicalize_name(name), version, "", python_licenses(headers), path)


def _conda(files: Files) -> Iterator[Package]:
    for path, node in files.items():
        if node.content is None or not _CONDA_META.search(path):
            continue
        try:
            told = json.loads(node.content)
            name, version = str(told["name"]), str(told["version"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        channel = re.sub(r"//[^/@]*@|/t/[^/]+", "", str(told.get("channel") or ""))
        qualifiers = {
            "build": str(told.get("build") or ""),
            "channel": channel,
            "subdir": str(told.get("subdir") or ""),
        }
        license_name = str(told.get("license") or "")
        yield Package(
            "conda",
            name,
            version,
            licenses=(license_name,) if license_name else (),
            place=path,
            qualifiers=tuple((key, value) for key, value in qualifiers.items() if value),
        )


def _debian(files: Files) -> Iterator[Package]:
    places = [_STATUS, *(path for path in files if path.startswith(_STATUS_D) and not path.endswith(".md5sums"))]
    for place in places:
        for paragraph in re.split(rb"\n\s*\n", files.read(place) or b""):
            fields = BytesHeaderParser().parsebytes(paragraph.strip() + b"\n")
            name, version = fields.get("Package"), fields.get("Version")
            if not name or not version or "installed" not in str(fields.get("Status") or "installed").split():
                continue
            told = files.read(f"/usr/share/doc/{name}/copyright") or b""
            yield Package(
                "deb", str(name), str(version), str(fields.get("Architecture") or ""), debian_licenses(told), place
            )
