"""The store and files as targets: OCI directories, OCI archives, docker archives."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from mpack.builders import BuiltImage
from mpack.engine import Docker
from mpack.errors import UsageError
from mpack.oci.archive import docker_archive, oci_archive, write_oci_directory
from mpack.oci.files import Unfinished, disk_faults
from mpack.oci.image import OciImage
from mpack.oci.imageindex import AnyImage
from mpack.oci.store import Store, with_tag
from mpack.records import dataclass
from mpack.supply.attachments import attachments, write_beside


@dataclass(frozen=True)
class StoreTarget:
    """mpack's own store."""

    kind: str = "store"

    def __str__(self) -> str:
        return self.kind

    def write(self, image: BuiltImage, name: str, store: Store, docker: Docker | None) -> str:
        stored(image, name, store, docker)
        return with_tag(name)


@dataclass(frozen=True)
class OciDirectory:
    """An OCI layout: made if it is absent, else the image is added to it. `attest`: its documents are files in it."""

    path: Path
    attest: bool = True
    kind: str = "oci"

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}"

    def check(self) -> None:
        """Raises UsageError where something else stands."""
        layout = (self.path / "oci-layout").is_file() and (self.path / "index.json").is_file()
        if self.path.exists() and not layout and not (self.path.is_dir() and not any(self.path.iterdir())):
            raise UsageError(
                "usage", f"{self.path} is there and is no OCI layout.", "Choose an absent directory or an OCI layout."
            )
        _check_parent(self.path)

    def write(self, image: BuiltImage, name: str, store: Store, docker: Docker | None) -> str:
        with store.lease():
            oci = stored(image, name, store, docker)
            if (self.path / "index.json").exists():
                write_oci_directory(oci, self.path, with_tag(name))
            else:
                self._make(oci, with_tag(name))
            self._attest(oci, store)
        return str(self.path)

    def _attest(self, image: AnyImage, store: Store) -> None:
        for member in image.images:
            write_beside(self.path, member.digest, attachments(member, store, apart=False) if self.attest else ())

    def _make(self, image: AnyImage, name: str) -> None:
        with (
            disk_faults(f"Writing {self.path}", self.path.parent),
            tempfile.TemporaryDirectory(dir=self.path.parent, prefix=".mpack-") as scratch,
        ):
            made = Path(scratch) / "layout"
            made.mkdir(mode=0o755)
            write_oci_directory(image, made, name)
            made.replace(self.path)


@dataclass(frozen=True)
class _Archive:
    """One file, replaced in one step. `attest`: its image's documents are files beside it."""

    path: Path
    attest: bool = True

    def check(self) -> None:
        """Raises UsageError where no file can be."""
        if self.path.is_dir():
            raise UsageError("usage", f"{self.path} is a directory; the archive is one file.", "Name a file.")
        _check_parent(self.path)

    def replace(self, pieces: Iterator[bytes], image: AnyImage, store: Store) -> str:
        """Writes the pieces of an image's archive, and its documents; returns the path as the reference."""
        with disk_faults(f"Writing {self.path}", self.path.parent), Unfinished(self.path.parent) as file:
            for piece in pieces:
                file.stream.write(piece)
            file.become(self.path)
        several = len(image.images) > 1
        if several:
            write_beside(self.path, image.digest, ())
        for member in image.images:
            documents = attachments(member, store, apart=False) if self.attest else ()
            write_beside(self.path, member.digest, documents, several=several)
        return str(self.path)


@dataclass(frozen=True)
class OciArchive(_Archive):
    """A tar of an OCI layout."""

    kind: str = "oci-archive"

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}"

    def write(self, image: BuiltImage, name: str, store: Store, docker: Docker | None) -> str:
        with store.lease():
            oci = stored(image, name, store, docker)
            return self.replace(oci_archive(oci, with_tag(name)), oci, store)


@dataclass(frozen=True)
class DockerArchive(_Archive):
    """What `docker load` reads: an image for one platform."""

    kind: str = "docker-archive"

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}"

    def write(self, image: BuiltImage, name: str, store: Store, docker: Docker | None) -> str:
        with store.lease():
            found = stored(image, name, store, docker)
            if not isinstance(found, OciImage):
                raise one_platform(self, found.platform)
            return self.replace(docker_archive(found, [with_tag(name)]), found, store)


def one_platform(target: DockerArchive, platforms: str) -> UsageError:
    """The error for a docker archive of several platforms."""
    return UsageError(
        "usage",
        f"{target} holds an image for one platform, and this one is for {platforms}.",
        "Name one with --platform, or write oci-archive:FILE.",
    )


def stored(image: BuiltImage, name: str, store: Store, docker: Docker | None) -> AnyImage:
    """The image, or index, in the store under its name; one that an engine built is saved out of it first."""
    with store.lease():
        found = fetched(image, store, docker)
        store.add_image(found, [with_tag(name)])
    return found


def fetched(image: BuiltImage, store: Store, docker: Docker | None) -> AnyImage:
    """The image in the store; one that an engine has is saved out of it, but not listed. The caller holds a lease."""
    if image.digest is not None and image.location == "store":
        return store.load(image.digest)
    from mpack.oci.load import read_archive

    engine = docker or Docker.find()
    with engine.save(image.id) as archive:
        return read_archive(store, archive, f"The image {image.id} as docker saves it")[0].image


def _check_parent(path: Path) -> None:
    if not path.absolute().parent.is_dir():
        raise UsageError("usage", f"{path.parent} is not a directory; {path.name} cannot be written there.", "Make it.")
