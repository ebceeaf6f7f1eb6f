"""The entries of a layer, in order."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import IO

from mpack.errors import InputError
from mpack.oci.image import OciImage


def layer_members(image: OciImage, number: int) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None, tuple[str, ...]]]:
    """Every entry of a layer in order: its header, its content (regular files, to be read at once), its path's parts.

    Raises InputError base-unsuitable for a path with ".." and for what is no tar; EnvironmentFault for a damaged blob.
    """
    with closing(image.open_layer(number)) as stream, tar_faults(image, number):
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                # tarfile would keep every header
                archive.members = []  # type: ignore[attr-defined]
                content = archive.extractfile(member) if member.isreg() else None
                yield member, content, path_parts(member.name, image)
        while stream.read(1 << 20):  # to its end, where its digest is checked
            pass


@contextmanager
def tar_faults(image: OciImage, number: int) -> Iterator[None]:
    """Turns what reading a layer's entries or their content runs into into InputError base-unsuitable."""
    try:
        yield
    except tarfile.TarError as error:
        digest = image.layers[number].digest
        raise InputError("base-unsuitable", f"The layer {digest} is not a tar archive: {error}.") from error


def path_parts(path: str, image: OciImage) -> tuple[str, ...]:
    """The names of a path in an image. Raises InputError base-unsuitable for one with ".."."""
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    if ".." in parts:
        raise InputError("base-unsuitable", f"The image {image.id} holds the path {path!r}, which leaves it.")
    return parts
