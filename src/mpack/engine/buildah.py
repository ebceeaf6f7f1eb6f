"""buildah, run as a program that ends with mpack, on a storage of mpack's own.

It runs in namespaces of its own (mounts, processes; without network unless asked for), whose first process waits on a
pipe of mpack's: when mpack is done with it, interrupted or killed, everything that it started or mounted is gone.
Nothing of the host's settings for containers is read, nor its storage or credentials.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpack.engine.process import Drain, follow, last_lines
from mpack.errors import EnvironmentFault
from mpack.records import dataclass

#: The first that has all options that are used here.
OLDEST = (1, 21)
#: Process 1 of the namespace: ends with the program ("$@") or with its own input; then the kernel ends the others.
_WATCH = (
    'exec 3<&0 </dev/null; trap "exit 137" USR1; "$@" 3<&- & child=$!; '
    '{ read -r _ <&3; kill -s USR1 $$; } & wait "$child"'
)
#: What storages are tried, best first: overlay shares what layers share, vfs copies it and works everywhere.
_DRIVERS = ("overlay", "vfs")
#: Seconds that the kernel may take to end what was killed.
_PATIENCE = 10.0
_FULL = ("no space left on device", "disk quota exceeded")
_ANY_IMAGE = {"default": [{"type": "insecureAcceptAnything"}]}


@dataclass(frozen=True)
class Buildah:
    """A buildah that works here. Made by `find`."""

    program: str
    version: str

    @classmethod
    def find(cls) -> Buildah:
        """The buildah on PATH. Raises EnvironmentFault tool-missing that names what it lacks."""
        program = shutil.which("buildah")
        if program is None:
            raise _missing("buildah is not installed", "Install it (Debian: apt-get install buildah)")
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
        found = re.search(r"version (\d+)\.(\d+)[\w.+-]*", said.stdout)
        if found is None:
            raise _missing(f"{program} does not tell its version: {said.stderr.strip()[-200:]}", "Install it anew")
        if (int(found[1]), int(found[2])) < OLDEST:
            raise _missing(
                f"{program} is of {found[0]}", f"Install {OLDEST[0]}.{OLDEST[1]} or newer, which has what is needed"
            )
        for tool, package in (("unshare", "util-linux"), *([("newuidmap", "uidmap")] if os.geteuid() else [])):
            if shutil.which(tool) is None:
                raise _missing(f"buildah needs {tool} here", f"Install it (Debian: apt-get install {package})")
        if os.geteuid():
            _require_ids()
        return cls(program, found[0].removeprefix("version "))


def _require_ids() -> None:
    """Raises EnvironmentFault tool-missing where a user without root has no ids for the files of an image."""
    user = str(os.getuid())
    with contextlib.suppress(KeyError):
        user = pwd.getpwuid(os.getuid()).pw_name
    for path in (Path("/etc/subuid"), Path("/etc/subgid")):
        lines = path.read_text("utf-8", "replace").splitlines() if path.is_file() else []
        if not any(line.partition(":")[0] in (user, str(os.getuid())) for line in lines):
            raise _missing(
                f"buildah without root needs ids for the files of an image, and {path} has no line for {user}",
                f"As root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}",
            )


class Storage:
    """Images and working containers below `root`. One process may use it at a time, which the caller sees to.

    `work` is an empty directory for what a run leaves: settings, sockets, temporary files; commands run in it. `lock`
    is an open file that whatever runs has open, too, so that a lock on it lasts until the last process is gone.
    """

    def __init__(self, buildah: Buildah, root: Path, work: Path, lock: int) -> None:
        self._buildah = buildah
        self._root = root
        self._work = work
        self._lock = lock
        self._driver = ""
        for name in ("tmp", "run", "home"):
            (work / name).mkdir(mode=0o700)
        (work / "policy.json").write_text(json.dumps(_ANY_IMAGE))
        for name in ("containers.conf", "registries.conf"):
            (work / name).touch()

    def collect(self) -> None:
        """Takes away what an earlier run left unfinished; finds out which kind of storage works here.

        Raises EnvironmentFault engine-failed.
        """
        drivers = (self._driver,) if self._driver else _DRIVERS
        for driver in drivers:
            self._driver = driver
            (self._work / "storage.conf").write_text(f'[storage]\ndriver = "{driver}"\n')
            try:
                self._call("open its storage", ["rm", "--all"])
                return
            except EnvironmentFault as error:
                worked_before = (self._root / f"{driver}-images").is_dir()
                if driver == drivers[-1] or worked_before or error.code != "engine-failed":
                    raise

    def has(self, name: str) -> bool:
        """True if there is an image of that name or id."""
        try:
            self.inspect(name)
        except EnvironmentFault:
            return False
        return True

    def pull(self, layout: str, name: str) -> None:
        """Takes the one image of an OCI layout, a directory of `work`, under a name."""
        image = self._call("read the base image", ["pull", "--quiet", *_POLICY, f"oci:{layout}"]).strip()
        self._call("name the base image", ["tag", image.splitlines()[-1], name])

    def build(
        self,
        context: str,
        *,
        online: bool,
        anew: bool,
        proxies: Mapping[str, str],
        on_line: Callable[[str], None],
        redact: Callable[[str], str],
    ) -> str:
        """Builds a context, a directory of `work`, with docker's configuration and all times 0; the image's id.

        `online`: its steps have this machine's network and `proxies`; `anew`: no step is taken from an earlier build;
        `redact` takes secrets out of all that is told.
        Raises EnvironmentFault engine-failed with the last lines of what it said, or disk-full.
        """
        options = ["--layers", "--timestamp=0", "--format=docker", "--pull-never", *_POLICY]
        # Who may call chroot(2) gets out of one.
        options += ["--isolation=chroot", "--cap-drop=CAP_SYS_CHROOT"]
        options += ["--iidfile=iid", f"--http-proxy={str(online).lower()}", *(["--no-cache"] if anew else [])]
        self._call(
            "build the image", ["bud", *options, context], online=online, more=proxies, on_line=on_line, redact=redact
        )
        return (self._work / "iid").read_text().strip().removeprefix("sha256:")

    def inspect(self, name: str) -> dict[str, Any]:
        """An image's configuration in docker's form. Raises EnvironmentFault engine-failed where there is none."""
        found: dict[str, Any] = json.loads(self._call("inspect an image", ["inspect", "--type=image", name]))["Docker"]
        return found

    def push(self, image: str, layout: str) -> None:
        """Writes an image into an OCI layout, a directory of `work`; a layer with a blob of its diff id is left out."""
        self._call("write the image", ["push", "--quiet", "--format=oci", *_POLICY, image, f"oci:{layout}"])

    # --- the program as a process

    def _call(
        self,
        what: str,
        arguments: Sequence[str],
        *,
        online: bool = False,
        more: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
        redact: Callable[[str], str] = str,
    ) -> str:
        """Runs buildah to its end; its output, which `on_line` has got instead if it is given."""
        store = [f"--root={self._root}", f"--runroot={self._work / 'run'}", f"--storage-driver={self._driver}"]
        process = subprocess.Popen(
            [*_apart(self._buildah.program, online), self._buildah.program, *store, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if on_line is None else subprocess.STDOUT,
            cwd=self._work,
            env=self._environment() | dict(more or {}),
            start_new_session=True,
            pass_fds=(self._lock,),
        )
        with _ending(process):
            if on_line is None:
                assert process.stdout is not None
                with Drain(process.stderr) as drain:
                    out = process.stdout.read().decode("utf-8", "replace")
                said = drain.text
            else:
                out, said = "", redact("\n".join(follow(process, lambda line: on_line(redact(line)))))
            process.wait()
        if process.returncode:
            raise self._failed(what, said)
        return out

    def _environment(self) -> dict[str, str]:
        """Of the caller's variables only PATH: others change what is built, or where, or hold secrets."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._work / "home"),
            "TMPDIR": str(self._work / "tmp"),
            "XDG_RUNTIME_DIR": str(self._work / "run"),
            "CONTAINERS_CONF": str(self._work / "containers.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(self._work / "registries.conf"),
            "CONTAINERS_STORAGE_CONF": str(self._work / "storage.conf"),
        }

    def _failed(self, what: str, said: str) -> EnvironmentFault:
        text = last_lines(said)
        if any(sign in said for sign in _FULL):
            return EnvironmentFault(
                "disk-full",
                f"The disk of {self._root} is full; buildah could not {what}: {text}",
                "Free some space (`mpack cache prune`), or set MPACK_HOME to a larger disk.",
            )
        hint = "buildah's own words are above; `mpack doctor` looks at what it needs. If its storage is damaged, "
        hint += "`mpack cache prune --keep-size 0` empties it."
        if "unshare" in text and "not permitted" in text:
            hint = "buildah needs mounts and namespaces of its own, which this container or kernel refuses."
        return EnvironmentFault("engine-failed", f"buildah {self._buildah.version} could not {what}:\n{text}", hint)


_POLICY = ("--signature-policy=policy.json",)


def remove(directory: Path) -> None:
    """Removes a directory that buildah wrote into: without root, files of other ids are in it."""
    shutil.rmtree(directory, ignore_errors=True)
    program = shutil.which("buildah")
    if directory.exists() and program is not None and os.geteuid():
        subprocess.run([program, "unshare", "rm", "-rf", str(directory)], capture_output=True, check=False)


def _apart(program: str, online: bool) -> list[str]:
    """What a command line begins with that runs in namespaces of its own, and as root of them."""
    own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", *([] if online else ["--net"])]
    return [*([program, "unshare"] if os.geteuid() else []), *own, "sh", "-c", _WATCH, "sh"]


@contextlib.contextmanager
def _ending(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Ends the program, and all that it started, when the block is left by an exception; closes its pipes."""
    try:
        yield
    finally:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()
        process.stdout.close()
        if process.stderr is not None:
            process.stderr.close()


def _missing(why: str, hint: str) -> EnvironmentFault:
    return EnvironmentFault("tool-missing", f"The image cannot be built by buildah: {why}.", f"{hint}.")
