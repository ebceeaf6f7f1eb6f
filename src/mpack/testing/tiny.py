"""A base image of a few files and a plan on it: for tests that pin digests or need no Python inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mpack.contents import Contents
from mpack.oci.image import OciImage, canonical_json
from mpack.oci.layer import bytes_entries
from mpack.oci.store import Store
from mpack.plan import RUNTIME, BaseImage, Environment, ImagePlan
from mpack.spec import FileEntry, FileTree, HealthCheck, ImageConfig, json_file


def tiny_base(store: Store, files: dict[str, bytes] | None = None) -> OciImage:
    """A base of one layer, in the store and listed as `tiny-base:1`. It cannot run: no program is in it."""
    with store.lease():
        layer = store.write_layer(bytes_entries(files or {"/etc/os-release": b"ID=tiny\n"}), kind="base")
        config: dict[str, Any] = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/usr/bin:/bin", "LANG=C.UTF-8"], "Labels": {"tiny": "yes"}},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "tiny"}],
        }
        image = store.put_image(canonical_json(config), (layer,))
        store.add_image(image, ["tiny-base:1"], role="base")
    return image


def base_record(image: OciImage) -> BaseImage:
    """The base as plans name it; its Python is only a path."""
    return BaseImage("tiny-base:1", image.digest, image.platform, "/usr/bin/python3", "3.11.2", ("/usr/lib/python3",))


def tree_of(kind: str, target: str, directory: Path) -> tuple[FileTree, Contents]:
    """A host directory's files as a tree."""
    from mpack.contents import sha256_file

    entries, sources = [], {}
    for path in directory.rglob("*"):
        if path.is_file():
            sha256 = sha256_file(path)
            mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            entries.append(FileEntry(path.relative_to(directory).as_posix(), path.stat().st_size, sha256, mode))
            sources[sha256] = path
    return FileTree(kind, target, tuple(entries)), Contents(sources)


def tiny_plan(base: OciImage, model: Path) -> tuple[ImagePlan, Contents]:
    """A plan without packages: a runtime of one file, a model directory, a configuration with every field."""
    runtime_entry, runtime = json_file("mpack_runtime/tiny.json", {"tiny": True})
    settings_entry, settings = json_file("model.json", {"schema": 1, "name": "tiny"})
    tree, files = tree_of("model", "/opt/mpack/model", model)
    config = ImageConfig(
        env=(("PYTHONPATH", RUNTIME),),
        ports=(5000,),
        entrypoint=("/opt/mpack/venv/bin/python", "-m", "mpack_runtime"),
        command=("serve",),
        healthcheck=HealthCheck(("/opt/mpack/venv/bin/python", "-c", "0")),
        labels=(("dev.mpack.packager", "tiny"), ("org.opencontainers.image.title", "tiny")),
    )
    plan = ImagePlan(
        packager="tiny",
        model_name="tiny",
        model_version="1",
        platform="linux/amd64",
        base=base_record(base),
        environment=Environment("3.11", "linux/amd64", ()),
        bytecode=None,
        trees=(
            FileTree("runtime", RUNTIME, (runtime_entry,)),
            tree,
            FileTree("config", "/opt/mpack", (settings_entry,)),
        ),
        config=config,
    )
    return plan, runtime | settings | files
