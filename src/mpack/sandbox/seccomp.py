"""System calls that nothing in a sandbox may make: where the kernel had holes, and what is no business of a model."""

from __future__ import annotations

import errno
from typing import Any

from mpack.sandbox import this_platform

#: What a processor of the platform runs besides its own calls is filtered by the same rules; anything else is killed.
_ARCHITECTURES = {
    "linux/amd64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "linux/arm64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
}
_DENIED = (
    # namespaces and mounts
    *("unshare", "setns", "mount", "umount", "umount2", "pivot_root", "mount_setattr", "move_mount", "open_tree"),
    *("fsopen", "fsconfig", "fsmount", "fspick", "quotactl", "quotactl_fd", "open_by_handle_at", "name_to_handle_at"),
    # keys, programs in the kernel, its memory and rings
    *("keyctl", "add_key", "request_key", "bpf", "userfaultfd", "perf_event_open"),
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),
    # other processes
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp"),
    # the machine
    *("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff"),
    *("acct", "syslog", "iopl", "ioperm", "lookup_dcookie", "settimeofday", "clock_settime", "clock_settime64"),
)
_MASKED = "SCMP_CMP_MASKED_EQ"
#: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_NEW_NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)


def seccomp_filter(platform: str | None = None) -> dict[str, Any] | None:
    """`linux.seccomp` of an OCI runtime configuration; None for a platform whose system calls are not known here.

    What is denied is refused as EPERM. clone3 does not exist: its flags are in memory, which no filter reads, and the C
    library then takes clone.
    """
    architectures = _ARCHITECTURES.get(platform or this_platform())
    if architectures is None:
        return None
    refused = {"action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM}
    clones = [
        {"names": ["clone"], **refused, "args": [{"index": 0, "value": flag, "valueTwo": flag, "op": _MASKED}]}
        for flag in _NEW_NAMESPACES
    ]
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": list(architectures),
        "syscalls": [
            {"names": list(_DENIED), **refused},
            *clones,
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
        ],
    }
