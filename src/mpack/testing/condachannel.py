"""A conda channel in a directory, of packages that are written here: .conda and .tar.bz2, with their repodata."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: What packages are built with instead of the prefix that they are installed to, as conda-build does: longer than any.
PLACEHOLDER = "/_h_env_placehold" + "_placehold" * 14
_BLOCK = 128 << 10


@dataclass(frozen=True)
class Link:
    """A symbolic link in a package."""

    target: str


@dataclass(frozen=True)
class Program:
    """A file with the x bit."""

    data: bytes


@dataclass(frozen=True)
class Package:
    """One package. `prefixed`: path -> "text" or "binary", of files that hold PLACEHOLDER; `info`: more of info/…"""

    name: str
    version: str = "1.0"
    build: str = "0"
    depends: tuple[str, ...] = ()
    constrains: tuple[str, ...] = ()
    files: Mapping[str, bytes | Link | Program] = field(default_factory=dict)
    prefixed: Mapping[str, str] = field(default_factory=dict)
    noarch: str | None = None
    entry_points: tuple[str, ...] = ()
    subdir: str = "linux-64"
    suffix: str = ".conda"
    info: Mapping[str, bytes | Link] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        return f"{self.name}-{self.version}-{self.build}"

    @property
    def index(self) -> dict[str, Any]:
        """info/index.json."""
        found: dict[str, Any] = {
            "name": self.name,
            "version": self.version,
            "build": self.build,
            "build_number": 0,
            "depends": list(self.depends),
            "constrains": list(self.constrains),
            "subdir": "noarch" if self.noarch else self.subdir,
            "license": "MIT",
        }
        return found | ({"noarch": self.noarch} if self.noarch else {})

    def archive(self) -> bytes:
        """The package's file."""
        info: dict[str, bytes | Link | Program] = {
            "info/index.json": _json(self.index),
            "info/paths.json": _json(self._paths()),
            **self.info,
        }
        if self.noarch == "python":
            link = {
                "noarch": {"type": "python", "entry_points": list(self.entry_points)},
                "package_metadata_version": 1,
            }
            info["info/link.json"] = _json(link)
        if self.suffix == ".tar.bz2":
            return _tar({**info, **self.files}, "w:bz2")
        with zipfile.ZipFile(stream := io.BytesIO(), "w") as archive:
            for name, data in (
                ("metadata.json", _json({"conda_pkg_format_version": 2})),
                (f"info-{self.stem}.tar.zst", _stored(_tar(info, "w"))),
                (f"pkg-{self.stem}.tar.zst", _stored(_tar(self.files, "w"))),
            ):
                archive.writestr(zipfile.ZipInfo(name), data)
        return stream.getvalue()

    def _paths(self) -> dict[str, Any]:
        entries = []
        for path, item in self.files.items():
            data = b"" if isinstance(item, Link) else _bytes(item)
            entry: dict[str, Any] = {
                "_path": path,
                "path_type": "softlink" if isinstance(item, Link) else "hardlink",
                "sha256": hashlib.sha256(data).hexdigest(),
                "size_in_bytes": len(data),
            }
            if path in self.prefixed:
                entry |= {"prefix_placeholder": PLACEHOLDER, "file_mode": self.prefixed[path]}
            entries.append(entry)
        return {"paths_version": 1, "paths": entries}


def write_channel(directory: Path, packages: Iterable[Package]) -> None:
    """Fills a directory with the packages and repodata.json of both platforms' and noarch's folders."""
    listed: dict[str, dict[str, dict[str, Any]]] = {
        subdir: {".conda": {}, ".tar.bz2": {}} for subdir in ("linux-64", "linux-aarch64", "noarch")
    }
    for package in packages:
        data = package.archive()
        subdir = str(package.index["subdir"])
        folder = directory / subdir
        folder.mkdir(parents=True, exist_ok=True)
        (folder / (package.stem + package.suffix)).write_bytes(data)
        listed[subdir][package.suffix][package.stem + package.suffix] = {
            **package.index,
            "sha256": hashlib.sha256(data).hexdigest(),
            "size": len(data),
            "timestamp": 1_700_000_000_000,
        }
    for subdir, found in listed.items():
        (directory / subdir).mkdir(parents=True, exist_ok=True)
        repodata = {
            "info": {"subdir": subdir},
            "packages": found[".tar.bz2"],
            "packages.conda": found[".conda"],
            "removed": [],
            "repodata_version": 1,
        }
        (directory / subdir / "repodata.json").write_bytes(_json(repodata))


def _bytes(item: bytes | Link | Program) -> bytes:
    if isinstance(item, Link):
        return b""
    return item.data if isinstance(item, Program) else item


def _tar(files: Mapping[str, bytes | Link | Program], mode: Any) -> bytes:
    with tarfile.open(fileobj=(stream := io.BytesIO()), mode=mode) as archive:
        for path, item in files.items():
            member = tarfile.TarInfo(path)
            if isinstance(item, Link):
                member.type, member.linkname = tarfile.SYMTYPE, item.target
                archive.addfile(member)
                continue
            data = _bytes(item)
            member.size, member.mode = len(data), 0o755 if isinstance(item, Program) else 0o644
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def _stored(data: bytes) -> bytes:
    """A Zstandard frame of blocks that are stored as they are: the standard library has no compressor."""
    blocks = [data[start : start + _BLOCK] for start in range(0, len(data), _BLOCK)] or [b""]
    frame = [bytes.fromhex("28b52ffd"), b"\xa0", len(data).to_bytes(4, "little")]
    for number, block in enumerate(blocks):
        last = number == len(blocks) - 1
        frame += [(len(block) << 3 | last).to_bytes(3, "little"), block]
    return b"".join(frame)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
