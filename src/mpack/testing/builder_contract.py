"""What every builder must hold to, as tests that any builder's suite can run: the same plan makes the same image.

A suite subclasses `BuilderContract` and gives the fixture `built`, a `Built` for each plan it is to hold for:

    class TestMyBuilder(BuilderContract):
        @pytest.fixture(scope="class")
        @classmethod
        def built(cls) -> Built: ...

Compared are files (kind, content, mode, owner, link target; not times, which an engine sets to the time of the build)
and the fields of the configuration that decide how the image runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from posixpath import join
from tempfile import TemporaryDirectory
from typing import Any

from mpack.builders import BuiltImage
from mpack.engine import Docker
from mpack.oci.image import OciImage
from mpack.oci.rootfs import read_files, unpack
from mpack.oci.store import Store
from mpack.plan import VENV, ImagePlan

_BLOCK = 1 << 20


@dataclass(frozen=True)
class FileFact:
    """What is compared of one path. `content` is a file's SHA-256 or a link's target."""

    kind: str
    mode: str
    owner: str
    content: str = ""


@dataclass(frozen=True)
class Facts:
    """What is compared of one image: every path of its final file system, its configuration, its layers' diff ids."""

    files: Mapping[str, FileFact]
    config: Mapping[str, Any]
    diff_ids: tuple[str, ...]

    @classmethod
    def of(cls, image: OciImage) -> Facts:
        """Reads the whole image."""
        return cls(files_of(image), config_of(image), tuple(layer.diff_id for layer in image.layers))


@dataclass(frozen=True)
class Built:
    """A plan, its base, the image of a builder known to be right, and the image of the builder under test."""

    plan: ImagePlan
    base: Facts
    reference: Facts
    candidate: Facts


class BuilderContract:
    """The suite. Each test compares the two images of `built`, or one of them with the plan."""

    def test_same_files(self, built: Built) -> None:
        """Every path of one image is in the other, with the same kind, content, mode, owner and link target."""
        assert differences(built.reference.files, built.candidate.files) == []

    def test_same_config(self, built: Built) -> None:
        """Both images run alike: environment, user, entry point, command, ports, labels, health check and so on."""
        assert differences(built.reference.config, built.candidate.config) == []

    def test_files_are_the_plans(self, built: Built) -> None:
        """What the plan's trees name is there byte by byte, root's, with the plan's modes and directories 0755."""
        assert missing_files(built.plan, built.candidate.files) == []

    def test_config_is_the_plans(self, built: Built) -> None:
        """Each field of the plan's configuration holds in the image."""
        assert wrong_fields(built.plan, built.candidate.config) == []

    def test_nothing_else(self, built: Built) -> None:
        """Beside the base's own paths only /opt/mpack and byte code of the plan's list are in the image."""
        assert strangers(built.plan, built.base.files, built.candidate.files) == []

    def test_base_below(self, built: Built) -> None:
        """The base's layers are the image's lowest, unchanged, so that a registry or engine shares them."""
        count = len(built.base.diff_ids)
        assert built.candidate.diff_ids[:count] == built.base.diff_ids


def image_of(built: BuiltImage, store: Store, docker: Docker | None = None) -> OciImage:
    """The image that a builder made, readable: of the store, or saved out of the engine into it (not listed)."""
    if built.location == "store":
        assert built.digest is not None
        return store.image(built.digest)
    from mpack.oci.load import read_archive

    assert docker is not None
    with docker.save(built.id) as stream:
        return read_archive(store, stream, built.id)[0].image


def files_of(image: OciImage) -> dict[str, FileFact]:
    """Every path of the final file system."""
    found = {}
    with TemporaryDirectory(prefix="mpack-contract-") as scratch:
        root = Path(scratch)
        unpack(image, root)
        for path, node in read_files(image, lambda _: False).items():
            content = _sha256(root / path[1:]) if node.kind == "file" else node.target
            found[path] = FileFact(node.kind, f"{node.mode:04o}", f"{node.uid}:{node.gid}", content)
    return found


def config_of(image: OciImage) -> dict[str, Any]:
    """The configuration in one form: what is absent, null or empty is the same, and so is a health check of NONE."""
    runtime = image.runtime
    check = runtime.get("Healthcheck")
    fields = {
        "platform": image.platform,
        "Env": dict(item.partition("=")[::2] for item in runtime.get("Env") or ()),
        "User": runtime.get("User"),
        "WorkingDir": runtime.get("WorkingDir"),
        "Entrypoint": runtime.get("Entrypoint"),
        "Cmd": runtime.get("Cmd"),
        "ExposedPorts": sorted(runtime.get("ExposedPorts") or ()),
        "Volumes": sorted(runtime.get("Volumes") or ()),
        "Labels": dict(runtime.get("Labels") or {}),
        "StopSignal": runtime.get("StopSignal"),
        "Healthcheck": None if check and check.get("Test") == ["NONE"] else check,
        "OnBuild": runtime.get("OnBuild"),
    }
    return {name: value or None for name, value in fields.items()}


def differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    """One line for each key that is not the same on both sides."""
    return [
        f"{key}: {left.get(key, 'absent')} / {right.get(key, 'absent')}"
        for key in sorted({*left, *right})
        if left.get(key, "absent") != right.get(key, "absent")
    ]


def missing_files(plan: ImagePlan, files: Mapping[str, FileFact]) -> list[str]:
    """Files of the plan's trees that are not as they must be. Later trees win."""
    wanted: dict[str, FileFact] = {}
    for tree in plan.trees:
        for entry in tree.files:
            path = join(tree.target, entry.path)
            wanted[path] = FileFact("file", f"{entry.mode:04o}", "0:0", entry.sha256)
            parent = path.rpartition("/")[0]
            while parent.startswith("/opt/mpack"):
                wanted[parent] = FileFact("directory", "0755", "0:0")
                parent = parent.rpartition("/")[0]
    return differences(wanted, {path: files[path] for path in wanted if path in files})


def wrong_fields(plan: ImagePlan, config: Mapping[str, Any]) -> list[str]:
    """Fields of the plan's configuration that an image does not have."""
    planned = plan.config
    wanted: dict[str, Any] = {
        "User": planned.user,
        "WorkingDir": planned.workdir,
        "Entrypoint": list(planned.entrypoint) or None,
        "Cmd": list(planned.command) or None,
        "StopSignal": planned.stop_signal,
    }
    found = differences(wanted, {name: config[name] for name in wanted})
    for name, pairs in (("Env", planned.env), ("Labels", planned.labels)):
        has = config[name] or {}
        found += differences(dict(pairs), {key: has[key] for key, _ in pairs if key in has})
    found += [f"port {port}" for port in planned.ports if f"{port}/tcp" not in (config["ExposedPorts"] or ())]
    found += [f"volume {path}" for path in planned.volumes if path not in (config["Volumes"] or ())]
    test = (config["Healthcheck"] or {}).get("Test")
    if test != (["CMD", *planned.healthcheck.command] if planned.healthcheck else None):
        found.append(f"Healthcheck: {test}")
    return found


def strangers(plan: ImagePlan, base: Mapping[str, FileFact], files: Mapping[str, FileFact]) -> list[str]:
    """Paths that neither base nor plan explain, and paths of the base that changed or are gone."""
    sources = plan.bytecode.sources if plan.bytecode else ()
    caches = {source.rpartition("/")[0] + "/__pycache__" for source in sources}
    found = [path for path in base if files.get(path) != base[path]]
    for path in files:
        ours = path in ("/opt", "/opt/mpack") or path.startswith(("/opt/mpack/", VENV))
        compiled = path in caches or (path.endswith(".pyc") and path.rpartition("/")[0] in caches)
        if path not in base and not ours and not compiled:
            found.append(path)
    return sorted(found)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
