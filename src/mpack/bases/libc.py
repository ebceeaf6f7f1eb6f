"""The C library of a base image, as its own file says it: what is compiled for a newer one does not run there."""

from __future__ import annotations

import re

from mpack.oci.image import OciImage
from mpack.oci.rootfs import read_files

_LIBC = re.compile(r"(?:/usr)?/lib(?:64|/[\w-]+)?/(?:libc\.so\.6|libc-2\.\d+\.so)")
_VERSION = re.compile(rb"GNU C Library \([^)]*\)[^\n]*? version (\d+\.\d+)")
_LIMIT = 16 << 20


def glibc_version(image: OciImage) -> str | None:
    """The version of an image's GNU C library ("2.36"), or None."""
    files = read_files(image, lambda path: _LIBC.fullmatch(path) is not None, _LIMIT)
    for path, node in files.items():
        if _LIBC.fullmatch(path) and (found := _VERSION.search(node.content or b"")):
            return found[1].decode()
    return None
