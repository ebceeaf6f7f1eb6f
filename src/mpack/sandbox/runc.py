"""runc on a bundle of unpacked layers, as root or rootless: no daemon, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mpack.builders import BuiltImage
from mpack.errors import EnvironmentFault
from mpack.oci.image import OciImage
from mpack.oci.rootfs import unpack
from mpack.oci.store import Store
from mpack.sandbox import PIDS, SANDBOX_UID, TMP_BYTES, Completed

TIMED_OUT = 124
_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


class RuncSandbox:
    """Unpacks an image of the store into a temporary bundle and runs it with runc."""

    name = "runc"

    def __init__(self, runc: str, store: Store) -> None:
        self._runc = runc
        self._store = store

    @contextmanager
    def open(self, image: BuiltImage) -> Iterator[RuncBox]:
        if image.digest is None:
            raise EnvironmentFault(
                "sandbox-unavailable",
                f"The image {image.id} is in a container engine only; runc runs images of the store.",
                "Start the engine, or build with --builder embedded.",
            )
        bundle = Path(tempfile.mkdtemp(prefix="mpack-sandbox-"))
        try:
            rootfs = bundle / "rootfs"
            rootfs.mkdir(mode=0o755)
            # mkdtemp is 0700; the sandbox's uid must be able to walk to its own root.
            bundle.chmod(0o711)
            oci = OciImage.load(self._store, image.digest)
            unpack(oci, rootfs)
            yield RuncBox(self._runc, bundle, oci.config.get("config", {}))
        finally:
            _remove(bundle)


class RuncBox:
    """One unpacked image."""

    def __init__(self, runc: str, bundle: Path, config: dict[str, Any]) -> None:
        self._runc = runc
        self._bundle = bundle
        self._config = config
        self._state = bundle / "state"

    def run(
        self, args: Sequence[str], *, entrypoint: Sequence[str] = (), stdin: bytes = b"", timeout: float = 600
    ) -> Completed:
        argv = [*(entrypoint or self._config.get("Entrypoint") or ()), *args]
        spec = bundle_spec(argv, self._config, rootless=os.getuid() != 0)
        (self._bundle / "config.json").write_text(json.dumps(spec))
        name = f"mpack-{uuid.uuid4().hex[:12]}"
        base = [self._runc, "--root", str(self._state)]
        process = subprocess.Popen(
            [*base, "run", "--bundle", str(self._bundle), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(stdin, timeout=timeout)
            code = process.returncode
        except subprocess.TimeoutExpired:
            self._kill(base, name, process)
            out, err = process.communicate()
            code = TIMED_OUT
        except BaseException:
            self._kill(base, name, process)
            process.communicate()
            raise
        stderr = err.decode("utf-8", "replace")
        if code != 0 and not out and "runc" in stderr and "level=error" in stderr:
            raise EnvironmentFault(
                "engine-failed",
                f"runc could not start the sandbox: {stderr.strip().splitlines()[-1]}",
                "Run `mpack doctor`; as root or with a container engine this works more widely.",
            )
        return Completed(code, out, stderr)

    def _kill(self, base: list[str], name: str, process: subprocess.Popen[bytes]) -> None:
        subprocess.run([*base, "kill", name, "KILL"], capture_output=True, check=False)
        subprocess.run([*base, "delete", "--force", name], capture_output=True, check=False)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def bundle_spec(argv: Sequence[str], config: dict[str, Any], *, rootless: bool) -> dict[str, Any]:
    """The OCI runtime configuration of one run. `config` is an image's `config` object."""
    uid = 0 if rootless else SANDBOX_UID
    namespaces = ["pid", "ipc", "uts", "mount", "network"] + (["user"] if rootless else [])
    linux: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in namespaces],
        "maskedPaths": list(_MASKED),
        "readonlyPaths": list(_READ_ONLY),
    }
    if rootless:
        linux["uidMappings"] = [{"containerID": uid, "hostID": os.getuid(), "size": 1}]
        linux["gidMappings"] = [{"containerID": uid, "hostID": os.getgid(), "size": 1}]
    else:
        linux["resources"] = {"pids": {"limit": PIDS}, "devices": [{"allow": False, "access": "rwm"}]}
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": uid, "gid": uid},
            "args": list(argv),
            "env": list(config.get("Env") or ()),
            "cwd": config.get("WorkingDir") or "/",
            "capabilities": {key: [] for key in ("bounding", "effective", "permitted", "inheritable", "ambient")},
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "sandbox",
        "mounts": _mounts(),
        "linux": linux,
    }


def _mounts() -> list[dict[str, Any]]:
    safe = ["nosuid", "nodev"]
    return [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/shm",  # noqa: S108 - the sandbox's own
            "type": "tmpfs",
            "source": "shm",
            "options": [*safe, "noexec", "mode=1777", f"size={TMP_BYTES}"],
        },
        {
            "destination": "/tmp",  # noqa: S108 - the sandbox's own
            "type": "tmpfs",
            "source": "tmpfs",
            "options": [*safe, "mode=1777", f"size={TMP_BYTES}"],
        },
    ]


def _remove(bundle: Path) -> None:
    """Removes a bundle even where the image had directories without write permission."""

    def retry(function: Any, path: str, _error: Any) -> None:
        Path(path).parent.chmod(0o700)
        if Path(path).is_dir() and not Path(path).is_symlink():
            Path(path).chmod(0o700)
        function(path)

    shutil.rmtree(bundle, onerror=retry)
