"""A plan as a directory that docker, buildah or kaniko builds offline: Dockerfile, trees, wheels, uv and the base.

The base comes as one tar of its root file system on `FROM scratch`, so nothing must be loaded or pulled before.
"""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpack.builders.conda import put_conda_layer
from mpack.contents import Contents
from mpack.dockerfile import SHARED_TEMPLATE, Stage
from mpack.dockerfile.context import write_context
from mpack.dockerfile.quoting import copy_form, env_name, port, quoted
from mpack.oci.files import disk_faults
from mpack.oci.image import OciImage
from mpack.oci.rootfs import read_files, unpack
from mpack.plan import ImagePlan

if TYPE_CHECKING:
    from mpack.bases import Bases
    from mpack.env.index import IndexSettings
    from mpack.oci.store import Store

ROOTFS = "base.tar"
_NOTE = """\
Everything that the image needs is in this directory; building it asks no network.

    docker build --network none -t {name} .          (DOCKER_BUILDKIT=1 on engines before 23)
    buildah build --network none -t {name} .
    /kaniko/executor --context dir:///workspace --no-push --tar-path image.tar --destination {name}

base.tar is the root file system of the base image {base}
({digest}).
"""


def export_context(
    plan: ImagePlan,
    contents: Contents,
    directory: Path,
    *,
    bases: Bases,
    store: Store,
    index: IndexSettings,
    template: Path = SHARED_TEMPLATE,
) -> None:
    """Fills an empty directory. Raises what `Bases.image`, `write_context` and `conda_layer` raise."""
    image = bases.image(plan.base)
    stage = Stage(rootfs=ROOTFS, base_settings=tuple(base_settings(image.runtime)))
    write_context(plan, contents, directory, index=index, template=template, stage=stage)
    put_conda_layer(store, plan, directory)
    with disk_faults("Writing the build context", directory):
        write_rootfs(image, directory / ROOTFS)
        name = "model:latest"
        note = _NOTE.format(name=name, base=plan.base.reference, digest=plan.base.digest)
        (directory / "README.txt").write_text(note, "utf-8")


def base_settings(runtime: Mapping[str, Any]) -> Iterator[str]:
    """What an image inherits of its base's configuration, as instructions."""
    for item in runtime.get("Env") or ():
        name, _, value = item.partition("=")
        yield f"ENV {env_name(name)}={quoted(value)}"
    for name, value in sorted((runtime.get("Labels") or {}).items()):
        yield f"LABEL {quoted(name)}={quoted(value)}"
    for item in sorted(runtime.get("ExposedPorts") or ()):
        yield f"EXPOSE {port(item)}"
    for volume in sorted(runtime.get("Volumes") or ()):
        yield f"VOLUME {copy_form([volume])}"


def write_rootfs(image: OciImage, path: Path) -> None:
    """The image's final file system as one tar with modes, owners and links; times are 0."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mpack-rootfs-") as scratch:
        root = Path(scratch)
        unpack(image, root)
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
            for name, node in sorted(read_files(image, lambda _: False).items()):
                member = tarfile.TarInfo(name[1:])
                member.mode, member.uid, member.gid = node.mode, node.uid, node.gid
                if node.kind == "directory":
                    member.type = tarfile.DIRTYPE
                    archive.addfile(member)
                elif node.kind == "link":
                    member.type, member.linkname = tarfile.SYMTYPE, node.target
                    archive.addfile(member)
                elif node.kind == "file":
                    member.size = (root / member.name).stat().st_size
                    with (root / member.name).open("rb") as stream:
                        archive.addfile(member, stream)
