"""A runc bundle over unpacked layers: an overlay that runc itself mounts, or hard links where that is refused."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpack.builders import BuiltImage
from mpack.errors import EnvironmentFault
from mpack.oci.files import disk_faults
from mpack.oci.image import OciImage
from mpack.oci.store import Store
from mpack.sandbox.farm import lay
from mpack.sandbox.pipes import after_death, die_with_parent
from mpack.sandbox.scratch import STATE, scratch, sweep
from mpack.sandbox.spec import Permit, mount_points, runtime_spec
from mpack.sandbox.trees import Trees

#: The kernel takes a page of mount options.
_MOST_OPTIONS = 4000
_LOG = "runc.log"


@dataclass
class Bundle:
    """One image that runc can run as often as asked. `config` is the image's `config` object."""

    runc: str
    place: Path
    trees: tuple[Path, ...]
    config: dict[str, Any]
    _overlay: bool = field(init=False, default=True)

    def prepare(self, argv: Sequence[str], permit: Permit) -> None:
        """Writes what the next run is to be."""
        rootless = os.getuid() != 0
        points = self.place / "points"
        for path in mount_points(permit):
            _make_point(points, path, next((item.source for item in permit.mounts if item.target == path), None))
        root = self._overlay_options(points, rootless)
        if not root:
            self._link_rootfs(points)
        spec = runtime_spec(argv, self.config, root, permit, rootless=rootless)
        # Its settings may be secrets, and the directory is open to whom the container runs as.
        descriptor = os.open(self.place / "config.json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(spec, file)

    @contextmanager
    def start(self, **streams: Any) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], None]]]:
        """Starts what was prepared: runc as a process that passes signals on and ends with the container's exit code,
        and a function that kills the container. Where this process ends before the context does, however it ends, the
        container gets SIGTERM, and SIGKILL two seconds later."""
        name = f"mpack-{uuid.uuid4().hex[:12]}"
        base = [self.runc, "--root", str(self.place / STATE), "--log", str(self.place / _LOG), "--log-format", "json"]
        (self.place / _LOG).unlink(missing_ok=True)
        delete = [*base[:3], "delete", "--force", name]
        with after_death(self.place / STATE / name, delete):
            process = subprocess.Popen(
                [*base, "run", "--bundle", str(self.place), name],
                start_new_session=True,
                preexec_fn=die_with_parent,
                **streams,
            )

            def kill() -> None:
                subprocess.run(delete, capture_output=True, check=False)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(5)
                process.kill()

            yield process, kill

    def can_start(self) -> bool:
        """True if runc makes a container of what was prepared; its program is not started."""
        name = f"mpack-{uuid.uuid4().hex[:12]}"
        base = [self.runc, "--root", str(self.place / STATE)]
        try:
            return _quietly(*base, "create", "--bundle", str(self.place), name) == 0
        finally:
            _quietly(*base, "delete", "--force", name)

    def fault(self) -> str | None:
        """Why runc itself failed, or None."""
        last = None
        with suppress(OSError, ValueError):
            for line in (self.place / _LOG).read_text("utf-8", "replace").splitlines():
                entry = json.loads(line)
                last = entry["msg"] if entry.get("level") == "error" else last
        return last

    def without_overlay(self) -> bool:
        """Asks for hard links from now on; False if it was so before."""
        was, self._overlay = self._overlay, False
        return was

    def _overlay_options(self, points: Path, rootless: bool) -> list[str]:
        lower = [str(path) for path in (*reversed(self.trees), points)]
        option = "lowerdir=" + ":".join(lower)
        if len(option) > _MOST_OPTIONS or any(set(path) & set(":,\\") for path in lower):
            self._overlay = False
        return ["ro", option, *(["userxattr"] if rootless else [])] if self._overlay else []

    def _link_rootfs(self, points: Path) -> None:
        root = self.place / "rootfs"
        with disk_faults("Putting layers together", self.place):
            for tree in (points, *self.trees):
                lay(str(tree), str(root))


@contextmanager
def open_bundle(runc: str, store: Store, image: BuiltImage, trees: Trees) -> Iterator[Bundle]:
    """Makes an image of the store runnable while the context lasts.

    Raises EnvironmentFault sandbox-unavailable for an image that only an engine has.
    """
    if image.digest is None:
        raise EnvironmentFault(
            "sandbox-unavailable",
            f"The image {image.id} is in a container engine only; runc runs images of the store.",
            "Start the engine, or build with --builder embedded.",
        )
    sweep(trees.directory)
    oci = OciImage.load(store, image.digest)
    with ExitStack() as stack:
        with store.lease():
            held = stack.enter_context(trees.hold(oci))
        place = stack.enter_context(scratch(trees.directory))
        # mkdtemp's 0700 would keep the sandbox's user from its own root.
        place.chmod(0o711)
        for name in ("rootfs", "points"):
            (place / name).mkdir()
            (place / name).chmod(0o755)
        yield Bundle(runc, place, held, dict(oci.runtime))


def _quietly(*command: str) -> int:
    # No pipes: what runc creates would hold them open.
    nothing = subprocess.DEVNULL
    return subprocess.run(command, check=False, stdin=nothing, stdout=nothing, stderr=nothing).returncode


def _make_point(points: Path, path: str, source: Path | None) -> None:
    place = points / path.lstrip("/")
    if source is None or source.is_dir():
        place.mkdir(parents=True, exist_ok=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    for parent in place.relative_to(points).parents:
        (points / parent).chmod(0o755)
