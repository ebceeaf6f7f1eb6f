"""The entries of a layer, in order."""

from __future__ import annotations

import errno
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import IO

from mpack.errors import InputError
from mpack.oci.image import OciImage

#: Bytes of an extended header, which holds a name or attributes; records of global ones, which apply to every entry.
MAX_HEADER = 1 << 20
MAX_GLOBAL = 100
#: Bytes of a path or of a link's target, as Linux has it; names from the root down to a file.
MAX_PATH = 4096
MAX_DEPTH = 256
_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_AT_THE_END = (tarfile.EOFHeaderError, tarfile.EmptyHeaderError)  # type: ignore[attr-defined]


class Header(tarfile.TarInfo):
    """Refuses what tarfile would take into memory whatever its size, or take for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Header:
        try:
            return super().fromtarfile(archive)
        except _AT_THE_END:
            raise
        except (tarfile.HeaderError, ValueError, OverflowError, RecursionError) as error:
            raise tarfile.ReadError(f"a header is damaged ({error})") from error

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _EXTENDED and not 0 <= self.size <= MAX_HEADER:
            raise tarfile.ReadError(f"an extended header has {self.size} bytes")
        if len(archive.pax_headers) > MAX_GLOBAL:
            raise tarfile.ReadError(f"its global headers have {len(archive.pax_headers)} records")
        proceed = super()._proc_member  # type: ignore[misc]
        member: tarfile.TarInfo = proceed(archive)
        if member.size < 0:
            raise tarfile.ReadError("an entry has a negative size")
        if max(len(member.name), len(member.linkname)) > MAX_PATH:
            raise tarfile.ReadError(f"a path or link in it has more than {MAX_PATH} bytes")
        return member


def layer_members(image: OciImage, number: int) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None, tuple[str, ...]]]:
    """Every entry of a layer in order: its header, its content (regular files, to be read at once), its path's parts.

    Raises InputError base-unsuitable for a path with ".." and for what is no tar; EnvironmentFault for a damaged blob.
    """
    with closing(image.open_layer(number)) as stream, tar_faults(image, number):
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=Header) as archive:
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
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        digest = image.layers[number].digest
        raise InputError("base-unsuitable", f"The layer {digest} holds a path that is too long for Linux.") from error


def path_parts(path: str, image: OciImage) -> tuple[str, ...]:
    """The names of a path in an image. Raises InputError base-unsuitable for one with ".." or that is too deep."""
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    if ".." in parts:
        raise InputError("base-unsuitable", f"The image {image.id} holds the path {path!r}, which leaves it.")
    require_depth(len(parts), image.id)
    return parts


def require_depth(depth: int, image_id: str) -> None:
    """Raises InputError base-unsuitable for a path of more names than MAX_DEPTH, links followed or not."""
    if depth > MAX_DEPTH:
        raise InputError(
            "base-unsuitable",
            f"The image {image_id} has directories more than {MAX_DEPTH} levels deep.",
            "Build it with shorter paths.",
        )
