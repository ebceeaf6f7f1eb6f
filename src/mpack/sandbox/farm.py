"""Laying trees of files upon one another by hard links, where no overlay can be mounted."""

# os.path, not pathlib: this walks tens of thousands of files.
# ruff: noqa: PTH101, PTH102, PTH108, PTH112, PTH114

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress


def lay(tree: str, root: str) -> None:
    """Lays a tree upon what a directory has: files as links to the same content, directories anew."""
    with os.scandir(tree) as items:
        found = list(items)
    for item in found:
        place = f"{root}/{item.name}"
        there = os.path.lexists(place)
        is_directory = there and os.path.isdir(place) and not os.path.islink(place)
        if item.is_dir(follow_symlinks=False):
            if there and not is_directory:
                os.unlink(place)
            if not is_directory:
                os.mkdir(place)
            status = item.stat(follow_symlinks=False)
            os.chmod(place, 0o700)
            with suppress(PermissionError):
                lay(item.path, place)
            if os.getuid() == 0:
                os.chown(place, status.st_uid, status.st_gid)
            os.chmod(place, status.st_mode & 0o7777)
            continue
        if is_directory:
            shutil.rmtree(place)
        elif there:
            os.unlink(place)
        _link(item.path, place)


def _link(source: str, place: str) -> None:
    try:
        os.link(source, place, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EMLINK, errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP):
            raise
        status = os.lstat(source)
        shutil.copy2(source, place, follow_symlinks=False)
        if os.getuid() == 0:
            os.chown(place, status.st_uid, status.st_gid, follow_symlinks=False)
