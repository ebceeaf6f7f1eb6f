"""Files of a pinned wheel as entries of a base image; the wheel comes from the host's Python index."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mpack.bases.recipe import Recipe, Wheel
from mpack.env.index import IndexSettings
from mpack.env.wheels import pip_download
from mpack.errors import EnvironmentFault, InputError
from mpack.oci.layer import Entry
from mpack.plan import LockedPackage


def check_platform(recipe: Recipe, platform: str) -> None:
    """Raises InputError base-unsuitable where the recipe's wheel is not made for the platform."""
    wheel = recipe.wheel
    if wheel is not None and platform not in wheel.platforms:
        raise InputError(
            "base-unsuitable",
            f"mpack's own {recipe.name} base is for {', '.join(wheel.platforms)} only: {wheel.name} {wheel.version}, "
            f"which the server comes from, has no wheel for {platform}.",
            f"Give an image for {platform} that has the server, with --base REF.",
        )


@contextmanager
def wheel_entries(wheel: Wheel, python: str, platform: str) -> Iterator[list[Entry]]:
    """Downloads the wheel and unpacks what is taken of it; the entries can be read until the context is left.

    Raises EnvironmentFault index-unreachable, or base-unavailable where the index has not this wheel.
    """
    package = LockedPackage(wheel.name, wheel.version, (f"sha256:{wheel.sha256}",))
    with tempfile.TemporaryDirectory(prefix="mpack-base-") as scratch:
        try:
            [path] = pip_download([package], python, platform, Path(scratch), IndexSettings.from_host())
        except InputError as error:
            raise EnvironmentFault(
                "base-unavailable",
                f"The base needs the wheel of {wheel.name} {wheel.version} (sha256 {wheel.sha256[:12]}…), which this "
                f"machine's Python index does not give. {error.message}",
                "Use an index that has it, or give a base that has the server with --base REF.",
            ) from error
        yield unpack_wheel(wheel, path, Path(scratch) / "files")


def unpack_wheel(wheel: Wheel, path: Path, scratch: Path) -> list[Entry]:
    """The entries of what is taken of a wheel, its files unpacked into `scratch`. Raises EnvironmentFault."""
    scratch.mkdir()
    entries = []
    with zipfile.ZipFile(path) as archive:
        for number, info in enumerate(archive.infolist()):
            place = None if info.is_dir() else wheel.place(info.filename)
            if place is None:
                continue
            content = scratch / str(number)
            content.write_bytes(archive.read(info))
            mode = 0o755 if info.external_attr >> 16 & 0o100 else 0o644
            entries.append(Entry(f"/{place}", mode=mode, size=info.file_size, source=content))
    missing = [source for target, source in wheel.files if not any(f"/{target}" in item.path for item in entries)]
    if missing:
        raise EnvironmentFault("base-unavailable", f"The wheel {path.name} has no {', '.join(missing)}.")
    return entries
