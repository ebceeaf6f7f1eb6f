"""docker and podman: one container in the foreground, and none afterwards."""

from __future__ import annotations

import csv
import io
import os
import resource
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from mpack.builders import BuiltImage
from mpack.engine import RUN_LABEL, Docker
from mpack.errors import EnvironmentFault
from mpack.oci.archive import Pieces, docker_archive
from mpack.oci.store import Store
from mpack.run import Started, Wish
from mpack.run.ports import LOOPBACK, host_network_env, on_the_host
from mpack.sandbox import PIDS, SANDBOX_UID, TMP_BYTES
from mpack.sandbox.pipes import die_with_parent
from mpack.sandbox.scratch import LOADED, scratch, sweep
from mpack.sandbox.spec import Mount
from mpack.sandbox.trees import Trees
from mpack.targets.docker import load_image

#: Open files, and processes of its user, that podman is asked to allow where so many are allowed here.
_MOST = 16_384
#: Seconds that an engine may take for a word about its containers and images.
_PATIENCE = 60.0
#: Exit codes of `run` where the engine, not the container, failed.
_FAILED = (125, 126)


@contextmanager
def run_in_docker(docker: Docker, store: Store, wish: Wish) -> Iterator[Started]:
    """Publishes the ports on loopback. An image that docker lacks is loaded without a name, and removed again."""
    place = Trees.default().directory
    sweep(place)
    with scratch(place) as work:
        loaded = wish.image.location == "store" and not docker.exists(wish.image.id)
        if loaded:
            (work / LOADED).write_text(f"docker {wish.image.id}")
            load_image(docker, store, wish.image)
        ports = [f"--publish={LOOPBACK}:{host}:{port}" for port, host in wish.ports.items()]
        try:
            with _container(docker.client, work, wish, wish.image.id, wish.env, ports, wish.arguments) as started:
                yield started
        finally:
            if loaded:
                docker.remove_untagged(wish.image.id)


@contextmanager
def run_in_podman(podman: str, store: Store, wish: Wish) -> Iterator[Started]:
    """Shares this machine's network, of which loopback is listened on. An image that podman lacks is loaded, and
    removed again."""
    place = Trees.default().directory
    sweep(place)
    with scratch(place) as work:
        image = wish.image.id.removeprefix("sha256:")
        loaded = not _call(podman, "image", "exists", image)
        if loaded:
            (work / LOADED).write_text(f"podman {image}")
            _load(podman, store, wish.image)
        command = list(wish.arguments) or on_the_host(wish.config.get("Cmd") or (), wish.ports)
        env = {**host_network_env(wish.config, wish.ports), **wish.env}
        options = ["--network=host", "--no-healthcheck", *_limits()]
        try:
            with _container(podman, work, wish, image, env, options, command) as started:
                yield started
        finally:
            if loaded:
                _call(podman, "image", "rm", image)


@contextmanager
def _container(
    client: str, work: Path, wish: Wish, image: str, env: Mapping[str, str], options: list[str], command: Sequence[str]
) -> Iterator[Started]:
    name = f"mpack-{uuid.uuid4().hex[:12]}"
    # Values do not travel on a command line, which every user of the machine can read.
    (work / "env").write_text("".join(f"{key}={value}\n" for key, value in env.items()))
    argv = [client, "run", "--rm", f"--name={name}", f"--label={RUN_LABEL}={os.getpid()}", "--read-only"]
    argv += ["--cap-drop=ALL", "--security-opt=no-new-privileges", f"--pids-limit={PIDS}"]
    argv += [f"--tmpfs=/tmp:rw,nosuid,nodev,size={TMP_BYTES}", f"--env-file={work / 'env'}", *_user(wish), *options]
    argv += [f"--mount={_mount(item)}" for item in wish.mounts]
    process = subprocess.Popen(
        [*argv, image, *command], stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=die_with_parent
    )

    def kill() -> None:
        if process.poll() is None:
            _call(client, "rm", "--force", "--volumes", name)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        # The client may have been ended between asking for the container and hearing of it.
        _call(client, "rm", "--force", "--volumes", name)

    def fault() -> EnvironmentFault | None:
        if process.returncode not in _FAILED:
            return None
        return EnvironmentFault(
            "engine-failed",
            f"{Path(client).name} could not start the image {wish.image.id}; its own words are above.",
            "`mpack doctor` looks at the engines; --engine chooses another one.",
        )

    try:
        yield Started(process, kill, fault)
    finally:
        kill()


def _mount(mount: Mount) -> str:
    """One line of CSV, as engines read it: a path may have any character."""
    line = io.StringIO()
    fields = [
        "type=bind",
        f"source={mount.source}",
        f"target={mount.target}",
        *(["readonly"] if mount.read_only else []),
    ]
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()


def _user(wish: Wish) -> list[str]:
    """An image that starts as root to become another user cannot without capabilities: it starts as that user."""
    if not wish.starts_as_root:
        return []
    uid, gid, capabilities = acting_user(wish)
    return [f"--user={uid}:{gid}", *(f"--cap-add={name}" for name in capabilities)]


def acting_user(wish: Wish) -> tuple[int, int, tuple[str, ...]]:
    """uid, gid and capabilities for an image that starts as root: the user who runs it; if root does, the
    owner of what it may write to. Into root's directory a root process writes; its child gives its rights up."""
    if os.getuid() != 0:
        return os.getuid(), os.getgid(), ()
    status = next((item.source.stat() for item in wish.mounts if not item.read_only), None)
    if status is None:
        return SANDBOX_UID, SANDBOX_UID, ()
    if status.st_uid == 0:
        return 0, 0, ("SETUID", "SETGID")
    return status.st_uid, status.st_gid, ()


def _load(podman: str, store: Store, image: BuiltImage) -> None:
    assert image.digest is not None
    with store.lease():
        archive = BufferedReader(Pieces(docker_archive(store.image(image.digest), ())), 1 << 20)
        process = subprocess.Popen(
            [podman, "load", "--quiet"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=die_with_parent,
        )
        assert process.stdin is not None and process.stderr is not None
        try:
            while data := archive.read(1 << 20):
                process.stdin.write(data)
        except BrokenPipeError:
            pass
        _, words = process.communicate()
    if process.returncode != 0:
        raise EnvironmentFault(
            "engine-failed",
            f"podman could not load the image {image.id}: {words.decode('utf-8', 'replace').strip()}",
            "`mpack doctor` looks at the engines; --engine chooses another one.",
        )


def _call(client: str, *arguments: str) -> bool:
    """True if the client did it in time."""
    try:
        done = subprocess.run(
            [client, *arguments], capture_output=True, check=False, stdin=subprocess.DEVNULL, timeout=_PATIENCE
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _limits() -> list[str]:
    """Limits for podman to set: its own may be more than this process may give, where it is confined itself."""
    kinds = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
    chosen = {
        name: _MOST if (hard := resource.getrlimit(kind)[1]) == resource.RLIM_INFINITY else min(hard, _MOST)
        for name, kind in kinds.items()
    }
    return [f"--ulimit={name}={most}:{most}" for name, most in chosen.items()]
