"""runc, as root or rootless: the image's unpacked layers, this machine's network."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mpack.errors import EnvironmentFault
from mpack.oci.store import Store
from mpack.run import Started, Wish
from mpack.run.containers import acting_user
from mpack.run.ports import host_network_env, number, on_the_host
from mpack.sandbox import SANDBOX_UID
from mpack.sandbox.bundle import open_bundle
from mpack.sandbox.runc import runc_failed
from mpack.sandbox.spec import Mount, Permit
from mpack.sandbox.trees import Trees

#: What a program needs to find other machines.
_NAMES = ("/etc/resolv.conf", "/etc/hosts")
#: The last number that is a user's; the one after it means none.
_MOST_UID = 2**32 - 2


@contextmanager
def run_in_runc(runc: str, store: Store, wish: Wish) -> Iterator[Started]:
    """Runs in the foreground; where the kernel refuses the overlay, once more on hard links."""
    with open_bundle(runc, store, wish.image, Trees.default()) as bundle:
        uid, gid, capabilities = acting_user(wish) if wish.starts_as_root else (*_user(wish), ())
        names = tuple(Mount(Path(path), path, True) for path in _NAMES if Path(path).is_file())
        permit = Permit(
            user=(uid, gid),
            memory=None,
            host_network=True,
            mounts=(*names, *wish.mounts),
            capabilities=tuple(f"CAP_{name}" for name in capabilities),
        )
        bundle.config["Env"] = _environment(wish)
        command = list(wish.arguments) or on_the_host(wish.config.get("Cmd") or (), wish.ports)
        argv = [*(wish.config.get("Entrypoint") or ()), *command]
        bundle.prepare(argv, permit)
        if not bundle.can_start() and bundle.without_overlay():
            bundle.prepare(argv, permit)

        def fault() -> EnvironmentFault | None:
            reason = bundle.fault()
            return None if reason is None else runc_failed(reason)

        with bundle.start(stdin=subprocess.DEVNULL) as (process, kill):
            try:
                yield Started(process, kill, fault)
            finally:
                kill()


def _environment(wish: Wish) -> list[str]:
    env = dict(item.partition("=")[::2] for item in wish.config.get("Env") or ())
    env |= {**host_network_env(wish.config, wish.ports), **wish.env}
    return [f"{key}={value}" for key, value in env.items()]


def _user(wish: Wish) -> tuple[int, int]:
    """The image's user where it is a number, else the sandbox's."""
    user, _, group = str(wish.config.get("User") or "").partition(":")
    uid, gid = number(user, _MOST_UID), number(group, _MOST_UID)
    return (SANDBOX_UID, SANDBOX_UID) if uid is None else (uid, uid if gid is None else gid)
