"""The OCI runtime configuration of one run: read-only root, no capability, no new privilege, bounded resources."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpack.sandbox import PIDS, SANDBOX_UID, TMP_BYTES, memory_limit
from mpack.sandbox.seccomp import seccomp_filter

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
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Mount:
    """A file or directory of this machine at a path in the container."""

    source: Path
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class Permit:
    """What a run may do beyond reading its image: by default nothing.

    `memory` is bytes, None for no limit; `user` is (uid, gid) as root, without root it is always this user;
    `host_network`: this machine's network.
    """

    user: tuple[int, int] = (SANDBOX_UID, SANDBOX_UID)
    memory: int | None = field(default_factory=memory_limit)
    host_network: bool = False
    mounts: tuple[Mount, ...] = ()
    capabilities: tuple[str, ...] = ()


def runtime_spec(
    argv: Sequence[str], config: Mapping[str, Any], root: Sequence[str], permit: Permit, *, rootless: bool
) -> dict[str, Any]:
    """`config` is an image's `config` object; `root` the options of an overlay mount, none where `rootfs` has all."""
    uid, gid = (0, 0) if rootless else permit.user
    namespaces = ["pid", "ipc", "uts", "mount"]
    namespaces += [] if permit.host_network else ["network"]
    namespaces += ["user"] if rootless else []
    linux: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in namespaces],
        "maskedPaths": list(_MASKED),
        "readonlyPaths": list(_READ_ONLY),
    }
    denied = seccomp_filter()
    if denied is not None:
        linux["seccomp"] = denied
    limits: list[dict[str, Any]] = []
    if rootless:
        linux["uidMappings"] = [{"containerID": 0, "hostID": os.getuid(), "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": os.getgid(), "size": 1}]
    else:
        linux["resources"] = {"pids": {"limit": PIDS}, "devices": [{"allow": False, "access": "rwm"}]}
    if permit.memory is not None:
        if rootless or not _memory_cgroup():
            # Not the address space: libraries reserve far more of it than they use.
            limits = [{"type": "RLIMIT_DATA", "soft": permit.memory, "hard": permit.memory}]
        else:
            linux["resources"]["memory"] = {"limit": permit.memory}
    capabilities = () if rootless else permit.capabilities
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": uid, "gid": gid},
            "args": list(argv),
            "env": list(config.get("Env") or ()),
            "cwd": config.get("WorkingDir") or "/",
            "capabilities": {
                key: list(capabilities) if key in ("bounding", "effective", "permitted") else []
                for key in ("bounding", "effective", "permitted", "inheritable", "ambient")
            },
            "rlimits": limits,
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "mpack",
        "mounts": [*_root_mount(root), *_mounts(), *map(_bind, permit.mounts)],
        "linux": linux,
    }


def mount_points(permit: Permit) -> list[str]:
    """Absolute paths of directories that an image may lack and that something is mounted on."""
    return ["/proc", "/dev", "/tmp", *(mount.target for mount in permit.mounts)]  # noqa: S108 - the sandbox's own


def _memory_cgroup() -> bool:
    """True if memory can be limited by a control group: of either version, and writable here."""
    if (_CGROUPS / "memory").is_dir():
        return os.access(_CGROUPS / "memory", os.W_OK)
    try:
        return "memory" in (_CGROUPS / "cgroup.controllers").read_text().split() and os.access(_CGROUPS, os.W_OK)
    except OSError:
        return False


def _root_mount(options: Sequence[str]) -> list[dict[str, Any]]:
    return [{"destination": "/", "type": "overlay", "source": "overlay", "options": list(options)}] if options else []


def _bind(mount: Mount) -> dict[str, Any]:
    options = ["rbind", "nosuid", "nodev", "ro" if mount.read_only else "rw"]
    return {"destination": mount.target, "type": "bind", "source": str(mount.source), "options": options}


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
